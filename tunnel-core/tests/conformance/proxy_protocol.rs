//! Targets that are told who their players are, by PROXY protocol.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};
use tunnel_core::{
    client::Client,
    instance::{Instance, ProxyDatagrams, ProxyProtocol, Service},
    proto::proxy::{self, Ends},
    relay::TrustedProxy,
};

use crate::support::{
    Lab, Via, bound, hang, instance,
    servers::{Server, accept, listener, tcp_echo, udp_echo},
    service, until,
};

on_every_transport!(
    a_header_stands_in_front_of_a_connections_first_byte,
    whom_a_front_end_has_named_is_named_to_the_target,
    the_first_datagram_of_a_flow_has_a_header_and_the_next_ones_have_none,
    every_datagram_has_a_header_where_that_is_asked_for,
    a_target_that_was_started_again_is_told_anew,
    a_target_at_another_address_is_told_anew,
    a_change_of_the_option_holds_for_who_plays,
    an_empty_and_a_large_datagram_have_their_header,
);

async fn a_header_stands_in_front_of_a_connections_first_byte(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let game = service("game", "tcp", lab.port, address);
    for (version, encode) in [
        (ProxyProtocol::V1, v1 as fn(Ends) -> Vec<u8>),
        (ProxyProtocol::V2, v2),
    ] {
        let client = lab
            .client([told(&game, version, ProxyDatagrams::Off)])
            .await;
        // The server speaks first, and hears who it is all the same; then the player does.
        for speaks_first in [false, true] {
            let mut player = lab.tcp(lab.port).await;
            if speaks_first {
                player.write_all(b"hello").await.unwrap();
            }
            let mut server = accept(&games).await;
            let header = encode(Ends {
                player: player.local_addr().unwrap(),
                public: lab.at(lab.port),
            });
            let mut came = vec![0; header.len()];
            hang("the header", server.read_exact(&mut came))
                .await
                .unwrap();
            assert_eq!(came, header, "{version}");
            if !speaks_first {
                player.write_all(b"hello").await.unwrap();
            }
            let mut came = [0; 5];
            hang("the first word", server.read_exact(&mut came))
                .await
                .unwrap();
            assert_eq!(&came, b"hello");
        }
        assert_eq!(client.metrics().proxy_headers_out, 2);
    }
}

async fn whom_a_front_end_has_named_is_named_to_the_target(via: Via) {
    let lab = Lab::with(via, |builder| {
        let everywhere: TrustedProxy = "127.0.0.0/8".parse().unwrap();
        builder.trusted_proxies(vec![everywhere])
    })
    .await;
    let (games, address) = listener(lab.ip).await;
    let game = service("game", "tcp", lab.port, address);
    let _client = lab
        .client([told(&game, ProxyProtocol::V2, ProxyDatagrams::Off)])
        .await;
    for (player, public) in [
        ("198.51.100.7:50000", "203.0.113.1:25565"),
        ("[2001:db8::7]:50000", "[2001:db8::1]:25565"),
    ] {
        let said = Ends {
            player: player.parse().unwrap(),
            public: public.parse().unwrap(),
        };
        let mut front_end = lab.tcp(lab.port).await;
        front_end.write_all(&v1(said)).await.unwrap();
        front_end.write_all(b"hello").await.unwrap();
        let mut server = accept(&games).await;
        let expected = [v2(said), b"hello".to_vec()].concat();
        let mut came = vec![0; expected.len()];
        hang("the header", server.read_exact(&mut came))
            .await
            .unwrap();
        assert_eq!(came, expected);
    }
}

async fn the_first_datagram_of_a_flow_has_a_header_and_the_next_ones_have_none(via: Via) {
    let (lab, client, game) = udp(via, ProxyDatagrams::First).await;
    for _ in 0..2 {
        let player = lab.udp(lab.port).await;
        let header = header(&lab, &player);
        let flow = game.hears(&player, b"first", &header).await;
        // Answered or not.
        game.hears(&player, b"second", &[]).await;
        game.answers(&player, flow).await;
        assert_eq!(game.hears(&player, b"third", &[]).await, flow);
    }
    assert_eq!(client.metrics().proxy_headers_out, 2);
}

async fn every_datagram_has_a_header_where_that_is_asked_for(via: Via) {
    let (lab, client, game) = udp(via, ProxyDatagrams::Every).await;
    let player = lab.udp(lab.port).await;
    let header = header(&lab, &player);
    for _ in 0..3 {
        let flow = game.hears(&player, b"a move", &header).await;
        game.answers(&player, flow).await;
    }
    assert_eq!(client.metrics().proxy_headers_out, 3);
}

async fn a_target_that_was_started_again_is_told_anew(via: Via) {
    let (lab, client, game) = udp(via, ProxyDatagrams::First).await;
    let player = lab.udp(lab.port).await;
    let header = header(&lab, &player);
    let flow = game.hears(&player, b"first", &header).await;
    game.answers(&player, flow).await;
    game.hears(&player, b"second", &[]).await;
    let address = game.0.local_addr().unwrap();
    drop(game);
    player.send(b"to nobody").await.unwrap();
    until("the refusal", || client.metrics().drop_socket > 0).await;
    let game = Game(UdpSocket::bind(address).await.unwrap());
    // It is the same flow, from the same port, whose player it has forgotten.
    assert_eq!(game.hears(&player, b"third", &header).await, flow);
    game.hears(&player, b"fourth", &[]).await;
    assert_eq!(client.metrics().proxy_headers_out, 2);
}

async fn a_target_at_another_address_is_told_anew(via: Via) {
    // A name that leads to several addresses: the first one refuses.
    let lab = Lab::new(via).await;
    let game = Game(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let port = game.0.local_addr().unwrap().port();
    let target = format!("localhost:{port}");
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&target).await.unwrap().collect();
    let game_service = service("game", "udp", lab.port, &target);
    let client = lab
        .client([told(
            &game_service,
            ProxyProtocol::V2,
            ProxyDatagrams::First,
        )])
        .await;
    let player = lab.udp(lab.port).await;
    let header = header(&lab, &player);
    let flow = game.hears(&player, b"first", &header).await;
    game.answers(&player, flow).await;
    game.hears(&player, b"second", &[]).await;
    // One for each address that was tried.
    let tried = client.metrics().proxy_headers_out as usize;
    assert!((1..=addresses.len()).contains(&tried), "{tried}");
}

async fn a_change_of_the_option_holds_for_who_plays(via: Via) {
    let (lab, client, game) = udp(via, ProxyDatagrams::First).await;
    let plain = service("game", "udp", lab.port, game.0.local_addr().unwrap());
    let (off, first, every) = (
        instance("a", [plain.clone()]),
        told(&plain, ProxyProtocol::V2, ProxyDatagrams::First),
        told(&plain, ProxyProtocol::V2, ProxyDatagrams::Every),
    );
    let player = lab.udp(lab.port).await;
    let header = header(&lab, &player);
    let flow = game.hears(&player, b"first", &header).await;
    game.answers(&player, flow).await;
    for (now, expected) in [
        (&every, &header[..]),
        (&off, &[]),
        (&every, &header),
        (&first, &[]),
        (&off, &[]),
    ] {
        client.insert(now.clone()).await.unwrap();
        bound(&client, now).await;
        assert_eq!(game.hears(&player, b"a move", expected).await, flow);
        game.answers(&player, flow).await;
    }
    // Who comes while it is off, and is told of later, comes to an address that nobody has said.
    let late = lab.udp(lab.port).await;
    let flow = game.hears(&late, b"first", &[]).await;
    game.answers(&late, flow).await;
    client.insert(first.clone()).await.unwrap();
    bound(&client, &first).await;
    let unknown = proxy::encode_v2_datagram(Ends {
        player: late.local_addr().unwrap(),
        public: SocketAddr::new([0; 4].into(), lab.port),
    });
    assert_eq!(game.hears(&late, b"second", &unknown.unwrap()).await, flow);
}

async fn an_empty_and_a_large_datagram_have_their_header(via: Via) {
    let (lab, _client, game) = udp(via, ProxyDatagrams::Every).await;
    let player = lab.udp(lab.port).await;
    let header = header(&lab, &player);
    for length in [0, 1_472, 9_000, 65_507 - 28] {
        game.hears(&player, &vec![length as u8; length], &header)
            .await;
    }
    // What does not fit behind its header is lost, and counted; the flow goes on.
    player.send(&[1; 65_507 - 27]).await.unwrap();
    game.hears(&player, b"and on", &header).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn families_are_never_mixed() {
    // An IPv6 player, and an IPv4 target that is told of both ends.
    let lab = Lab::with(Via::Quic, |builder| {
        builder.public_bind(std::net::Ipv6Addr::LOCALHOST.into())
    })
    .await;
    let (games, address) = listener(lab.ip).await;
    let port = crate::support::free_port();
    let both = service("game", "tcp", port, address);
    let _client = lab
        .client([told(&both, ProxyProtocol::V1, ProxyDatagrams::Off)])
        .await;
    let public = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port);
    let player = hang("a connect", tokio::net::TcpStream::connect(public))
        .await
        .unwrap();
    let mut server = accept(&games).await;
    let expected = format!(
        "PROXY TCP6 ::1 ::1 {} {port}\r\n",
        player.local_addr().unwrap().port()
    );
    let mut came = vec![0; expected.len()];
    hang("the header", server.read_exact(&mut came))
        .await
        .unwrap();
    assert_eq!(String::from_utf8(came).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_option_nothing_is_in_front() {
    let lab = Lab::new(Via::Quic).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([instance(
            "a",
            [service("game", "both", lab.port, server.address())],
        )])
        .await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    udp_echo(&lab.udp(lab.port).await, b"hello").await;
    assert_eq!(client.metrics().proxy_headers_out, 0);
}

/// A laboratory with one UDP service whose target is told.
async fn udp(via: Via, datagrams: ProxyDatagrams) -> (Lab, Client, Game) {
    let lab = Lab::new(via).await;
    let game = Game(UdpSocket::bind((lab.ip, 0)).await.unwrap());
    let plain = service("game", "udp", lab.port, game.0.local_addr().unwrap());
    let client = lab
        .client([told(&plain, ProxyProtocol::V2, datagrams)])
        .await;
    (lab, client, game)
}

fn told(service: &Service, proxy: ProxyProtocol, datagrams: ProxyDatagrams) -> Instance {
    let service = service.clone().with_proxy_protocol(proxy, datagrams);
    instance("a", [service.unwrap()])
}

fn v1(ends: Ends) -> Vec<u8> {
    proxy::encode_v1(ends)
}

fn v2(ends: Ends) -> Vec<u8> {
    proxy::encode_v2_stream(ends).unwrap()
}

/// What says that a datagram is this player's.
fn header(lab: &Lab, player: &UdpSocket) -> Vec<u8> {
    let ends = Ends {
        player: player.local_addr().unwrap(),
        public: lab.at(lab.port),
    };
    proxy::encode_v2_datagram(ends).unwrap()
}

/// A game server whose socket the test has.
struct Game(UdpSocket);

impl Game {
    /// A player's datagram comes, with this in front; and where from.
    async fn hears(&self, player: &UdpSocket, payload: &[u8], header: &[u8]) -> SocketAddr {
        let expected = [header, payload].concat();
        let mut buffer = vec![0; 65_535];
        player.send(payload).await.unwrap();
        let (length, from) = hang("a datagram", self.0.recv_from(&mut buffer))
            .await
            .unwrap();
        assert_eq!(length, expected.len(), "{:?}", &buffer[..length.min(60)]);
        assert!(
            buffer[..length] == expected,
            "{:?}",
            &buffer[..length.min(60)]
        );
        from
    }

    async fn answers(&self, player: &UdpSocket, flow: SocketAddr) {
        self.0.send_to(b"welcome", flow).await.unwrap();
        let mut buffer = [0; 16];
        let length = hang("an answer", player.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], b"welcome");
    }
}
