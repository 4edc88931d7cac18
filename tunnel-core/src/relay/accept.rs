//! Where clients come in: handshakes outside the accept loops, bounded in number, time and share of a core.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    event::Event,
    join::TokenId,
    key::{Psk, PublicKey},
    proto::handshake::{Answer, Capabilities, SUPPORTED},
    relay::{
        establish::admit,
        limit::pending::{Pending, Place},
        proven::{Proven, Transport},
        shared::Shared,
    },
    socket,
    sync::lock,
    transport::{
        PskSource,
        admission::{Source, Verdict, charged},
        lane::{self, FirstMessage, Heard, Io, LaneError, RelaySide},
        quic,
    },
    tunnel::supervise::supervise,
};

/// Why a relay does not listen.
#[derive(Debug)]
pub(crate) struct ListenError {
    /// `UDP` or `TCP`.
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
}

/// Listens on UDP and TCP. Returns the address, which matters if the port was left to the system.
pub(crate) fn listen(shared: &Arc<Shared>, address: SocketAddr) -> Result<SocketAddr, ListenError> {
    let failed = |protocol| {
        move |error| ListenError {
            protocol,
            address,
            error,
        }
    };
    let (udp, tcp, address) = bind(address)?;
    let granted = socket::grow_buffers(&udp, socket::TUNNEL_BUFFER);
    if granted < socket::TUNNEL_BUFFER {
        shared.emit(Event::Warning(format!(
            "the system caps the tunnel's socket buffer at {} KiB: raise net.core.rmem_max and net.core.wmem_max to {}",
            granted / 1024,
            socket::TUNNEL_BUFFER
        )));
    }
    let tcp = Arc::new(TcpListener::from_std(tcp).map_err(failed("TCP"))?);
    let identity = quic::RelayIdentity {
        secret_key: shared.secret_key.clone(),
        process: shared.process,
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        psks: Arc::new(Psks(shared.clone())),
    };
    let (admission, drops) = (shared.admission.clone(), shared.strangers.clone());
    let endpoint = quic::relay_endpoint(udp, identity, admission, drops).map_err(failed("UDP"))?;
    let limits = &shared.config.limits;
    let handshakes = limits.pending();
    let door = Arc::new(Door {
        side: relay_side(shared),
        strangers: limits.pending(),
        known: limits.pending(),
        answered: handshakes.clone(),
    });
    let quic = shared.clone();
    supervise(
        shared.reporter(),
        shared.stopped.clone(),
        "accepting QUIC".into(),
        move || accept_quic(quic.clone(), endpoint.clone(), handshakes.clone()),
    );
    let lanes = shared.clone();
    supervise(
        shared.reporter(),
        shared.stopped.clone(),
        "accepting lanes".into(),
        move || accept_lanes(lanes.clone(), tcp.clone(), door.clone()),
    );
    Ok(address)
}

/// Both sockets on one number. A port that is left to the system is drawn for UDP; where TCP has it taken, another
/// is drawn.
fn bind(
    wanted: SocketAddr,
) -> Result<(std::net::UdpSocket, std::net::TcpListener, SocketAddr), ListenError> {
    let failed = |protocol| {
        move |error| ListenError {
            protocol,
            address: wanted,
            error,
        }
    };
    let mut draws = if wanted.port() == 0 { PORT_DRAWS } else { 1 };
    loop {
        let udp = socket::bind_udp(wanted).map_err(failed("UDP"))?;
        let address = udp.local_addr().map_err(failed("UDP"))?;
        draws -= 1;
        match socket::listen_tcp(address) {
            Ok(tcp) => return Ok((udp, tcp, address)),
            Err(error) if draws == 0 => return Err(failed("TCP")(error)),
            Err(_) => {}
        }
    }
}

/// Listens on a network in memory.
pub(crate) fn listen_mem(shared: Arc<Shared>, mut accept: mpsc::Receiver<DuplexStream>) {
    tokio::spawn(async move {
        let side = Arc::new(relay_side(&shared));
        loop {
            let io = tokio::select! {
                io = accept.recv() => io,
                () = shared.stopped.cancelled() => return,
            };
            let Some(io) = io else { return };
            tokio::spawn(open_mem(shared.clone(), side.clone(), Io::Mem(io)));
        }
    });
}

/// Takes in a connection in memory: nobody else is there, so only the time is bounded.
async fn open_mem(shared: Arc<Shared>, side: Arc<RelaySide>, mut io: Io) {
    let limit = shared.config.limits.handshake_time;
    let opened = tokio::time::timeout(limit, async {
        Ok::<_, LaneError>(match lane::hear(&mut io).await? {
            Heard::First(first) => OpenedLane::First(first.answer(&side)?.prove(io).await?),
            Heard::Further(further) => OpenedLane::Further(further.open(io, &side).await?),
        })
    });
    match opened.await {
        Ok(Ok(opened)) => {
            serve_opened(shared, opened, None, crate::transport::Transport::Mem).await
        }
        Ok(Err(error)) => failed(&shared, NOWHERE, &error),
        Err(_) => failed(&shared, NOWHERE, &timed_out()),
    }
}

async fn accept_quic(shared: Arc<Shared>, endpoint: quinn::Endpoint, handshakes: Arc<Pending>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        let source = Source::of(address.ip());
        let verdict = lock(&shared.admission).decide(
            Instant::now(),
            source,
            incoming.remote_address_validated(),
            handshakes.count(),
        );
        let place = match verdict {
            Verdict::Accept => shared.enter(&handshakes, source),
            Verdict::Retry => {
                shared.metrics.handshakes_retried.one();
                // Only an address that has been validated cannot be retried, and this one has not.
                drop(charged(&shared.admission, source, || incoming.retry()));
                continue;
            }
            Verdict::Ignore => {
                shared.metrics.handshakes_ignored.one();
                None
            }
        };
        let Some(place) = place else {
            incoming.ignore();
            continue;
        };
        match charged(&shared.admission, source, || quic::answer(incoming)) {
            Ok(answered) => drop(tokio::spawn(finish_quic(
                shared.clone(),
                answered,
                address,
                place,
            ))),
            Err(error) => failed(&shared, address, &error),
        }
    }
}

async fn finish_quic(
    shared: Arc<Shared>,
    answered: quic::Answered,
    address: SocketAddr,
    place: Place,
) {
    let accepted = tokio::select! {
        accepted = answered.accepted(shared.config.limits.handshake_time) => accepted,
        () = place.evicted() => return,
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return failed(&shared, address, &error),
    };
    drop(place);
    let proven = Proven {
        peer: accepted.peer,
        psk: accepted.psk,
        hello: accepted.hello,
        suite: accepted.suite,
        exporter: quic::lane_secret(&accepted.connection),
        address: Some(address),
        transport: Transport::Quic(accepted.connection),
    };
    admit(shared, proven).await;
}

/// What TCP connections come in through.
struct Door {
    side: RelaySide,
    /// Connections that have said nothing yet.
    strangers: Arc<Pending>,
    /// The same from where clients have been let in, so that strangers cannot stand in their way.
    known: Arc<Pending>,
    /// Handshakes that have their answer.
    answered: Arc<Pending>,
}

async fn accept_lanes(shared: Arc<Shared>, listener: Arc<TcpListener>, door: Arc<Door>) {
    loop {
        let (tcp, address) = shared.accept(&listener).await;
        let source = Source::of(address.ip());
        let places = if lock(&shared.admission).knows(source) {
            &door.known
        } else {
            &door.strangers
        };
        if let Some(place) = shared.enter(places, source) {
            tokio::spawn(open_lane(shared.clone(), door.clone(), tcp, address, place));
        }
    }
}

/// A lane that has opened.
enum OpenedLane {
    First(lane::FirstLane),
    Further(lane::FurtherLane),
}

async fn open_lane(
    shared: Arc<Shared>,
    door: Arc<Door>,
    tcp: TcpStream,
    address: SocketAddr,
    place: Place,
) {
    let limits = &shared.config.limits;
    let mut io = Io::Tcp(tcp);
    let opened = async {
        let heard = tokio::select! {
            heard = tokio::time::timeout(limits.first_message_time, lane::hear(&mut io)) => {
                heard.unwrap_or_else(|_| Err(timed_out()))?
            }
            () = place.evicted() => return Ok(None),
        };
        if let Io::Tcp(tcp) = &io
            && let Some(remark) = shared.granted.note(lane::tune(tcp))
        {
            shared.emit(Event::Warning(remark));
        }
        match heard {
            Heard::Further(further) => further
                .open(io, &door.side)
                .await
                .map(|lane| Some(OpenedLane::Further(lane))),
            Heard::First(first) => first_lane(&shared, &door, io, address, first, place).await,
        }
    };
    match tokio::time::timeout(limits.handshake_time, opened).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(opened))) => {
            serve_opened(
                shared,
                opened,
                Some(address),
                crate::transport::Transport::Lane,
            )
            .await;
        }
        Ok(Err(error)) => failed(&shared, address, &error),
        Err(_) => failed(&shared, address, &timed_out()),
    }
}

/// Does the handshake of a first lane once strangers' share of the CPU allows it. `None` if another needed the place.
async fn first_lane(
    shared: &Arc<Shared>,
    door: &Door,
    io: Io,
    address: SocketAddr,
    first: FirstMessage,
    waiting: Place,
) -> Result<Option<OpenedLane>, LaneError> {
    let source = Source::of(address.ip());
    // Waiting costs a client less than trying again.
    while !lock(&shared.admission).may_spend(Instant::now(), source, true) {
        tokio::select! {
            () = tokio::time::sleep(BUDGET_LOOK) => {}
            () = waiting.evicted() => return Ok(None),
        }
    }
    let Some(place) = shared.enter(&door.answered, source) else {
        return Ok(None);
    };
    drop(waiting);
    let answered = charged(&shared.admission, source, || first.answer(&door.side))?;
    tokio::select! {
        proven = answered.prove(io) => Ok(Some(OpenedLane::First(proven?))),
        () = place.evicted() => Ok(None),
    }
}

async fn serve_opened(
    shared: Arc<Shared>,
    opened: OpenedLane,
    address: Option<SocketAddr>,
    kind: crate::transport::Transport,
) {
    match opened {
        OpenedLane::First(first) => {
            let proven = Proven {
                peer: first.peer,
                psk: first.psk,
                hello: first.hello,
                suite: first.suite,
                exporter: first.exporter,
                address,
                transport: Transport::Lane(Box::new(first.halves), kind),
            };
            admit(shared, proven).await;
        }
        OpenedLane::Further(further) => {
            if let Some(tunnel) = shared.further.tunnel(&further.tunnel) {
                shared.let_in_from(address);
                tracing::trace!(client = %tunnel.name, number = further.number, "lane opened");
                shared.add_lane(tunnel, Box::new(further.halves));
            }
        }
    }
}

fn timed_out() -> LaneError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

fn failed(shared: &Shared, address: SocketAddr, error: &dyn std::error::Error) {
    shared.metrics.handshakes_failed.one();
    tracing::debug!(%address, "handshake failed: {error}");
}

/// The authority, as handshakes see it.
#[derive(Debug)]
struct Psks(Arc<Shared>);

impl PskSource for Psks {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        self.0.authority.psk(client, token)
    }
}

fn relay_side(shared: &Arc<Shared>) -> RelaySide {
    RelaySide {
        key: shared.secret_key.clone(),
        psks: Arc::new(Psks(shared.clone())),
        lanes: shared.further.clone(),
        answer: Answer {
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            process: shared.process,
            transport_parameters: None,
        },
    }
}

/// How often a port is drawn before giving up: with a tenth of all ports taken, 16 draws fail once in 10^16.
const PORT_DRAWS: u32 = 16;
/// Stands for the address of a client in memory, in logs.
const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
/// How soon a handshake that waits for CPU time looks again.
const BUDGET_LOOK: Duration = Duration::from_millis(20);
