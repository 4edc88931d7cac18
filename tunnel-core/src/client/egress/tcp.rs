//! A player's stream, to its target and back: the connection is made here, and `pump` carries the bytes.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::Instant};

use crate::{
    client::{
        egress::reason::reason,
        ports::{LocalPorts, Purpose},
        resume::ClientResumption,
        room::Held,
        shared::Shared,
        source::{HeldOrigin, Origin},
        targets::{Over, Target},
        tunnel::ClientTunnel,
    },
    event::Limit,
    instance::ProxyProtocol,
    metrics::{Gauge, Metrics},
    proto::{
        proxy::{self, Ends},
        stream::frame::{ResetCode, StreamHeader},
    },
    socket,
    tunnel::{
        fault,
        futures::now_or_never,
        stream::{Channel, Direction, StreamKind, pump},
    },
};

/// Connects to the target and carries the stream to its end. Returns the channel if it is clean.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    tunnel: &Arc<ClientTunnel>,
    header: StreamHeader,
    mut channel: Channel,
) -> Option<Channel> {
    let resumption = ClientResumption::new(shared, tunnel, header.stream, channel.is_lane());
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
    let (target, socket, _held) = match open(shared, &header, channel.is_lane()).await {
        Ok(open) => open,
        Err(code) => {
            tracing::debug!(stream = header.stream.0, player = %header.player, "no connection to the target: {code}");
            channel.tx.abort(Some(code)).await;
            return None;
        }
    };
    fault!("a stream to {}", target.service.public);
    let _open = Gauge::new(metrics, |m| &m.streams);
    metrics.streams_opened.one();
    let kind = StreamKind {
        metrics: metrics.clone(),
        traffic: None,
        direction: Direction::FromTarget,
        cancelled: target.cancelled.clone(),
        // The relay decides.
        lane_rate: u64::MAX,
    };
    match pump::run(
        socket,
        None,
        channel,
        tunnel.carrier(),
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

/// The target that a stream is for, and a connection to it; otherwise counts and says why there is none.
async fn open(
    shared: &Arc<Shared>,
    header: &StreamHeader,
    on_lane: bool,
) -> Result<(Arc<Target>, TcpStream, (Seated, HeldOrigin)), ResetCode> {
    let metrics = &shared.metrics;
    let target = shared.targets.load().get(&header.service).cloned();
    let target = target.filter(|target| target.service.protocol.tcp());
    let port = (target.as_ref()).and_then(|target| target.port(header.port_index));
    let (Some(target), Some(port)) = (target, port) else {
        metrics.stream_no_service.one();
        return Err(ResetCode::NoService);
    };
    // Counts and says by itself what is short.
    let held = Seated::take(shared, &target, on_lane).ok_or(ResetCode::Limit)?;
    let from = (shared.means.origins).of(target.source(), header.player.ip());
    let connected = match &from {
        Some(from) => connect(shared, &target, port, from.origin).await,
        None => Err(ResetCode::Unreachable),
    };
    let connected = match connected {
        Ok(socket) => introduce(socket, target.proxy(), header, metrics).await,
        failed => failed,
    };
    match connected.and_then(|socket| Ok((socket, from.ok_or(ResetCode::Unreachable)?))) {
        Ok((socket, from)) => Ok((target, socket, (held, from))),
        Err(code) => {
            match code {
                ResetCode::Refused => metrics.stream_target_refused.one(),
                ResetCode::Unresolved => metrics.stream_unresolved.one(),
                ResetCode::Limit => metrics.no_descriptors.one(),
                _ => metrics.stream_target_unreachable.one(),
            }
            if code != ResetCode::Shutdown {
                shared.tell_unserved(&target, code);
            }
            Err(code)
        }
    }
}

/// Tells the target who comes, before the first byte, where its service has it told.
async fn introduce(
    mut socket: TcpStream,
    proxy: ProxyProtocol,
    header: &StreamHeader,
    metrics: &Metrics,
) -> Result<TcpStream, ResetCode> {
    let ends = Ends {
        player: header.player,
        public: header.local,
    };
    let said = match proxy {
        ProxyProtocol::Off => return Ok(socket),
        ProxyProtocol::V1 => Ok(proxy::encode_v1(ends)),
        ProxyProtocol::V2 => proxy::encode_v2_stream(ends),
    };
    let written = match said {
        Ok(said) => socket.write_all(&said).await,
        Err(error) => Err(error),
    };
    written.map_err(|error| reason(&error))?;
    metrics.proxy_headers_out.one();
    Ok(socket)
}

/// Connects to the first address that answers; each next one is tried a little later, or when one before it fails.
pub(crate) async fn connect(
    shared: &Arc<Shared>,
    target: &Arc<Target>,
    port: u16,
    origin: Origin,
) -> Result<TcpStream, ResetCode> {
    let patience = shared.limits.connect_time;
    let deadline = Instant::now() + patience;
    let connect_to = |ip| {
        let (ports, target) = (shared.means.ports.clone(), target.clone());
        let purpose = Purpose::Player(origin);
        async move {
            connect_to(
                &ports,
                purpose,
                &target,
                SocketAddr::new(ip, port),
                deadline,
            )
            .await
        }
    };
    let addresses = target.resolved(Over::Tcp).await;
    let mut waiting = addresses.iter().copied();
    let mut tries = JoinSet::new();
    let mut failed = ResetCode::Unresolved;
    let all = async {
        // The usual target needs no race.
        if let [ip] = addresses[..] {
            return connect_to(ip).await.map_err(|error| reason(&error));
        }
        loop {
            match waiting.next() {
                Some(ip) => drop(tries.spawn(connect_to(ip))),
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

/// Where every local port has a connection there, it waits for its turn.
async fn connect_to(
    ports: &LocalPorts,
    purpose: Purpose,
    target: &Target,
    peer: SocketAddr,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let has_none = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    // Whoever waits already goes first.
    if target.queue.try_lock().is_ok() {
        match ports.tcp(purpose, peer).await {
            Err(error) if has_none(&error) => {}
            connected => return tuned(connected?),
        }
    }
    let turn = tokio::time::timeout_at(deadline, target.queue.lock()).await;
    let turn = turn.map_err(|_| io::ErrorKind::AddrInUse)?;
    loop {
        let mut connecting = pin!(ports.tcp(purpose, peer));
        // Without a port it fails at once. Who has one is connecting, for as long as that takes, and the next has its turn.
        match now_or_never(connecting.as_mut()).await {
            None => {
                drop(turn);
                return tuned(connecting.await?);
            }
            Some(Err(error)) if has_none(&error) && Instant::now() + PORT_LOOK < deadline => {
                tokio::time::sleep(PORT_LOOK).await;
            }
            Some(connected) => return tuned(connected?),
        }
    }
}

fn tuned(socket: TcpStream) -> io::Result<TcpStream> {
    socket::tune_player(&socket)?;
    Ok(socket)
}

/// A stream among those of its service, and what it takes of the descriptors.
struct Seated {
    target: Arc<Target>,
    held: Vec<Held>,
}

impl Seated {
    fn take(shared: &Shared, target: &Arc<Target>, is_lane: bool) -> Option<Self> {
        // A lane is a descriptor as well.
        let count = 1 + usize::from(is_lane);
        let own = target.sockets();
        let held: Option<Vec<_>> = (0..count)
            .map(|_| shared.descriptors.take(own).ok())
            .collect();
        let Some(held) = held else {
            shared.metrics.stream_limit.one();
            shared.tell_crowded(target, Limit::Descriptors, own);
            return None;
        };
        target.streams.fetch_add(count, Ordering::Relaxed);
        Some(Self {
            target: target.clone(),
            held,
        })
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let count = self.held.len();
        self.target.streams.fetch_sub(count, Ordering::Relaxed);
    }
}

/// Head start of an address before the next is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// Between two looks for a local port: 20 ms, and one look a service, however many wait.
const PORT_LOOK: Duration = Duration::from_millis(20);
