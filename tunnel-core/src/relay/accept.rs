//! Accepts connections of clients over QUIC and TCP and does their handshakes.
//!
//! No handshake runs inside an accept loop, so a slow one holds nobody up. Until a client has proved its key it can cost the relay
//! only a bounded number of slots, a bounded time, and a bounded share of one core.

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
        limit::pending::{HandshakeSlot, Pending},
        proven::{ClientConnection, Proven},
        shared::Shared,
    },
    socket,
    sync::lock,
    transport::{
        PskSource, Transport,
        admission::{Source, Verdict, charged},
        lane::{self, FirstMessage, Io, LaneError, LaneOpening, RelaySide},
        quic,
    },
    tunnel::supervise::supervise,
};

/// A socket for clients could not be opened.
#[derive(Debug)]
pub(crate) struct ListenError {
    /// `UDP` or `TCP`.
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
}

/// Listens on UDP and TCP. Returns the address that was bound, which has the port's number where the system has chosen it.
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
    let acceptor = Arc::new(LaneAcceptor {
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
        move || accept_lanes(lanes.clone(), tcp.clone(), acceptor.clone()),
    );
    Ok(address)
}

/// Binds a UDP and a TCP socket to the same port. Where the system is to choose it (port 0), a port that is free for UDP alone is
/// given back and another one tried.
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

/// Does the handshake of a connection in memory. Only tests make such connections, so only its time is bounded.
async fn open_mem(shared: Arc<Shared>, side: Arc<RelaySide>, mut io: Io) {
    let limit = shared.config.limits.handshake_time;
    let opened = tokio::time::timeout(limit, async {
        Ok::<_, LaneError>(match lane::read_opening(&mut io).await? {
            LaneOpening::First(first) => OpenedLane::First(first.answer(&side)?.prove(io).await?),
            LaneOpening::Further(further) => OpenedLane::Further(further.open(io, &side).await?),
        })
    });
    match opened.await {
        Ok(Ok(opened)) => serve_opened(shared, opened, None, Transport::Mem).await,
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
        let slot = match verdict {
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
        let Some(slot) = slot else {
            incoming.ignore();
            continue;
        };
        match charged(&shared.admission, source, || quic::answer(incoming)) {
            Ok(answered) => drop(tokio::spawn(finish_quic(
                shared.clone(),
                answered,
                address,
                slot,
            ))),
            Err(error) => failed(&shared, address, &error),
        }
    }
}

async fn finish_quic(
    shared: Arc<Shared>,
    answered: quic::Answered,
    address: SocketAddr,
    slot: HandshakeSlot,
) {
    let accepted = tokio::select! {
        accepted = answered.accepted(shared.config.limits.handshake_time) => accepted,
        () = slot.evicted() => return,
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return failed(&shared, address, &error),
    };
    drop(slot);
    let proven = Proven {
        peer: accepted.peer,
        psk: accepted.psk,
        hello: accepted.hello,
        suite: accepted.suite,
        exporter: quic::lane_secret(&accepted.connection),
        address: Some(address),
        transport: ClientConnection::Quic(accepted.connection),
    };
    admit(shared, proven).await;
}

/// What the handshakes of all TCP connections share.
struct LaneAcceptor {
    side: RelaySide,
    /// Slots for connections whose first message has not come.
    strangers: Arc<Pending>,
    /// The same for addresses from which clients have been let in, so that strangers cannot take those clients' slots.
    known: Arc<Pending>,
    /// Slots for handshakes that were answered and wait for the client's proof.
    answered: Arc<Pending>,
}

async fn accept_lanes(
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    acceptor: Arc<LaneAcceptor>,
) {
    loop {
        let (tcp, address) = shared.accept(&listener).await;
        let source = Source::of(address.ip());
        let slots = if lock(&shared.admission).knows(source) {
            &acceptor.known
        } else {
            &acceptor.strangers
        };
        if let Some(slot) = shared.enter(slots, source) {
            tokio::spawn(open_lane(
                shared.clone(),
                acceptor.clone(),
                tcp,
                address,
                slot,
            ));
        }
    }
}

/// A lane whose handshake is done: the first one of a client that has no QUIC, or a further one of a tunnel.
enum OpenedLane {
    First(lane::FirstLane),
    Further(lane::FurtherLane),
}

async fn open_lane(
    shared: Arc<Shared>,
    acceptor: Arc<LaneAcceptor>,
    tcp: TcpStream,
    address: SocketAddr,
    slot: HandshakeSlot,
) {
    let limits = &shared.config.limits;
    let mut io = Io::Tcp(tcp);
    let opened = async {
        let read = tokio::time::timeout(limits.first_message_time, lane::read_opening(&mut io));
        let opening = tokio::select! {
            opening = read => opening.unwrap_or_else(|_| Err(timed_out()))?,
            () = slot.evicted() => return Ok(None),
        };
        if let Io::Tcp(tcp) = &io
            && let Some(remark) = shared.granted.note(lane::tune(tcp))
        {
            shared.emit(Event::Warning(remark));
        }
        match opening {
            LaneOpening::Further(further) => further
                .open(io, &acceptor.side)
                .await
                .map(|lane| Some(OpenedLane::Further(lane))),
            LaneOpening::First(first) => {
                first_lane(&shared, &acceptor, io, address, first, slot).await
            }
        }
    };
    match tokio::time::timeout(limits.handshake_time, opened).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(opened))) => {
            serve_opened(shared, opened, Some(address), Transport::Lane).await;
        }
        Ok(Err(error)) => failed(&shared, address, &error),
        Err(_) => failed(&shared, address, &timed_out()),
    }
}

/// Does the handshake of a first lane once the CPU time that strangers may take allows it. `None` if its slot was taken away.
async fn first_lane(
    shared: &Arc<Shared>,
    acceptor: &LaneAcceptor,
    io: Io,
    address: SocketAddr,
    first: FirstMessage,
    waiting: HandshakeSlot,
) -> Result<Option<OpenedLane>, LaneError> {
    let source = Source::of(address.ip());
    // Waiting costs a client less than trying again.
    while !lock(&shared.admission).may_spend(Instant::now(), source, true) {
        tokio::select! {
            () = tokio::time::sleep(BUDGET_LOOK) => {}
            () = waiting.evicted() => return Ok(None),
        }
    }
    let Some(slot) = shared.enter(&acceptor.answered, source) else {
        return Ok(None);
    };
    drop(waiting);
    let answered = charged(&shared.admission, source, || first.answer(&acceptor.side))?;
    tokio::select! {
        proven = answered.prove(io) => Ok(Some(OpenedLane::First(proven?))),
        () = slot.evicted() => Ok(None),
    }
}

async fn serve_opened(
    shared: Arc<Shared>,
    opened: OpenedLane,
    address: Option<SocketAddr>,
    kind: Transport,
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
                transport: ClientConnection::Lane(Box::new(first.halves), kind),
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

/// The authority as the source of pre-shared keys for handshakes.
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

/// Ports that are tried at most. With a tenth of all ports taken, 16 tries fail once in 10^16.
const PORT_DRAWS: u32 = 16;
/// What logs show as the address of a client in memory.
const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
/// How soon a handshake that waits for CPU time looks again.
const BUDGET_LOOK: Duration = Duration::from_millis(20);
