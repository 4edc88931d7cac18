//! What a node has only so much of: local ports and descriptors. A flood takes neither the games' nor the neighbours' nor
//! the machine's own.

use std::{
    cell::Cell,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::RangeInclusive,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    HANG, eventually, heavy,
    namespace::{FarSide, isolated},
    players::{accept, carry, converse, listen, try_converse, udp_server},
    ports,
    process::Process,
    programs::local_address,
    requires,
    site::{Node, Service, Site, instance},
};

#[test]
fn a_game_that_was_down_finds_its_udp_port_free_and_nobody_hears_himself() {
    isolated(|| {
        let target = at(RANGE_16 + 8);
        let (world, public) = World::new(&[target], RANGE_16..=RANGE_16 + 15, &[]);
        let players = players(public[0], 40);
        // As often as it takes for every port to have been somebody's.
        for round in 0..20 {
            for player in &players {
                player.send(&[round]).unwrap();
            }
            world.settle();
            let game = UdpSocket::bind(target).unwrap();
            drop(game);
        }
        world.client.wait_for_line("the reason", |line| {
            line.contains("service one") && line.contains("nothing listens")
        });
        let echoed = |player: &UdpSocket| {
            player.set_nonblocking(true).unwrap();
            player.recv(&mut [0]).is_ok()
        };
        assert!(!players.iter().any(echoed), "somebody hears himself");
        // Who plays then is served.
        let game = udp_server(target);
        let player = &players[0];
        player.set_nonblocking(false).unwrap();
        let answered = || {
            player
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            player.send(b"hello").unwrap();
            let (_, from) = game.recv_from(&mut [0; 16]).unwrap();
            game.send_to(b"welcome", from).unwrap();
            let mut buffer = [0; 16];
            let length = player.recv(&mut buffer).ok()?;
            (&buffer[..length] == b"welcome").then_some(())
        };
        eventually("an answer", answered);
    });
}

#[test]
fn a_server_that_was_down_finds_its_tcp_port_free_and_nobody_is_connected_to_himself() {
    isolated(|| {
        let target = at(RANGE_16 + 2);
        let (_world, public) = World::new(&[target], RANGE_16..=RANGE_16 + 3, &[]);
        // What enrolled knew of no target: of four ports it may have left this one in TIME_WAIT.
        let was_free = plain_listener(target).is_ok();
        for number in 0..200 {
            let mut player = from_outside(public[0], number);
            // An echo of himself would come back.
            let sent = player.write_all(b"hello");
            let got = player.read(&mut [0; 16]);
            let error = sent.err().or(got.err()).map(|error| error.kind());
            let is_reset = matches!(
                error,
                Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            );
            assert!(is_reset, "player {number}: {error:?}");
            if number % 10 == 0 {
                // A server that does not set SO_REUSEADDR finds the port as free as before the first player.
                assert_eq!(plain_listener(target).is_ok(), was_free, "player {number}");
            }
        }
        let server = listen(target);
        let mut player = from_outside(public[0], 200);
        let mut peer = accept(&server);
        carry(&mut player, &mut peer, b"hello");
    });
}

#[test]
fn a_game_that_is_added_finds_its_port_free_though_a_player_had_it() {
    isolated(|| {
        let target = local_address();
        let (world, public) = World::new(&[target], RANGE_16..=RANGE_16 + 15, &[]);
        let game = udp_server(target);
        let anna = player(public[0], 1);
        let seen = converse(&anna, &game, 100);
        assert!(UdpSocket::bind(seen).is_err(), "it is hers");
        let up = world.site.relay.wait_for_line("the tunnel", |line| {
            line.contains("is up over quic with 127.0.0.1:")
        });
        let tunnels: u16 = up.rsplit(':').next().unwrap().parse().unwrap();
        let public = [(); 2].map(|()| ports::one());
        let further = [
            ("hers", public[0], seen.port()),
            ("tunnels", public[1], tunnels),
        ];
        let further = further.map(|(name, public, port)| {
            instance(name, &[Service::both(public, at(port)).named(name)])
        });
        world
            .node
            .configure(&(world.instances.clone() + &further.concat()));
        world.client.signal(Signal::HUP);
        let _hers = eventually("her port", || UdpSocket::bind(seen).ok());
        let added = eventually("the tunnel's port", || UdpSocket::bind(at(tunnels)).ok());
        added.set_read_timeout(Some(HANG)).unwrap();
        assert_ne!(converse(&anna, &game, 100).port(), seen.port());
        converse(&player(world.site.public(public[1]), 2), &added, 100);
        // It is the same tunnel.
        assert!(!world.site.relay.log().contains("is down"));
    });
}

#[test]
fn a_players_only_datagram_finds_the_port_that_a_parked_player_gives_up() {
    isolated(|| {
        let target = local_address();
        let range = RANGE_16..=RANGE_16 + 15;
        let (mut world, public) = World::new(&[target], range.clone(), &[]);
        let game = udp_server(target);
        let all = players(public[0], 6);
        for player in &all {
            converse(player, &game, 100);
        }
        world.site.restart_relay();
        // One of them is back; the others keep their ports.
        eventually("the service", || try_converse(&all[0], &game, 100));
        // The node's other programs have what is left.
        let others: Vec<_> = range
            .filter_map(|port| UdpSocket::bind(at(port)).ok())
            .collect();
        assert!(!others.is_empty());
        converse(&player(public[0], 100), &game, 100);
        drop(others);
    });
}

#[test]
fn a_flood_of_one_service_leaves_ports_to_its_neighbour_and_to_the_machine() {
    let _turn = heavy();
    isolated(|| {
        let targets = [(); 2].map(|()| local_address());
        let (world, public) = World::new(&targets, 40_000..=40_999, &[]);
        let flooded = udp_server(targets[0]);
        let players = players(public[0], 1_500);
        for player in &players {
            player.send(b"hello").unwrap();
        }
        world.settle();
        let game = udp_server(targets[1]);
        let neighbour = player(public[1], 9_000);
        converse(&neighbour, &game, 100);
        // A resolver on the machine asks a hundred questions at once.
        let questions: Vec<_> = (0..100)
            .map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap())
            .collect();
        for question in &questions {
            question.connect(targets[1]).unwrap();
            converse(question, &game, 50);
        }
        world.client.wait_for_line("the share", |line| {
            line.contains("service one") && line.contains("ip_local_port_range")
        });
        drop(flooded);
    });
}

#[test]
fn connections_to_another_host_wait_for_a_port_and_are_all_served() {
    requires!("ip");
    let _turn = heavy();
    isolated(|| {
        let far = FarSide::new();
        let target = SocketAddr::new(far.address.into(), ports::one());
        let (_world, public) = World::new(&[target], 40_000..=40_063, &[]);
        let server = far.visit(|| listen(target));
        let players: Vec<_> = (0..300).map(|n| from_outside(public[0], n)).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    let mut peer = accept(&server);
                    scope.spawn(move || {
                        let mut word = [0; 5];
                        peer.read_exact(&mut word).unwrap();
                        peer.write_all(&word).unwrap();
                        // The player ends it first, so that this node remembers the connection.
                        assert_eq!(peer.read(&mut word).unwrap(), 0);
                    });
                }
            });
            for mut player in players {
                scope.spawn(move || {
                    player.write_all(b"hello").unwrap();
                    player.read_exact(&mut [0; 5]).unwrap();
                });
            }
        });
    });
}

#[test]
fn a_flood_of_one_service_leaves_descriptors_to_its_neighbour() {
    let _turn = heavy();
    isolated(|| {
        let few = ["prlimit", "--nofile=512:512", "--"].map(str::to_owned);
        let targets = [(); 2].map(|()| local_address());
        let (world, public) = World::new(&targets, 30_000..=50_000, &few);
        let flooded = (
            udp_server(targets[0]),
            TcpListener::bind(targets[0]).unwrap(),
        );
        for player in players(public[0], 600) {
            player.send(b"hello").unwrap();
        }
        world.settle();
        let (game, talk) = (udp_server(targets[1]), listen(targets[1]));
        converse(&player(public[1], 9_000), &game, 100);
        let mut player = from_outside(public[1], 9_000);
        let mut peer = accept(&talk);
        carry(&mut player, &mut peer, b"hello");
        world.client.wait_for_line("the share", |line| {
            line.contains("service one") && line.contains("descriptors")
        });
        // So it is with its connections.
        let mut refused = from_outside(public[0], 0);
        assert!(refused.read(&mut [0]).is_err());
        drop(flooded);
    });
}

#[test]
fn a_flood_of_one_client_leaves_descriptors_of_the_relay_to_the_others() {
    let _turn = heavy();
    isolated(|| {
        let few = ["prlimit", "--nofile=512:512", "--"].map(str::to_owned);
        let site = Site::elsewhere(Ipv4Addr::LOCALHOST.into(), &few);
        let targets = [(); 2].map(|()| local_address());
        let publics = [(); 2].map(|()| ports::one());
        let clients: Vec<_> = (0..2)
            .map(|number| {
                let node = site.node(&format!("node-{number}"));
                let service = Service::tcp(publics[number], targets[number]);
                node.configure(&instance(&format!("game-{number}"), &[service]));
                let client = node.start();
                client.wait_until_ready();
                client
            })
            .collect();
        let _flooded = plain_listener(targets[0]).unwrap();
        let _flood: Vec<_> = (0..600)
            .map(|number| from_outside(site.public(publics[0]), number))
            .collect();
        let talk = listen(targets[1]);
        for number in 9_000..9_010 {
            let mut player = from_outside(site.public(publics[1]), number);
            let mut peer = accept(&talk);
            carry(&mut player, &mut peer, b"hello");
        }
        site.relay.wait_for_line("the limit", |line| {
            line.contains("game-0") && line.contains("streams_per_client = 288")
        });
        drop(clients);
    });
}

/// A relay and a client on a node whose sockets have these local ports, once both are up.
struct World {
    client: Process,
    node: Node,
    instances: String,
    site: Site,
}

impl World {
    /// With services `one`, `two`, …, and where players come to them.
    fn new(
        targets: &[SocketAddr],
        range: RangeInclusive<u16>,
        prefix: &[String],
    ) -> (Self, Vec<SocketAddr>) {
        let (first, last) = (range.start(), range.end());
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(file, format!("{first} {last}")).unwrap();
        let site = Site::start();
        let node = site.node("node-1");
        let mut instances = "[limits]\ndatagram_age_ms = 10000\n".to_owned();
        let mut public = Vec::new();
        for (target, name) in targets.iter().zip(["one", "two"]) {
            let port = ports::one();
            public.push(site.public(port));
            let service = Service::both(port, *target).named(name);
            instances += &instance(name, &[service]);
        }
        node.configure(&instances);
        let client = node.start_inside(prefix);
        client.wait_until_ready();
        let world = Self {
            client,
            node,
            instances,
            site,
        };
        (world, public)
    }
}

impl World {
    /// Waits until the client opens nothing more.
    fn settle(&self) {
        let last = Cell::new((0, 0));
        eventually("the end of what is opened", || {
            let (before, looks) = last.get();
            let now = self.client.descriptors();
            last.set((now, if now == before { looks + 1 } else { 0 }));
            (looks == 10).then_some(())
        });
    }
}

/// Players who take none of the node's ports, several addresses with some hundreds each.
fn players(public: SocketAddr, count: usize) -> Vec<UdpSocket> {
    (0..count).map(|number| player(public, number)).collect()
}

fn player(public: SocketAddr, number: usize) -> UdpSocket {
    let player = udp_server(outside(number));
    player.connect(public).unwrap();
    player
}

/// A TCP player, likewise.
fn from_outside(public: SocketAddr, number: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&outside(number).into()).unwrap();
    socket.connect(&public.into()).unwrap();
    let player = TcpStream::from(socket);
    player.set_read_timeout(Some(HANG)).unwrap();
    player
}

/// A server that asks for its port alone, without SO_REUSEADDR.
fn plain_listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    Ok(socket)
}

fn outside(number: usize) -> SocketAddr {
    let (address, port) = (number / 200, number % 200);
    ([127, 1, 1, address as u8 + 1], 2_000 + port as u16).into()
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Above what other tests use.
const RANGE_16: u16 = 34_189;
