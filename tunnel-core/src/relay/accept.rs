//! Where clients come in: handshakes outside the accept loops, bounded in number, time and share of a core.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    event::Event,
    join::TokenId,
    key::{Psk, PublicKey},
    metrics::Gauge,
    proto::{
        handshake::{Answer, Capabilities, Hello, SUPPORTED, Secret, Suite},
        message::Code,
        record::RecordType,
        session::relay::RelaySession,
    },
    relay::{
        Admission, Denial, RelayLimits, RelayStartError, Shared,
        ingress::udp::replies::Replies,
        pending::{Pending, Place},
        session,
        supervisor::Newcomer,
        tunnel::{Parts, RelayTunnel},
        unadmitted::{discard_datagrams, give_key, reject},
    },
    socket,
    sync::lock,
    transport::{
        PskSource,
        admission::{Source, Verdict, charged},
        lane::{self, FirstMessage, Heard, Io, LaneError, RelaySide},
        quic,
    },
    tunnel::{
        control::{self, Control},
        datagram::{DatagramHandler, DatagramSender, LaneQueues, read_quic_datagrams},
        lane::{Lane, Watched, carry, probe},
        supervise::supervise,
    },
};

/// A client that has proved itself, and how it came.
struct Proven {
    peer: PublicKey,
    psk: Psk,
    hello: Hello,
    suite: Suite,
    exporter: Secret,
    address: Option<SocketAddr>,
    transport: Transport,
}

pub(super) enum Transport {
    Quic(quinn::Connection),
    Lane(Lane, crate::Transport),
}

/// Listens on UDP and TCP. Returns the address, which matters if the port was left to the system.
pub(crate) fn listen(
    shared: &Arc<Shared>,
    address: SocketAddr,
) -> Result<SocketAddr, RelayStartError> {
    let failed = |protocol| {
        move |error| RelayStartError::Listen {
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
    let handshakes = pending(limits);
    let door = Arc::new(Door {
        side: relay_side(shared),
        strangers: pending(limits),
        known: pending(limits),
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
) -> Result<(std::net::UdpSocket, std::net::TcpListener, SocketAddr), RelayStartError> {
    let failed = |protocol| {
        move |error| RelayStartError::Listen {
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
            Heard::First(first) => Opened::First(first.answer(&side)?.prove(io).await?),
            Heard::Further(further) => Opened::Further(further.open(io, &side).await?),
        })
    });
    match opened.await {
        Ok(Ok(opened)) => serve_opened(shared, opened, None, crate::Transport::Mem).await,
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
    serve(shared, proven).await;
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
enum Opened {
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
                .map(|lane| Some(Opened::Further(lane))),
            Heard::First(first) => first_lane(&shared, &door, io, address, first, place).await,
        }
    };
    match tokio::time::timeout(limits.handshake_time, opened).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(opened))) => {
            serve_opened(shared, opened, Some(address), crate::Transport::Lane).await;
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
) -> Result<Option<Opened>, LaneError> {
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
        proven = answered.prove(io) => Ok(Some(Opened::First(proven?))),
        () = place.evicted() => Ok(None),
    }
}

async fn serve_opened(
    shared: Arc<Shared>,
    opened: Opened,
    address: Option<SocketAddr>,
    name: crate::Transport,
) {
    match opened {
        Opened::First(first) => {
            let proven = Proven {
                peer: first.peer,
                psk: first.psk,
                hello: first.hello,
                suite: first.suite,
                exporter: first.exporter,
                address,
                transport: Transport::Lane(Box::new(first.halves), name),
            };
            serve(shared, proven).await;
        }
        Opened::Further(further) => {
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

pub(super) fn pending(limits: &RelayLimits) -> Arc<Pending> {
    Pending::new(limits.handshakes, limits.handshakes_per_source)
}

fn failed(shared: &Shared, address: SocketAddr, error: &dyn std::error::Error) {
    shared.metrics.handshakes_failed.one();
    tracing::debug!(%address, "handshake failed: {error}");
}

/// Admits a client and serves its tunnel to the end.
async fn serve(shared: Arc<Shared>, proven: Proven) {
    // A key that is of no more use proves itself as often as one likes. In memory there is nobody else.
    let place = match proven.address {
        Some(address) => match shared.enter(&shared.proven, Source::of(address.ip())) {
            Some(place) => Some(place),
            None => return,
        },
        None => None,
    };
    let Ok(version) = SUPPORTED.agreed(&proven.hello.versions) else {
        let text = "no protocol version in common";
        return reject(&shared, proven.transport, Code::Incompatible, text, place).await;
    };
    let token: Option<TokenId> = proven.hello.token;
    let admission = {
        let (shared, peer) = (shared.clone(), proven.peer);
        tokio::task::spawn_blocking(move || shared.authority.admit(&peer, token))
    };
    let admission = tokio::select! {
        admission = admission => admission,
        never = discard_datagrams(&proven.transport) => match never {},
    };
    let admission = match admission {
        Ok(Ok(admission)) => admission,
        Ok(Err(denial)) => {
            let code = match denial {
                Denial::Revoked => Code::Revoked,
                Denial::TokenExpired => Code::TokenExpired,
                Denial::TokenUsed => Code::TokenUsed,
                Denial::Unavailable(_) => Code::Internal,
            };
            let text = denial.to_string();
            return reject(&shared, proven.transport, code, &text, place).await;
        }
        Err(_) => {
            let text = "the authority failed";
            return reject(&shared, proven.transport, Code::Internal, text, place).await;
        }
    };
    shared.let_in_from(proven.address);
    if admission.psk.is_some() {
        shared.emit(Event::Enrolled {
            client: admission.name.as_str().into(),
        });
        return give_key(&shared, proven.transport, version, &admission, place).await;
    }
    establish(shared, proven, version, admission, place).await;
}

async fn establish(
    shared: Arc<Shared>,
    proven: Proven,
    version: u32,
    admission: Admission,
    place: Option<Place>,
) {
    // A client that has a tunnel may go over to another, however full the relay is.
    let Some(_share) = shared.tunnels_by_client.take(proven.peer) else {
        shared.metrics.tunnels_refused.one();
        let text = "the relay has as many clients as it may, or this one as many tunnels";
        return reject(&shared, proven.transport, Code::Limit, text, place).await;
    };
    drop(place);
    let (messages, from_supervisor) = mpsc::channel(MESSAGES);
    let queues = Arc::new(LaneQueues::new(shared.config.limits.queues()));
    let capabilities = Capabilities::SUPPORTED.common(proven.hello.capabilities);
    let metrics = &shared.metrics;
    let (quic, name, datagrams) = match &proven.transport {
        Transport::Quic(connection) => {
            quic::open_window(connection);
            let queue = shared.config.limits.queues();
            let path = shared.paths.to(proven.peer);
            let sender = DatagramSender::quic(
                connection.clone(),
                metrics.clone(),
                queue,
                capabilities,
                path,
            );
            (Some(connection.clone()), crate::Transport::Quic, sender)
        }
        Transport::Lane(_, name) => (
            None,
            *name,
            DatagramSender::lanes(queues.clone(), metrics.clone()),
        ),
    };
    let parts = Parts {
        serial: shared.next_tunnel(),
        client: proven.peer,
        process: proven.hello.process,
        name: admission.name.as_str().into(),
        peer: proven.address,
        transport: name,
        quic,
        datagrams,
        queues: queues.clone(),
        flows: shared.directory(proven.peer),
        messages,
        next_stream: shared.next_stream(),
        resumes: capabilities.contains(Capabilities::STREAM_RESUMPTION),
        moves: capabilities.contains(Capabilities::STREAM_RESUMPTION | Capabilities::STREAM_MOVES),
        memory: shared.memory.clone(),
        limits: &shared.config.limits,
        metrics,
    };
    // Not the tunnel's own: who waits for its successor may keep it for longer than it stands.
    let _counted = Gauge::new(metrics, |m| &m.tunnels);
    let tunnel = Arc::new(RelayTunnel::new(parts));
    let Some(control) = start_transport(&shared, &tunnel, proven.transport, queues).await else {
        return;
    };
    let _further = shared.further.join(&tunnel, proven.suite, proven.exporter);
    let lease = shared.config.limits.lease;
    let greeting = RelaySession::asking(Instant::now(), version, lease, &admission.name);
    let newcomer = Newcomer {
        admission,
        // A token's secret ends with the token, and is no lasting key.
        psk: proven.hello.token.is_none().then_some(proven.psk),
    };
    session::drive(shared, tunnel, control, greeting, newcomer, from_supervisor).await;
}

/// Starts what carries control and datagrams.
async fn start_transport(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    transport: Transport,
    queues: Arc<LaneQueues>,
) -> Option<Control> {
    match transport {
        Transport::Quic(connection) => {
            let mut replies = Replies::over_quic(tunnel, shared.reporter());
            let accepted = tokio::time::timeout(CONTROL_PATIENCE, connection.accept_bi()).await;
            let Ok(Ok((send, recv))) = accepted else {
                connection.close(quinn::VarInt::from_u32(7), b"no control stream");
                return None;
            };
            let closed = tunnel.closed.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = read_quic_datagrams(connection, &mut replies) => {}
                    () = closed.cancelled() => {}
                }
            });
            Some(control::over_quic(send, recv))
        }
        Transport::Lane(lane, _) => {
            let mut replies = Replies::new(tunnel, shared.reporter());
            let (control, carrier) = control::pair();
            let closed = tunnel.closed.clone();
            let queue = queues.add(shared.metrics.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = carry(lane, Some(carrier), queue, &mut replies) => {}
                    () = closed.cancelled() => {}
                }
            });
            Some(control)
        }
    }
}

impl Shared {
    /// Enters those who have not proved themselves or are not let in, and counts who has to go for it or is turned away.
    fn enter(&self, pending: &Arc<Pending>, source: Source) -> Option<Place> {
        match pending.enter(source) {
            Some((place, evicted)) => {
                if evicted {
                    self.metrics.handshakes_evicted.one();
                }
                Some(place)
            }
            None => {
                self.metrics.handshakes_ignored.one();
                None
            }
        }
    }

    /// A client has been let in from there. Who has proved a key that is of no more use is not.
    fn let_in_from(&self, address: Option<SocketAddr>) {
        if let Some(address) = address {
            lock(&self.admission).let_in(Source::of(address.ip()));
        }
    }

    /// A lane has been opened: it is the tunnel's for as long as it lives, if the tunnel may have one more.
    fn add_lane(self: &Arc<Self>, tunnel: Arc<RelayTunnel>, mut lane: Lane) {
        let Ok(permit) = tunnel.lane_permits.clone().try_acquire_owned() else {
            self.metrics.lanes_refused.one();
            return;
        };
        let counted = Gauge::new(&self.metrics, |m| &m.lanes);
        lane.reader.hold((permit, counted));
        tunnel.watch.add(&lane);
        self.keep_lane(tunnel, lane);
    }

    /// Adds a lane to its tunnel's pool, until it is taken, carries datagrams, or ends.
    pub(crate) fn keep_lane(self: &Arc<Self>, tunnel: Arc<RelayTunnel>, lane: Lane) {
        let shared = self.clone();
        tokio::spawn(async move {
            let mut path = tunnel.path.subscribe();
            let watched = tokio::select! {
                watched = tunnel.lanes.watch(lane, tunnel.watch.doubts()) => watched,
                _ = path.changed() => return,
                () = tunnel.retired.cancelled() => return,
                () = tunnel.closed.cancelled() => return,
            };
            if let Watched::Datagrams(lane, first) = watched {
                shared.carry_datagrams(&tunnel, lane, first).await;
            }
        });
    }

    /// Carries datagrams on a lane that the client offers for it.
    async fn carry_datagrams(&self, tunnel: &RelayTunnel, mut lane: Lane, first: Bytes) {
        let Ok(_permit) = tunnel.datagram_lane_permits.clone().try_acquire_owned() else {
            self.metrics.lanes_refused.one();
            return;
        };
        let agreed = (lane.writer)
            .write_frame(RecordType::Datagram, &probe())
            .await;
        if agreed.is_err() {
            return;
        }
        let mut replies = Replies::new(tunnel, self.reporter());
        replies.handle(first);
        let queue = tunnel.queues.add(self.metrics.clone());
        tokio::select! {
            _ = carry(lane, None, queue, &mut replies) => {}
            () = tunnel.closed.cancelled() => {}
        }
    }
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
/// How long a proven client may take to open its control stream, and to read why it is rejected.
pub(super) const CONTROL_PATIENCE: Duration = Duration::from_secs(10);
/// Messages of the supervisor that wait for one client: every instance of a large node answered at once.
const MESSAGES: usize = 512;
