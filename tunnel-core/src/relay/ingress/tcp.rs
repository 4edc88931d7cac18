//! A public TCP port: accepts players and opens a stream for each.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;

use crate::{
    metrics::Gauge,
    relay::{
        Shared,
        ingress::{Listener, PublicService, Route},
        tunnel::{Opened, Player},
    },
    socket,
    transport::{admission::Source, lane::LaneHalves},
    tunnel::{
        channel::{ChannelRx, ChannelTx},
        pump::{self, Carrier, Direction},
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
                let Some(by_address) = shared.streams_by_address.take(Source::of(player.ip()))
                else {
                    socket::reset_on_drop(&socket);
                    shared.metrics.stream_address_cap.one();
                    continue;
                };
                let Some(by_client) = shared.streams_by_client.take(service.owner) else {
                    socket::reset_on_drop(&socket);
                    shared.metrics.stream_client_cap.one();
                    continue;
                };
                let (shared, service) = (shared.clone(), service.clone());
                tokio::spawn(async move {
                    let _held = (permit, by_address, by_client);
                    serve_player(&shared, &service, socket, player, port_index).await;
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
    let patience = shared.config.limits.stream_wait;
    let Some(route) = wait_for_route(service, patience).await else {
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
    let _counted = tunnel.streams.token();
    let opened = tokio::select! {
        opened = tunnel.open_stream(player, route.service.optimize) => opened,
        () = service.cancelled.cancelled() => return socket::reset_on_drop(&socket),
    };
    let Ok(Opened { tx, rx }) = opened else {
        socket::reset_on_drop(&socket);
        shared.metrics.stream_broken.one();
        return;
    };
    let _open = Gauge::new(&shared.metrics, |m| &m.streams);
    shared.metrics.streams_opened.one();
    let carrier = Carrier {
        budget: tunnel.budget.clone(),
        metrics: shared.metrics.clone(),
        direction: Direction::FromPlayer,
        cancelled: service.cancelled.clone(),
        closed: tunnel.closed.clone(),
    };
    match pump::run(socket, tx, rx, &carrier).await {
        Ok((ChannelTx::Lane(writer), ChannelRx::Lane(reader))) => {
            // A lane that served to a clean end serves the next player.
            shared.keep_lane(tunnel, Box::new(LaneHalves { reader, writer }));
        }
        Ok(_) => {}
        Err(end) => {
            shared.count_reset(&end);
            tracing::debug!(instance = %service.binding.instance, %player.player, "stream ended: {end}");
        }
    }
}

/// The route in force, waiting for a tunnel to come back for as long as a player may be asked to.
async fn wait_for_route(service: &PublicService, patience: Duration) -> Option<Arc<Route>> {
    let mut route = service.route.subscribe();
    let waited = tokio::select! {
        waited = tokio::time::timeout(patience, route.wait_for(Option::is_some)) => waited,
        () = service.cancelled.cancelled() => return None,
    };
    waited.ok()?.ok()?.clone()
}

/// An IPv4 address as such, also where a socket for both families reports it as a mapped one. Anything else stays as it
/// is: a link-local address says nothing without its scope.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn a_mapped_address_is_ipv4_and_a_link_local_one_keeps_its_scope() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:7".parse().unwrap());
        let link_local = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3);
        assert_eq!(canonical(link_local.into()), link_local.into());
    }
}
