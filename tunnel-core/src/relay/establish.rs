//! From a proved key to a tunnel: the authority admits the client, or it is told why not; then its transport starts.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    event::Event,
    join::TokenId,
    metrics::Gauge,
    proto::{
        handshake::{Capabilities, SUPPORTED},
        message::{Code, Message, Text},
        session::relay::RelaySession,
    },
    relay::{
        authority::{Admission, Denial},
        command::Newcomer,
        ingress::replies::Replies,
        limit::pending::Place,
        pool::LanePool,
        proven::{CONTROL_PATIENCE, Proven, Transport, discard_datagrams, say},
        session,
        shared::Shared,
        tunnel::RelayTunnel,
    },
    transport::{admission::Source, quic},
    tunnel::{
        control::{self, Control},
        datagram::{DatagramSender, LaneQueues, read_quic_datagrams},
        lane::carry,
        stream::Budget,
    },
};

/// Admits a client and serves its tunnel to the end.
pub(super) async fn admit(shared: Arc<Shared>, proven: Proven) {
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
            (
                Some(connection.clone()),
                crate::transport::Transport::Quic,
                sender,
            )
        }
        Transport::Lane(_, name) => (
            None,
            *name,
            DatagramSender::lanes(queues.clone(), metrics.clone()),
        ),
    };
    // Not the tunnel's own: who waits for its successor may keep it for longer than it stands.
    let _counted = Gauge::new(metrics, |m| &m.tunnels);
    let limits = &shared.config.limits;
    let tunnel = Arc::new(RelayTunnel {
        serial: shared.next_tunnel(),
        client: proven.peer,
        process: proven.hello.process,
        name: admission.name.as_str().into(),
        peer: proven.address,
        transport: name,
        quic,
        pool: LanePool::new(limits, metrics, messages.clone()),
        datagrams,
        queues: queues.clone(),
        flows: shared.directory(proven.peer),
        budget: Arc::new(Budget::new(shared.memory.clone(), limits.tunnel_memory)),
        messages,
        closed: CancellationToken::new(),
        draining: CancellationToken::new(),
        retired: CancellationToken::new(),
        streams: TaskTracker::new(),
        next_stream: shared.next_stream(),
        resumes: capabilities.contains(Capabilities::STREAM_RESUMPTION),
        moves: capabilities.contains(Capabilities::STREAM_RESUMPTION | Capabilities::STREAM_MOVES),
        successor: watch::Sender::new(None),
        path: watch::Sender::new(0),
    });
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

/// Gives a client that enrols its lasting key. That is no tunnel: nothing is declared on it, and it takes none over.
async fn give_key(
    shared: &Arc<Shared>,
    transport: Transport,
    version: u32,
    admission: &Admission,
    place: Option<Place>,
) {
    let (lease, psk) = (shared.config.limits.lease, admission.psk.clone());
    let mut greeting = RelaySession::new(Instant::now(), version, lease, &admission.name, psk);
    if let Some(welcome) = greeting.poll_message() {
        say(transport, &welcome, place).await;
    }
}

/// Tells a client that has proved itself why it is not let in.
async fn reject(
    shared: &Arc<Shared>,
    transport: Transport,
    code: Code,
    text: &str,
    place: Option<Place>,
) {
    shared.metrics.handshakes_failed.one();
    let text = Text::new(text);
    say(transport, &Message::Reject { code, text }, place).await;
}

/// Messages of the supervisor that wait for one client: every instance of a large node answered at once.
const MESSAGES: usize = 512;
