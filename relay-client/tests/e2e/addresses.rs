//! Targets with several addresses, and game servers that answer from another than the one they are asked at.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use crate::harness::{
    HANG,
    crowd::Crowd,
    eventually,
    namespace::{FarSide, clear_filter, filter, isolated},
    players::{accept, carry, connect, converse, listen, udp_player, udp_server},
    ports, programs, requires,
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
fn a_first_address_that_drops_connections_costs_the_first_player_a_moment_and_the_next_nothing() {
    requires!("unshare", "mount", "nft");
    isolated(|| {
        let Some(world) = patient("127.0.0.5 srv_1\n127.0.0.6 srv_1\n") else {
            return;
        };
        knows_the_name(&world);
        filter(&format!(
            "chain in {{ type filter hook input priority 0; ip daddr 127.0.0.5 tcp dport {} counter drop; }}",
            world.target_port
        ));
        let silent = TcpListener::bind(world.target([127, 0, 0, 5])).unwrap();
        let talk = listen(world.target([127, 0, 0, 6]));
        let since = Instant::now();
        let (mut first, mut peer) = (connect(world.public), accept(&talk));
        carry(&mut first, &mut peer, b"hello");
        let took = since.elapsed();
        assert!(took <= FIRST_ANSWER, "{took:?}");
        clear_filter();
        // It would be heard again by now, and nobody tries it: the other one has answered.
        silent.set_nonblocking(true).unwrap();
        for _ in 0..10 {
            let (mut next, mut peer) = (connect(world.public), accept(&talk));
            carry(&mut next, &mut peer, b"hello");
            let nobody = silent.accept().unwrap_err();
            assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        }
    });
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

#[test]
fn a_server_that_answers_from_any_address_of_the_machine_is_heard() {
    let site = Site::start();
    let (port, target_port) = (ports::one(), ports::one());
    let target = SocketAddr::from(([127, 0, 0, 3], target_port));
    let _client = site.expose(&[Service::udp(port, target)]);
    let asked = udp_server(target);
    let other = udp_server(([127, 0, 0, 9], target_port).into());
    // The first player, with his only datagram, and the next ones.
    for _ in 0..6 {
        let player = udp_player(site.public(port));
        for _ in 0..3 {
            converse_by(&player, &asked, &other);
        }
    }
    drop(other);
    // It is started again, and answers from yet another: within a few looks it is heard.
    let player = udp_player(site.public(port));
    let third = udp_server(([127, 0, 0, 11], target_port).into());
    eventually("an answer", || ask(&player, &asked, &third));
    converse_by(&player, &asked, &third);
    converse_by(&udp_player(site.public(port)), &asked, &third);
}

#[test]
fn a_game_that_answers_nobody_is_named() {
    let site = Site::start();
    let (port, target) = (ports::one(), programs::local_address());
    let client = site.expose(&[Service::udp(port, target)]);
    let silent = udp_server(target);
    silent.set_nonblocking(true).unwrap();
    let player = udp_player(site.public(port));
    player
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let is_named = |line: &str| {
        line.contains("service main")
            && line.contains(&format!("{target} has answered nobody's datagrams"))
            && line.contains("1 of its players wait")
    };
    eventually("the line", || {
        player.send(b"hello").unwrap();
        player.recv(&mut [0]).unwrap_err();
        (client.count_lines(is_named) == 1).then_some(())
    });
}

#[test]
fn who_answers_for_a_game_on_another_host_is_named() {
    requires!("ip");
    isolated(|| {
        let far = FarSide::new();
        far.ip("address add 10.77.0.9/24 dev far");
        let site = Site::start();
        let (port, target_port) = (ports::one(), ports::one());
        let target = SocketAddr::new(far.address.into(), target_port);
        let client = site.expose(&[Service::udp(port, target)]);
        let [asked, other] = far.visit(|| {
            [far.address, Ipv4Addr::new(10, 77, 0, 9)]
                .map(|ip| udp_server((ip, target_port).into()))
        });
        let player = udp_player(site.public(port));
        let names_both = |line: &str| {
            line.contains(&format!(
                "datagrams of {} are dropped",
                other.local_addr().unwrap()
            )) && line.contains(&format!("players speak to {target}"))
        };
        eventually("the line", || {
            let heard = ask(&player, &asked, &other);
            assert!(heard.is_none(), "another host is not the target");
            (client.count_lines(names_both) == 1).then_some(())
        });
        // From where it is asked, it is heard all the same.
        converse(&player, &asked, 100);
    });
}

/// A datagram each way, where one socket hears the player and another answers.
fn converse_by(player: &UdpSocket, asked: &UdpSocket, answers: &UdpSocket) {
    player.send(b"hello").unwrap();
    let (_, from) = asked.recv_from(&mut [0; 16]).unwrap();
    answers.send_to(b"welcome", from).unwrap();
    assert_eq!(player.recv(&mut [0; 16]).unwrap(), b"welcome".len());
}

/// The same, while the answer may not be heard yet.
fn ask(player: &UdpSocket, asked: &UdpSocket, answers: &UdpSocket) -> Option<usize> {
    player
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    player.send(b"hello").unwrap();
    let (_, from) = asked.recv_from(&mut [0; 16]).unwrap();
    answers.send_to(b"welcome", from).unwrap();
    let heard = player.recv(&mut [0; 16]).ok();
    player.set_read_timeout(Some(HANG)).unwrap();
    heard
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
