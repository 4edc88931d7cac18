//! Strangers by the thousand: what they cost a relay, and that clients come in all the same.
//!
//! The tests here measure CPU time and use up descriptors, so they run one after the other.
#![cfg(all(feature = "net", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/flood.rs"]
mod flood;
#[path = "support/mod.rs"]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpSocket, sync::Mutex};
use tunnel_core::{Transport, bench_support::FirstMessages};

use flood::{Flood, RelayThread};
use support::{
    Lab, Via, hang, instance,
    servers::{Server, tcp_echo, udp_echo},
    service, until,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A flood of each kind, at a rate that would take several cores if every packet cost what a handshake does.
async fn a_flood_is_bounded(kind: &str, packets: Vec<Vec<u8>>, relay: &RelayThread) -> String {
    // What the budget has saved up is for clients that come back at once, and may be used up first.
    let warm = Flood::start(relay.address(), packets.clone(), RATE);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, sent_before) = (relay.cpu().await, warm.sent());
    tokio::time::sleep(MEASURED).await;
    let (after, sent) = (relay.cpu().await, warm.sent() - sent_before);
    warm.stop().await;
    let share = (after - before).as_secs_f64() / MEASURED.as_secs_f64();
    let cost = (after - before).as_micros() as f64 / sent.max(1) as f64;
    assert!(sent > 0);
    assert!(
        share < SHARE_MAX,
        "{kind}: {:.1} % of a core",
        share * 100.0
    );
    format!(
        "{kind}: {sent} packets, {:.1} % of a core, {cost:.1} µs a packet",
        share * 100.0
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_first_messages_costs_a_bounded_share_of_a_core() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let relay = RelayThread::start();
    let ours = FirstMessages::record(relay.public_key()).await.unwrap();
    let recorded = vec![ours.recorded().to_vec()];
    println!("{}", a_flood_is_bounded("recorded", recorded, &relay).await);
    let fresh = (0..POOL).map(|_| ours.fresh().unwrap()).collect();
    println!("{}", a_flood_is_bounded("fresh", fresh, &relay).await);
    let counted = relay.metrics();
    assert!(
        counted.handshakes_ignored > 0,
        "nothing was dropped: {counted:?}"
    );
    assert!(
        counted.handshakes_retried > 0,
        "nobody was asked for its address"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_comes_in_while_first_messages_flood_the_relay() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let lab = Lab::new(Via::Quic).await;
    let server = Server::both(lab.ip).await;
    let relay_key = lab.relay().public_key();
    let firsts = FirstMessages::record(relay_key).await.unwrap();
    let fresh = (0..POOL).map(|_| firsts.fresh().unwrap()).collect();
    let flood = Flood::start(lab.listen(), fresh, RATE);
    until("the flood's being felt", || {
        lab.relay().metrics().handshakes_ignored > 1_000
    })
    .await;
    // Whichever way it finds: an address that was never here before, over TCP at the latest.
    let game = instance(
        "game",
        [service("game", "both", lab.port, server.address())],
    );
    let client = lab.start(lab.identity(), [game]);
    hang("the instance's being bound", client.bound())
        .await
        .unwrap();
    tcp_echo(&mut lab.tcp(lab.port).await, b"in the flood").await;
    udp_echo(&lab.udp(lab.port).await, b"in the flood").await;
    // And where a client has proved itself before, QUIC itself goes first.
    let quic_before = lab.relay().metrics().handshakes_ignored;
    let second = lab.start(lab.identity(), []);
    hang("a tunnel over QUIC", async {
        while second.status().await.unwrap().transport != Some(Transport::Quic) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    until("the flood's going on", || {
        lab.relay().metrics().handshakes_ignored > quic_before
    })
    .await;
    assert!(flood.sent() > 0);
    flood.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_silent_connections_keep_no_client_out() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let wanted = CONNECTIONS as u64 + 2_000;
    if flood::raise_descriptor_limit() < wanted {
        println!("skipped: fewer than {wanted} descriptors may be open here");
        return;
    }
    let lab = Lab::new(Via::Lane).await;
    let server = Server::tcp(lab.ip).await;
    let game = instance("game", [service("game", "tcp", lab.port, server.address())]);
    let before = open_descriptors();
    let mut silent = Vec::new();
    let mut good = None;
    for number in 0..CONNECTIONS {
        let socket = TcpSocket::new_v4().unwrap();
        // Ten of each address: a botnet, not one host.
        let from = Ipv4Addr::from_bits(0x7f64_0000 + (number / 10) as u32 + 1);
        socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
        // Without descriptors or places a relay would leave them in the queue of the kernel.
        let connected = tokio::time::timeout(support::HANG, socket.connect(lab.listen())).await;
        if let Ok(connected) = connected.unwrap() {
            silent.push(connected);
        }
        if number == CONNECTIONS / 2 {
            good = Some(lab.start(lab.identity(), [game.clone()]));
        }
    }
    let client = good.unwrap();
    hang("the instance's being bound", client.bound())
        .await
        .unwrap();
    tcp_echo(&mut lab.tcp(lab.port).await, b"among the silent").await;
    let counted = lab.relay().metrics();
    assert_eq!(counted.no_descriptors, 0);
    assert!(counted.handshakes_evicted > 0, "{counted:?}");
    // Both ends of a connection are in this process.
    let held = open_descriptors().saturating_sub(before + silent.len());
    assert!(held < 1_000, "the relay holds {held} descriptors");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_first_message_is_not_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let _alone = ONE_AT_A_TIME.lock().await;
    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(300);
    // The time for the first message, and that for the whole handshake: the one is no help where the other is over.
    for (first_message, handshake) in [(SHORT, LONG), (LONG, SHORT)] {
        let lab = Lab::with(Via::Lane, move |builder| {
            let mut limits = tunnel_core::relay::RelayLimits::default();
            limits.first_message_time = first_message;
            limits.handshake_time = handshake;
            builder.limits(limits)
        })
        .await;
        let mut loris = tokio::net::TcpStream::connect(lab.listen()).await.unwrap();
        let ended = hang("the relay's closing", async {
            // A first byte that promises a whole message, and then a byte every now and then.
            for byte in [1u8, 1, 80].into_iter().chain(std::iter::repeat(0)) {
                if loris.write_all(&[byte]).await.is_err() {
                    return;
                }
                let read = tokio::time::timeout(Duration::from_millis(20), loris.read_u8()).await;
                if let Ok(read) = read {
                    assert!(read.is_err(), "an answer");
                    return;
                }
            }
        });
        ended.await;
        assert_eq!(lab.relay().metrics().handshakes_failed, 1);
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Packets in a second.
const RATE: u32 = 4_000;
/// Fresh packets, sent one after the other and again from the first: a handshake that began with one has ended by then.
const POOL: usize = 4_000;
const MEASURED: Duration = Duration::from_secs(4);
/// Six times what is granted, for what the kernel, quinn and a debug build take beside it. Unbounded, the packets of
/// one second cost 1.6 seconds and more.
const SHARE_MAX: f64 = 0.3;
const CONNECTIONS: usize = 10_000;
