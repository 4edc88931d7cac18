//! A change touches what it changes and nothing else.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Signal;

use crate::harness::{
    eventually,
    players::{accept, carry, connect, converse, listen, reaches, udp_player, udp_server},
    ports,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn a_reload_changes_what_differs_and_a_neighbour_loses_nothing() {
    let site = Site::start();
    let node = site.node("node-1");
    let [neighbour, changed, moved, removed, added] = [(); 5].map(|()| local_address());
    let public = [(); 4].map(|()| ports::one());
    let same = instance("neighbour", &[Service::both(public[0], neighbour)]);
    let before = instance("changed", &[Service::tcp(public[1], changed)])
        + &instance("removed", &[Service::tcp(public[2], removed)]);
    let after = instance("changed", &[Service::tcp(public[1], moved)])
        + &instance("added", &[Service::tcp(public[3], added)]);
    node.configure(&(same.clone() + &before));
    let client = node.start();
    client.wait_until_ready();
    assert!(reaches(site.public(public[1]), changed));
    assert!(reaches(site.public(public[2]), removed));

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let crowd = [
            scope.spawn(|| keep_talking_tcp(site.public(public[0]), neighbour, &done)),
            scope.spawn(|| keep_talking_udp(site.public(public[0]), neighbour, &done)),
        ];
        let finish = Finish(&done);
        for round in 0..5 {
            node.configure(&(same.clone() + &after));
            client.signal(Signal::HUP);
            eventually_reaches(site.public(public[3]), added);
            eventually_reaches(site.public(public[1]), moved);
            eventually_refuses(site.public(public[2]));
            node.configure(&(same.clone() + &before));
            client.signal(Signal::HUP);
            eventually_reaches(site.public(public[2]), removed);
            eventually_reaches(site.public(public[1]), changed);
            eventually_refuses(site.public(public[3]));
            assert!(!crowd.iter().any(|one| one.is_finished()), "round {round}");
        }
        drop(finish);
    });
    assert_eq!(client.stdout(), "ready\n");
}

#[test]
fn a_reload_of_a_broken_file_changes_nothing_and_says_where() {
    let site = Site::start();
    let node = site.node("node-1");
    let target = local_address();
    let port = ports::one();
    let whole = instance("game-1", &[Service::tcp(port, target)]);
    node.configure(&whole);
    let client = node.start();
    client.wait_until_ready();
    node.configure(&whole.replace("protocol", "protcol"));
    client.signal(Signal::HUP);
    client.wait_for_line("the problem", |line| line.contains("protcol"));
    assert!(reaches(site.public(port), target));
}

#[test]
fn a_client_taken_out_of_the_relays_file_loses_its_tunnel() {
    let mut site = Site::start();
    let target = local_address();
    let port = ports::one();
    let node = site.node("node-1");
    node.configure(&instance("game-1", &[Service::tcp(port, target)]));
    let plain = fs::read_to_string(site.relay_config()).unwrap();
    site.move_to_file(&node);
    site.restart_relay();
    let client = node.start();
    client.wait_until_ready();
    assert!(reaches(site.public(port), target));
    let refusal = site.administer(&["clients", "revoke", "node-1"]).failure(2);
    assert!(refusal.contains("relay.toml"), "{refusal}");
    fs::write(site.relay_config(), plain).unwrap();
    site.relay.signal(Signal::HUP);
    eventually_refuses(site.public(port));
}

/// Ends the crowd, also when the test fails, so that its threads can be joined.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn keep_talking_tcp(public: SocketAddr, target: SocketAddr, done: &AtomicBool) {
    let server = listen(target);
    let mut player = connect(public);
    let mut peer = accept(&server);
    let block: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    while !done.load(Ordering::Relaxed) {
        carry(&mut player, &mut peer, &block);
        carry(&mut peer, &mut player, &block);
    }
}

fn keep_talking_udp(public: SocketAddr, target: SocketAddr, done: &AtomicBool) {
    let server = udp_server(target);
    let player = udp_player(public);
    let first = converse(&player, &server, 200);
    while !done.load(Ordering::Relaxed) {
        assert_eq!(converse(&player, &server, 200), first);
    }
}

fn eventually_reaches(public: SocketAddr, target: SocketAddr) {
    eventually("the service", || reaches(public, target).then_some(()));
}

fn eventually_refuses(public: SocketAddr) {
    eventually("the end of the service", || {
        let error = TcpStream::connect(public).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}
