//! Streams change from QUIC to a lane while they run, where that serves them, and nobody notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tunnel_core::{
    client::Client,
    instance::{Instance, Optimize},
    proto::stream::handover::CALM_LOOK,
    relay::RelayLimits,
};

use crate::support::{
    Lab, Via, hang, instance,
    servers::{
        End, Server, accept, drain, end_of, listener, pattern, pour, pour_while, read_all, tcp_echo,
    },
    service, simple, until,
};

on_transport!(
    quic,
    Quic,
    bulk_moves_to_a_lane_in_either_direction,
    talk_stays_on_quic_beside_bulk_that_moves,
    a_service_for_latency_keeps_its_bulk_on_quic,
    a_burst_goes_to_a_lane_and_the_talk_after_it_comes_back,
    bulk_stays_on_its_lane_and_comes_back_when_it_has_gone_quiet,
    a_stream_that_has_moved_ends_cleanly_and_leaves_its_lane_to_the_next,
    ends_that_come_before_the_move_come_once,
    when_the_relay_dies_the_game_server_sees_a_reset,
    when_the_client_dies_the_player_sees_a_reset,
);

on_transport!(
    router,
    Router,
    bulk_stays_on_quic_while_tcp_is_blocked_and_moves_when_it_is_not,
    bulk_whose_lanes_break_goes_on_over_quic_and_moves_again,
    a_service_for_throughput_moves_when_lanes_come,
    a_finished_download_does_not_move_when_lanes_come,
    what_is_cut_in_the_middle_of_a_move_to_a_lane_loses_nothing,
    what_is_cut_in_the_middle_of_a_move_back_loses_nothing,
);

/// What a test sees of one stream: both of its ends, in halves.
struct Ends {
    player: (OwnedReadHalf, OwnedWriteHalf),
    game: (OwnedReadHalf, OwnedWriteHalf),
}

/// Bulk is what flows at 4 Mbit/s, which any machine reaches.
async fn lab(via: Via) -> Lab {
    Lab::with(via, |builder| {
        let mut limits = RelayLimits::default();
        limits.lane_rate = 500_000;
        builder.limits(limits)
    })
    .await
}

/// A player of a service of the usual kind, and the game server's end.
async fn ends(lab: &Lab) -> (Client, Ends) {
    let (listener, target) = listener(lab.ip).await;
    let client = lab.client([simple("a", "tcp", lab.port, target)]).await;
    let player = lab.tcp(lab.port).await;
    let game = accept(&listener).await;
    (client, Ends::of(player, game))
}

impl Ends {
    fn of(player: TcpStream, game: TcpStream) -> Self {
        Self {
            player: player.into_split(),
            game: game.into_split(),
        }
    }

    /// Bulk from the ends that should pour, for as long as `scene` takes, and what came of it is what went.
    async fn pour_during(self, goes_up: bool, goes_down: bool, scene: impl Future<Output = ()>) {
        let Self {
            player: (mut player_rx, mut player_tx),
            game: (mut game_rx, mut game_tx),
        } = self;
        let done = AtomicBool::new(false);
        let goes_on = |pours: bool| {
            let done = &done;
            move |_| pours && !done.load(Ordering::Relaxed)
        };
        let scene = async {
            scene.await;
            done.store(true, Ordering::Relaxed);
        };
        let ((), up, came_up, down, came_down) = tokio::join!(
            scene,
            pour_while(&mut player_tx, 1, goes_on(goes_up)),
            drain(&mut game_rx),
            pour_while(&mut game_tx, 2, goes_on(goes_down)),
            drain(&mut player_rx),
        );
        assert_eq!(came_up, up);
        assert_eq!(came_down, down);
    }
}

fn moved(lab: &Lab) -> u64 {
    lab.relay().metrics().streams_moved
}

fn on_lanes(lab: &Lab) -> u64 {
    lab.relay().metrics().streams_on_lanes
}

fn bytes(lab: &Lab) -> u64 {
    let metrics = lab.relay().metrics();
    metrics.stream_bytes_in + metrics.stream_bytes_out
}

/// Comes when both sides of one stream have left QUIC.
async fn has_moved(lab: &Lab, client: &Client) {
    until("the stream's move", || {
        moved(lab) == 1 && client.metrics().streams_moved == 1
    })
    .await;
}

fn nothing_broke(lab: &Lab, client: &Client) {
    for metrics in [lab.relay().metrics(), client.metrics()] {
        assert_eq!(metrics.streams_resumed, 0);
        assert_eq!(metrics.stream_broken + metrics.stream_misbehaved, 0);
    }
}

async fn bulk_moves_to_a_lane_in_either_direction(via: Via) {
    for (goes_up, goes_down) in [(true, true), (true, false), (false, true)] {
        let lab = lab(via).await;
        let (client, ends) = ends(&lab).await;
        ends.pour_during(goes_up, goes_down, async {
            has_moved(&lab, &client).await;
            // And then some.
            let so_far = bytes(&lab);
            until("more of the transfer", || bytes(&lab) > so_far + (4 << 20)).await;
            assert_eq!(on_lanes(&lab), 1);
        })
        .await;
        nothing_broke(&lab, &client);
    }
}

/// Comes when both sides of one stream have changed so often.
async fn has_moved_times(lab: &Lab, client: &Client, times: u64) {
    until("the stream's move", || {
        moved(lab) == times && client.metrics().streams_moved == times
    })
    .await;
}

/// Some of the game's usual talk, until `holds`, and what came of it is what went.
async fn talk_until(ends: &mut Ends, holds: impl Fn() -> bool) {
    let talk = async {
        for number in 0_u64.. {
            if holds() {
                break;
            }
            let ask = number.to_be_bytes();
            ends.player.1.write_all(&ask).await.unwrap();
            let mut came = [0; 8];
            ends.game.0.read_exact(&mut came).await.unwrap();
            assert_eq!(came, ask);
            ends.game.1.write_all(&came).await.unwrap();
            ends.player.0.read_exact(&mut came).await.unwrap();
            assert_eq!(came, ask);
            // Ten ticks a second.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    hang("what talk should bring about", talk).await;
}

/// The game sends in one go until `holds`, and what came of it is what went.
async fn burst_until(ends: &mut Ends, holds: impl Fn() -> bool) {
    let (game, player) = (&mut ends.game.1, &mut ends.player.0);
    let burst = async {
        for number in 0_u64.. {
            if holds() {
                break;
            }
            let block = pattern(number, 256 * 1024);
            let mut came = vec![0; block.len()];
            let (sent, read) = tokio::join!(game.write_all(&block), player.read_exact(&mut came));
            sent.unwrap();
            read.unwrap();
            assert!(came == block, "block {number}");
        }
    };
    hang("what a burst should bring about", burst).await;
}

async fn a_burst_goes_to_a_lane_and_the_talk_after_it_comes_back(via: Via) {
    let lab = lab(via).await;
    let (client, mut ends) = ends(&lab).await;
    let both_at = |times: u64| {
        let (lab, client) = (&lab, &client);
        move || moved(lab) == times && client.metrics().streams_moved == times
    };
    // And again: the second time later, but it does.
    for round in 1..=2 {
        burst_until(&mut ends, both_at(2 * round - 1)).await;
        assert_eq!((on_lanes(&lab), client.metrics().streams_on_lanes), (1, 1));
        talk_until(&mut ends, both_at(2 * round)).await;
        assert_eq!((on_lanes(&lab), client.metrics().streams_on_lanes), (0, 0));
        // The lane is clean, and free again.
        until("lanes", || lab.relay().metrics().lanes == 5).await;
    }
    let Ends {
        player: (mut player_rx, mut player_tx),
        game: (mut game_rx, mut game_tx),
    } = ends;
    let up = pour(&mut player_tx, 5, 1).await;
    assert_eq!(drain(&mut game_rx).await, up);
    let down = pour(&mut game_tx, 6, 1).await;
    assert_eq!(drain(&mut player_rx).await, down);
    nothing_broke(&lab, &client);
}

async fn bulk_stays_on_its_lane_and_comes_back_when_it_has_gone_quiet(via: Via) {
    let lab = lab(via).await;
    let (client, mut first) = ends(&lab).await;
    // For longer than it takes to be calm, and not evenly.
    let start = tokio::time::Instant::now();
    burst_until(&mut first, || moved(&lab) == 1).await;
    while start.elapsed() < Duration::from_secs(9) {
        let so_far = bytes(&lab);
        burst_until(&mut first, || bytes(&lab) >= so_far + (4 << 20)).await;
        assert_eq!((moved(&lab), on_lanes(&lab)), (1, 1));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Not one byte more.
    has_moved_times(&lab, &client, 2).await;
    assert_eq!(on_lanes(&lab), 0);
    nothing_broke(&lab, &client);
}

async fn talk_stays_on_quic_beside_bulk_that_moves(via: Via) {
    let lab = lab(via).await;
    let server = Server::tcp(lab.ip).await;
    let (listener, target) = listener(lab.ip).await;
    let talk = service("talk", "tcp", lab.port, server.address());
    let bulk = service("bulk", "tcp", lab.port + 1, target);
    let client = lab.client([instance("a", [talk, bulk])]).await;
    let mut talk = lab.tcp(lab.port).await;
    // Less than what could be bulk, however fast it goes.
    for round in 0..100_u8 {
        tcp_echo(&mut talk, &vec![round; 4_000]).await;
    }
    let player = lab.tcp(lab.port + 1).await;
    let game = accept(&listener).await;
    let ends = Ends::of(player, game);
    ends.pour_during(true, true, has_moved(&lab, &client)).await;
    tcp_echo(&mut talk, b"on").await;
    assert_eq!(moved(&lab), 1, "the bulk's");
    nothing_broke(&lab, &client);
}

async fn a_service_for_latency_keeps_its_bulk_on_quic(via: Via) {
    let lab = lab(via).await;
    let (listener, target) = listener(lab.ip).await;
    let calm = service("calm", "tcp", lab.port, target).with_optimize(Optimize::Latency);
    let (other, other_target) = crate::support::servers::listener(lab.ip).await;
    let auto = service("auto", "tcp", lab.port + 1, other_target);
    let client = lab.client([instance("a", [calm, auto])]).await;
    let calm = Ends::of(lab.tcp(lab.port).await, accept(&listener).await);
    let auto = Ends::of(lab.tcp(lab.port + 1).await, accept(&other).await);
    // It has as much time for it as the one that moves, and all the lanes that it could want.
    let moves = AtomicBool::new(false);
    let scene = async {
        auto.pour_during(true, true, has_moved(&lab, &client)).await;
        moves.store(true, Ordering::Relaxed);
    };
    let so_far = bytes(&lab);
    calm.pour_during(true, true, async {
        scene.await;
        until("bulk", || bytes(&lab) > so_far + (8 << 20)).await;
    })
    .await;
    assert_eq!(moved(&lab), 1, "the other one");
    nothing_broke(&lab, &client);
}

async fn a_stream_that_has_moved_ends_cleanly_and_leaves_its_lane_to_the_next(via: Via) {
    let lab = lab(via).await;
    let (client, first) = ends(&lab).await;
    first
        .pour_during(true, true, has_moved(&lab, &client))
        .await;
    until("the streams' end", || {
        lab.relay().metrics().streams == 0 && client.metrics().streams == 0
    })
    .await;
    assert_eq!(on_lanes(&lab), 0);
    assert_eq!(client.metrics().streams_on_lanes, 0);
    // The four that stand ready, and the one that is free again.
    until("lanes", || lab.relay().metrics().lanes == 5).await;
    nothing_broke(&lab, &client);
}

async fn ends_that_come_before_the_move_come_once(via: Via) {
    for player_first in [true, false] {
        let lab = lab(via).await;
        let (client, ends) = ends(&lab).await;
        let (first, last) = if player_first {
            (ends.player, ends.game)
        } else {
            (ends.game, ends.player)
        };
        let ((mut first_rx, mut first_tx), (mut last_rx, mut last_tx)) = (first, last);
        let said = pour(&mut first_tx, 3, 1).await;
        assert_eq!(drain(&mut last_rx).await, said);
        // One direction has ended, on QUIC; the other makes the stream move.
        let is_over = || moved(&lab) == 1 && client.metrics().streams_moved == 1;
        let answered = pour_while(&mut last_tx, 4, |_| !is_over());
        let (answered, came) = tokio::join!(answered, drain(&mut first_rx));
        assert_eq!(came, answered);
        nothing_broke(&lab, &client);
    }
}

async fn when_the_relay_dies_the_game_server_sees_a_reset(via: Via) {
    let mut lab = lab(via).await;
    let (client, ends) = ends(&lab).await;
    let Ends { player, game } = ends;
    let (_player_rx, mut player_tx) = player;
    let (mut game_rx, _game_tx) = game;
    let pouring = tokio::spawn(async move {
        let block = vec![1; 64 * 1024];
        while player_tx.write_all(&block).await.is_ok() {}
    });
    let reading = tokio::spawn(async move { read_all(&mut game_rx).await });
    has_moved(&lab, &client).await;
    drop(lab.relay.take());
    // Another process in its place: only then does the client know that the streams are gone.
    lab.start_relay().await;
    let error = hang("the end of the game's side", reading)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    hang("the player's end", pouring).await.unwrap();
}

async fn when_the_client_dies_the_player_sees_a_reset(via: Via) {
    let lab = lab(via).await;
    let (listener, target) = listener(lab.ip).await;
    let identity = lab.identity();
    let wanted: Instance = simple("a", "tcp", lab.port, target);
    let client = lab.start(identity.clone(), [wanted.clone()]);
    crate::support::bound(&client, &wanted).await;
    let mut player = lab.tcp(lab.port).await;
    let (_game_rx, mut game_tx) = accept(&listener).await.into_split();
    let pouring = tokio::spawn(async move {
        let block = vec![1; 64 * 1024];
        while game_tx.write_all(&block).await.is_ok() {}
    });
    let reading = tokio::spawn(async move { end_of(&mut player).await });
    has_moved(&lab, &client).await;
    drop(client);
    let second = lab.start(identity, [wanted.clone()]);
    crate::support::bound(&second, &wanted).await;
    let end = hang("the player's end", reading).await.unwrap();
    assert_eq!(end, End::Reset);
    hang("the game's end", pouring).await.unwrap();
}

async fn bulk_stays_on_quic_while_tcp_is_blocked_and_moves_when_it_is_not(via: Via) {
    let lab = lab(via).await;
    lab.forwarder().refuse(true);
    let (client, ends) = ends(&lab).await;
    ends.pour_during(true, true, async {
        until("bulk on QUIC", || bytes(&lab) > 16 << 20).await;
        until("a lane that fails", || client.metrics().lanes_failed > 0).await;
        assert_eq!(moved(&lab), 0);
        lab.forwarder().refuse(false);
        has_moved(&lab, &client).await;
    })
    .await;
    nothing_broke(&lab, &client);
}

async fn bulk_whose_lanes_break_goes_on_over_quic_and_moves_again(via: Via) {
    let lab = lab(via).await;
    let (client, ends) = ends(&lab).await;
    ends.pour_during(true, true, async {
        for round in 1..=3 {
            until("the stream's move", || {
                moved(&lab) == round && client.metrics().streams_moved == round
            })
            .await;
            lab.forwarder().cut();
            until("the stream's going on", || {
                lab.relay().metrics().streams_resumed == round
            })
            .await;
            let so_far = bytes(&lab);
            until("more", || bytes(&lab) > so_far + (1 << 20)).await;
        }
    })
    .await;
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
}

async fn a_service_for_throughput_moves_when_lanes_come(via: Via) {
    let lab = lab(via).await;
    lab.forwarder().refuse(true);
    let server = Server::tcp(lab.ip).await;
    let bulk = service("bulk", "tcp", lab.port, server.address());
    let bulk = bulk.with_optimize(Optimize::Throughput);
    let client = lab.client([instance("a", [bulk])]).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"on QUIC").await;
    assert_eq!((moved(&lab), on_lanes(&lab)), (0, 0));
    lab.forwarder().refuse(false);
    has_moved(&lab, &client).await;
    tcp_echo(&mut player, b"on a lane").await;
    assert_eq!(on_lanes(&lab), 1);
    nothing_broke(&lab, &client);
}

async fn a_finished_download_does_not_move_when_lanes_come(via: Via) {
    let lab = lab(via).await;
    lab.forwarder().refuse(true);
    let (client, mut ends) = ends(&lab).await;
    let so_far = bytes(&lab);
    burst_until(&mut ends, || bytes(&lab) > so_far + (8 << 20)).await;
    // As long as it takes to tell that it is over.
    talk_until(&mut ends, {
        let start = tokio::time::Instant::now();
        move || start.elapsed() > 4 * CALM_LOOK
    })
    .await;
    lab.forwarder().refuse(false);
    until("lanes", || lab.relay().metrics().lanes >= 4).await;
    let start = tokio::time::Instant::now();
    talk_until(&mut ends, || start.elapsed() > CALM_LOOK).await;
    assert_eq!(moved(&lab), 0);
    // The next one does.
    burst_until(&mut ends, || moved(&lab) == 1).await;
    nothing_broke(&lab, &client);
}

/// Comes at the very moment, or near to it.
async fn at_once(what: &str, holds: impl Fn() -> bool) {
    hang(what, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn what_is_cut_in_the_middle_of_a_move_to_a_lane_loses_nothing(via: Via) {
    let lab = lab(via).await;
    let (client, ends) = ends(&lab).await;
    ends.pour_during(true, true, async {
        for round in 0..4 {
            let resumed = lab.relay().metrics().streams_resumed;
            at_once("the stream's agreed move", || match round % 2 {
                0 => client.metrics().streams_on_lanes == 1,
                _ => on_lanes(&lab) == 1,
            })
            .await;
            lab.forwarder().cut();
            until("the stream's going on", || {
                lab.relay().metrics().streams_resumed > resumed
            })
            .await;
            let so_far = bytes(&lab);
            until("more", || bytes(&lab) > so_far + (1 << 20)).await;
        }
    })
    .await;
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
    assert_eq!(lab.relay().metrics().stream_misbehaved, 0);
    assert_eq!(client.metrics().stream_misbehaved, 0);
}

async fn what_is_cut_in_the_middle_of_a_move_back_loses_nothing(via: Via) {
    for client_first in [true, false] {
        let lab = lab(via).await;
        let (client, mut ends) = ends(&lab).await;
        burst_until(&mut ends, || {
            moved(&lab) == 1 && client.metrics().streams_moved == 1
        })
        .await;
        let is_cut = AtomicBool::new(false);
        let cut = async {
            at_once("the stream's agreed move", || match client_first {
                true => client.metrics().streams_on_lanes == 0,
                false => on_lanes(&lab) == 0,
            })
            .await;
            lab.forwarder().cut();
            is_cut.store(true, Ordering::Relaxed);
        };
        let talk = talk_until(&mut ends, || is_cut.load(Ordering::Relaxed));
        tokio::join!(talk, cut);
        let Ends {
            player: (mut player_rx, mut player_tx),
            game: (mut game_rx, mut game_tx),
        } = ends;
        let (up, came_up) = tokio::join!(pour(&mut player_tx, 5, 1), drain(&mut game_rx));
        assert_eq!(came_up, up);
        let (down, came_down) = tokio::join!(pour(&mut game_tx, 6, 1), drain(&mut player_rx));
        assert_eq!(came_down, down);
        assert_eq!(lab.relay().metrics().stream_misbehaved, 0);
        assert_eq!(client.metrics().stream_misbehaved, 0);
    }
}
