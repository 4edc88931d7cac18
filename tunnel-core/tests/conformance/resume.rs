//! Streams go on when what carries them breaks, in order, with nothing lost or doubled.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tunnel_core::{
    client::Client,
    event::Event,
    instance::{Instance, Optimize},
};

use crate::lifecycle::next;
use crate::support::{
    Lab, Via, bound, hang, instance,
    servers::{End, Server, accept, drain, end_of, listener, pour, pour_while, reset, tcp_echo},
    service, simple, until, waited,
};

on_transport!(
    lane,
    Lane,
    a_stream_survives_the_end_of_its_tunnel,
    bulk_survives_cuts_in_both_directions,
    ends_of_a_half_closed_stream_survive_a_cut,
    a_reset_while_there_is_no_channel_reaches_the_other_end,
    a_stream_leaves_a_tunnel_that_has_fallen_silent,
    streams_of_a_client_that_does_not_come_back_are_reset,
);

on_transport!(
    router,
    Router,
    a_stream_whose_lane_breaks_goes_on_over_another,
    a_stream_whose_lane_breaks_goes_on_over_quic,
    streams_follow_a_client_whose_address_changes,
    packets_from_an_address_that_nobody_has_shown_move_no_client,
    idle_lanes_that_lead_nowhere_are_replaced,
);

/// A service for bulk beside the usual one, and a client that has bound both.
async fn talk_and_bulk(lab: &Lab, server: &Server) -> (Client, Instance) {
    let bulk = service("bulk", "tcp", lab.port + 1, server.address());
    let bulk = bulk.with_optimize(Optimize::Throughput);
    let talk = service("talk", "tcp", lab.port, server.address());
    let wanted = instance("a", [talk, bulk]);
    let client = lab.client([wanted.clone()]).await;
    (client, wanted)
}

fn resumed(lab: &Lab) -> u64 {
    lab.relay().metrics().streams_resumed
}

async fn a_stream_survives_the_end_of_its_tunnel(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let wanted = simple("a", "tcp", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    for round in 1..=3 {
        lab.forwarder().cut();
        tcp_echo(&mut player, b"after").await;
        until("the stream's going on", || resumed(&lab) >= round).await;
    }
    assert_eq!(
        client.metrics().streams_opened,
        1,
        "the game noticed nothing"
    );
    assert!(client.metrics().streams_resumed >= 3);
}

async fn bulk_survives_cuts_in_both_directions(via: Via) {
    let lab = Lab::new(via).await;
    let (listener, target) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, target)]).await;
    let player = lab.tcp(lab.port).await;
    let game = accept(&listener).await;
    let (mut player_rx, mut player_tx) = player.into_split();
    let (mut game_rx, mut game_tx) = game.into_split();
    let moved = || {
        let metrics = lab.relay().metrics();
        metrics.stream_bytes_in + metrics.stream_bytes_out
    };
    let done = AtomicBool::new(false);
    let cuts = async {
        for _ in 0..8 {
            // A while of undisturbed transfer, and the next cut.
            let start = moved();
            until("more of the transfer", || moved() >= start + (3 << 20)).await;
            let before = resumed(&lab);
            lab.forwarder().cut();
            until("the stream's going on", || resumed(&lab) > before).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let goes_on = |_| !done.load(Ordering::Relaxed);
    let ((), up, came_up, down, came_down) = tokio::join!(
        cuts,
        pour_while(&mut player_tx, 1, goes_on),
        drain(&mut game_rx),
        pour_while(&mut game_tx, 2, goes_on),
        drain(&mut player_rx),
    );
    assert_eq!(came_up, up);
    assert_eq!(came_down, down);
}

async fn ends_of_a_half_closed_stream_survive_a_cut(via: Via) {
    let lab = Lab::new(via).await;
    let (listener, target) = listener(lab.ip).await;
    let _client = lab.client([simple("a", "tcp", lab.port, target)]).await;
    // One end has finished before the cut, and the other's answer comes after it.
    for player_first in [true, false] {
        let player = lab.tcp(lab.port).await;
        let game = accept(&listener).await;
        let (mut first, mut last) = if player_first {
            (player, game)
        } else {
            (game, player)
        };
        let said = pour(&mut first, 3, 2).await;
        assert_eq!(drain(&mut last).await, said);
        let before = resumed(&lab);
        lab.forwarder().cut();
        until("the stream's going on", || resumed(&lab) > before).await;
        let answered = pour(&mut last, 4, 20);
        let (answered, came) = tokio::join!(answered, drain(&mut first));
        assert_eq!(came, answered);
    }
}

async fn a_reset_while_there_is_no_channel_reaches_the_other_end(via: Via) {
    let lab = Lab::new(via).await;
    let (listener, target) = listener(lab.ip).await;
    let wanted = simple("a", "tcp", lab.port, target);
    let client = lab.client([wanted.clone()]).await;
    for player_resets in [true, false] {
        let mut player = lab.tcp(lab.port).await;
        player.write_all(b"hello").await.unwrap();
        let game = accept(&listener).await;
        hang("a word", game.readable()).await.unwrap();
        lab.forwarder().refuse(true);
        lab.forwarder().cut();
        waited("the tunnel's end", async || {
            client
                .status()
                .await
                .unwrap()
                .transport
                .is_none()
                .then_some(())
        })
        .await;
        let mut other = if player_resets {
            reset(player);
            game
        } else {
            reset(game);
            player
        };
        lab.forwarder().refuse(false);
        bound(&client, &wanted).await;
        assert_eq!(end_of(&mut other).await, End::Reset);
    }
}

async fn a_stream_leaves_a_tunnel_that_has_fallen_silent(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    lab.forwarder().freeze_all();
    tcp_echo(&mut player, b"after").await;
    assert_eq!(client.metrics().streams_opened, 1, "the same one");
}

async fn streams_of_a_client_that_does_not_come_back_are_reset(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let wanted = simple("a", "tcp", lab.port, server.address());
    let first = lab.start(identity.clone(), [wanted.clone()]);
    bound(&first, &wanted).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    lab.forwarder().refuse(true);
    lab.forwarder().cut();
    waited("the tunnel's end", async || {
        first
            .status()
            .await
            .unwrap()
            .transport
            .is_none()
            .then_some(())
    })
    .await;
    // Another process of the same client: its streams are its own.
    drop(first);
    lab.forwarder().refuse(false);
    let second = lab.start(identity, [wanted.clone()]);
    bound(&second, &wanted).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
}

/// A player whose stream is on a lane, at the latest when there is one.
async fn on_a_lane(lab: &Lab) -> TcpStream {
    let before = lab.relay().metrics().streams_on_lanes;
    let mut player = lab.tcp(lab.port + 1).await;
    tcp_echo(&mut player, b"before").await;
    lanes_carry(lab, before + 1).await;
    player
}

/// Comes when at least `streams` streams are on lanes: those that went on over QUIC for want of one move there.
async fn lanes_carry(lab: &Lab, streams: u64) {
    until("the streams' being on lanes", || {
        lab.relay().metrics().streams_on_lanes >= streams
    })
    .await;
}

async fn a_stream_whose_lane_breaks_goes_on_over_another(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let _client = talk_and_bulk(&lab, &server).await;
    let mut player = on_a_lane(&lab).await;
    for round in 1..=5 {
        lanes_carry(&lab, 1).await;
        lab.forwarder().cut();
        tcp_echo(&mut player, b"after").await;
        until("the stream's going on", || resumed(&lab) >= round).await;
    }
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
}

async fn a_stream_whose_lane_breaks_goes_on_over_quic(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let (client, _) = talk_and_bulk(&lab, &server).await;
    let mut player = on_a_lane(&lab).await;
    let mut events = client.events();
    lab.forwarder().refuse(true);
    lab.forwarder().cut();
    tcp_echo(&mut player, b"after").await;
    until("no lane", || lab.relay().metrics().lanes == 0).await;
    until("the stream's going on", || resumed(&lab) == 1).await;
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);

    // The operator is told that TCP does not get through, and that it does again.
    next(&mut events, |event| {
        matches!(event, Event::LanesBlocked { .. })
    })
    .await;
    assert!(client.status().await.unwrap().lanes_blocked);
    assert!(client.metrics().lanes_failed > 0);
    lab.forwarder().refuse(false);
    next(&mut events, |event| *event == Event::LanesBack).await;
    assert!(!client.status().await.unwrap().lanes_blocked);
    let _next = on_a_lane(&lab).await;
    lanes_carry(&lab, 2).await;
}

async fn streams_follow_a_client_whose_address_changes(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let _client = talk_and_bulk(&lab, &server).await;
    let mut talk = lab.tcp(lab.port).await;
    tcp_echo(&mut talk, b"before").await;
    let mut bulk = on_a_lane(&lab).await;
    for round in 1..=2 {
        lanes_carry(&lab, 1).await;
        lab.forwarder().move_to(elsewhere(round));
        tcp_echo(&mut talk, b"on QUIC").await;
        tcp_echo(&mut bulk, b"on a lane").await;
        until("the lane's being left", || {
            resumed(&lab) >= u64::from(round)
        })
        .await;
    }
    assert_eq!(lab.relay().metrics().tunnels_opened, 1, "QUIC migrates");
}

async fn packets_from_an_address_that_nobody_has_shown_move_no_client(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let (client, _) = talk_and_bulk(&lab, &server).await;
    let mut talk = lab.tcp(lab.port).await;
    tcp_echo(&mut talk, b"before").await;
    let mut bulk = on_a_lane(&lab).await;
    lanes_carry(&lab, 1).await;
    lab.forwarder().spoof(elsewhere(3)).await;
    // Each of them moves QUIC's idea of the address, and the next packet back; the relay looks at it with each control
    // message.
    let other = simple("b", "tcp", lab.port + 2, server.address());
    for _ in 0..40 {
        client.insert(other.clone()).await.unwrap();
        tcp_echo(&mut talk, b"on QUIC").await;
        tcp_echo(&mut bulk, b"on a lane").await;
        client.remove(other.id().clone()).await.unwrap();
    }
    assert_eq!(resumed(&lab), 0, "the lane was left for one packet");
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
}

async fn idle_lanes_that_lead_nowhere_are_replaced(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let _client = talk_and_bulk(&lab, &server).await;
    let mut player = on_a_lane(&lab).await;
    lab.forwarder().cut();
    tcp_echo(&mut player, b"after").await;
    // Players after that find lanes as players before did.
    let mut next = on_a_lane(&lab).await;
    tcp_echo(&mut next, b"more").await;
}

/// Another loopback address.
fn elsewhere(round: u8) -> IpAddr {
    Ipv4Addr::new(127, 255, 254, round).into()
}
