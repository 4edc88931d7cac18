//! What floods cost a relay: CPU time of its thread, the kernel's on its behalf included.
//!
//! `cargo run --release -p benches --bin flood -- --seconds 5`
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tunnel_core::bench_support::FirstMessages;
use tunnel_core::key::{PublicKey, SecretKey};
use tunnel_core::metrics::Snapshot;
use tunnel_core::relay::{Relay, StaticAuthority};

#[derive(Debug, Parser)]
#[command(about = "CPU time of a relay under floods of strangers' packets")]
struct Arguments {
    /// Seconds of each flood that are measured, after two that are not.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Packets in a second.
    #[arg(long, value_delimiter = ',', default_values_t = [2_000, 20_000])]
    rates: Vec<u32>,
    /// Addresses that the packets come from.
    #[arg(long, default_value_t = 250)]
    sources: u8,
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let control = Builder::new_current_thread().enable_all().build()?;
    println!(
        "| packets | a second | CPU, % of a core | µs a packet | dropped unopened | asked for the address |"
    );
    println!("|---|---|---|---|---|---|");
    for kind in KINDS {
        for rate in &arguments.rates {
            let subject = Subject::start()?;
            let packets = control.block_on(packets(kind, subject.public_key))?;
            let flood = Flood {
                to: subject.address,
                sources: arguments.sources,
                rate: *rate,
            };
            // What the budget has saved up is spent first.
            flood.run(&packets, Duration::from_secs(2))?;
            let (cpu, before) = control.block_on(subject.look())?;
            let started = Instant::now();
            let sent = flood.run(&packets, Duration::from_secs(arguments.seconds))?;
            let elapsed = started.elapsed();
            let (cpu_after, after) = control.block_on(subject.look())?;
            let cost = cpu_after.saturating_sub(cpu);
            println!(
                "| {kind} | {:.0} | {:.1} | {:.1} | {:.1} % | {:.1} % |",
                f64::from(sent) / elapsed.as_secs_f64(),
                100.0 * cost.as_secs_f64() / elapsed.as_secs_f64(),
                cost.as_secs_f64() * 1e6 / f64::from(sent.max(1)),
                part(after.handshakes_ignored - before.handshakes_ignored, sent),
                part(after.handshakes_retried - before.handshakes_retried, sent),
            );
        }
    }
    Ok(())
}

const KINDS: [&str; 4] = [
    "random bytes",
    "foreign Initials",
    "a recorded Initial",
    "fresh first messages",
];

/// What is sent in turns.
async fn packets(kind: &str, relay: PublicKey) -> Result<Vec<Vec<u8>>> {
    let random = |length: usize| -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length + 32);
        while bytes.len() < length {
            bytes.extend_from_slice(SecretKey::generate()?.as_bytes());
        }
        bytes.truncate(length);
        Ok(bytes)
    };
    match kind {
        "random bytes" => (0..POOL).map(|_| random(1_200)).collect(),
        "foreign Initials" => {
            let other = FirstMessages::record(SecretKey::generate()?.public_key()).await?;
            (0..POOL).map(|_| Ok(other.fresh()?)).collect()
        }
        "a recorded Initial" => {
            let firsts = FirstMessages::record(relay).await?;
            Ok(vec![firsts.recorded().to_vec()])
        }
        _ => {
            let firsts = FirstMessages::record(relay).await?;
            (0..POOL).map(|_| Ok(firsts.fresh()?)).collect()
        }
    }
}

struct Flood {
    to: SocketAddr,
    sources: u8,
    rate: u32,
}

impl Flood {
    /// Sends at the rate; returns how many left.
    fn run(&self, packets: &[Vec<u8>], time: Duration) -> Result<u32> {
        let sockets = (1..=self.sources)
            .map(|host| UdpSocket::bind((Ipv4Addr::new(127, 99, 0, host), 0)))
            .collect::<std::io::Result<Vec<_>>>()?;
        let mut next = packets.iter().cycle().zip(sockets.iter().cycle());
        let started = Instant::now();
        let mut sent = 0;
        while started.elapsed() < time {
            let due = (started.elapsed().as_secs_f64() * f64::from(self.rate)) as u32;
            while sent < due {
                let (packet, socket) = next.next().context("nothing to send")?;
                drop(socket.send_to(packet, self.to));
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    }
}

/// A relay with a thread of its own.
struct Subject {
    address: SocketAddr,
    public_key: PublicKey,
    ask: mpsc::Sender<oneshot::Sender<(Duration, Snapshot)>>,
}

impl Subject {
    fn start() -> Result<Self> {
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<(Duration, Snapshot)>>(1);
        let (ready, started) = oneshot::channel();
        let key = SecretKey::generate()?;
        let public_key = key.public_key();
        thread::spawn(move || -> Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let relay = Relay::builder(key, Arc::new(StaticAuthority::new()))
                    .listen("127.0.0.1:0".parse()?)
                    .start()
                    .await?;
                // Nobody waits: the measurement has ended.
                _ = ready.send(relay.local_addr());
                while let Some(reply) = asked.recv().await {
                    _ = reply.send((cpu_of_this_thread(), relay.metrics()));
                }
                Ok(())
            })
        });
        let address = started
            .blocking_recv()?
            .context("the relay does not listen")?;
        Ok(Self {
            address,
            public_key,
            ask,
        })
    }

    /// CPU time and counters so far.
    async fn look(&self) -> Result<(Duration, Snapshot)> {
        let (reply, answer) = oneshot::channel();
        self.ask.send(reply).await?;
        Ok(answer.await?)
    }
}

fn cpu_of_this_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn part(count: u64, of: u32) -> f64 {
    100.0 * count as f64 / f64::from(of.max(1))
}

/// Packets made beforehand: enough that a handshake begun with one has ended when it comes again.
const POOL: usize = 20_000;
