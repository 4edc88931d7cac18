//! A public TCP port: accepts players and opens a stream for each.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    event::Limit,
    key::PublicKey,
    metrics::{Counter, Gauge},
    proto::flow::by_prefix,
    relay::{
        entrance::Gate,
        ingress::{
            front_end::{self, Introduced},
            players::LiveStream,
            service::{OpenSockets, PublicService, Route},
        },
        limit::shares::Share,
        resume::RelayResumption,
        shared::Shared,
        tunnel::Player,
    },
    socket::{self, canonical},
    transport::admission::Source,
    tunnel::{
        fault,
        stream::{Channel, ChannelError, Direction, StreamKind, pump},
        supervise,
    },
};

/// A TCP listener of a service.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) io: tokio::net::TcpListener,
    pub(super) _open: Arc<OpenSockets>,
}

/// Accepts players on one port. Nothing here waits for a player or for the tunnel.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    service: Arc<PublicService>,
    listener: Arc<Listener>,
    port_index: u16,
) {
    loop {
        let (socket, player) = shared.accept(&listener.io).await;
        if socket::tune_accepted(&socket).is_err() {
            continue;
        }
        let is_front_end = shared.is_front_end(player.ip());
        if !is_front_end && service.entrance.is_banned(player.ip()) {
            shared.metrics.banned.one();
            continue;
        }
        // Permits are taken after the accept: idle listeners must not hold those that busy ones need.
        let counted = (!is_front_end).then(|| player.ip());
        let held = match hold(&shared, &service, counted) {
            Ok(held) => held,
            Err(limit) => {
                refuse(&shared, &service, limit, player.ip());
                continue;
            }
        };
        fault!("accepting on {}", service.binding.public);
        let (shared, service) = (shared.clone(), service.clone());
        supervise::spawn(shared.reporter(), "a player's stream", async move {
            let _held = held;
            // Boxed, for the time that it takes alone.
            let arrival = arrive(&shared, &service, &socket, player, is_front_end);
            let Some(arrival) = Box::pin(arrival).await else {
                return;
            };
            serve_player(&shared, &service, socket, Box::new(arrival), port_index).await;
        });
    }
}

/// What a player's stream holds: one unit each of the relay's streams, its address' and its client's.
type StreamUnits = (
    OwnedSemaphorePermit,
    Option<Share<Source>>,
    Share<PublicKey>,
);

/// Takes what one stream needs, or returns the limit that is reached. Whose player is not known yet is counted by its address later.
fn hold(
    shared: &Shared,
    service: &PublicService,
    player: Option<IpAddr>,
) -> Result<StreamUnits, Limit> {
    let permit = shared.stream_permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Limit::Streams)?;
    let by_address = player.map(|player| hold_address(shared, player));
    let by_address = by_address.transpose()?;
    let by_client = shared.streams_by_client.take(service.owner);
    Ok((
        permit,
        by_address,
        by_client.ok_or(Limit::StreamsPerClient)?,
    ))
}

/// One of the streams that a player's address may have.
fn hold_address(shared: &Shared, player: IpAddr) -> Result<Share<Source>, Limit> {
    let by_address = shared.streams_by_address.take(Source::of(player));
    by_address.ok_or(Limit::StreamsPerAddress)
}

/// What a box has; its memory is free then.
#[expect(
    clippy::boxed_local,
    reason = "taking it out of the box is all that it is for"
)]
fn into_inner<T>(boxed: Box<T>) -> T {
    *boxed
}

/// A connection whose player is known.
struct Arrival {
    player: SocketAddr,
    local: SocketAddr,
    /// What the player has sent already.
    early: Option<Bytes>,
    /// Its share by the player's address, where a front end has named the player.
    _by_address: Option<Share<Source>>,
}

/// Finds out who connects: the peer, or who the front end says. `None` if the connection has ended, or is refused.
async fn arrive(
    shared: &Shared,
    service: &PublicService,
    socket: &TcpStream,
    peer: SocketAddr,
    is_front_end: bool,
) -> Option<Arrival> {
    let local = canonical(socket.local_addr().ok()?);
    let player = canonical(peer);
    if !is_front_end {
        return Some(Arrival {
            player,
            local,
            // The player's first bytes go with the opening, in one packet.
            early: socket::read_early(socket).ok()?,
            _by_address: None,
        });
    }
    let introduced = tokio::select! {
        introduced = front_end::introduce(socket) => introduced,
        () = service.cancelled.cancelled() => return None,
    };
    let Introduced { ends, early } = introduced
        .inspect_err(|why| front_end::refuse(shared, peer.ip(), why))
        .ok()?;
    shared.metrics.proxy_headers_in.one();
    let (player, local) = ends.map_or((player, local), |ends| (ends.player, ends.public));
    let by_address = hold_address(shared, player.ip())
        .inspect_err(|limit| refuse(shared, service, *limit, player.ip()))
        .ok()?;
    Some(Arrival {
        player,
        local,
        early,
        _by_address: Some(by_address),
    })
}

/// Counts and reports a player who is refused because of a limit.
fn refuse(shared: &Shared, service: &PublicService, limit: Limit, player: IpAddr) {
    let (metrics, limits) = (&shared.metrics, &shared.config.limits);
    let (counter, most, address) = match limit {
        Limit::StreamsPerAddress => {
            let address = by_prefix(player.to_canonical());
            let most = limits.streams_per_address;
            (&metrics.stream_address_cap, most, Some(address))
        }
        Limit::StreamsPerClient => (&metrics.stream_client_cap, limits.streams_per_client, None),
        _ => (&metrics.stream_limit, limits.streams, None),
    };
    counter.one();
    service.tell_crowded(shared, Instant::now(), (limit, most), address, true);
}

async fn serve_player(
    shared: &Arc<Shared>,
    service: &Arc<PublicService>,
    socket: TcpStream,
    arrival: Box<Arrival>,
    port_index: u16,
) {
    fault!("a player's stream on {}", service.binding.public);
    // The task keeps room for what it is called with for as long as the player stays: not for all of this.
    let Arrival {
        player,
        local,
        early,
        _by_address,
    } = into_inner(arrival);
    let who = Connection {
        port_index,
        player,
        local,
    };
    // Who comes through a front end is known by now.
    if service.entrance.is_banned(player.ip()) {
        return shared.metrics.banned.one();
    }
    let entered = service.streams.enter(LiveStream {
        id: shared.next_flow(),
        player: who.player,
        local: who.local,
        began: Instant::now(),
        traffic: Arc::default(),
        cancelled: service.cancelled.child_token(),
    });
    let OpenedStream {
        mut resumption,
        channel,
        _counted,
    } = tokio::select! {
        // Boxed: the task would otherwise keep room for this future for as long as the player stays.
        opened = Box::pin(open(shared, service, who, early.clone())) => match opened {
            Ok(taken) => taken,
            Err(counter) => return counter.one(),
        },
        () = entered.stream.cancelled.cancelled() => return,
    };
    // Closing the gate has ended whoever was there: not a player who came in at that moment.
    let address = entered.stream.player.ip();
    if service.entrance.gate() == Gate::Closed || service.entrance.is_banned(address) {
        return;
    }
    let _open = Gauge::new(&shared.metrics, |m| &m.streams);
    shared.metrics.streams_opened.one();
    let kind = StreamKind {
        metrics: shared.metrics.clone(),
        traffic: Some(entered.stream.traffic.clone()),
        direction: Direction::FromPlayer,
        cancelled: entered.stream.cancelled.clone(),
        lane_rate: shared.config.limits.lane_rate,
    };
    let carrier = resumption.carrier();
    match pump::run(socket, early, channel, carrier, &kind, &mut resumption).await {
        Ok(channel) => {
            if let Some(lane) = channel.and_then(Channel::into_lane) {
                // A lane whose stream has ended cleanly can carry the next one.
                shared.keep_lane(resumption.tunnel, Box::new(lane));
            }
        }
        Err(end) => {
            shared.count_reset(&end);
            tracing::debug!(instance = %service.binding.instance, player = %entered.stream.player, "stream ended: {end}");
        }
    }
}

/// A player, and where it came in.
#[derive(Debug, Clone, Copy)]
struct Connection {
    port_index: u16,
    player: SocketAddr,
    local: SocketAddr,
}

/// A player's stream, open on a tunnel. A shutdown of the relay and the end of the tunnel wait for it.
struct OpenedStream {
    resumption: RelayResumption,
    channel: Channel,
    _counted: TaskTrackerToken,
}

/// Opens a stream on the client's tunnel. Where there is none, or it ends before the stream is open, waits for the next one for as
/// long as the limits allow. Otherwise returns the counter of the failure.
async fn open<'a>(
    shared: &'a Arc<Shared>,
    service: &PublicService,
    who: Connection,
    early: Option<Bytes>,
) -> Result<OpenedStream, &'a Counter> {
    let metrics = &shared.metrics;
    let until = tokio::time::Instant::now() + shared.config.limits.stream_wait;
    let mut routes = service.route.subscribe();
    let mut failed = None;
    loop {
        let is_other = |route: &Option<Arc<Route>>| {
            (route.as_ref()).is_some_and(|route| Some(route.tunnel.serial) != failed)
        };
        let Ok(Ok(Some(route))) = tokio::time::timeout_at(until, async {
            routes.wait_for(is_other).await.map(|route| route.clone())
        })
        .await
        else {
            return Err(match failed {
                Some(_) => &metrics.stream_broken,
                None => &metrics.stream_no_tunnel,
            });
        };
        if !service.takes_players(shared, &route) {
            return Err(&metrics.stream_draining);
        }
        if service.health.refuses() {
            return Err(&metrics.stream_unhealthy);
        }
        let tunnel = route.tunnel.clone();
        let player = Player {
            service: route.service.id,
            port_index: who.port_index,
            player: who.player,
            local: who.local,
        };
        // From here on a shutdown waits for this player.
        let counted = shared.players.token();
        let _on_tunnel = tunnel.streams.token();
        let optimize = route.service.optimize;
        let is_elsewhere = |route: &Option<Arc<Route>>| {
            (route.as_ref()).is_none_or(|route| route.tunnel.serial != tunnel.serial)
        };
        let opened = tokio::select! {
            biased;
            opened = tunnel.open_stream(player, optimize, early.clone()) => match opened {
                Ok(opened) => Some(opened),
                // The tunnel works, so there is no other one to wait for.
                Err(ChannelError::NoLane) => return Err(&metrics.stream_lanes),
                Err(_) => None,
            },
            _ = routes.wait_for(is_elsewhere) => None,
            () = tokio::time::sleep_until(until) => None,
        };
        if let Some((stream, channel)) = opened {
            let on_lane = channel.is_lane();
            return Ok(OpenedStream {
                resumption: RelayResumption::new(tunnel, shared, stream, player, optimize, on_lane),
                channel,
                _counted: counted,
            });
        }
        failed = Some(tunnel.serial);
    }
}
