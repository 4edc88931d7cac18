//! Against a take-over: what a process has said arrives when it is dead and another is at work. Its kernel repeats what was lost,
//! and an enemy keeps back what is to come late.

use std::sync::{Arc, Mutex};

use tunnel_core::client::ClientIdentity;

use crate::{
    Played,
    lanes::first_message,
    support::{Lab, Via, until},
    wire::{Recorded, Way, Wire},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_proof_of_a_dead_process_takes_nothing_over_on_a_lane() {
    let lab = Lab::new(Via::Quic).await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    wire.block_udp();
    wire.hold_tcp(true);
    let identity = lab.identity();
    let dead = lab.start(through(&wire, &identity), []);
    until("the proof", || {
        let is_there = |Recorded { to_relay: said, .. }: &Recorded| {
            said.len() > 3 && said.len() > first_message(said, 1).len()
        };
        wire.connections().iter().any(is_there)
    })
    .await;
    drop(dead);
    let mut played = Played::start(&lab, identity, 0).await;
    wire.hold_tcp(false);
    is_at_the_door(&lab).await;
    played.is_undisturbed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_proof_of_a_dead_process_takes_nothing_over_on_quic() {
    let lab = Lab::new(Via::Quic).await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let held: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let (holding, mut is_first) = (held.clone(), true);
    wire.meddle(move |way, datagram| {
        if way == Way::ToRelay && !std::mem::take(&mut is_first) {
            holding.lock().unwrap().push(datagram.to_vec());
            return Vec::new();
        }
        vec![(way, datagram.to_vec())]
    });
    let identity = lab.identity();
    let dead = lab.start(through(&wire, &identity), []);
    // The end of the handshake, and the control stream's first word.
    until("the proof", || held.lock().unwrap().len() >= 3).await;
    let proof = held.lock().unwrap().clone();
    drop(dead);
    let mut played = Played::start(&lab, identity, 0).await;
    for datagram in proof {
        wire.inject(Way::ToRelay, &datagram).await;
    }
    is_at_the_door(&lab).await;
    played.is_undisturbed(&lab).await;
}

fn through(wire: &Wire, identity: &ClientIdentity) -> ClientIdentity {
    let mut identity = identity.clone();
    identity.relay = wire.address().into();
    identity
}

/// Two have proved themselves: the one that is at work, and the one that is late.
async fn is_at_the_door(lab: &Lab) {
    until("the late one", || lab.relay().metrics().tunnels == 2).await;
}
