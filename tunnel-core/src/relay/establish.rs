//! Makes a tunnel of a connection whose client has proved its key.
//!
//! The authority admits the client, or the client is told why not and the connection is closed. A client that enrols gets its
//! lasting key and no tunnel. For any other the transport and the control conversation start.

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
        limit::pending::HandshakeSlot,
        pool::LanePool,
        proven::{CONTROL_PATIENCE, ClientConnection, Proven, discard_datagrams, send_and_close},
        session,
        shared::Shared,
        tunnel::RelayTunnel,
    },
    transport::{Transport, admission::Source, quic},
    tunnel::{
        control::{self, Control},
        datagram::{DatagramSender, LaneQueues, read_quic_datagrams},
        lane::carry,
        stream::Budget,
    },
};

/// Admits a client and serves its tunnel to the end.
pub(super) async fn admit(shared: Arc<Shared>, proven: Proven) {
    // The owner of a revoked key can prove it any number of times, so who has proved a key still needs a slot.
    let slot = match proven.address {
        Some(address) => match shared.enter(&shared.proven, Source::of(address.ip())) {
            Some(slot) => Some(slot),
            None => return,
        },
        None => None,
    };
    let Ok(version) = SUPPORTED.agreed(&proven.hello.versions) else {
        let text = "no protocol version in common";
        return reject(&shared, proven.transport, Code::Incompatible, text, slot).await;
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
            return reject(&shared, proven.transport, code, &text, slot).await;
        }
        Err(_) => {
            let text = "the authority failed";
            return reject(&shared, proven.transport, Code::Internal, text, slot).await;
        }
    };
    shared.let_in_from(proven.address);
    if admission.psk.is_some() {
        shared.emit(Event::Enrolled {
            client: admission.name.as_str().into(),
        });
        return give_key(&shared, proven.transport, version, &admission, slot).await;
    }
    establish(shared, proven, version, admission, slot).await;
}

/// Makes a tunnel of the connection of a client that was admitted, and serves it to its end.
async fn establish(
    shared: Arc<Shared>,
    proven: Proven,
    version: u32,
    admission: Admission,
    slot: Option<HandshakeSlot>,
) {
    // A client that has a tunnel may go over to another, however full the relay is.
    let Some(_share) = shared.tunnels_by_client.take(proven.peer) else {
        shared.metrics.tunnels_refused.one();
        let text = "the relay has as many clients as it may, or this one as many tunnels";
        return reject(&shared, proven.transport, Code::Limit, text, slot).await;
    };
    drop(slot);
    let (messages, from_supervisor) = mpsc::channel(MESSAGES);
    let queues = Arc::new(LaneQueues::new(shared.config.limits.queues()));
    let capabilities = Capabilities::SUPPORTED.common(proven.hello.capabilities);
    // Not a field of the tunnel: streams that wait for its successor keep the tunnel after its end.
    let _counted = Gauge::new(&shared.metrics, |m| &m.tunnels);
    let (quic, transport) = match &proven.transport {
        ClientConnection::Quic(connection) => (Some(connection.clone()), Transport::Quic),
        ClientConnection::Lane(_, transport) => (None, *transport),
    };
    let limits = &shared.config.limits;
    let directory = shared.directory(proven.peer);
    let budget = directory.budget(|| Budget::new(shared.memory.clone(), limits.tunnel_memory));
    let tunnel = Arc::new(RelayTunnel {
        serial: shared.next_tunnel(),
        client: proven.peer,
        process: proven.hello.process,
        name: admission.name.as_str().into(),
        peer: proven.address,
        transport,
        quic,
        pool: LanePool::new(limits, &shared.metrics, messages.clone()),
        datagrams: datagram_sender(&shared, &proven, capabilities, &queues),
        queues: queues.clone(),
        flows: directory,
        budget,
        messages,
        closed: CancellationToken::new(),
        began: Instant::now(),
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

/// What sends the datagrams of a tunnel: over QUIC, or over the lanes that have `queues`.
fn datagram_sender(
    shared: &Shared,
    proven: &Proven,
    capabilities: Capabilities,
    queues: &Arc<LaneQueues>,
) -> DatagramSender {
    let metrics = shared.metrics.clone();
    match &proven.transport {
        ClientConnection::Quic(connection) => {
            quic::open_window(connection);
            let (limits, path) = (shared.config.limits.queues(), shared.paths.to(proven.peer));
            DatagramSender::quic(connection.clone(), metrics, limits, capabilities, path)
        }
        ClientConnection::Lane(..) => DatagramSender::lanes(queues.clone(), metrics),
    }
}

/// Starts the tasks that carry control messages and datagrams. `None` if the client opens no control stream in time.
async fn start_transport(
    shared: &Arc<Shared>,
    tunnel: &Arc<RelayTunnel>,
    transport: ClientConnection,
    queues: Arc<LaneQueues>,
) -> Option<Control> {
    match transport {
        ClientConnection::Quic(connection) => {
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
        ClientConnection::Lane(lane, _) => {
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

/// Sends a client that enrols its lasting key. Such a connection is no tunnel: nothing can be declared on it, and it supersedes none.
async fn give_key(
    shared: &Arc<Shared>,
    transport: ClientConnection,
    version: u32,
    admission: &Admission,
    slot: Option<HandshakeSlot>,
) {
    let (lease, psk) = (shared.config.limits.lease, admission.psk.clone());
    let mut greeting = RelaySession::new(Instant::now(), version, lease, &admission.name, psk);
    if let Some(welcome) = greeting.poll_message() {
        send_and_close(transport, &welcome, slot).await;
    }
}

/// Tells a client that has proved itself why it is not let in.
async fn reject(
    shared: &Arc<Shared>,
    transport: ClientConnection,
    code: Code,
    text: &str,
    slot: Option<HandshakeSlot>,
) {
    shared.metrics.handshakes_failed.one();
    let text = Text::new(text);
    send_and_close(transport, &Message::Reject { code, text }, slot).await;
}

/// Most messages of the supervisor that wait for one client. 512: the answers to every instance of a large node at once.
const MESSAGES: usize = 512;
