//! Puts an established connection to work: what serves the relay's streams and datagrams on it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        dial::{Connection, Dialer, Established, Terms},
        egress::{tcp, udp::Egress},
        lanes,
        mailbox::Mailbox,
        shared::Shared,
        streams::Attach,
        tunnel::{ClientTunnel, TunnelLanes},
        watch::{watch_address, watch_quic},
    },
    proto::{
        handshake::Capabilities,
        stream::frame::{Frame, ResetCode},
    },
    transport::quic::ClientEndpoint,
    tunnel::{
        control::{self, Control},
        datagram::{DatagramSender, LaneQueues, Source, read_quic_datagrams},
        lane::{Lane, carry},
        stream::{Channel, Item},
        supervise,
    },
};

/// Puts an established connection to work. Everything that this starts ends with the tunnel.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    dialer: Dialer,
    established: Established,
) -> Result<(Arc<ClientTunnel>, Control), quinn::ConnectionError> {
    let Established { connection, terms } = established;
    let queues = Arc::new(LaneQueues::new(shared.limits.queues()));
    let (tunnel, control) = match connection {
        Connection::Quic(connection, endpoint) => {
            let sender = quic_sender(shared, &dialer, &connection, &terms);
            let quic = Some((connection.clone(), endpoint));
            let tunnel = assemble(shared, &terms, quic, sender, queues);
            let control = serve_quic(&tunnel, shared, connection).await?;
            (tunnel, control)
        }
        Connection::Lane(lane) => {
            let sender = DatagramSender::lanes(queues.clone(), shared.metrics.clone());
            let tunnel = assemble(shared, &terms, None, sender, queues);
            let control = serve_first_lane(&tunnel, shared, lane);
            for _ in 0..shared.limits.datagram_lanes {
                tokio::spawn(lanes::keep_datagram_lane(
                    tunnel.clone(),
                    shared.clone(),
                    dialer.clone(),
                    terms.secret.clone(),
                ));
            }
            (tunnel, control)
        }
    };
    tokio::spawn(lanes::keep_idle_lanes(
        tunnel.clone(),
        shared.clone(),
        dialer,
        terms.secret,
    ));
    tokio::spawn(watch_address(tunnel.clone(), shared.means.ports.clone()));
    Ok((tunnel, control))
}

fn assemble(
    shared: &Shared,
    terms: &Terms,
    quic: Option<(quinn::Connection, ClientEndpoint)>,
    sender: DatagramSender,
    queues: Arc<LaneQueues>,
) -> Arc<ClientTunnel> {
    let (quic, endpoint) = quic.unzip();
    Arc::new(ClientTunnel {
        transport: terms.transport,
        relay: terms.relay,
        peer: terms.peer,
        quic,
        endpoint,
        budget: shared.budget.clone(),
        sender: Arc::new(sender),
        closed: CancellationToken::new(),
        broken: CancellationToken::new(),
        resumes: terms.capabilities.contains(Capabilities::STREAM_RESUMPTION),
        takes_health: terms.capabilities.contains(Capabilities::HEALTH),
        path: watch::Sender::new(0),
        path_changed: Notify::new(),
        hearing: Mailbox::new(HEARINGS),
        lanes: TunnelLanes::new(&shared.limits, &shared.metrics, queues),
    })
}

fn quic_sender(
    shared: &Shared,
    dialer: &Dialer,
    connection: &quinn::Connection,
    terms: &Terms,
) -> DatagramSender {
    let ports = shared.means.ports.clone();
    let source = Source(Arc::new(move |peer| ports.source_towards(peer).ok()));
    let path = shared.paths.to(dialer.relay_public_key());
    DatagramSender::quic(
        connection.clone(),
        shared.metrics.clone(),
        shared.limits.queues(),
        terms.capabilities,
        path.leaving_from(source),
    )
}

async fn serve_quic(
    tunnel: &Arc<ClientTunnel>,
    shared: &Arc<Shared>,
    connection: quinn::Connection,
) -> Result<Control, quinn::ConnectionError> {
    let (send, recv) = connection.open_bi().await?;
    let (tunnel, shared) = (tunnel.clone(), shared.clone());
    tokio::spawn(serve_streams(
        tunnel.clone(),
        shared.clone(),
        connection.clone(),
    ));
    tokio::spawn(watch_quic(tunnel.clone(), connection.clone()));
    tokio::spawn(serve_datagrams(tunnel, shared, connection));
    Ok(control::over_quic(send, recv))
}

/// Serves the lane that the tunnel was established on: it carries control messages and datagrams.
fn serve_first_lane(tunnel: &Arc<ClientTunnel>, shared: &Arc<Shared>, lane: Lane) -> Control {
    let (control, carrier) = control::pair();
    let (tunnel, shared) = (tunnel.clone(), shared.clone());
    let queue = tunnel.lanes.queues.add(shared.metrics.clone());
    tokio::spawn(async move {
        let mut egress = Egress::new(shared, tunnel.relay);
        tokio::select! {
            _ = carry(lane, Some(carrier), queue, &mut egress) => {}
            () = tunnel.closed.cancelled() => {}
        }
        tunnel.broken.cancel();
    });
    control
}

async fn serve_streams(
    tunnel: Arc<ClientTunnel>,
    shared: Arc<Shared>,
    connection: quinn::Connection,
) {
    loop {
        tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok((send, recv)) => {
                    let channel = Channel::quic(send, recv);
                    let served = serve_stream(shared.clone(), tunnel.clone(), channel);
                    supervise::spawn(shared.reporter(), "a player's stream", served);
                }
                Err(_) => break,
            },
            () = tunnel.closed.cancelled() => break,
        }
    }
    tunnel.broken.cancel();
}

async fn serve_datagrams(
    tunnel: Arc<ClientTunnel>,
    shared: Arc<Shared>,
    connection: quinn::Connection,
) {
    let mut egress = Egress::over_quic(shared, tunnel.relay, &tunnel.sender);
    tokio::select! {
        _ = read_quic_datagrams(connection, &mut egress) => {}
        () = tunnel.closed.cancelled() => {}
    }
    tunnel.broken.cancel();
}

/// Serves a stream that the relay opens, or continues, on a QUIC stream.
async fn serve_stream(shared: Arc<Shared>, tunnel: Arc<ClientTunnel>, mut channel: Channel) {
    // A relay that opens a stream and says nothing holds no more than this task.
    let first = tokio::time::timeout(OPEN_PATIENCE, channel.rx.read()).await;
    match first {
        Ok(Ok(Item::Frame(Frame::Open(header)))) => {
            tcp::serve(&shared, &tunnel, header, channel).await;
        }
        Ok(Ok(Item::Frame(Frame::Attach { stream, received }))) => {
            let attach = Attach {
                tunnel,
                channel,
                received,
                is_beside: false,
                back: None,
            };
            if let Err((mut refused, code)) = shared.streams.attach(stream, Box::new(attach)) {
                refused.channel.tx.abort(Some(code)).await;
            }
        }
        Ok(Ok(Item::Frame(Frame::Join { stream }))) => {
            let attach = Attach {
                tunnel,
                channel,
                received: 0,
                is_beside: true,
                back: None,
            };
            if let Err(mut refused) = shared.streams.stand_beside(stream, Box::new(attach)) {
                refused.channel.tx.abort(Some(ResetCode::Socket)).await;
            }
        }
        _ => shared.metrics.stream_misbehaved.one(),
    }
}

/// What may wait for the client's main task.
const HEARINGS: usize = 4;
/// How long an opened QUIC stream may stay without its header.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
