//! What a client tells its relay of services' health.

use super::*;
use crate::health::{HealthCheck, HealthState, TcpProbe};

/// A relay with these capabilities that has let a client in, whose only service has no target.
async fn relay_that_can(capabilities: Capabilities) -> (Hostile, Client) {
    let (relay_key, psk) = (SecretKey::generate().unwrap(), Psk::generate().unwrap());
    let socket = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let endpoint = relay_endpoint_that_can(socket, &relay_key, &psk, 1, capabilities);
    let nothing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let game = service("game", Protocol::Tcp, nothing.local_addr().unwrap());
    drop(nothing);
    let check = HealthCheck::new(TcpProbe).with_thresholds(1, 1).unwrap();
    let game = game.with_health(check).unwrap();
    let client = Client::builder(identity_at(address, &relay_key, &psk))
        .instances([Instance::new("srv", [game]).unwrap()])
        .start()
        .unwrap();
    let relay = Hostile::let_in(endpoint, relay_key, psk).await;
    client.bound().await.unwrap();
    (relay, client)
}

/// Waits until the client has found its service unhealthy, and returns the names of what it says to the relay until it has
/// answered a question that is asked after that.
async fn said(relay: &mut Hostile, client: &Client) -> Vec<&'static str> {
    let is_ill = async {
        loop {
            let health = client.status().await.unwrap().health;
            if matches!(&health[..], [(_, _, it)] if it.state == HealthState::Unhealthy) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG, is_ill).await.unwrap();
    let (number, heard) = (1 << 40, None);
    (relay.control.tx.send(Message::Ping { number, heard }))
        .await
        .unwrap();
    let mut said = Vec::new();
    loop {
        let message = timeout(HANG, relay.control.rx.recv()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Pong { number: it } if it == number => return said,
            Message::Ping { .. } | Message::Pong { .. } => {}
            message => said.push(message.name()),
        }
    }
}

#[tokio::test]
async fn a_relay_that_takes_word_of_health_is_told_and_one_of_before_is_not() {
    let before = Capabilities::STREAM_RESUMPTION | Capabilities::REDUNDANCY;
    let (mut relay, client) = relay_that_can(before).await;
    assert_eq!(said(&mut relay, &client).await, [""; 0]);
    let (mut relay, client) = relay_that_can(Capabilities::SUPPORTED).await;
    assert_eq!(said(&mut relay, &client).await, ["Health"]);
}
