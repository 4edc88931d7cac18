//! A stream's way to its target.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    client::{
        Shared,
        egress::reason,
        link::Link,
        streams::{Attach, ClientResumption},
        targets::{Over, Target},
    },
    event::Limit,
    metrics::Gauge,
    proto::stream::frame::{Frame, ResetCode, StreamHeader},
    socket,
    tunnel::{
        channel::{Channel, Item},
        fault,
        pump::{self, Direction},
    },
};

/// Serves a stream that the relay opened, or continues, on a QUIC stream.
pub(crate) async fn serve_quic(shared: Arc<Shared>, link: Arc<Link>, mut channel: Channel) {
    // A relay that opens a stream and says nothing holds no more than this task.
    let first = tokio::time::timeout(OPEN_PATIENCE, channel.rx.read()).await;
    match first {
        Ok(Ok(Item::Frame(Frame::Open(header)))) => {
            serve(&shared, &link, header, channel).await;
        }
        Ok(Ok(Item::Frame(Frame::Attach { stream, received }))) => {
            let attach = Attach {
                link,
                channel,
                received,
                is_beside: false,
                back: None,
            };
            if let Err((mut refused, code)) = shared.streams.attach(stream, Box::new(attach)) {
                refused.channel.tx.abort(Some(code)).await;
            }
        }
        Ok(Ok(Item::Frame(Frame::Beside { stream }))) => {
            let attach = Attach {
                link,
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

/// Connects to the target and carries the stream to its end. Returns the channel if it is clean.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    header: StreamHeader,
    mut channel: Channel,
) -> Option<Channel> {
    let resumption = ClientResumption::new(shared, link, header.stream, channel.is_lane());
    let Some(mut resumption) = resumption else {
        channel.tx.abort(Some(ResetCode::Socket)).await;
        return None;
    };
    // From here on a shutdown waits for this player.
    let _counted = shared.players.token();
    let metrics = &shared.metrics;
    let Ok(_permit) = shared.stream_permits.clone().try_acquire_owned() else {
        metrics.stream_limit.one();
        if let Some(target) = shared.targets.load().get(&header.service) {
            shared.tell_crowded(target, Limit::ClientStreams, shared.limits.streams);
        }
        channel.tx.abort(Some(ResetCode::Limit)).await;
        return None;
    };
    let target = shared.targets.load().get(&header.service).cloned();
    let target = target.filter(|target| target.service.protocol.tcp());
    let port = (target.as_ref()).and_then(|target| target.port(header.port_index));
    let open = match (target, port) {
        (Some(target), Some(port)) => {
            let connected = connect(&target, port, shared.limits.connect_time).await;
            if let Err(code) = &connected
                && *code != ResetCode::Shutdown
            {
                shared.tell_unserved(&target, *code);
            }
            connected.map(|socket| (target, socket))
        }
        _ => Err(ResetCode::NoService),
    };
    let (target, socket) = match open {
        Ok(open) => open,
        Err(code) => {
            match code {
                ResetCode::Refused => metrics.stream_target_refused.one(),
                ResetCode::Unresolved => metrics.stream_unresolved.one(),
                ResetCode::NoService => metrics.stream_no_service.one(),
                ResetCode::Limit => metrics.no_descriptors.one(),
                _ => metrics.stream_target_unreachable.one(),
            }
            tracing::debug!(stream = header.stream.0, player = %header.player, "no connection to the target: {code}");
            channel.tx.abort(Some(code)).await;
            return None;
        }
    };
    fault!("a stream to {}", target.service.public);
    let _open = Gauge::new(metrics, |m| &m.streams);
    metrics.streams_opened.one();
    let kind = pump::Kind {
        metrics: metrics.clone(),
        direction: Direction::FromTarget,
        cancelled: target.cancelled.clone(),
        // The relay decides.
        lane_rate: u64::MAX,
    };
    match pump::run(
        socket,
        None,
        channel,
        link.carrier(),
        &kind,
        &mut resumption,
    )
    .await
    {
        Ok(channel) => channel.and_then(|channel| resumption.hand_back(channel)),
        Err(end) => {
            tracing::debug!(instance = %target.instance, player = %header.player, "stream ended: {end}");
            None
        }
    }
}

/// Connects to the first address that answers; each next one is tried a little later, or when one before it fails.
async fn connect(target: &Target, port: u16, patience: Duration) -> Result<TcpStream, ResetCode> {
    let addresses = target.resolved(Over::Tcp).await;
    let mut waiting = addresses.iter().copied();
    let mut tries = JoinSet::new();
    let mut failed = ResetCode::Unresolved;
    let all = async {
        // The usual target needs no race.
        if let [ip] = addresses[..] {
            return connect_to(ip, port).await.map_err(|error| reason(&error));
        }
        loop {
            match waiting.next() {
                Some(ip) => drop(tries.spawn(connect_to(ip, port))),
                None if tries.is_empty() => return Err(failed),
                None => {}
            }
            let more = waiting.len() > 0;
            let ended = tokio::select! {
                ended = tries.join_next() => ended,
                () = tokio::time::sleep(STAGGER), if more => continue,
            };
            match ended {
                Some(Ok(Ok(socket))) => {
                    if let Ok(peer) = socket.peer_addr() {
                        target.handle_answer(Over::Tcp, peer.ip());
                    }
                    return Ok(socket);
                }
                Some(Ok(Err(error))) => failed = reason(&error),
                Some(Err(_)) | None => {}
            }
        }
    };
    let connected = tokio::select! {
        connected = tokio::time::timeout(patience, all) => connected.unwrap_or(Err(ResetCode::Timeout)),
        () = target.cancelled.cancelled() => Err(ResetCode::Shutdown),
    };
    if connected.is_err() {
        // The name may lead elsewhere by now.
        target.refresh();
    }
    connected
}

async fn connect_to(ip: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(SocketAddr::new(ip, port)).await?;
    socket::tune_player(&socket)?;
    Ok(socket)
}

/// Head start of an address before the next is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// How long an opened QUIC stream may stay without its header.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
