//! Relays that die under their players: the game does not notice.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use tokio::net::UdpSocket;
use tunnel_core::{client::ClientLimits, instance::Instance};

use crate::{
    lifecycle::until_unbound,
    support::{
        Lab, Via, bound, hang, instance,
        servers::{Server, udp_echo, udp_seen},
        service, simple, until, waited,
    },
};

on_every_transport!(
    players_keep_the_games_view_of_them_whenever_the_relay_dies,
    players_keep_it_when_the_relay_is_restarted_in_peace,
    a_player_of_several_services_and_ports_keeps_each,
    what_a_game_says_to_who_is_not_back_is_dropped_and_counted,
    who_does_not_come_back_is_forgotten,
    parked_flows_are_the_first_to_make_room,
    what_is_removed_meanwhile_is_not_kept,
    a_new_tunnel_of_the_same_relay_parks_nothing,
);

/// The relay dies without a word and is started anew, and the client is there again.
async fn dies(lab: &mut Lab, client: &tunnel_core::client::Client, wanted: &Instance) {
    drop(lab.relay.take());
    lab.start_relay().await;
    comes_back(lab, client, wanted).await;
}

async fn comes_back(lab: &Lab, client: &tunnel_core::client::Client, wanted: &Instance) {
    waited("the client's return", async || {
        (lab.relay().metrics().tunnels > 0).then_some(())
    })
    .await;
    bound(client, wanted).await;
}

async fn players_keep_the_games_view_of_them_whenever_the_relay_dies(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let wanted = simple("a", "udp", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let mut players = Vec::new();
    for n in 0..20_u8 {
        let player = lab.udp(lab.port).await;
        let seen = udp_seen(&player, &[n]).await;
        players.push((player, seen));
    }
    for round in 1..=3 {
        dies(&mut lab, &client, &wanted).await;
        for (player, seen) in &players {
            assert_eq!(udp_seen(player, &[round]).await, *seen, "{round}");
        }
        // New ones are new.
        let other = udp_seen(&lab.udp(lab.port).await, b"new").await;
        assert!(players.iter().all(|(_, seen)| *seen != other));
        let counted = client.metrics();
        // Those who were new in the rounds before have not come back.
        assert_eq!(counted.flows_resumed, 20 * u64::from(round));
        assert_eq!(counted.flows_parked, u64::from(round) - 1);
        assert_eq!(counted.flows_opened, 20 + u64::from(round));
    }
    assert_eq!(lab.relay().metrics().flows, 21);
}

async fn players_keep_it_when_the_relay_is_restarted_in_peace(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let wanted = simple("a", "udp", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let player = lab.udp(lab.port).await;
    let seen = udp_seen(&player, b"before").await;
    lab.stop_relay().await;
    until_unbound(&client).await;
    lab.start_relay().await;
    comes_back(&lab, &client, &wanted).await;
    assert_eq!(udp_seen(&player, b"after").await, seen);
}

async fn a_player_of_several_services_and_ports_keeps_each(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let target = server.address();
    let wanted = instance(
        "a",
        [
            service("one", "udp", lab.port, target),
            service("two", "udp", lab.port + 1, target),
        ],
    );
    let client = lab.client([wanted.clone()]).await;
    let player = UdpSocket::bind(SocketAddr::new(lab.ip, 0)).await.unwrap();
    let ask = async |text: &[u8]| {
        let mut seen = Vec::new();
        for port in [lab.port, lab.port + 1] {
            player.connect(SocketAddr::new(lab.ip, port)).await.unwrap();
            seen.push(udp_seen(&player, text).await);
        }
        seen
    };
    let seen = ask(b"before").await;
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 2);
    drop(lab.relay.take());
    lab.start_relay().await;
    comes_back(&lab, &client, &wanted).await;
    let ask = async |text: &[u8]| {
        let mut seen = Vec::new();
        // The other way round: the first to come is not simply given the first that is there.
        for port in [lab.port + 1, lab.port] {
            player.connect(SocketAddr::new(lab.ip, port)).await.unwrap();
            seen.insert(0, udp_seen(&player, text).await);
        }
        seen
    };
    assert_eq!(ask(b"after").await, seen);
}

async fn what_a_game_says_to_who_is_not_back_is_dropped_and_counted(via: Via) {
    let mut lab = Lab::new(via).await;
    let game = UdpSocket::bind(lab.at(0)).await.unwrap();
    let wanted = simple("a", "udp", lab.port, game.local_addr().unwrap());
    let client = lab.client([wanted.clone()]).await;
    let player = lab.udp(lab.port).await;
    let mut buffer = [0; 64];
    player.send(b"hello").await.unwrap();
    let (_, seen) = hang("the player", game.recv_from(&mut buffer))
        .await
        .unwrap();
    dies(&mut lab, &client, &wanted).await;
    until("the parking", || client.metrics().flows_parked == 1).await;
    for _ in 0..5 {
        game.send_to(b"to nobody", seen).await.unwrap();
    }
    until("the drops", || client.metrics().drop_parked == 5).await;
    assert_eq!(lab.relay().metrics().drop_unknown_flow, 0);
    // From the first word on it is the player's again.
    waited("the player", async || {
        player.send(b"here again").await.unwrap();
        let received = game.recv_from(&mut buffer);
        let received = tokio::time::timeout(Duration::from_millis(250), received).await;
        (received.ok()?.unwrap().1 == seen).then_some(())
    })
    .await;
    game.send_to(b"welcome", seen).await.unwrap();
    let length = hang("the answer", player.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"welcome");
    let counted = client.metrics();
    assert_eq!((counted.flows, counted.flows_parked), (1, 0));
}

fn limits(change: fn(&mut ClientLimits)) -> ClientLimits {
    let mut limits = ClientLimits::default();
    change(&mut limits);
    limits
}

async fn who_does_not_come_back_is_forgotten(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let wanted = simple("a", "udp", lab.port, server.address());
    let limits = limits(|limits| limits.parked_flow_time = Duration::from_secs(2));
    let client = lab.start_with(lab.identity(), [wanted.clone()], limits);
    bound(&client, &wanted).await;
    let player = lab.udp(lab.port).await;
    let seen = udp_seen(&player, b"before").await;
    dies(&mut lab, &client, &wanted).await;
    until("the parking", || client.metrics().flows_parked == 1).await;
    until("its end", || client.metrics().flows == 0).await;
    assert_eq!(client.metrics().flows_parked, 0);
    assert_ne!(udp_seen(&player, b"after").await, seen);
    assert_eq!(client.metrics().flows_resumed, 0);
}

async fn parked_flows_are_the_first_to_make_room(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let wanted = simple("a", "udp", lab.port, server.address());
    let limits = limits(|limits| limits.flows = 4);
    let client = lab.start_with(lab.identity(), [wanted.clone()], limits);
    bound(&client, &wanted).await;
    let mut players = Vec::new();
    for n in 0..4_u8 {
        let player = lab.udp(lab.port).await;
        let seen = udp_seen(&player, &[n]).await;
        players.push((player, seen));
    }
    // The last one was heard of last.
    dies(&mut lab, &client, &wanted).await;
    let (last, seen) = &players[3];
    assert_eq!(udp_seen(last, b"back").await, *seen);
    for _ in 0..2 {
        udp_seen(&lab.udp(lab.port).await, b"new").await;
    }
    let counted = client.metrics();
    assert_eq!((counted.flows_parked, counted.flows_resumed), (1, 1));
    assert_eq!(counted.drop_limit, 0);
    // Who was silent for longest has gone.
    let (third, seen) = &players[2];
    assert_eq!(udp_seen(third, b"back").await, *seen);
    until("four flows", || client.metrics().flows == 4).await;
    let fifth = lab.udp(lab.port).await;
    fifth.send(b"one too many").await.unwrap();
    until("the drop", || client.metrics().drop_limit == 1).await;
}

async fn what_is_removed_meanwhile_is_not_kept(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::udp_witness(lab.ip).await;
    let wanted = simple("a", "udp", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let player = lab.udp(lab.port).await;
    let seen = udp_seen(&player, b"before").await;
    dies(&mut lab, &client, &wanted).await;
    until("the parking", || client.metrics().flows_parked == 1).await;
    client.set_instances([]).await.unwrap();
    until("the flow's end", || client.metrics().flows == 0).await;
    assert_eq!(client.metrics().flows_parked, 0);
    client.insert(wanted.clone()).await.unwrap();
    bound(&client, &wanted).await;
    assert_ne!(udp_seen(&player, b"after").await, seen);
}

async fn a_new_tunnel_of_the_same_relay_parks_nothing(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::udp(lab.ip).await;
    let identity = lab.identity();
    let wanted = simple("a", "udp", lab.port, server.address());
    let first = lab.start(identity.clone(), [wanted.clone()]);
    bound(&first, &wanted).await;
    let player = lab.udp(lab.port).await;
    udp_echo(&player, b"hello").await;
    // Another process of the client: the relay stays, and so does the flow.
    let second = lab.start(identity, [wanted.clone()]);
    hang("the first one's end", first.finished()).await;
    bound(&second, &wanted).await;
    udp_echo(&player, b"hello again").await;
    let counted = second.metrics();
    assert_eq!((counted.flows_opened, counted.flows_parked), (1, 0));
    assert_eq!(lab.relay().metrics().flows_opened, 1);
}
