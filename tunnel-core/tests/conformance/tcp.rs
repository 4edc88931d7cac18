//! Players' TCP connections.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use tunnel_core::instance::Optimize;

use crate::support::{
    Lab, Via, free_port, hang, instance,
    servers::{
        End, Server, accept, drain, end_of, listener, pattern, pour, read_all, reset, stuff,
        tcp_echo,
    },
    service, simple, until,
};

on_every_transport!(
    a_player_and_a_game_server_talk,
    bulk_arrives_whole_in_both_directions_at_once,
    a_player_who_has_ended_still_gets_the_answer,
    a_game_server_that_has_ended_still_hears_the_player,
    a_connection_that_both_ends_close_ends_cleanly_and_is_not_counted_as_failed,
    a_slow_reader_has_everything_after_a_clean_end,
    urgent_bytes_arrive_in_their_place,
    a_reset_by_the_game_server_reaches_the_player_as_a_reset,
    a_reset_by_the_player_reaches_the_game_server_as_a_reset,
    a_reset_behind_a_stalled_reader_reaches_the_other_side,
    a_refused_connection_ends_the_player_at_once_and_is_counted,
    a_target_whose_name_does_not_resolve_ends_the_player_and_is_counted,
    every_port_of_a_range_leads_to_its_own_target,
    players_and_targets_may_be_ipv6,
    a_target_may_be_a_host_name,
    every_way_to_optimize_carries_talk_and_bulk,
    a_burst_of_players_is_served,
    one_connection_after_another_is_served,
    a_player_who_says_nothing_is_connected_all_the_same,
);

async fn a_player_and_a_game_server_talk(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    for round in 0..20_u8 {
        tcp_echo(&mut player, &vec![round; 1 + usize::from(round) * 100]).await;
    }
    let metrics = lab.relay().metrics();
    assert_eq!(metrics.streams, 1);
    assert_eq!(metrics.streams_opened, 1);
    drop(player);
    until("the stream's end", || {
        lab.relay().metrics().streams == 0 && client.metrics().streams == 0
    })
    .await;
    for metrics in [lab.relay().metrics(), client.metrics()] {
        let bytes = (0..20).map(|round| 1 + round * 100).sum::<u64>();
        assert_eq!(metrics.stream_bytes_in, bytes);
        assert_eq!(metrics.stream_bytes_out, bytes);
    }
}

async fn bulk_arrives_whole_in_both_directions_at_once(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let player = lab.tcp(lab.port).await;
    let game = accept(&games).await;
    let (mut player_in, mut player_out) = player.into_split();
    let (mut game_in, mut game_out) = game.into_split();
    let poured = tokio::spawn(async move { pour(&mut player_out, 1, MIB_32).await });
    let answered = tokio::spawn(async move { pour(&mut game_out, 2, MIB_32).await });
    let arrived = tokio::spawn(async move { drain(&mut game_in).await });
    assert_eq!(drain(&mut player_in).await, answered.await.unwrap());
    assert_eq!(arrived.await.unwrap(), poured.await.unwrap());
}

async fn a_player_who_has_ended_still_gets_the_answer(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    player.write_all(b"question").await.unwrap();
    player.shutdown().await.unwrap();
    let mut game = accept(&games).await;
    assert_eq!(read_all(&mut game).await.unwrap(), b"question");
    game.write_all(b"an answer after the end").await.unwrap();
    game.shutdown().await.unwrap();
    assert_eq!(
        read_all(&mut player).await.unwrap(),
        b"an answer after the end"
    );
}

async fn a_game_server_that_has_ended_still_hears_the_player(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    game.write_all(b"goodbye").await.unwrap();
    game.shutdown().await.unwrap();
    assert_eq!(read_all(&mut player).await.unwrap(), b"goodbye");
    player.write_all(b"one more thing").await.unwrap();
    player.shutdown().await.unwrap();
    assert_eq!(read_all(&mut game).await.unwrap(), b"one more thing");
}

async fn a_connection_that_both_ends_close_ends_cleanly_and_is_not_counted_as_failed(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    for _ in 0..10 {
        let mut player = lab.tcp(lab.port).await;
        tcp_echo(&mut player, b"hello").await;
        player.shutdown().await.unwrap();
        assert_eq!(read_all(&mut player).await.unwrap(), b"");
    }
    until("the streams' end", || {
        lab.relay().metrics().streams == 0 && client.metrics().streams == 0
    })
    .await;
    for metrics in [lab.relay().metrics(), client.metrics()] {
        assert_eq!(metrics.streams_opened, 10);
        assert_eq!(metrics.stream_broken, 0);
        assert_eq!(metrics.stream_reset, 0);
        assert_eq!(metrics.stream_misbehaved, 0);
    }
}

async fn a_slow_reader_has_everything_after_a_clean_end(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = narrow_listener(lab.ip);
    let client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    for slow_is_player in [true, false] {
        let player = TcpSocket::new_v4().unwrap();
        player.set_recv_buffer_size(NARROW).unwrap();
        let mut player = player.connect(lab.at(lab.port)).await.unwrap();
        let mut game = accept(&games).await;
        let (slow, other) = match slow_is_player {
            true => (&mut player, &mut game),
            false => (&mut game, &mut player),
        };
        slow.shutdown().await.unwrap();
        assert_eq!(read_all(other).await.unwrap(), b"");
        let sent = pattern(7, BEYOND_NARROW);
        hang("room", other.write_all(&sent)).await.unwrap();
        other.shutdown().await.unwrap();
        // Nobody but the system has any part of it now.
        until("the stream's end", || {
            lab.relay().metrics().streams == 0 && client.metrics().streams == 0
        })
        .await;
        assert!(read_all(slow).await.unwrap() == sent);
    }
}

async fn urgent_bytes_arrive_in_their_place(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    // Now they are there before they are read, now one of them comes behind the others.
    for _ in 0..200 {
        say_urgently(&player, &mut game).await;
        say_urgently(&game, &mut player).await;
    }
}

/// Some bytes, an urgent one and some more, which arrive in this order.
async fn say_urgently(from: &TcpStream, to: &mut TcpStream) {
    let socket = socket2::SockRef::from(from);
    assert_eq!(socket.send(b"abc").unwrap(), 3);
    assert_eq!(socket.send_out_of_band(b"!").unwrap(), 1);
    assert_eq!(socket.send(b"def").unwrap(), 3);
    let mut came = [0; 7];
    hang("every byte", to.read_exact(&mut came)).await.unwrap();
    assert_eq!(&came, b"abc!def");
}

async fn a_reset_by_the_game_server_reaches_the_player_as_a_reset(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    player.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    hang("the greeting", game.read_exact(&mut buffer))
        .await
        .unwrap();
    reset(game);
    assert_eq!(end_of(&mut player).await, End::Reset);
}

async fn a_reset_by_the_player_reaches_the_game_server_as_a_reset(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    game.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    hang("the greeting", player.read_exact(&mut buffer))
        .await
        .unwrap();
    reset(player);
    assert_eq!(end_of(&mut game).await, End::Reset);
}

async fn a_reset_behind_a_stalled_reader_reaches_the_other_side(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let player = lab.tcp(lab.port).await;
    let _game = accept(&games).await;
    // The game server reads nothing: the stream fills up to its bounds.
    stuff(&player, || lab.relay().metrics().stream_bytes_in).await;
    reset(player);
    until("the end of the stream on both sides", || {
        lab.relay().metrics().streams == 0 && client.metrics().streams == 0
    })
    .await;
}

async fn a_refused_connection_ends_the_player_at_once_and_is_counted(via: Via) {
    let lab = Lab::new(via).await;
    let (closed, address) = listener(lab.ip).await;
    drop(closed);
    let client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    assert_eq!(attempt(&lab).await, End::Reset);
    assert_eq!(client.metrics().stream_target_refused, 1);
    until("the relay's count", || {
        lab.relay().metrics().stream_target_refused == 1
    })
    .await;
    assert_eq!(lab.relay().metrics().streams, 0);

    // The game server starts: the next player is served.
    let _server = Server::tcp_at(address).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

async fn a_target_whose_name_does_not_resolve_ends_the_player_and_is_counted(via: Via) {
    let lab = Lab::new(via).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, "no-such-host.invalid:1000")])
        .await;
    assert_eq!(attempt(&lab).await, End::Reset);
    assert_eq!(client.metrics().stream_unresolved, 1);
    until("the relay's count", || {
        lab.relay().metrics().stream_unresolved == 1
    })
    .await;
}

async fn every_port_of_a_range_leads_to_its_own_target(via: Via) {
    let lab = Lab::new(via).await;
    let mut servers = Vec::new();
    for place in 0..10 {
        servers.push(listener_at(lab.at(lab.port + 20 + place)).await);
    }
    let (public, target) = (
        format!("{}-{}", lab.port, lab.port + 9),
        format!("{}:{}-{}", lab.ip, lab.port + 20, lab.port + 29),
    );
    let _client = lab.client([simple("a", "tcp", public, target)]).await;
    for place in [0, 9, 4] {
        let mut player = lab.tcp(lab.port + place).await;
        let mut game = accept(&servers[usize::from(place)]).await;
        game.write_all(&[place as u8]).await.unwrap();
        let mut greeting = [0];
        hang("the greeting", player.read_exact(&mut greeting))
            .await
            .unwrap();
        assert_eq!(greeting, [place as u8]);
    }
}

async fn players_and_targets_may_be_ipv6(via: Via) {
    let lab = Lab::with(via, |builder| {
        builder.public_bind(Ipv6Addr::UNSPECIFIED.into())
    })
    .await;
    let server = Server::tcp(Ipv6Addr::LOCALHOST.into()).await;
    let port = free_port();
    let _client = lab
        .client([simple("a", "tcp", port, server.address())])
        .await;
    for address in [IpAddr::from(Ipv6Addr::LOCALHOST), lab.ip] {
        let player = TcpStream::connect(SocketAddr::new(address, port)).await;
        tcp_echo(&mut player.unwrap(), b"hello").await;
    }
}

async fn a_target_may_be_a_host_name(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(IpAddr::from([127, 0, 0, 1])).await;
    let target = format!("localhost:{}", server.address().port());
    let _client = lab.client([simple("a", "tcp", lab.port, target)]).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

async fn every_way_to_optimize_carries_talk_and_bulk(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let ways = ["latency", "throughput", "auto"];
    let services = ways
        .iter()
        .zip(lab.port..)
        .map(|(way, port)| service(way, "tcp", port, address).with_optimize(way.parse().unwrap()));
    let client = lab.client([instance("a", services)]).await;
    for port in lab.port..lab.port + 3 {
        let (mut player_in, mut player_out) = lab.tcp(port).await.into_split();
        let (mut game_in, mut game_out) = accept(&games).await.into_split();
        let poured = tokio::spawn(async move { pour(&mut player_out, 3, MIB_4).await });
        let answered = tokio::spawn(async move { pour(&mut game_out, 4, MIB_4).await });
        let arrived = tokio::spawn(async move { drain(&mut game_in).await });
        assert_eq!(drain(&mut player_in).await, answered.await.unwrap());
        assert_eq!(arrived.await.unwrap(), poured.await.unwrap());
    }
    if via == Via::Quic {
        assert!(
            client.metrics().lanes > 0,
            "throughput has lanes beside QUIC"
        );
    }
}

async fn a_burst_of_players_is_served(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let mut services = vec![service("game", "tcp", lab.port, server.address())];
    let bulk = service("bulk", "tcp", lab.port + 1, server.address());
    services.push(bulk.with_optimize(Optimize::Throughput));
    let _client = lab.client([instance("a", services)]).await;
    for port in [lab.port, lab.port + 1] {
        let mut players = Vec::new();
        for n in 0..50_u8 {
            let mut player = lab.tcp(port).await;
            players.push(tokio::spawn(async move {
                tcp_echo(&mut player, &[n; 100]).await;
                // Nobody leaves before all have been served.
                player
            }));
        }
        let mut connected = Vec::new();
        for player in players {
            connected.push(player.await.unwrap());
        }
    }
}

async fn one_connection_after_another_is_served(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let bulk = service("game", "tcp", lab.port, server.address());
    let bulk = bulk.with_optimize(Optimize::Throughput);
    let client = lab.client([instance("a", [bulk])]).await;
    for n in 0..60_u8 {
        let mut player = lab.tcp(lab.port).await;
        tcp_echo(&mut player, &[n; 10]).await;
        player.shutdown().await.unwrap();
        assert_eq!(read_all(&mut player).await.unwrap(), b"");
    }
    until("the streams' end", || {
        lab.relay().metrics().streams == 0 && client.metrics().streams == 0
    })
    .await;
    assert_eq!(lab.relay().metrics().stream_broken, 0);
}

async fn a_player_who_says_nothing_is_connected_all_the_same(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut player = lab.tcp(lab.port).await;
    // Many servers speak first.
    let mut game = accept(&games).await;
    game.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    hang("the greeting", player.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"220 ready");
}

/// How a player fares who is not served.
async fn attempt(lab: &Lab) -> End {
    match TcpStream::connect(lab.at(lab.port)).await {
        Ok(mut player) => end_of(&mut player).await,
        // The reset may come before `connect` has returned.
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            End::Reset
        }
    }
}

async fn listener_at(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.unwrap()
}

/// A game server with room for little that it has not read.
fn narrow_listener(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(NARROW).unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A reader's buffer, in bytes.
const NARROW: u32 = 4 * 1024;
/// More than a narrow reader has room for, and less than the system keeps for its sender.
const BEYOND_NARROW: usize = 48 * 1024;
/// In blocks of 256 KiB.
const MIB_32: u64 = 128;
const MIB_4: u64 = 16;
