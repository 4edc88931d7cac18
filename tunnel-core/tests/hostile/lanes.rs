//! Against lanes.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tunnel_core::{Transport, event::Event, instance::Optimize};

use crate::{
    Played, fails,
    support::{
        Lab, Via, bound, hang, instance,
        servers::{Server, drain, pour, tcp_echo},
        service, until,
    },
    wire::{Recorded, Way, Wire},
};

/// A client whose UDP gets nowhere, and the wire that it is on.
pub(crate) async fn on_lanes(lab: &Lab, n: u16) -> (Wire, Played) {
    let wire = Wire::start(lab.ip, lab.listen()).await;
    wire.block_udp();
    let mut identity = lab.identity();
    identity.relay = wire.address().into();
    let played = Played::start(lab, identity, n).await;
    assert_eq!(
        played.client.status().await.unwrap().transport,
        Some(Transport::Lane)
    );
    (wire, played)
}

/// Sends bytes from elsewhere, ends that direction, and takes what comes until the relay has closed.
pub(crate) async fn offer(relay: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stranger = TcpStream::connect(relay).await.unwrap();
    // The relay may have closed before it was told everything.
    drop(stranger.write_all(bytes).await);
    drop(stranger.shutdown().await);
    let mut answer = Vec::new();
    let ended = hang("the relay's close", stranger.read_to_end(&mut answer)).await;
    if let Err(error) = ended {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    answer
}

/// Whether this connection was the opening of a further lane.
fn is_further(recorded: &Recorded) -> bool {
    recorded.to_relay.first() == Some(&0x11)
}

/// A lane's first message, `before` bytes and a length before it, with these.
pub(crate) fn first_message(stream: &[u8], before: usize) -> &[u8] {
    let length = [stream[before], stream[before + 1]];
    &stream[..before + 2 + usize::from(u16::from_be_bytes(length))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_lane_takes_nothing_over() {
    let lab = Lab::new(Via::Quic).await;
    let (wire, mut played) = on_lanes(&lab, 0).await;
    until("further lanes", || {
        wire.connections()
            .iter()
            .any(|lane| is_further(lane) && !lane.to_client.is_empty())
    })
    .await;
    // One that the relay has not answered yet is not used yet: whoever is faster than the client may use it up.
    let lanes = wire.connections();
    let answered = lanes.iter().filter(|lane| !lane.to_client.is_empty());
    let failed = lab.relay().metrics().handshakes_failed;
    let mut replays = 0;
    for lane in answered {
        // Everything that went up, and the opening alone.
        let opening = if is_further(lane) {
            &lane.to_relay[..57]
        } else {
            first_message(&lane.to_relay, 1)
        };
        for bytes in [&lane.to_relay[..], opening] {
            let answer = offer(lab.listen(), bytes).await;
            let expected = if is_further(lane) {
                0
            } else {
                // Message 2, which only the client can read, and nothing behind it.
                first_message(&lane.to_client, 0).len()
            };
            assert_eq!(answer.len(), expected);
            replays += 1;
        }
    }
    assert!(replays >= 4);
    until("every replay's being counted", || {
        lab.relay().metrics().handshakes_failed == failed + replays
    })
    .await;
    played.is_undisturbed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_in_any_byte_of_an_opening_is_closed_without_a_byte() {
    let lab = Lab::new(Via::Quic).await;
    let (wire, mut played) = on_lanes(&lab, 0).await;
    until("further lanes", || {
        wire.connections().iter().any(is_further)
    })
    .await;
    let lanes = wire.connections();
    let first = lanes.iter().find(|lane| !is_further(lane)).unwrap();
    let further = lanes.iter().find(|lane| is_further(lane)).unwrap();
    let first = first_message(&first.to_relay, 1);
    let further = &further.to_relay[..57];
    let failed = lab.relay().metrics().handshakes_failed;
    for opening in [first, further] {
        for at in 0..opening.len() {
            let mut flipped = opening.to_vec();
            flipped[at] ^= 1 << (at % 8);
            let answer = offer(lab.listen(), &flipped).await;
            assert_eq!(answer, [0; 0], "byte {at} of {}", opening.len());
        }
    }
    let offered = (first.len() + further.len()) as u64;
    until("every opening's being counted", || {
        lab.relay().metrics().handshakes_failed == failed + offered
    })
    .await;
    played.is_undisturbed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_flipped_on_a_lane_reaches_no_player() {
    let lab = Lab::new(Via::Quic).await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    wire.block_udp();
    let mut identity = lab.identity();
    identity.relay = wire.address().into();
    let server = Server::tcp(lab.ip).await;
    let bulk = service("bulk", "tcp", lab.port, server.address());
    let bulk = bulk.with_optimize(Optimize::Throughput);
    let wanted = instance("a", [bulk]);
    let client = lab.start(identity, [wanted.clone()]);
    bound(&client, &wanted).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;

    // Five times a bit is flipped in the midst of a bulk transfer, each time of another lane and either way.
    let (mut passed, mut flips, mut before) = (0, 0, None);
    let flipped = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = flipped.clone();
    wire.meddle_tcp(move |lane, _, chunk| {
        passed += chunk.len();
        if flips < 5 && passed > 300_000 && before != Some(lane) && chunk.len() > 10_000 {
            let at = chunk.len() / 2;
            chunk[at] ^= 0x10;
            (passed, before) = (0, Some(lane));
            flips += 1;
            count.store(flips, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let (mut from, mut to) = lab.tcp(lab.port).await.into_split();
    let (sent, came) = tokio::join!(pour(&mut to, 9, 40), drain(&mut from));
    assert_eq!(sent, came);
    assert_eq!(flipped.load(std::sync::atomic::Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_no_relay() {
    let lab = Lab::new(Via::Quic).await;
    is_no_relay(&lab, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_no_relay() {
    let lab = Lab::new(Via::Quic).await;
    let (wire, mut played) = on_lanes(&lab, 0).await;
    let first = wire.connections().remove(0);
    assert!(!is_further(&first));
    is_no_relay(&lab, Some(first.to_client)).await;
    played.is_undisturbed(&lab).await;
}

/// A client whose way leads to an enemy finds no relay: one that answers with this, or with what it is told.
async fn is_no_relay(lab: &Lab, recording: Option<Vec<u8>>) {
    let enemy = TcpListener::bind((lab.ip, 0)).await.unwrap();
    let address = enemy.local_addr().unwrap();
    let enemy = tokio::spawn(async move {
        loop {
            let (mut victim, _) = enemy.accept().await.unwrap();
            let mut opening = vec![0; 4_096];
            let length = victim.read(&mut opening).await.unwrap();
            let answer = recording.as_deref().unwrap_or(&opening[..length]);
            drop(victim.write_all(answer).await);
            // As a relay that waits for the proof.
            drop(victim.read(&mut opening).await);
        }
    });
    let mut identity = lab.identity();
    identity.relay = address.into();
    let client = lab.start(identity, []);
    fails(&mut client.events(), 1).await;
    assert_eq!(client.status().await.unwrap().transport, None);
    enemy.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_promises_too_much_is_not_waited_for_by_a_relay() {
    promises_too_much(Way::ToRelay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_promises_too_much_is_not_waited_for_by_a_client() {
    promises_too_much(Way::ToClient).await;
}

/// The length of a record is in the clear: the enemy makes the next one of the control lane a large one.
async fn promises_too_much(way: Way) {
    let lab = Lab::new(Via::Quic).await;
    let (wire, mut played) = on_lanes(&lab, 0).await;
    let mut events = played.client.events();
    let mut done = false;
    wire.meddle_tcp(move |lane, which, chunk| {
        if !done && lane == 0 && which == way && chunk.len() >= 2 {
            chunk[..2].copy_from_slice(&[0xff, 0xff]);
            done = true;
        }
    });
    // The lane is given up at once, not when 64 KiB have come; the first try brings the tunnel back, whatever the client
    // tried beside it.
    let mut lost = None;
    hang("another tunnel", async {
        loop {
            match events.next().await.unwrap().unwrap() {
                Event::TunnelDown { reason, .. } => {
                    assert_eq!(lost.replace(reason), None, "lost again");
                }
                Event::TunnelUp { .. } if lost.is_some() => return,
                // A tunnel that fell soon is not dialled again at once, and the client says so: that is no try that failed.
                Event::Reconnecting { reason, .. } if lost.as_ref() == Some(&reason) => {}
                Event::Reconnecting { reason, .. } if lost.is_some() => panic!("{reason}"),
                _ => {}
            }
        }
    })
    .await;
    played.goes_on().await;
}
