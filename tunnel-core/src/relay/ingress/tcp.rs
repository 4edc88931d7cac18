//! A public TCP port: accepts players and opens a stream for each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::{
    metrics::Gauge,
    relay::{
        Shared,
        ingress::{Listener, PublicService, Route},
        resume::RelayResumption,
        tunnel::Player,
    },
    socket,
    tunnel::{
        channel::Channel,
        pump::{self, Direction},
    },
};

/// Accepts players on one port. Nothing here waits for a player or for the tunnel.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    service: Arc<PublicService>,
    listener: Arc<Listener>,
    port_index: u16,
) {
    loop {
        match listener.io.accept().await {
            Ok((socket, player)) => {
                // A listener that waits holds no place: idle ports must not use up those of the busy ones.
                let Ok(permit) = shared.stream_permits.clone().try_acquire_owned() else {
                    socket::reset_on_drop(&socket);
                    shared.metrics.stream_limit.one();
                    continue;
                };
                let (shared, service) = (shared.clone(), service.clone());
                tokio::spawn(async move {
                    serve_player(&shared, &service, socket, player, port_index).await;
                    drop(permit);
                });
            }
            Err(error) if socket::is_exhausted(&error) => {
                shared.metrics.no_descriptors.one();
                shared.spare.refuse(&listener.io).await;
            }
            // The player gave up before it was accepted.
            Err(_) => {}
        }
    }
}

async fn serve_player(
    shared: &Arc<Shared>,
    service: &Arc<PublicService>,
    socket: TcpStream,
    player: SocketAddr,
    port_index: u16,
) {
    if socket::tune_player(&socket).is_err() {
        return;
    }
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let Some(route) = wait_for_route(service).await else {
        socket::reset_on_drop(&socket);
        shared.metrics.stream_no_tunnel.one();
        return;
    };
    let tunnel = route.tunnel.clone();
    let player = Player {
        service: route.service.id,
        port_index,
        player: canonical(player),
        local: canonical(local),
    };
    // From here on a shutdown waits for this player.
    let counted = tunnel.streams.token();
    let optimize = route.service.optimize;
    let opened = tokio::select! {
        opened = tunnel.open_stream(player, optimize) => opened,
        () = service.cancelled.cancelled() => return socket::reset_on_drop(&socket),
    };
    let Ok((stream, channel)) = opened else {
        socket::reset_on_drop(&socket);
        shared.metrics.stream_broken.one();
        return;
    };
    let _open = Gauge::new(&shared.metrics, |m| &m.streams);
    shared.metrics.streams_opened.one();
    let kind = pump::Kind {
        metrics: shared.metrics.clone(),
        direction: Direction::FromPlayer,
        cancelled: service.cancelled.clone(),
    };
    let mut resumption = RelayResumption::new(tunnel, stream, optimize, channel.is_lane());
    drop(counted);
    let carrier = resumption.carrier();
    match pump::run(socket, channel, carrier, &kind, &mut resumption).await {
        Ok(channel) => {
            if let Some(lane) = channel.and_then(Channel::into_lane) {
                // A lane that served to a clean end serves the next player.
                shared.keep_lane(resumption.tunnel, Box::new(lane));
            }
        }
        Err(end) => {
            shared.count_reset(&end);
            tracing::debug!(instance = %service.binding.instance, %player.player, "stream ended: {end}");
        }
    }
}

/// The route in force, waiting for a tunnel to come back for as long as a player may be asked to.
async fn wait_for_route(service: &PublicService) -> Option<Arc<Route>> {
    let mut route = service.route.subscribe();
    let waited = tokio::select! {
        waited = tokio::time::timeout(TUNNEL_PATIENCE, route.wait_for(Option::is_some)) => waited,
        () = service.cancelled.cancelled() => return None,
    };
    waited.ok()?.ok()?.clone()
}

/// An IPv4 address as such, also where a socket for both families reports it as a mapped one.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How long a player who arrives while the tunnel is down waits for it: most reconnects take a second or two.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(5);
