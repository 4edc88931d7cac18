//! Many conversations behind one address: who makes room for whom.

use std::time::Duration;

use tokio::{net::UdpSocket, task::JoinSet};
use tunnel_core::{
    event::{Crowded, Event, Limit},
    instance::Service,
    proto::flow::SETTLED,
    relay::RelayLimits,
};

use crate::{
    lifecycle::next,
    support::{
        Lab, Via, bounded, instance,
        servers::{Server, udp_echo, udp_seen},
        service, simple, until,
    },
};

on_every_transport!(
    a_monitor_with_a_fresh_port_for_each_query_is_answered_every_time,
    seventy_players_behind_one_address_all_play,
    who_plays_is_not_evicted_and_the_line_names_the_key,
    a_silent_flow_makes_room_and_the_line_names_the_key,
    a_flood_of_one_service_leaves_room_for_players_of_another,
    a_flood_of_one_client_leaves_room_for_players_of_another,
    what_a_client_holds_is_given_back_with_its_services,
);

/// A conversation that has settled.
pub(crate) async fn plays(lab: &Lab, port: u16) -> UdpSocket {
    let player = lab.udp(port).await;
    for round in 0..SETTLED {
        udp_echo(&player, &[round; 20]).await;
    }
    player
}

fn game(lab: &Lab, server: &Server, per_address: u32) -> Service {
    let game = service("game", "udp", lab.port, server.address());
    bounded(game, |flows| flows.per_address = per_address)
}

async fn a_monitor_with_a_fresh_port_for_each_query_is_answered_every_time(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let _client = lab.client([instance("a", [game(&lab, &server, 64)])]).await;
    let mut players = Vec::new();
    for _ in 0..10 {
        let player = lab.udp(lab.port).await;
        let seen = udp_seen(&player, b"hello").await;
        for round in 1..SETTLED {
            assert_eq!(udp_seen(&player, &[round; 20]).await, seen);
        }
        players.push((player, seen));
    }
    for round in 0..300_u32 {
        let mut queries = JoinSet::new();
        for query in 0..10 {
            let monitor = lab.udp(lab.port).await;
            queries.spawn(async move {
                udp_seen(&monitor, &(round * 10 + query).to_be_bytes()).await;
            });
        }
        while let Some(answered) = queries.join_next().await {
            answered.unwrap();
        }
        if round % 10 == 0 {
            for (player, seen) in &players {
                assert_eq!(udp_seen(player, &round.to_le_bytes()).await, *seen);
            }
        }
    }
    let counted = lab.relay().metrics();
    assert_eq!(counted.drop_address_cap, 0);
    assert_eq!(counted.flows, 64);
    // The system may give a port again while its flow is there.
    assert!((2_900..=3_010).contains(&counted.flows_opened));
}

async fn seventy_players_behind_one_address_all_play(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    let mut playing = JoinSet::new();
    for n in 0..70_u8 {
        let player = lab.udp(lab.port).await;
        playing.spawn(async move {
            for round in 0..10 {
                udp_echo(&player, &[n, round]).await;
            }
            player
        });
    }
    let players = playing.join_all().await;
    assert_eq!(players.len(), 70);
    for counted in [lab.relay().metrics(), client.metrics()] {
        assert_eq!((counted.flows, counted.flows_opened), (70, 70));
    }
    assert_eq!(lab.relay().metrics().drop_address_cap, 0);
}

async fn who_plays_is_not_evicted_and_the_line_names_the_key(via: Via) {
    let lab = Lab::new(via).await;
    let mut events = lab.relay().events();
    let server = Server::udp(lab.ip).await;
    let _client = lab.client([instance("a", [game(&lab, &server, 3)])]).await;
    let mut players = Vec::new();
    for _ in 0..3 {
        players.push(plays(&lab, lab.port).await);
    }
    let newest = lab.udp(lab.port).await;
    for n in 1..=5 {
        newest.send(b"one too many").await.unwrap();
        until("the count", || lab.relay().metrics().drop_address_cap == n).await;
    }
    let Event::Crowded(told) = next(&mut events, |it| matches!(it, Event::Crowded(_))).await else {
        unreachable!()
    };
    assert_eq!(
        told.to_string(),
        format!(
            "instance a, service game (port {}): the service's flows_per_address = 3 is reached by {}; new flows are refused",
            lab.port, lab.ip
        )
    );
    for player in &players {
        udp_echo(player, b"hello again").await;
    }
    let counted = lab.relay().metrics();
    assert_eq!((counted.flows, counted.flows_evicted), (3, 0));
    // Another address is another matter.
    let neighbour = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    neighbour.connect(lab.at(lab.port)).await.unwrap();
    udp_echo(&neighbour, b"hello").await;
    // Once a minute: nothing more is said, however often it happened.
    let more = tokio::time::timeout(
        Duration::from_millis(200),
        next(&mut events, |it| matches!(it, Event::Crowded(_))),
    );
    assert!(more.await.is_err());
}

async fn a_silent_flow_makes_room_and_the_line_names_the_key(via: Via) {
    let lab = Lab::new(via).await;
    let mut events = lab.relay().events();
    let server = Server::udp(lab.ip).await;
    let client = lab.client([instance("a", [game(&lab, &server, 3)])]).await;
    let player = plays(&lab, lab.port).await;
    let mut silent = Vec::new();
    for n in 0..5_u8 {
        let other = lab.udp(lab.port).await;
        udp_echo(&other, &[n]).await;
        silent.push(other);
    }
    let is_told = |event: &Event| {
        matches!(
            event,
            Event::Crowded(Crowded {
                limit: Limit::FlowsPerAddress,
                refuses: false,
                ..
            })
        )
    };
    next(&mut events, is_told).await;
    udp_echo(&player, b"still the same").await;
    until("the end of the evicted", || client.metrics().flows == 3).await;
    let counted = lab.relay().metrics();
    assert_eq!((counted.flows, counted.flows_evicted), (3, 3));
    assert_eq!(counted.flows_opened, 6);
    assert_eq!(server.players().len(), 6);
}

/// A laboratory whose relay has other limits.
async fn lab(via: Via, change: fn(&mut RelayLimits)) -> Lab {
    Lab::with(via, move |builder| {
        let mut limits = RelayLimits::default();
        change(&mut limits);
        builder.limits(limits)
    })
    .await
}

/// `count` players who are never answered, as a flood from forged addresses would be.
async fn floods(lab: &Lab, port: u16, count: u64) {
    let before = lab.relay().metrics().flows_opened;
    // Kept, or the system might give a port again.
    let mut sockets = Vec::new();
    for n in 1..=count {
        let socket = lab.udp(port).await;
        socket.send(b"flood").await.unwrap();
        sockets.push(socket);
        until("the flood's arrival", || {
            lab.relay().metrics().flows_opened == before + n
        })
        .await;
    }
}

async fn a_flood_of_one_service_leaves_room_for_players_of_another(via: Via) {
    let lab = lab(via, |limits| limits.flows_per_client = 20).await;
    let server = Server::udp(lab.ip).await;
    let silent = UdpSocket::bind(lab.at(0)).await.unwrap();
    let _client = lab
        .client([
            simple("flooded", "udp", lab.port, silent.local_addr().unwrap()),
            simple("game", "udp", lab.port + 1, server.address()),
        ])
        .await;
    let player = plays(&lab, lab.port + 1).await;
    floods(&lab, lab.port, 50).await;
    for n in 0..10_u8 {
        udp_echo(&lab.udp(lab.port + 1).await, &[n]).await;
    }
    udp_echo(&player, b"undisturbed").await;
    let counted = lab.relay().metrics();
    assert_eq!((counted.flows, counted.flows_opened), (20, 61));
    assert_eq!(counted.drop_client_cap, 0);
}

async fn a_flood_of_one_client_leaves_room_for_players_of_another(via: Via) {
    let lab = lab(via, |limits| limits.flows = 20).await;
    let server = Server::udp(lab.ip).await;
    let silent = UdpSocket::bind(lab.at(0)).await.unwrap();
    let flooded = simple("flooded", "udp", lab.port, silent.local_addr().unwrap());
    let _flooded = lab.client([flooded]).await;
    let _client = lab
        .client([simple("game", "udp", lab.port + 1, server.address())])
        .await;
    let player = plays(&lab, lab.port + 1).await;
    floods(&lab, lab.port, 50).await;
    for n in 0..10_u8 {
        udp_echo(&lab.udp(lab.port + 1).await, &[n]).await;
    }
    udp_echo(&player, b"undisturbed").await;
    let counted = lab.relay().metrics();
    assert_eq!((counted.flows, counted.flows_opened), (20, 61));
    assert_eq!(counted.drop_limit, 0);
}

async fn what_a_client_holds_is_given_back_with_its_services(via: Via) {
    let lab = lab(via, |limits| {
        (limits.flows, limits.flows_per_client) = (3, 2)
    })
    .await;
    let server = Server::udp(lab.ip).await;
    let client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    let _players = [plays(&lab, lab.port).await, plays(&lab, lab.port).await];
    let third = lab.udp(lab.port).await;
    third.send(b"one too many").await.unwrap();
    until("the count", || lab.relay().metrics().drop_client_cap == 1).await;
    client
        .set_instances([simple("b", "udp", lab.port + 1, server.address())])
        .await
        .unwrap();
    until("the end of the service", || {
        lab.relay().metrics().flows == 0
    })
    .await;
    for _ in 0..2 {
        plays(&lab, lab.port + 1).await;
    }
    assert_eq!(lab.relay().metrics().flows, 2);
}
