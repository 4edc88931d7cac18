//! Servers that nobody here wrote read our PROXY headers; front ends that nobody here wrote send theirs to the relay.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
};

use rustix::process::Signal;

use crate::harness::{
    eventually,
    players::{accept, connect, listen, udp_player, udp_server},
    ports,
    process::{Process, command, run},
    programs::{Server, haproxy, local_address, nginx_with},
    requires,
    site::{Service, Site, instance},
};

#[test]
fn nginx_takes_both_versions_of_our_header_and_sees_the_player_and_where_it_connected_to() {
    requires!("nginx", "curl");
    for public_bind in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
        let site = Site::with_public_bind(public_bind);
        let server = sees_players();
        let [v1, v2] = [(); 2].map(|()| ports::one());
        let services = [
            Service::tcp(v1, server.address)
                .named("one")
                .with("proxy_protocol = \"v1\""),
            Service::tcp(v2, server.address)
                .named("two")
                .with("proxy_protocol = \"v2\""),
        ];
        let _client = site.expose(&services);
        for public in [v1, v2].map(|port| site.public(port)) {
            let [player, port, local] = seen(&mut curl(public));
            assert_eq!(player, public_bind.to_string());
            assert_ne!(port, "0");
            assert_eq!(local, format!("{public_bind}:{}", public.port()));
        }
    }
}

#[test]
fn a_player_and_a_public_address_of_both_families_come_to_nginx_as_ipv6() {
    requires!("nginx", "curl");
    // A front end names an IPv6 player who has connected to an IPv4 address: it cannot, but in the middle of two families.
    let site = Site::start();
    trust(&site, "127.0.0.1");
    let server = sees_players();
    let port = ports::one();
    let service = Service::tcp(port, server.address).with("proxy_protocol = \"v2\"");
    let _client = site.expose(&[service]);
    let front_end = connect(site.public(port));
    let said = "PROXY TCP6 2001:db8::7 ::ffff:cb00:7101 50000 25565\r\nGET / HTTP/1.0\r\n\r\n";
    let answer = exchange(front_end, said.as_bytes());
    assert!(
        answer.ends_with("2001:db8::7 50000 ::ffff:203.0.113.1:25565\n"),
        "{answer}"
    );
}

#[test]
fn haproxy_before_the_relay_names_the_player_to_nginx_behind_it() {
    requires!("nginx", "curl", "haproxy");
    let site = Site::start();
    let target = sees_players();
    let port = ports::one();
    let service = Service::tcp(port, target.address).with("proxy_protocol = \"v2\"");
    let _client = site.expose(&[service]);
    let own = "127.0.9.9";
    let untrusted = haproxy(local_address(), site.public(port), "send-proxy");
    // As long as it is not trusted, its header is a request that nobody understands.
    let refused = run("curl", curl(untrusted.address).arg("--fail"));
    assert!(!refused.status.success());
    trust(&site, "127.0.0.0/8");
    for options in ["send-proxy", "send-proxy-v2"] {
        let front = haproxy(local_address(), site.public(port), options);
        let [player, _, local] = seen(curl(front.address).args(["--interface", own]));
        assert_eq!((&*player, local), (own, front.address.to_string()));
    }
    // Who comes to the relay directly, and says nothing of a player, is refused and named.
    assert!(!run("curl", &mut curl(site.public(port))).status.success());
    site.relay.wait_for_line("who it is", |line| {
        line.contains("127.0.0.1, one of trusted_proxies") && line.contains("PROXY header")
    });
}

#[test]
fn a_reload_changes_the_header_of_flows_that_go_on() {
    let site = Site::start();
    let node = site.node("node-1");
    let (target, port) = (local_address(), ports::one());
    let write = |options: &str| {
        let service = Service::both(port, target).with(options);
        node.configure(&instance("game-1", &[service]));
    };
    write("proxy_protocol = \"v2\"");
    let client = node.start();
    client.wait_until_ready();
    let (game, games) = (udp_server(target), listen(target));
    let player = udp_player(site.public(port));
    let header = header(player.local_addr().unwrap(), site.public(port));
    let from = hears(&game, &player, b"first", &header);
    assert_eq!(hears(&game, &player, b"second", &[]), from);
    let mut lasting = connect(site.public(port));
    let mut peer = accept(&games);
    let mut came = [0; 28];
    std::io::Read::read_exact(&mut peer, &mut came).unwrap();
    assert_eq!(came[12..14], [0x21, 0x11]);

    for (options, expected) in [
        (
            "proxy_protocol = \"v2\"\nproxy_protocol_udp = \"every\"",
            &header[..],
        ),
        ("", &[]),
    ] {
        write(options);
        client.signal(Signal::HUP);
        // Datagrams before the reload is done are as before.
        eventually("the other form", || {
            player.send(b"a move").unwrap();
            let (came, now) = next(&game);
            assert_eq!(now, from, "it is the same flow");
            (came == [expected, b"a move"].concat()).then_some(())
        });
        crate::harness::players::carry(&mut lasting, &mut peer, b"undisturbed");
    }
    let mut plain = connect(site.public(port));
    let mut peer = accept(&games);
    crate::harness::players::carry(&mut plain, &mut peer, b"nothing in front");
}

#[test]
fn a_version_that_has_no_form_for_datagrams_is_refused_with_what_to_write() {
    let site = Site::start();
    let node = site.node("node-1");
    let service = Service::both(ports::one(), local_address()).with("proxy_protocol = \"v1\"");
    node.configure(&instance("game-1", &[service]));
    let mut check = command(crate::harness::site::program("relay-client"));
    check.arg("check").arg("--config").arg(node.config());
    let said = run("relay-client check", &mut check).failure(2);
    assert!(
        said.contains("use \"v2\", or proxy_protocol_udp = \"off\""),
        "{said}"
    );
}

/// An nginx that asks for a header, and answers with the player that it names, and where the player connected to.
fn sees_players() -> Server {
    let address = local_address();
    nginx_with(
        address,
        &format!(
            "http {{ access_log off; server {{ listen {address} proxy_protocol; \
             location / {{ return 200 '$proxy_protocol_addr $proxy_protocol_port \
             $proxy_protocol_server_addr:$proxy_protocol_server_port\\n'; }} }} }}"
        ),
    )
}

fn curl(server: SocketAddr) -> Command {
    let mut curl = command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60"]);
    curl.arg(format!("http://{server}/"));
    curl
}

/// The player, its port, and where it connected to, as nginx sees them.
fn seen(curl: &mut Command) -> [String; 3] {
    let said = run("curl", curl).success();
    let words: Vec<_> = said.split_whitespace().map(str::to_owned).collect();
    words.try_into().unwrap()
}

fn exchange(mut stream: std::net::TcpStream, said: &[u8]) -> String {
    use std::io::{Read, Write};
    stream.write_all(said).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Has the relay trust these front ends, once it says that it has read its file again.
fn trust(site: &Site, networks: &str) {
    let config = fs::read_to_string(site.relay_config()).unwrap();
    let with = config.replace(
        "[relay]\n",
        &format!("[relay]\ntrusted_proxies = \"{networks}\"\n"),
    );
    assert_ne!(with, config);
    fs::write(site.relay_config(), with).unwrap();
    reload(&site.relay);
}

fn reload(relay: &Process) {
    relay.signal(Signal::HUP);
    relay.wait_for_line("the reload", |line| {
        line.contains("configuration read again")
    });
}

/// What stands in front of a player's datagrams, by the specification.
fn header(player: SocketAddr, public: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(player), SocketAddr::V4(public)) = (player, public) else {
        panic!("both are IPv4 here");
    };
    [
        &b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x12\x00\x0c"[..],
        &player.ip().octets(),
        &public.ip().octets(),
        &player.port().to_be_bytes(),
        &public.port().to_be_bytes(),
    ]
    .concat()
}

/// A datagram of a player comes with this in front; where from. It is answered.
fn hears(game: &UdpSocket, player: &UdpSocket, payload: &[u8], header: &[u8]) -> SocketAddr {
    player.send(payload).unwrap();
    let (came, from) = next(game);
    assert_eq!(came, [header, payload].concat());
    game.send_to(b"welcome", from).unwrap();
    player.recv(&mut [0; 16]).unwrap();
    from
}

fn next(game: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2_000];
    let (length, from) = game.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}
