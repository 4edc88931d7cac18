//! Players who come to the target from addresses of their own.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    HANG, eventually,
    namespace::{FarSide, ip, isolated},
    players::{accept, carry, converse, listen, udp_server},
    ports,
    process::{command, run},
    programs::local_address,
    requires,
    site::{Service, Site, instance, program},
};

#[test]
fn two_hundred_players_have_an_address_each_the_same_for_tcp_and_udp() {
    let site = Site::start();
    let (target, port) = (local_address(), ports::one());
    let service = Service::both(port, target).with("source = \"loopback\"");
    let client = site.expose(&[service]);
    let (games, game) = (listen(target), udp_server(target));
    let mut seen = HashMap::new();
    let mut here = Vec::new();
    for number in 0..200 {
        let udp = udp_from(player(number), site.public(port));
        let mut tcp = tcp_from(player(number), site.public(port));
        let mut peer = accept(&games);
        carry(&mut tcp, &mut peer, b"hello");
        let own = converse(&udp, &game, 100).ip();
        assert_eq!(peer.peer_addr().unwrap().ip(), own, "over TCP and over UDP");
        let IpAddr::V4(v4) = own else {
            panic!("{own} is of IPv6");
        };
        let [first, second, ..] = v4.octets();
        assert!(first == 127 && (64..128).contains(&second), "{own}");
        assert!(seen.insert(own, number).is_none(), "{own} is another's");
        here.push((udp, tcp, peer, own));
    }
    // Each keeps it, also over another connection, for as long as it plays.
    for (number, (udp, tcp, peer, own)) in here.iter_mut().enumerate() {
        assert_eq!(converse(udp, &game, 100).ip(), *own);
        carry(peer, tcp, b"and back");
        let mut again = tcp_from(player(number), site.public(port));
        let mut peer = accept(&games);
        carry(&mut again, &mut peer, b"again");
        assert_eq!(peer.peer_addr().unwrap().ip(), *own);
    }
    assert!(
        !client.log().contains("source ="),
        "nothing is wrong with it"
    );
}

#[test]
fn a_reload_changes_where_the_next_player_comes_from_and_disturbs_nobody() {
    let site = Site::start();
    let node = site.node("node-1");
    let (target, port) = (local_address(), ports::one());
    let write = |options: &str| {
        node.configure(&instance(
            "game-1",
            &[Service::both(port, target).with(options)],
        ));
    };
    write("");
    let client = node.start();
    client.wait_until_ready();
    let (games, game) = (listen(target), udp_server(target));
    let there = udp_from(player(1), site.public(port));
    let first = converse(&there, &game, 100);
    assert_eq!(first.ip(), target.ip());
    for (options, is_own) in [("source = \"loopback\"", true), ("", false)] {
        write(options);
        client.signal(Signal::HUP);
        eventually("the other source", || {
            let mut tcp = tcp_from(player(2), site.public(port));
            let mut peer = accept(&games);
            carry(&mut tcp, &mut peer, b"hello");
            let from = peer.peer_addr().unwrap().ip();
            ((from != target.ip()) == is_own).then_some(())
        });
        assert_eq!(converse(&there, &game, 100), first, "who plays goes on");
    }
}

#[test]
fn a_target_that_players_cannot_reach_so_is_named_by_check_and_at_the_start() {
    let site = Site::start();
    let node = site.node("node-1");
    let elsewhere: SocketAddr = "192.0.2.1:7777".parse().unwrap();
    let write = |source: &str, target| {
        let service = Service::tcp(ports::one(), target).with(&format!("source = \"{source}\""));
        node.configure(&instance("game-1", &[service]));
    };
    for (source, target, expected) in [
        ("loopback", elsewhere, "192.0.2.1:7777 is none"),
        (
            "transparent",
            local_address(),
            "is this machine itself: use source = \"loopback\"",
        ),
    ] {
        write(source, target);
        let mut check = command(program("relay-client"));
        check.arg("check").arg("--config").arg(node.config());
        let said = run("relay-client check", &mut check);
        assert!(
            said.status.success() && said.stderr.contains(expected),
            "{said}"
        );
        assert!(said.stdout.contains(&format!("source {source}")), "{said}");
        let client = node.start();
        client.wait_for_line("the remark", |line| {
            line.contains("game-1/main") && line.contains(expected)
        });
        client.wait_until_ready();
        client.terminate();
    }
    node.configure(&instance(
        "game-1",
        &[Service::tcp(ports::one(), "[::1]:7777".parse().unwrap()).with("source = \"loopback\"")],
    ));
    let mut check = command(program("relay-client"));
    check.arg("check").arg("--config").arg(node.config());
    let said = run("relay-client check", &mut check).failure(2);
    assert!(
        said.contains("no IPv6 target is reached: write 127.0.0.1"),
        "{said}"
    );
}

#[test]
fn transparent_players_reach_a_container_from_their_own_addresses() {
    requires!("ip", "nft", "setpriv");
    isolated(|| {
        let world = World::new();
        set_up();
        let (client, games, game) = world.start("source = \"transparent\"");
        for (own, target) in [("203.0.113.7", 0), ("203.0.113.8", 0), ("2001:db8:7::7", 1)] {
            let own: IpAddr = own.parse().unwrap();
            let public = SocketAddr::new(world.relay[target], world.ports[target]);
            let (udp, mut tcp) = world.players.visit(|| {
                let from = SocketAddr::new(own, 0);
                (udp_from(from, public), tcp_from(from, public))
            });
            let mut peer = accept(&games[target]);
            carry(&mut tcp, &mut peer, b"hello");
            carry(&mut peer, &mut tcp, &[7; 200_000]);
            assert_eq!(peer.peer_addr().unwrap().ip(), own);
            // The last in several packets of IP.
            for size in [0, 100, 1_400, 9_000] {
                assert_eq!(converse(&udp, &game[target], size).ip(), own, "{size}");
            }
        }
        let log = client.log();
        assert!(!log.contains("source ="), "nothing is wrong with it: {log}");
        // Whatever the interface's filter of return paths says.
        for filter in ["0", "1", "2"] {
            for interface in ["all", "near"] {
                let file = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
                fs::write(file, filter).unwrap();
            }
            let own = SocketAddr::new("203.0.113.9".parse().unwrap(), 0);
            let public = SocketAddr::new(world.relay[0], world.ports[0]);
            let udp = world.players.visit(|| udp_from(own, public));
            assert_eq!(
                converse(&udp, &game[0], 100).ip(),
                own.ip(),
                "rp_filter = {filter}"
            );
        }
    });
}

#[test]
fn what_transparent_players_lack_is_named_one_by_one() {
    requires!("ip", "nft", "setpriv");
    isolated(|| {
        let world = World::new();
        world.configure("source = \"transparent\"");
        let said = world.check(&[]);
        for expected in [
            ": ip rule add fwmark 0xad17 lookup 117; ip route add local default dev lo table 117\n",
            "ip -6 rule add fwmark 0xad17 lookup 117; ip -6 route add local default dev lo table 117",
            "no rule of nftables does: nft -f packaging/adit-transparent.nft",
        ] {
            assert_eq!(said.matches(expected).count(), 1, "{expected}: {said}");
        }
        set_up();
        assert_eq!(world.check(&[]), "", "nothing is missing");
        ip(&[
            "route", "del", "local", "default", "dev", "lo", "table", "117",
        ]);
        let said = world.check(&[]);
        assert!(
            said.contains("ip rule add") && !said.contains("ip -6"),
            "{said}"
        );
        ip(&[
            "route", "add", "local", "default", "dev", "lo", "table", "117",
        ]);
        fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "1").unwrap();
        let said = world.check(&[]);
        assert!(
            said.contains("src_valid_mark = 1, which wg-quick sets"),
            "{said}"
        );
        fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "0").unwrap();
        // Either capability will do, and the lesser one is enough.
        assert_eq!(world.check(&without("-net_admin")), "");
        let said = world.check(&without("-net_admin,-net_raw"));
        assert!(
            said.contains("needs CAP_NET_RAW or CAP_NET_ADMIN"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    });
}

/// Players on one side, a container on the other, and between them this machine with relay and client.
struct World {
    players: FarSide,
    container: FarSide,
    node: crate::harness::site::Node,
    _site: Site,
    /// Where players come in, of IPv4 and of IPv6, and the ports.
    relay: [IpAddr; 2],
    ports: [u16; 2],
    targets: [SocketAddr; 2],
}

impl World {
    fn new() -> Self {
        let container = FarSide::new();
        container.ip("route add default via 10.77.0.2");
        ip(&["address", "add", "fd77::2/64", "dev", "near", "nodad"]);
        container.ip("address add fd77::1/64 dev far nodad");
        container.ip("-6 route add default via fd77::2");
        let players = FarSide::another();
        ip(&["address", "add", "fd78::2/64", "dev", "near1", "nodad"]);
        players.ip("address add fd78::1/64 dev far1 nodad");
        for own in ["203.0.113.7/32", "203.0.113.8/32", "203.0.113.9/32"] {
            players.ip(&format!("address add {own} dev far1"));
        }
        players.ip("address add 2001:db8:7::7/128 dev far1 nodad");
        ip(&["route", "add", "203.0.113.0/24", "via", "10.78.0.1"]);
        ip(&["-6", "route", "add", "2001:db8:7::/64", "via", "fd78::1"]);
        let site = Site::with_public_bind(std::net::Ipv6Addr::UNSPECIFIED.into());
        let node = site.node("node-1");
        let target = |ip: &str| SocketAddr::new(ip.parse().unwrap(), ports::one());
        Self {
            players,
            container,
            node,
            _site: site,
            relay: ["10.78.0.2", "fd78::2"].map(|it| it.parse().unwrap()),
            ports: [(); 2].map(|()| ports::one()),
            targets: [target("10.77.0.1"), target("fd77::1")],
        }
    }

    fn configure(&self, options: &str) {
        let service = |number: usize, name| {
            Service::both(self.ports[number], self.targets[number])
                .named(name)
                .with(options)
        };
        let services = [service(0, "four"), service(1, "six")];
        self.node.configure(&instance("game-1", &services));
    }

    fn start(
        &self,
        options: &str,
    ) -> (
        crate::harness::process::Process,
        [std::net::TcpListener; 2],
        [UdpSocket; 2],
    ) {
        self.configure(options);
        let servers = self
            .container
            .visit(|| (self.targets.map(listen), self.targets.map(udp_server)));
        let client = self.node.start_inside(&without("-net_admin"));
        client.wait_until_ready();
        (client, servers.0, servers.1)
    }

    /// What `check` remarks.
    fn check(&self, prefix: &[String]) -> String {
        let mut check = crate::harness::site::prefixed(prefix, "relay-client");
        check.arg("check").arg("--config").arg(self.node.config());
        let said = run("relay-client check", &mut check);
        assert!(said.status.success(), "{said}");
        said.stderr
    }
}

/// What to put before a command that is not to have these capabilities.
fn without(capabilities: &str) -> Vec<String> {
    let [bounds, inherited] =
        ["bounding-set", "inh-caps"].map(|it| format!("--{it}={capabilities}"));
    ["setpriv", &bounds, &inherited, "--"]
        .map(str::to_owned)
        .to_vec()
}

/// Does what the documentation says, line by line, as it is printed there.
fn set_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/player-addresses.md")).unwrap();
    let (_, behind) = page.split_once("<!-- set up -->\n```sh\n").unwrap();
    let (lines, _) = behind.split_once("```").unwrap();
    assert!(lines.lines().count() >= 5, "{lines}");
    for line in lines.lines() {
        let mut shell = command("sh");
        shell.args(["-c", line]).current_dir(root);
        run(line, &mut shell).success();
    }
}

/// Players of many addresses of this machine.
fn player(number: usize) -> SocketAddr {
    (
        [127, 1, 2 + (number / 100) as u8, (number % 100) as u8 + 1],
        0,
    )
        .into()
}

fn udp_from(own: SocketAddr, public: SocketAddr) -> UdpSocket {
    let player = udp_server(own);
    player.connect(public).unwrap();
    player
}

fn tcp_from(own: SocketAddr, public: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(own), Type::STREAM, None).unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect(&public.into()).unwrap();
    let player = TcpStream::from(socket);
    player.set_read_timeout(Some(HANG)).unwrap();
    player
}
