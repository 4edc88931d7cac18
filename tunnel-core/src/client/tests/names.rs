//! A target whose name takes its time to resolve.

use std::collections::BTreeSet;

use super::*;
use crate::tunnel::fault;

#[tokio::test]
async fn the_first_datagrams_of_players_wait_for_the_name_and_as_many_as_have_places() {
    let game = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = game.local_addr().unwrap().port();
    // For the first seconds the name does not resolve.
    for _ in 0..5 {
        fault::arm(format!("resolving localhost for {port}"));
    }
    let named = Service::new("game", Protocol::Udp, &*format!("localhost:{port}")).unwrap();
    let (relay, client) = Hostile::over(Instance::new("srv", [named]).unwrap()).await;
    for player in 1..=70_u16 {
        let open = FlowOpen {
            service: relay.id("game"),
            port_index: 0,
            player: ([192, 0, 2, 1], player).into(),
            local: None,
        };
        relay.say(player.into(), Some(open), &player.to_be_bytes());
    }
    let mut heard = BTreeSet::new();
    while heard.len() < 64 {
        let mut buffer = [0; 16];
        let received = timeout(HANG, game.recv_from(&mut buffer)).await;
        let (length, _) = received.unwrap().unwrap();
        heard.insert(buffer[..length].to_vec());
    }
    let counted = client.metrics();
    assert_eq!((counted.flows_opened, counted.drop_unresolved), (64, 6));
}
