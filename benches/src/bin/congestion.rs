//! Congestion controllers side by side: quinn over an emulated path, games and bulk.
//!
//! `cargo run --release -p benches --bin congestion -- --rounds 3`
#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::udp_path::{Path, PathConfig, bind};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::runtime::{Builder, Runtime};
use tokio::time::MissedTickBehavior;
use tunnel_core::bench_support::LevelConfig;

#[derive(Debug, Parser)]
#[command(about = "Latency, loss and throughput of congestion controllers over emulated paths")]
struct Arguments {
    /// Runs of each combination; the table shows medians.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Seconds of each run that are measured.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these controllers.
    #[arg(long, value_enum, value_delimiter = ',')]
    controllers: Vec<Control>,
    /// Only these loads.
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Only these paths.
    #[arg(long, value_enum, value_delimiter = ',')]
    paths: Vec<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Control {
    Level,
    Bbr,
    Cubic,
    NewReno,
}

impl Control {
    fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Level => Arc::new(LevelConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::NewReno => Arc::new(NewRenoConfig::default()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Load {
    /// 400 packets/s.
    Game,
    /// 4,000 packets/s.
    BigGame,
    Bulk,
    /// 400 packets/s beside one bulk stream.
    Both,
    /// The same; what counts is the first second after a black-out of 5 s.
    BlackOut,
}

impl Load {
    fn packets_per_second(self) -> u32 {
        match self {
            Self::Game | Self::Both | Self::BlackOut => 400,
            Self::BigGame => 4_000,
            Self::Bulk => 0,
        }
    }

    fn bulk(self) -> bool {
        matches!(self, Self::Bulk | Self::Both | Self::BlackOut)
    }

    /// What counts begins and ends this long after the start.
    fn span(self, seconds: u64) -> [Duration; 2] {
        let [from, length] = if self == Self::BlackOut {
            [6, 1]
        } else {
            [1, seconds]
        };
        [from, from + length].map(Duration::from_secs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Route {
    /// 40 ms, 1 % loss each way, 200 Mbit/s, a queue of 100 ms.
    Lossy,
    /// 40 ms, 20 Mbit/s, a queue of 500 packets.
    Narrow,
    /// No emulator.
    Loopback,
}

impl Route {
    fn config(self, seed: u64) -> Option<PathConfig> {
        let delay = Duration::from_millis(20);
        match self {
            Self::Lossy => Some(PathConfig {
                delay,
                loss: 0.01,
                rate: Some(200_000_000),
                queue_bytes: 2_500_000,
                seed,
            }),
            Self::Narrow => Some(PathConfig {
                delay,
                loss: 0.0,
                rate: Some(20_000_000),
                queue_bytes: 500 * 1452,
                seed,
            }),
            Self::Loopback => None,
        }
    }
}

/// What one run measured.
#[derive(Debug, Default, Clone)]
struct Seen {
    p50: Option<f64>,
    p99: Option<f64>,
    loss: Option<f64>,
    mbit: Option<f64>,
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("| path | load | controller | p50 ms | p99 ms | lost % | bulk Mbit/s |");
    println!("|---|---|---|---|---|---|---|");
    for &route in chosen(&arguments.paths, Route::value_variants()) {
        for &load in chosen(&arguments.loads, Load::value_variants()) {
            let controls = chosen(&arguments.controllers, Control::value_variants());
            let mut runs = vec![Vec::new(); controls.len()];
            // Rounds outside, controllers inside: a busy minute of the machine hits all of them.
            if load == Load::BlackOut && route == Route::Loopback {
                continue;
            }
            for round in 0..arguments.rounds {
                for (runs, &control) in runs.iter_mut().zip(controls) {
                    let seed = round as u64 + 1;
                    runs.push(run(control, load, route, seed, arguments.seconds)?);
                }
            }
            for (runs, control) in runs.iter().zip(controls) {
                let [p50, p99] = [median(runs, |s| s.p50), median(runs, |s| s.p99)];
                let [loss, mbit] = [median(runs, |s| s.loss), median(runs, |s| s.mbit)];
                println!(
                    "| {route:?} | {load:?} | {control:?} | {p50} | {p99} | {loss} | {mbit} |"
                );
            }
        }
    }
    Ok(())
}

fn chosen<'a, T>(asked: &'a [T], all: &'a [T]) -> &'a [T] {
    if asked.is_empty() { all } else { asked }
}

fn median(runs: &[Seen], value: impl Fn(&Seen) -> Option<f64>) -> String {
    let mut values: Vec<f64> = runs.iter().filter_map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .map_or("–".into(), |value| format!("{value:.1}"))
}

fn run(control: Control, load: Load, route: Route, seed: u64, seconds: u64) -> Result<Seen> {
    let certified = rcgen::generate_simple_self_signed(vec![NAME.into()])?;
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut server = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
    server.transport_config(Arc::new(transport(control)));

    // A thread and a runtime for each end, as two machines would have.
    let socket = bind()?;
    let upstream = socket.local_addr()?;
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = thread::spawn(move || -> Result<()> {
        runtime()?.block_on(async {
            let endpoint = endpoint(socket, Some(server))?;
            tokio::select! {
                served = serve(&endpoint, &counter) => served,
                _ = stopped => Ok(()),
            }
        })
    });

    let path = route
        .config(seed)
        .map(|config| Path::start(config, upstream))
        .transpose()?;
    let address = path.as_ref().map_or(upstream, Path::address);
    let seen = runtime()?.block_on(async {
        let endpoint = endpoint(bind()?, None)?;
        let connection = dial(&endpoint, address, certificate, control).await?;
        let seen = measure(&connection, load, seconds, &received, path.as_ref()).await;
        connection.close(0u8.into(), b"");
        seen
    });
    // The server may be gone already, with an error that `join` returns.
    let _stopped = stop.send(());
    drop(path);
    serving.join().ok().context("the server panicked")??;
    seen
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn endpoint(socket: UdpSocket, server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        runtime,
    )?)
}

/// The same for all: only the controller differs.
fn transport(control: Control) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // 8 MiB hold eight round trips at 200 Mbit/s: streams behind a lost packet keep going.
    transport.stream_receive_window((8u32 << 20).into());
    transport.send_window(16 << 20);
    // 50 ms of the larger game: what waits longer is of no use.
    transport.datagram_send_buffer_size(40_000);
    transport.congestion_controller_factory(control.factory());
    transport
}

async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    control: Control,
) -> Result<Connection> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(Arc::new(transport(control)));
    Ok(endpoint.connect_with(config, address, NAME)?.await?)
}

/// Echoes datagrams and counts the bytes of streams, for one connection.
async fn serve(endpoint: &Endpoint, received: &AtomicU64) -> Result<()> {
    let connection = endpoint.accept().await.context("no connection")?.await?;
    let echo = async {
        while let Ok(datagram) = connection.read_datagram().await {
            connection.send_datagram(datagram)?;
        }
        anyhow::Ok(())
    };
    let sink = async {
        while let Ok(mut stream) = connection.accept_uni().await {
            while let Ok(Some(chunk)) = stream.read_chunk(1 << 20, true).await {
                received.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(echo, sink)?;
    Ok(())
}

/// Plays the load, and measures it in its span.
async fn measure(
    connection: &Connection,
    load: Load,
    seconds: u64,
    received: &AtomicU64,
    path: Option<&Path>,
) -> Result<Seen> {
    let start = Instant::now();
    let [from, to] = load.span(seconds).map(|time| start + time);
    let over = AtomicBool::new(false);
    let bulk = async {
        if load.bulk() {
            let mut stream = connection.open_uni().await?;
            let chunk = Bytes::from(vec![7; 1 << 16]);
            while !over.load(Ordering::Relaxed) {
                stream.write_chunk(chunk.clone()).await?;
            }
            stream.reset(0u8.into())?;
        }
        anyhow::Ok(())
    };
    let clock = async {
        if let Some(path) = path.filter(|_| load == Load::BlackOut) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            path.set_dark(true);
            tokio::time::sleep_until(from.into()).await;
            path.set_dark(false);
        }
        tokio::time::sleep_until(from.into()).await;
        let (bytes, began) = (received.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep_until(to.into()).await;
        let bytes = received.load(Ordering::Relaxed) - bytes;
        let mbit = bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(mbit)
    };
    let (mbit, sent, mut trips, ()) = tokio::try_join!(
        clock,
        play(connection, load.packets_per_second(), start, from, to),
        listen(connection, load.packets_per_second(), start, from, to),
        bulk
    )?;
    trips.sort_unstable();
    let share = |share: f64| {
        let index = (trips.len() as f64 * share) as usize;
        trips.get(index).map(|trip| trip.as_secs_f64() * 1e3)
    };
    Ok(Seen {
        p50: share(0.5),
        p99: share(0.99),
        loss: (sent > 0).then(|| 100.0 * (1.0 - trips.len() as f64 / sent as f64)),
        mbit: load.bulk().then_some(mbit),
    })
}

/// Sends the game's packets, each with its time, and returns how many counted.
async fn play(
    connection: &Connection,
    packets_per_second: u32,
    start: Instant,
    from: Instant,
    to: Instant,
) -> Result<u64> {
    let mut counted = 0;
    if packets_per_second == 0 {
        return Ok(counted);
    }
    // Timers tick once a millisecond: several packets a tick beyond 1,000 per second.
    let each = packets_per_second.div_ceil(1_000);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * each / packets_per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        if now >= to {
            return Ok(counted);
        }
        for _ in 0..each {
            let mut packet = vec![0; PACKET];
            packet[..8].copy_from_slice(&((now - start).as_nanos() as u64).to_le_bytes());
            connection.send_datagram(packet.into())?;
            counted += u64::from(now >= from);
        }
    }
}

/// Collects the round trips of the packets that count.
async fn listen(
    connection: &Connection,
    packets_per_second: u32,
    start: Instant,
    from: Instant,
    to: Instant,
) -> Result<Vec<Duration>> {
    let mut trips = Vec::new();
    if packets_per_second == 0 {
        return Ok(trips);
    }
    // 2.5 s, so that a queue of seconds counts as delay and not as loss.
    let end = to + Duration::from_millis(2_500);
    while let Ok(datagram) = tokio::time::timeout_at(end.into(), connection.read_datagram()).await {
        let datagram = datagram?;
        let stamp = datagram.get(..8).and_then(|bytes| bytes.try_into().ok());
        let stamp = u64::from_le_bytes(stamp.context("an echo without its time")?);
        let sent = start + Duration::from_nanos(stamp);
        if (from..to).contains(&sent) {
            trips.push(sent.elapsed());
        }
    }
    Ok(trips)
}

/// The name in the certificate.
const NAME: &str = "bench";

/// Bytes of a game's packet.
const PACKET: usize = 200;
