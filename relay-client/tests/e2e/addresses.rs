//! Targets with several addresses, and game servers that answer from another than the one they are asked at.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use crate::harness::{
    HANG,
    crowd::Crowd,
    players::{accept, connect, converse, listen, udp_player, udp_server},
    ports, requires,
    site::{Service, Site},
    world::World,
};

#[test]
fn what_the_first_address_refuses_goes_on_to_the_second() {
    requires!("unshare", "mount");
    let Some(world) = patient("::1 srv_1\n127.0.0.1 srv_1\n") else {
        return;
    };
    let crowd = Crowd::new();
    crowd.witness(world.target([127, 0, 0, 1]));
    let players: Vec<_> = (0..20).map(|_| udp_player(world.public)).collect();
    for player in &players {
        // One datagram each, and never another.
        player.send(b"hello").unwrap();
    }
    for player in &players {
        let length = player.recv(&mut [0; 16]).unwrap();
        assert_eq!(length, 2 + b"hello".len());
    }
}

#[test]
fn the_address_that_has_answered_is_the_next_players_first() {
    requires!("unshare", "mount");
    let Some(world) = patient("::1 srv_1\n127.0.0.1 srv_1\n") else {
        return;
    };
    knows_the_name(&world);
    let second = world.target([127, 0, 0, 1]);
    let game = udp_server(second);
    converse(&udp_player(world.public), &game, 100);
    let talk = listen(second);
    let _first = (connect(world.public), accept(&talk));
    // From now on there is somebody at the first address, too; who comes is none of theirs.
    let first = world.target(Ipv6Addr::LOCALHOST);
    let beside = (udp_server(first), TcpListener::bind(first).unwrap());
    beside.0.set_nonblocking(true).unwrap();
    beside.1.set_nonblocking(true).unwrap();
    for _ in 0..10 {
        converse(&udp_player(world.public), &game, 100);
        let _next = (connect(world.public), accept(&talk));
    }
    let nobody = beside.0.recv(&mut [0]).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    let nobody = beside.1.accept().unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn an_address_that_is_silent_costs_the_first_player_a_moment_and_the_next_nothing() {
    requires!("unshare", "mount");
    let Some(world) = patient("127.0.0.5 srv_1\n127.0.0.6 srv_1\n") else {
        return;
    };
    knows_the_name(&world);
    let silent = udp_server(world.target([127, 0, 0, 5]));
    let crowd = Crowd::new();
    crowd.witness(world.target([127, 0, 0, 6]));
    let since = Instant::now();
    let first = udp_player(world.public);
    first.send(b"hello").unwrap();
    first.recv(&mut [0; 16]).unwrap();
    let took = since.elapsed();
    assert!(took <= FIRST_ANSWER, "{took:?}");
    // The silent one has heard of him alone.
    assert_eq!(silent.recv(&mut [0; 16]).unwrap(), b"hello".len());
    silent.set_nonblocking(true).unwrap();
    for _ in 0..10 {
        let next = udp_player(world.public);
        next.send(b"hello").unwrap();
        next.recv(&mut [0; 16]).unwrap();
        let nothing = silent.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_server_that_answers_from_the_machines_other_address_is_heard() {
    let site = Site::start();
    let (port, target_port) = (ports::one(), ports::one());
    let target = SocketAddr::from(([127, 0, 0, 3], target_port));
    let _client = site.expose(&[Service::udp(port, target)]);
    // Bound to every address, the kernel gives it the loopback's first one for its answers.
    let everywhere = udp_server((Ipv4Addr::UNSPECIFIED, target_port).into());
    let players = [(); 3].map(|()| udp_player(site.public(port)));
    for _ in 0..3 {
        for player in &players {
            let seen = converse(player, &everywhere, 100);
            assert_eq!(seen.ip(), Ipv4Addr::LOCALHOST);
        }
    }
    drop(everywhere);
    // One that answers from where it is asked is heard as well.
    let there = udp_server(target);
    let player = udp_player(site.public(port));
    let seen = converse(&player, &there, 100);
    // From then on nobody else is, for another may have the same port at the other address.
    let other = udp_server((Ipv4Addr::LOCALHOST, target_port).into());
    other.send_to(b"a lie", seen).unwrap();
    converse(&player, &there, 100);
}

/// Each datagram is sent once, however busy the machine is.
fn patient(hosts: &str) -> Option<World> {
    World::with(hosts, "\n[limits]\ndatagram_age_ms = 10000\n")
}

/// Waits until the client has looked the name up; a stream waits for that.
fn knows_the_name(world: &World) {
    // Nobody listens: he is refused.
    let mut player = connect(world.public);
    player.set_read_timeout(Some(HANG)).unwrap();
    let refused = io::Read::read(&mut player, &mut [0]);
    assert!(refused.is_err(), "somebody listens");
    world.client.wait_for_line("the reason", |line| {
        let place = format!("srv_1:{}", world.target_port);
        line.contains("service main") && line.contains(&format!("nothing listens at {place}"))
    });
}

/// The issue's own bound: the one kind of wall-clock time that a test may hold.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
