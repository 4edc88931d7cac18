//! What a reader that stalls may cost: memory within bounds, and nobody else's time.

use std::{io::ErrorKind, net::SocketAddr};

use tokio::net::TcpSocket;
use tunnel_core::{metrics::Snapshot, relay::RelayLimits};

use crate::support::{
    Lab, Via, hang, instance,
    servers::{CALM, Server, accept, drain, listener, pour, stuff, tcp_echo, udp_echo},
    service, until,
};

on_every_transport!(
    a_game_server_that_does_not_read_stalls_nobody_else,
    a_player_who_does_not_read_stalls_nobody_else,
    many_stalled_readers_hold_no_more_than_the_tunnel_may,
    what_all_tunnels_hold_together_is_bounded_in_both_directions,
);

async fn a_game_server_that_does_not_read_stalls_nobody_else(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let echo = Server::both(lab.ip).await;
    let client = lab.client([both(&lab, address, &echo)]).await;
    let stalled = lab.tcp(lab.port).await;
    let game = accept(&games).await;
    stuff(&stalled, || lab.relay().metrics().stream_bytes_in).await;
    let held = lab.relay().metrics().stream_bytes_in - client.metrics().stream_bytes_in;
    assert!(held <= WINDOW_MAX, "{held} bytes are held");
    let sent = lab.relay().metrics().stream_bytes_in;
    others_are_served(&lab).await;
    // It was only late: what it was sent is all there.
    let (mut game_in, _game_out) = game.into_split();
    drop(stalled);
    let arrived = drain(&mut game_in).await;
    assert!(arrived.length() >= sent);
}

async fn a_player_who_does_not_read_stalls_nobody_else(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let echo = Server::both(lab.ip).await;
    let client = lab.client([both(&lab, address, &echo)]).await;
    let _stalled = lab.tcp(lab.port).await;
    let game = accept(&games).await;
    stuff(&game, || client.metrics().stream_bytes_out).await;
    let held = client.metrics().stream_bytes_out - lab.relay().metrics().stream_bytes_out;
    assert!(held <= WINDOW_MAX, "{held} bytes are held");
    others_are_served(&lab).await;
}

async fn many_stalled_readers_hold_no_more_than_the_tunnel_may(via: Via) {
    let lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let echo = Server::both(lab.ip).await;
    let client = lab.client([both(&lab, address, &echo)]).await;
    let mut stalled = Vec::new();
    for _ in 0..64 {
        stalled.push((lab.tcp(lab.port).await, accept(&games).await));
    }
    let mut stuffing = Vec::new();
    for (player, game) in stalled {
        let block = vec![7; 64 * 1024];
        // Until nothing moves for a while; a connection that moves again only makes the test easier.
        stuffing.push(tokio::spawn(async move {
            while let Ok(writable) = tokio::time::timeout(CALM, player.writable()).await {
                writable.unwrap();
                drop(player.try_write(&block));
            }
            (player, game)
        }));
    }
    let mut open = Vec::new();
    for stuffed in stuffing {
        open.push(hang("a stalled connection", stuffed).await.unwrap());
    }
    let held = lab.relay().metrics().stream_bytes_in - client.metrics().stream_bytes_in;
    assert!(held <= TUNNEL_MAX, "{held} bytes are held");
    others_are_served(&lab).await;
    until("the others' end", || lab.relay().metrics().streams == 64).await;
    drop(open);
}

async fn what_all_tunnels_hold_together_is_bounded_in_both_directions(via: Via) {
    let lab = Lab::with(via, |builder| {
        let mut limits = RelayLimits::default();
        limits.stream_memory = SMALL;
        builder.limits(limits)
    })
    .await;
    let echo = Server::both(lab.ip).await;
    let last = [service("echo", "both", lab.port + 1, echo.address())];
    let neighbour = lab.client([instance("neighbour", last)]).await;
    let mut clients = Vec::new();
    let mut stalled = Vec::new();
    for number in 0..4 {
        let (games, address) = listener(lab.ip).await;
        let port = lab.port + 2 + number;
        let stalling = [service("stalling", "tcp", port, address)];
        let id = format!("stalling-{number}");
        clients.push(lab.client([instance(&id, stalling)]).await);
        for _ in 0..16 {
            // What the kernel takes for a player is not held.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(16 * 1024).unwrap();
            let player = hang("a player's connect", socket.connect(lab.at(port))).await;
            stalled.push((player.unwrap(), accept(&games).await));
        }
    }
    let stuffing = stalled.into_iter().map(|(player, game)| {
        tokio::spawn(async move {
            let block = vec![7; 64 * 1024];
            for end in [&player, &game] {
                // Until nothing moves for a while; a stream that has to make room for others ends.
                while let Ok(Ok(())) = tokio::time::timeout(CALM, end.writable()).await {
                    match end.try_write(&block) {
                        Err(error) if error.kind() != ErrorKind::WouldBlock => break,
                        _ => {}
                    }
                }
            }
            (player, game)
        })
    });
    let stuffing = stuffing.collect::<Vec<_>>();
    let sum = |of: fn(&Snapshot) -> u64| clients.iter().map(|it| of(&it.metrics())).sum::<u64>();
    // What arrives meanwhile counts as not held any more.
    let up = || {
        let sent = lab.relay().metrics().stream_bytes_in;
        sent.saturating_sub(sum(|it| it.stream_bytes_in))
    };
    until("bytes to be held that were sent", || up() > 0).await;
    let mut open = Vec::new();
    for stuffed in stuffing {
        open.push(hang("a stalled connection", stuffed).await.unwrap());
    }
    let up = up();
    assert!(up <= SMALL, "{up} bytes are held that were sent");
    // The clients may send more than can wait here.
    until("a stream to make room", || {
        lab.relay().metrics().stream_limit > 0
    })
    .await;
    others_are_served(&lab).await;
    assert_eq!(neighbour.metrics().stream_limit, 0);
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_readers_that_go_over_to_another_tunnel_hold_no_more_than_before() {
    let lab = Lab::with(Via::Lane, |builder| {
        let mut limits = RelayLimits::default();
        limits.stream_memory = 4 * SHARE;
        builder.limits(limits)
    })
    .await;
    // What the kernel takes for a game server is not held.
    let games = narrow();
    games.bind(SocketAddr::new(lab.ip, 0)).unwrap();
    let games = games.listen(64).unwrap();
    let echo = Server::both(lab.ip).await;
    let client = lab
        .client([both(&lab, games.local_addr().unwrap(), &echo)])
        .await;
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let player = hang("a connect", narrow().connect(lab.at(lab.port))).await;
        stalled.push((player.unwrap(), accept(&games).await));
    }
    let block = vec![7; 64 * 1024];
    for changes in 0..3 {
        if changes > 0 {
            // Every lane ends, and with them the tunnel. Each stream goes on in the next one.
            lab.forwarder().cut();
            until("the streams on the next tunnel", || {
                lab.relay().metrics().streams_resumed >= changes * 64
            })
            .await;
        }
        // Until nothing moves for a while.
        let sent = || lab.relay().metrics().stream_bytes_in;
        let moved = || (sent(), client.metrics().stream_bytes_in);
        loop {
            let before = moved();
            for (player, _) in &stalled {
                while player.try_write(&block).is_ok() {}
            }
            tokio::time::sleep(CALM).await;
            if moved() == before {
                break;
            }
        }
        let held = sent() - client.metrics().stream_bytes_in;
        println!("{held} bytes are held after {changes} changes");
        assert!(
            held > 0 && held <= SHARE + 64 * READ,
            "{held} bytes after {changes}"
        );
    }
}

/// A socket that holds little of either direction.
fn narrow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    socket
}

fn both(lab: &Lab, stalling: SocketAddr, echo: &Server) -> tunnel_core::instance::Instance {
    instance(
        "a",
        [
            service("stalling", "tcp", lab.port, stalling),
            service("echo", "both", lab.port + 1, echo.address()),
        ],
    )
}

async fn others_are_served(lab: &Lab) {
    let mut player = lab.tcp(lab.port + 1).await;
    for _ in 0..10 {
        tcp_echo(&mut player, &[1; 1000]).await;
    }
    let udp = lab.udp(lab.port + 1).await;
    for _ in 0..10 {
        udp_echo(&udp, &[2; 1000]).await;
    }
    let (mut player_in, mut player_out) = player.into_split();
    let poured = tokio::spawn(async move { pour(&mut player_out, 5, 16).await });
    assert_eq!(drain(&mut player_in).await, poured.await.unwrap());
}

/// A stream's largest window, with what its last read may add.
const WINDOW_MAX: u64 = (16 << 20) + (256 << 10);
/// What the streams of all tunnels may hold on a small relay.
const SMALL: u64 = 4 << 20;
/// What a stream may read beyond that before it notices.
const READ: u64 = 128 << 10;
/// What one tunnel may hold of four times as much.
const SHARE: u64 = 16 << 20;
/// What the streams of a tunnel may hold.
const TUNNEL_MAX: u64 = 64 << 20;
