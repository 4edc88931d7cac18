//! Players' datagrams.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::UdpSocket;

use crate::{
    crowds::plays,
    support::{
        Lab, Via, bound, bounded, free_port, hang, instance,
        servers::{Server, pattern, tcp_echo, udp_answer, udp_echo},
        service, simple, until, waited,
    },
};

on_every_transport!(
    datagrams_of_every_size_come_back,
    the_first_datagram_of_a_player_is_not_lost,
    a_hundred_players_get_their_own_answers,
    answers_come_from_the_address_that_was_written_to,
    tcp_and_udp_share_one_port,
    every_port_of_a_range_leads_to_its_own_target,
    players_and_targets_may_be_ipv6,
    a_target_may_be_a_host_name,
    a_game_server_that_restarts_keeps_its_players,
    a_service_has_only_so_many_flows,
    a_flow_that_makes_room_is_forgotten_on_both_sides,
    caps_hold_over_all_sockets_of_a_port,
    an_option_that_is_changed_takes_effect_at_once,
    a_target_that_is_changed_takes_its_players_along,
    a_silent_flow_is_forgotten_on_both_sides,
    many_answers_to_one_question_all_arrive,
    two_services_keep_their_players_apart,
);

async fn datagrams_of_every_size_come_back(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    let player = lab.udp(lab.port).await;
    for size in [0, 1, 100, 1_100, 1_150, 1_200, 1_472, 8_000, 20_000, 65_507] {
        udp_echo(&player, &pattern(size as u64, size)).await;
    }
    assert_eq!(server.players().len(), 1, "one flow, one socket");
    for metrics in [lab.relay().metrics(), client.metrics()] {
        assert_eq!(metrics.drop_too_large, 0);
        assert_eq!(metrics.drop_malformed, 0);
        assert_eq!(metrics.flows, 1);
        assert_eq!(metrics.flows_opened, 1);
    }
}

async fn the_first_datagram_of_a_player_is_not_lost(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    for n in 0..10_u8 {
        let player = lab.udp(lab.port).await;
        // Once only: there is nobody on this path who would lose it.
        player.send(&[n; 20]).await.unwrap();
        let mut answer = [0; 64];
        let length = hang("the answer", player.recv(&mut answer)).await.unwrap();
        assert_eq!(answer[..length], [n; 20]);
    }
    assert_eq!(client.metrics().drop_socket, 0);
    assert_eq!(lab.relay().metrics().drop_socket, 0);
}

async fn a_hundred_players_get_their_own_answers(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    let mut players = Vec::new();
    for n in 0..100_u8 {
        let player = lab.udp(lab.port).await;
        players.push(tokio::spawn(async move {
            for round in 0..10 {
                let mut payload = vec![n; 32];
                payload[0] = round;
                udp_echo(&player, &payload).await;
            }
            player
        }));
    }
    let mut sockets = Vec::new();
    for player in players {
        sockets.push(player.await.unwrap());
    }
    let ports: HashSet<_> = server.players().into_iter().collect();
    assert_eq!(ports.len(), 100, "the game server sees each of them");
    assert_eq!(lab.relay().metrics().flows, 100);
    assert_eq!(client.metrics().flows, 100);
}

async fn answers_come_from_the_address_that_was_written_to(via: Via) {
    let lab = Lab::with(via, |builder| {
        builder.public_bind(Ipv4Addr::UNSPECIFIED.into())
    })
    .await;
    let server = Server::udp(lab.ip).await;
    let port = free_port();
    let _client = lab
        .client([simple("a", "udp", port, server.address())])
        .await;
    // One socket writes to three of the relay's addresses: three flows, each answered from its own.
    let player = UdpSocket::bind(SocketAddr::new(lab.ip, 0)).await.unwrap();
    for last in [1, 2, 3] {
        let to = SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), port);
        let payload = [last; 10];
        let from = waited("an answer", async || {
            player.send_to(&payload, to).await.unwrap();
            let mut buffer = [0; 64];
            let received =
                tokio::time::timeout(Duration::from_millis(250), player.recv_from(&mut buffer));
            let (length, from) = received.await.ok()?.ok()?;
            (buffer[..length] == payload).then_some(from)
        })
        .await;
        assert_eq!(from, to);
    }
}

async fn tcp_and_udp_share_one_port(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let _client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let mut tcp = lab.tcp(lab.port).await;
    let udp = lab.udp(lab.port).await;
    for _ in 0..5 {
        tcp_echo(&mut tcp, b"over TCP").await;
        udp_echo(&udp, b"over UDP").await;
    }
}

async fn every_port_of_a_range_leads_to_its_own_target(via: Via) {
    let lab = Lab::new(via).await;
    let mut servers = Vec::new();
    for place in 0..10_u16 {
        let address = lab.at(lab.port + 20 + place);
        servers.push(Server::udp_marked(address, &[place as u8]).await);
    }
    let (public, target) = (
        format!("{}-{}", lab.port, lab.port + 9),
        format!("{}:{}-{}", lab.ip, lab.port + 20, lab.port + 29),
    );
    let _client = lab.client([simple("a", "udp", public, target)]).await;
    // The same player on all of them: port and player make the flow.
    let player = UdpSocket::bind(SocketAddr::new(lab.ip, 0)).await.unwrap();
    for place in [0, 9, 4, 5] {
        player.connect(lab.at(lab.port + place)).await.unwrap();
        udp_answer(&player, b"hello", &[&[place as u8], &b"hello"[..]].concat()).await;
    }
}

async fn players_and_targets_may_be_ipv6(via: Via) {
    let lab = Lab::with(via, |builder| {
        builder.public_bind(Ipv6Addr::UNSPECIFIED.into())
    })
    .await;
    let server = Server::udp(Ipv6Addr::LOCALHOST.into()).await;
    let port = free_port();
    let _client = lab
        .client([simple("a", "udp", port, server.address())])
        .await;
    for address in [IpAddr::from(Ipv6Addr::LOCALHOST), lab.ip] {
        let player = UdpSocket::bind(SocketAddr::new(address, 0)).await.unwrap();
        player
            .connect(SocketAddr::new(address, port))
            .await
            .unwrap();
        udp_echo(&player, &pattern(1, 3_000)).await;
    }
}

async fn a_target_may_be_a_host_name(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(IpAddr::from([127, 0, 0, 1])).await;
    let target = format!("localhost:{}", server.address().port());
    let _client = lab.client([simple("a", "udp", lab.port, target)]).await;
    udp_echo(&lab.udp(lab.port).await, b"hello").await;
}

async fn a_game_server_that_restarts_keeps_its_players(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let address = server.address();
    let client = lab.client([simple("a", "udp", lab.port, address)]).await;
    let player = lab.udp(lab.port).await;
    udp_echo(&player, b"before").await;
    let seen = server.players();
    drop(server);
    // The system tells the client that nobody listens; the player keeps sending.
    waited("a refusal", async || {
        player.send(b"meanwhile").await.unwrap();
        (client.metrics().drop_socket > 0).then_some(())
    })
    .await;
    let server = waited("the port", async || {
        let socket = std::net::UdpSocket::bind(address).ok()?;
        drop(socket);
        Some(Server::udp_at(address).await)
    })
    .await;
    udp_echo(&player, b"after").await;
    assert_eq!(
        server.players(),
        seen,
        "the same player, as the game sees it"
    );
    assert_eq!(lab.relay().metrics().flows_opened, 1);
}

async fn a_service_has_only_so_many_flows(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let game = service("game", "udp", lab.port, server.address());
    let game = bounded(game, |flows| flows.per_service = 2);
    let _client = lab.client([instance("a", [game])]).await;
    let mut players = Vec::new();
    for _ in 0..2 {
        players.push(plays(&lab, lab.port).await);
    }
    let third = lab.udp(lab.port).await;
    third.send(b"one too many").await.unwrap();
    until("the count", || lab.relay().metrics().drop_service_cap == 1).await;
    udp_echo(&players[0], b"hello again").await;
    assert_eq!(lab.relay().metrics().flows, 2);
}

async fn a_flow_that_makes_room_is_forgotten_on_both_sides(via: Via) {
    let lab = Lab::new(via).await;
    let silent = UdpSocket::bind(lab.at(0)).await.unwrap();
    let game = service("game", "udp", lab.port, silent.local_addr().unwrap());
    let game = bounded(game, |flows| flows.per_service = 4);
    let client = lab.client([instance("a", [game])]).await;
    if via != Via::Quic {
        // Datagrams of one flow may overtake each other as long as lanes are added.
        until("the lanes", || client.metrics().lanes == 3).await;
    }
    // As a flood from forged addresses would: nobody of them is ever answered.
    for n in 0..40_u8 {
        lab.udp(lab.port).await.send(&[n]).await.unwrap();
    }
    until("the flood's arrival", || {
        client.metrics().flows_opened >= 40
    })
    .await;
    until("the end of those who made room", || {
        client.metrics().flows <= 4
    })
    .await;
    assert_eq!(lab.relay().metrics().flows, 4);
    assert_eq!(lab.relay().metrics().flows_evicted, 36);
}

async fn caps_hold_over_all_sockets_of_a_port(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let game = service("game", "udp", lab.port, server.address());
    let game = bounded(game, |flows| {
        flows.per_service = 20;
        flows.per_address = 10;
    });
    let client = lab.client([instance("a", [game])]).await;
    let mut players = Vec::new();
    for _ in 0..10 {
        players.push(plays(&lab, lab.port).await);
    }
    let dropped = || lab.relay().metrics().drop_address_cap;
    for n in 1..=20 {
        lab.udp(lab.port).await.send(b"too many").await.unwrap();
        until("the count", || dropped() == n).await;
    }
    // Whichever socket a player came to, it goes on there.
    for player in &players {
        udp_echo(player, b"hello again").await;
    }
    for metrics in [lab.relay().metrics(), client.metrics()] {
        assert_eq!((metrics.flows, metrics.flows_opened), (10, 10));
    }
    assert_eq!(server.players().len(), 10);
}

async fn an_option_that_is_changed_takes_effect_at_once(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let game = |flows| {
        let game = service("game", "udp", lab.port, server.address());
        let game = bounded(game, |limits| limits.per_address = flows);
        instance("a", [game])
    };
    let client = lab.client([game(1)]).await;
    let first = plays(&lab, lab.port).await;
    let second = lab.udp(lab.port).await;
    second.send(b"one too many").await.unwrap();
    until("the count", || lab.relay().metrics().drop_address_cap > 0).await;

    client.insert(game(2)).await.unwrap();
    bound(&client, &game(2)).await;
    udp_echo(&second, b"hello").await;
    udp_echo(&first, b"hello again").await;
    assert_eq!(server.players().len(), 2, "who was there stays who it was");
}

async fn a_target_that_is_changed_takes_its_players_along(via: Via) {
    let lab = Lab::new(via).await;
    let before = Server::udp_marked(lab.at(lab.port + 20), b"old ").await;
    let after = Server::udp_marked(lab.at(lab.port + 21), b"new ").await;
    let client = lab
        .client([simple("a", "udp", lab.port, before.address())])
        .await;
    let player = lab.udp(lab.port).await;
    udp_answer(&player, b"hello", b"old hello").await;
    let changed = simple("a", "udp", lab.port, after.address());
    client.insert(changed.clone()).await.unwrap();
    bound(&client, &changed).await;
    // The player knows nothing of it and goes on.
    udp_answer(&player, b"hello", b"new hello").await;
}

async fn a_silent_flow_is_forgotten_on_both_sides(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let game = service("game", "udp", lab.port, server.address());
    let game = bounded(game, |flows| flows.idle = Duration::from_secs(10));
    let client = lab.client([instance("a", [game])]).await;
    let player = lab.udp(lab.port).await;
    udp_echo(&player, b"hello").await;
    assert_eq!(client.metrics().flows, 1);
    until("the flow's end", || {
        lab.relay().metrics().flows == 0 && client.metrics().flows == 0
    })
    .await;
    // Who comes back is a new one.
    udp_echo(&player, b"here again").await;
    assert_eq!(lab.relay().metrics().flows_opened, 2);
}

async fn many_answers_to_one_question_all_arrive(via: Via) {
    let lab = Lab::new(via).await;
    let game = UdpSocket::bind(lab.at(0)).await.unwrap();
    let _client = lab
        .client([simple("a", "udp", lab.port, game.local_addr().unwrap())])
        .await;
    let player = lab.udp(lab.port).await;
    let mut buffer = [0; 2048];
    // Its address is the player's own: it has heard an answer.
    player.send(b"hello").await.unwrap();
    let greeted = hang("the greeting", game.recv_from(&mut buffer)).await;
    game.send_to(b"hello", greeted.unwrap().1).await.unwrap();
    hang("its answer", player.recv(&mut buffer)).await.unwrap();
    player.send(b"the map, please").await.unwrap();
    let asked = hang("the question", game.recv_from(&mut buffer)).await;
    let (_, from) = asked.unwrap();
    // Runs of one size, and others: what is sent in one call must arrive as what it was.
    let sizes = [
        1_000, 1_000, 1_000, 300, 1_200, 1_200, 0, 5, 5, 5, 0, 0, 700,
    ];
    let mut sent = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let answer = pattern(n as u64, size);
        game.send_to(&answer, from).await.unwrap();
        sent.push(answer);
    }
    let mut received = Vec::new();
    for _ in 0..sent.len() {
        let length = hang("an answer", player.recv(&mut buffer)).await.unwrap();
        received.push(buffer[..length].to_vec());
    }
    // UDP promises no order.
    sent.sort();
    received.sort();
    assert_eq!(received, sent);
}

async fn two_services_keep_their_players_apart(via: Via) {
    let lab = Lab::new(via).await;
    let one = Server::udp_marked(lab.at(lab.port + 20), b"1").await;
    let two = Server::udp_marked(lab.at(lab.port + 21), b"2").await;
    let _client = lab
        .client([
            simple("a", "udp", lab.port, one.address()),
            simple("b", "udp", lab.port + 1, two.address()),
        ])
        .await;
    let player = UdpSocket::bind(SocketAddr::new(lab.ip, 0)).await.unwrap();
    for _ in 0..10 {
        player.connect(lab.at(lab.port)).await.unwrap();
        udp_answer(&player, b"a", b"1a").await;
        player.connect(lab.at(lab.port + 1)).await.unwrap();
        udp_answer(&player, b"b", b"2b").await;
    }
    assert_eq!((one.players().len(), two.players().len()), (1, 1));
}
