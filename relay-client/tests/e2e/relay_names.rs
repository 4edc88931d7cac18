//! The relay's name: several addresses, some of which lead nowhere, and name servers that are gone.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::harness::{
    eventually,
    namespace::{filter, isolated, own_hosts_and_server},
    players::{converse, try_converse, udp_player, udp_server},
    ports,
    process::Process,
    programs::local_address,
    requires,
    site::{Node, Service, Site, instance},
};

#[test]
fn a_first_address_that_refuses_delays_nobody() {
    requires!("nft", "ip", "unshare", "mount");
    isolated(|| one_of_two_leads_there(""));
}

#[test]
fn a_first_address_that_is_silent_delays_nobody() {
    requires!("nft", "ip", "unshare", "mount");
    isolated(|| one_of_two_leads_there("ip6 daddr ::1 drop;"));
}

#[test]
fn a_first_address_that_is_silent_delays_nobody_where_udp_is_blocked() {
    requires!("nft", "ip", "unshare", "mount");
    isolated(|| one_of_two_leads_there("ip6 daddr ::1 drop; udp sport @relay drop;"));
}

/// The relay's name has two addresses, and it listens on the second alone.
fn one_of_two_leads_there(rules: &str) {
    let mut world = World::new();
    let port = world.site.listen.port();
    let rules = rules.replace("@relay", &port.to_string());
    filter(&format!(
        "chain in {{ type filter hook input priority 0; {rules} }}"
    ));
    world.name_leads_to(&["::1", "127.0.0.1"]);
    let began = Instant::now();
    let client = world.start();
    client.wait_until_ready();
    let took = began.elapsed();
    assert!(took <= Duration::from_millis(2500), "ready after {took:?}");
    let server = udp_server(world.target);
    converse(&udp_player(world.public()), &server, 100);
    for _ in 0..2 {
        let took = world.is_back_after_a_restart(&server);
        assert!(took <= Duration::from_secs(3), "back after {took:?}");
    }
}

#[test]
fn names_that_fail_keep_nobody_from_a_relay_that_was_just_there() {
    requires!("nft", "ip", "unshare", "mount");
    // Nobody listens on the name server's port, and says so.
    isolated(|| names_are_gone(""));
}

#[test]
fn name_servers_that_hang_keep_nobody_from_a_relay_that_was_just_there() {
    requires!("nft", "ip", "unshare", "mount");
    isolated(|| names_are_gone("udp dport 53 drop; tcp dport 53 drop;"));
}

fn names_are_gone(rules: &str) {
    let mut world = World::new();
    world.name_leads_to(&["127.0.0.1"]);
    let client = world.start();
    client.wait_until_ready();
    let server = udp_server(world.target);
    converse(&udp_player(world.public()), &server, 100);
    filter(&format!(
        "chain in {{ type filter hook input priority 0; {rules} }}"
    ));
    world.name_leads_to(&[]);
    for _ in 0..2 {
        let took = world.is_back_after_a_restart(&server);
        assert!(took <= Duration::from_secs(5), "back after {took:?}");
    }
}

/// A relay, and a node that knows it by a name.
struct World {
    site: Site,
    node: Node,
    hosts: PathBuf,
    port: u16,
    target: SocketAddr,
}

impl World {
    fn new() -> Self {
        let site = Site::start();
        let mut node = site.node("node-1");
        let (port, target) = (ports::one(), local_address());
        node.look_for_relay_at(&format!("relay.invalid:{}", site.listen.port()));
        node.configure(&instance("game-1", &[Service::udp(port, target)]));
        let hosts = site.path("hosts");
        fs::write(&hosts, "").unwrap();
        Self {
            site,
            node,
            hosts,
            port,
            target,
        }
    }

    fn start(&self) -> Process {
        let prefix = own_hosts_and_server(&self.hosts).unwrap();
        self.node.start_inside(&prefix)
    }

    fn public(&self) -> SocketAddr {
        self.site.public(self.port)
    }

    fn name_leads_to(&self, addresses: &[&str]) {
        let lines = addresses.iter().map(|it| format!("{it} relay.invalid\n"));
        fs::write(&self.hosts, lines.collect::<String>()).unwrap();
    }

    /// Ends the relay without a word and starts it anew. How long after its start a new player is answered.
    fn is_back_after_a_restart(&mut self, server: &UdpSocket) -> Duration {
        self.site.relay.kill();
        let began = Instant::now();
        self.site.start_relay();
        let public = self.public();
        eventually("an answer", || {
            try_converse(&udp_player(public), server, 100)
        });
        began.elapsed()
    }
}
