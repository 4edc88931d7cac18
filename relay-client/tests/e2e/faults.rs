//! Game servers that refuse, restart or are not there yet; a relay that restarts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::harness::{
    eventually,
    players::{accept, carry, connect, converse, listen, try_converse, udp_player, udp_server},
    ports,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn a_target_that_refuses_gives_the_player_a_closed_connection() {
    let site = Site::start();
    let port = ports::one();
    let client = site.expose(&[Service::tcp(port, local_address())]);
    let mut player = connect(site.public(port));
    match player.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("neither end nor reset: {other:?}"),
    }
    client.wait_for_line("the reason", |line| line.contains("nothing listens"));
}

#[test]
fn a_player_who_resets_resets_the_server() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::tcp(port, target)]);
    let server = listen(target);
    for ends_at_player in [true, false] {
        let mut player = connect(site.public(port));
        let mut peer = accept(&server);
        carry(&mut player, &mut peer, b"hello");
        let (first, mut second) = if ends_at_player {
            (player, peer)
        } else {
            (peer, player)
        };
        // Closed with linger 0, a socket says reset.
        rustix::net::sockopt::set_socket_linger(&first, Some(std::time::Duration::ZERO)).unwrap();
        drop(first);
        let error = second.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_game_server_that_restarts_keeps_its_flows() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::udp(port, target)]);
    let player = udp_player(site.public(port));
    let server = udp_server(target);
    let before = converse(&player, &server, 100);
    drop(server);
    // Refused by ICMP on the node, which is nobody's business but the node's.
    for _ in 0..10 {
        player.send(b"is anyone there?").unwrap();
    }
    let server = udp_server(target);
    // What was sent to the old server may still arrive at the new one.
    let after = eventually("an answer", || try_converse(&player, &server, 100));
    assert_eq!(before, after, "the server sees the same player");
}

#[test]
fn a_game_server_may_come_up_after_the_tunnel() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::both(port, target)]);
    let mut early = connect(site.public(port));
    // Closed by the target's refusal: nothing of this player reaches the server that comes up now.
    assert!(!matches!(Read::read(&mut early, &mut [0]), Ok(1..)));
    let server = listen(target);
    let mut player = connect(site.public(port));
    let mut peer = accept(&server);
    carry(&mut player, &mut peer, b"hello");
}

#[test]
fn a_client_comes_back_after_the_relay_restarted() {
    let mut site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::both(port, target)]);
    let server = udp_server(target);
    converse(&udp_player(site.public(port)), &server, 100);
    site.restart_relay();
    let public = site.public(port);
    eventually("the service", || {
        try_converse(&udp_player(public), &server, 100)
    });
    let server = listen(target);
    let mut player = connect(public);
    carry(&mut player, &mut accept(&server), b"hello");
}

#[test]
fn a_client_waits_for_a_relay_that_is_not_up_yet() {
    let mut site = Site::start();
    let node = site.node("node-1");
    let port = ports::one();
    let target = local_address();
    node.configure(&instance("game-1", &[Service::udp(port, target)]));
    site.relay.kill();
    let client = node.start();
    client.wait_for_line("an attempt", |line| line.contains(&site.listen.to_string()));
    site.restart_relay();
    client.wait_until_ready();
    converse(&udp_player(site.public(port)), &udp_server(target), 100);
}

#[test]
fn a_port_that_is_taken_is_bound_once_it_is_free_and_stops_no_other() {
    let site = Site::start();
    let node = site.node("node-1");
    let (taken, beside, other) = (ports::one(), ports::one(), ports::one());
    let target = local_address();
    let squatter = TcpListener::bind(site.public(taken)).unwrap();
    node.configure(
        &(instance(
            "half-taken",
            &[
                Service::tcp(taken, target).named("game"),
                Service::tcp(beside, target).named("beacon"),
            ],
        ) + &instance("other", &[Service::tcp(other, target)])),
    );
    let client = node.start();
    let port = taken.to_string();
    client.wait_for_line("the refusal", |line| line.contains(&port));
    // An instance is bound as a whole or not at all.
    let refused = TcpStream::connect(site.public(beside)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let server = listen(target);
    eventually("the other instance", || {
        let mut player = TcpStream::connect(site.public(other)).ok()?;
        carry(&mut player, &mut accept(&server), b"hello");
        Some(())
    });
    assert_eq!(
        client.stdout(),
        "",
        "not ready while a service is not bound"
    );
    drop(squatter);
    client.wait_until_ready();
    for port in [taken, beside] {
        let mut player = connect(site.public(port));
        carry(&mut player, &mut accept(&server), b"hello");
    }
}

#[test]
fn a_relay_without_descriptors_refuses_at_once_and_recovers() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let _client = site.expose(&[Service::tcp(port, target)]);
    let server = listen(target);
    thread::spawn(move || {
        while let Ok((mut player, _)) = server.accept() {
            // Greets, and leaves when the player does.
            thread::spawn(move || {
                player
                    .write_all(b"x")
                    .and_then(|()| player.read(&mut [0; 1]))
            });
        }
    });
    // Whether the server's greeting came; a player who is neither served nor refused would hang here.
    let greeted = |mut player: &TcpStream| matches!(player.read(&mut [0; 1]), Ok(1));
    let first = connect(site.public(port));
    assert!(greeted(&first));
    site.relay.limit_descriptors(8);
    let mut players = Vec::new();
    let refused = (0..64).any(|_| {
        players.push(connect(site.public(port)));
        !players.last().is_some_and(&greeted)
    });
    assert!(refused, "64 players were served with 8 descriptors");
    assert!(players.len() > 2, "the first was refused already");
    players.clear();
    eventually("a place for a player", || {
        greeted(&connect(site.public(port))).then_some(())
    });
    // Who was there has noticed nothing.
    first.set_nonblocking(true).unwrap();
    assert_eq!(
        (&first).read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}
