//! How clients and relays leave, seen from their players, and who may not come back.

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
};

use rustix::process::Signal;

use crate::harness::{
    eventually,
    players::{accept, carry, connect, listen, reaches},
    ports,
    process::Process,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn a_client_that_is_asked_to_end_serves_who_is_there_and_nobody_else() {
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let client = site.expose(&[Service::tcp(port, target)]);
    drains(&client, site.public(port), target);
    client.wait().success();
}

#[test]
fn a_relay_that_is_asked_to_end_serves_who_is_there_and_nobody_else() {
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let client = site.expose(&[Service::tcp(port, target)]);
    drains(&site.relay, site.public(port), target);
    site.relay.wait().success();
    // Its supervisor starts another.
    client.wait_for_line("the goodbye", |line| line.contains("is down"));
}

/// Asks a program to end while a player is there, who then leaves.
fn drains(ending: &Process, public: SocketAddr, target: SocketAddr) {
    let server = listen(target);
    let mut player = connect(public);
    let mut peer = accept(&server);
    carry(&mut player, &mut peer, b"before");
    ending.signal(Signal::TERM);
    ending.wait_for_line("its stopping", |line| line.contains("stopping"));
    carry(&mut player, &mut peer, b"while it ends");
    carry(&mut peer, &mut player, b"while it ends");
    // Refused at once, or let go without a word: what comes to the server is nobody.
    if let Ok(mut late) = TcpStream::connect(public) {
        assert!(!matches!(late.read(&mut [0; 1]), Ok(1..)));
    }
    server.set_nonblocking(true).unwrap();
    assert_eq!(
        server.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "a new player came through"
    );
}

#[test]
fn a_client_revoked_while_it_connects_does_not_stay() {
    let site = Site::start();
    let mut clients = Vec::new();
    for round in 0..8 {
        let name = format!("node-{round}");
        let node = site.node(&name);
        let port = ports::one();
        node.configure(&instance(&name, &[Service::tcp(port, local_address())]));
        let client = node.start();
        // Later from round to round: before, while and after it proves itself and binds its port.
        if round >= 3 {
            client.wait_for_line("its start", |line| line.contains("the client runs"));
        }
        if round >= 6 {
            client.wait_until_ready();
        }
        site.administer(&["clients", "revoke", &name]).success();
        clients.push((client, site.public(port)));
    }
    let mut later = Vec::new();
    for (client, public) in clients {
        // Sent away or never let in; what it tries from then on is in vain.
        client.wait_for_lines("tries in vain", 3, |line| line.contains("next try in"));
        eventually("the end of the service", || refuses(public).then_some(()));
        let tries = client.log().matches("next try in").count();
        later.push((client, public, tries));
    }
    for (client, public, tries) in later {
        client.wait_for_lines("a further try", tries + 1, |line| {
            line.contains("next try in")
        });
        assert!(refuses(public));
    }
}

#[test]
fn a_state_file_that_cannot_be_read_locks_nobody_out() {
    let site = Site::start();
    let node = site.node("node-1");
    let (port, target) = (ports::one(), local_address());
    node.configure(&instance("game-1", &[Service::tcp(port, target)]));
    let mut client = node.start();
    client.wait_until_ready();
    let state = site.path("relay/state.db");
    let whole = fs::read(&state).unwrap();
    fs::write(&state, b"this is not a database".repeat(1_000)).unwrap();
    site.relay.wait_for_line("the failure", |line| {
        line.contains("who could connect before still can")
    });
    assert!(reaches(site.public(port), target));
    client.kill();
    let client = node.start();
    client.wait_until_ready();
    assert!(reaches(site.public(port), target));
    fs::write(&state, whole).unwrap();
    site.relay.wait_for_line("the recovery", |line| {
        line.contains("the state file can be read again")
    });
    site.administer(&["clients", "revoke", "node-1"]).success();
    eventually("the end of the service", || {
        refuses(site.public(port)).then_some(())
    });
    client.wait_for_line("the reason", |line| line.to_lowercase().contains("revoked"));
}

#[test]
fn both_programs_raise_their_limit_of_descriptors() {
    let few = ["prlimit", "--nofile=64:4096", "--"].map(str::to_owned);
    let site = Site::elsewhere([127, 0, 0, 1].into(), &few);
    let node = site.node("node-1");
    let (port, target) = (ports::one(), local_address());
    node.configure(&instance("game-1", &[Service::tcp(port, target)]));
    let client = node.start_inside(&few);
    client.wait_until_ready();
    // More players than the limit that both were started with.
    let server = listen(target);
    let players: Vec<_> = (0..100)
        .map(|_| {
            let mut player = connect(site.public(port));
            let mut peer = accept(&server);
            carry(&mut player, &mut peer, b"hello");
            (player, peer)
        })
        .collect();
    for process in [&client, &site.relay] {
        assert!(process.descriptors() > players.len());
    }
}

fn refuses(public: SocketAddr) -> bool {
    TcpStream::connect(public).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
