//! A firewall that has forgotten its connections: it drops what belongs to them, both ways and without a word, and lets new
//! ones pass.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::harness::{
    namespace::{filter, isolated},
    players::{accept, carry, connect, listen},
    ports,
    process::Process,
    programs::local_address,
    requires,
    site::{Service, Site},
};

#[test]
fn players_who_speak_are_heard_when_a_firewall_forgets_the_lanes() {
    forgets("", |player, server| (player, server));
}

#[test]
fn servers_who_speak_are_heard_when_a_firewall_forgets_the_lanes() {
    forgets("", |player, server| (server, player));
}

#[test]
fn players_who_speak_are_heard_when_a_firewall_forgets_a_tunnel_without_udp() {
    forgets(BLOCK_UDP, |player, server| (player, server));
}

#[test]
fn servers_who_speak_are_heard_when_a_firewall_forgets_a_tunnel_without_udp() {
    forgets(BLOCK_UDP, |player, server| (server, player));
}

/// Whoever of player and server speaks first, the other hears it within five seconds; and so it is with those who come later.
fn forgets(rules: &str, speaks: fn(TcpStream, TcpStream) -> (TcpStream, TcpStream)) {
    requires!("nft", "ip");
    isolated(|| {
        let mut town = Town::new(rules);
        let (first, second) = (town.play(), town.play());
        for (player, server) in [first, second] {
            let (mut from, mut to) = speaks(player, server);
            town.forget_connections();
            let began = Instant::now();
            carry(&mut from, &mut to, b"can you hear me?");
            carry(&mut to, &mut from, b"yes");
            let answered = began.elapsed();
            assert!(answered <= BOUND, "answered after {answered:?}");

            town.forget_connections();
            let began = Instant::now();
            let (mut player, mut server) = town.play();
            let came = began.elapsed();
            assert!(came <= BOUND, "a new player was answered after {came:?}");
            carry(&mut player, &mut server, b"still here?");
        }
    });
}

/// A client with one TCP service for bulk, over a network that can forget.
struct Town {
    _client: Process,
    site: Site,
    port: u16,
    server: TcpListener,
    rules: String,
    /// The client's ports of forgotten connections.
    forgotten: Vec<u16>,
}

impl Town {
    fn new(rules: &str) -> Self {
        let site = Site::start();
        let listen_port = site.listen.port();
        let rules = rules.replace("@relay", &listen_port.to_string());
        filter(&format!(
            "chain in {{ type filter hook input priority 0; {rules} }}"
        ));
        let (port, target) = (ports::one(), local_address());
        let client = site.expose(&[Service::tcp(port, target).optimized_for("throughput")]);
        let town = Self {
            _client: client,
            site,
            port,
            server: listen(target),
            rules,
            forgotten: Vec::new(),
        };
        // Once its lanes are there.
        std::thread::sleep(Duration::from_secs(1));
        town
    }

    /// A player who has said something, and the server's end of the connection.
    fn play(&self) -> (TcpStream, TcpStream) {
        let mut player = connect(self.public());
        player.write_all(b"hello").unwrap();
        let mut server = accept(&self.server);
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        carry(&mut server, &mut player, b"welcome");
        (player, server)
    }

    fn public(&self) -> SocketAddr {
        self.site.public(self.port)
    }

    /// From now on nothing passes of any TCP connection that stands between client and relay.
    fn forget_connections(&mut self) {
        let relay = self.site.listen.port();
        self.forgotten.extend(connections_to(relay));
        let forgotten = self.forgotten.iter().map(|from| {
            format!(
                "tcp sport {from} tcp dport {relay} drop; tcp sport {relay} tcp dport {from} drop;"
            )
        });
        filter(&format!(
            "chain in {{ type filter hook input priority 0; {} {} }}",
            self.rules,
            forgotten.collect::<String>()
        ));
    }
}

/// From which ports this network's processes are connected to this one.
fn connections_to(port: u16) -> Vec<u16> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port_of = |address: &str| u16::from_str_radix(address.split(':').nth(1).unwrap(), 16);
    let found = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let is_one = state == ESTABLISHED && port_of(remote).unwrap() == port;
        is_one.then(|| port_of(local).unwrap())
    });
    found.collect()
}

/// As `/proc/net/tcp` writes it.
const ESTABLISHED: &str = "01";
/// How long a player may be without an answer.
const BOUND: Duration = Duration::from_secs(5);
const BLOCK_UDP: &str = "udp dport @relay drop; udp sport @relay drop;";
