//! Services of every shape: ranges, addresses of both families, names, several services of one instance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::harness::{
    players::{accept, carry, connect, converse, listen, udp_player, udp_server},
    ports,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn each_port_of_a_range_reaches_its_own_port() {
    let site = Site::start();
    let public = ports::consecutive(10);
    let target = ports::consecutive(10);
    let _client = site.expose(&[Service::new(
        "both",
        format!("\"{public}-{}\"", public + 9),
        format!("127.0.0.1:{target}-{}", target + 9),
    )]);
    for i in 0..10 {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, target + i));
        talk(site.public(public + i), local);
    }
}

#[test]
fn the_public_port_is_the_targets_unless_said_otherwise() {
    // Player and server on one machine need two addresses for one port.
    let target = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), ports::one()));
    let site = Site::start();
    let node = site.node("node-1");
    node.configure(&format!(
        "[[instance]]\nid = \"game-1\"\n[[instance.service]]\nname = \"game\"\n\
         protocol = \"both\"\ntarget = \"{target}\"\n"
    ));
    let client = node.start();
    client.wait_until_ready();
    talk(site.public(target.port()), target);
}

#[test]
fn players_come_over_ipv6() {
    let site = Site::with_public_bind(Ipv6Addr::LOCALHOST.into());
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::both(port, target)]);
    talk(site.public(port), target);
}

#[test]
fn targets_are_reached_over_ipv6() {
    let site = Site::start();
    let port = ports::one();
    let target = SocketAddr::from((Ipv6Addr::LOCALHOST, ports::one()));
    let _client = site.expose(&[Service::both(port, target)]);
    talk(site.public(port), target);
}

#[test]
fn a_wildcard_relay_serves_players_of_both_families() {
    let site = Site::with_public_bind(Ipv6Addr::UNSPECIFIED.into());
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::both(port, target)]);
    let players: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for player in players {
        talk((player, port).into(), target);
    }
}

#[test]
fn answers_leave_from_the_address_that_the_player_wrote_to() {
    let site = Site::with_public_bind(Ipv4Addr::UNSPECIFIED.into());
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::udp(port, target)]);
    let server = udp_server(target);
    for last in [2, 3, 4] {
        // The player's socket takes datagrams from this address alone.
        let relay = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        converse(&udp_player(relay), &server, 100);
    }
}

#[test]
fn a_target_has_a_name() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let named = format!("localhost:{}", target.port());
    let _client = site.expose(&[Service::new("both", port.to_string(), named)]);
    talk(site.public(port), target);
}

#[test]
fn an_instance_has_several_services_and_a_client_several_instances() {
    let site = Site::start();
    let node = site.node("node-1");
    let mut text = String::new();
    let mut pairs = Vec::new();
    for id in ["srv_1", "srv_2"] {
        let (game, beacon) = (local_address(), local_address());
        let ports = [ports::one(), ports::one()];
        text += &instance(
            id,
            &[
                Service::both(ports[0], game).named("game"),
                Service::both(ports[1], beacon).named("beacon"),
            ],
        );
        pairs.extend([(ports[0], game), (ports[1], beacon)]);
    }
    node.configure(&text);
    let client = node.start();
    client.wait_until_ready();
    for (port, target) in pairs {
        talk(site.public(port), target);
    }
}

#[test]
fn datagrams_of_every_size_arrive_whole() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::udp(port, target)]);
    let server = udp_server(target);
    let player = udp_player(site.public(port));
    for size in [0, 1, 1_200, 1_372, 1_472, 1_473, 9_000, 65_507] {
        converse(&player, &server, size);
    }
}

#[test]
fn each_player_has_a_flow_of_its_own() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::udp(port, target)]);
    let server = udp_server(target);
    let players: Vec<_> = (0..20).map(|_| udp_player(site.public(port))).collect();
    let seen: Vec<_> = players.iter().map(|p| converse(p, &server, 64)).collect();
    let again: Vec<_> = players.iter().map(|p| converse(p, &server, 64)).collect();
    assert_eq!(seen, again);
    let distinct: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), players.len());
}

/// A few bytes over TCP and UDP, there and back.
fn talk(public: SocketAddr, target: SocketAddr) {
    let server = listen(target);
    let mut player = connect(public);
    let mut peer = accept(&server);
    carry(&mut player, &mut peer, b"from the player");
    carry(&mut peer, &mut player, b"from the server");
    converse(&udp_player(public), &udp_server(target), 300);
}
