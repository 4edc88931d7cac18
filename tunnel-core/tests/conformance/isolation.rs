//! A neighbour notices nothing of what happens beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use tunnel_core::{
    client::{Client, ClientLimits},
    event::Event,
    key::{Psk, SecretKey},
    relay::RelayLimits,
};

use crate::support::{
    HANG, Lab, Via, bound, hang, instance,
    servers::{Server, pattern, tcp_echo},
    service, simple, waited,
};

on_every_transport!(
    a_neighbour_loses_nothing_to_200_changes_a_flood_and_a_thousand_refused_handshakes
);

// Where nothing is lost on the way, what is missing was dropped in the queue that both share.
on_transport!(
    mem_only,
    Mem,
    a_flood_of_one_instance_drops_nothing_of_another_of_the_same_client,
);

async fn a_flood_of_one_instance_drops_nothing_of_another_of_the_same_client(via: Via) {
    // Not what a busy machine lets grow old is meant here, neither on the way there nor on the way back.
    let lab = Lab::with(via, |builder| {
        let mut limits = RelayLimits::default();
        limits.datagram_age = HANG;
        builder.limits(limits)
    })
    .await;
    let mut limits = ClientLimits::default();
    limits.datagram_age = HANG;
    let server = Server::udp(lab.ip).await;
    let silent = UdpSocket::bind((lab.ip, 0)).await.unwrap();
    let instances = [
        simple("neighbour", "udp", lab.port, server.address()),
        simple("flooded", "udp", lab.port + 1, silent.local_addr().unwrap()),
    ];
    let client = lab.start_with(lab.identity(), instances, limits);
    hang("the instances' being bound", client.bound())
        .await
        .unwrap();
    // Datagrams of one flow may overtake each other as long as lanes are added.
    waited("the lanes", async || {
        (client.metrics().lanes == 3).then_some(())
    })
    .await;
    let player = lab.udp(lab.port).await;
    let stop = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = (0..4)
        .map(|_| {
            let (to, stop) = (lab.at(lab.port + 1), stop.clone());
            let socket = std::net::UdpSocket::bind((lab.ip, 0)).unwrap();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A full buffer is what is wanted.
                    drop(socket.send_to(&[7; 1200], to));
                }
            })
        })
        .collect();
    let dropped = || lab.relay().metrics().drop_queue_full;
    let mut rounds = 0_u32;
    while rounds < 200 || dropped() < 1000 {
        let said = rounds.to_be_bytes();
        let mut heard = [0; 64];
        player.send(&said).await.unwrap();
        // Each once: what is dropped is missing.
        let length = hang("an answer", player.recv(&mut heard)).await.unwrap();
        assert_eq!(heard[..length], said);
        rounds += 1;
        assert!(rounds < 100_000, "the flood fills no queue");
    }
    stop.store(true, Ordering::Relaxed);
    for flood in flooding {
        flood.join().unwrap();
    }
}

async fn a_neighbour_loses_nothing_to_200_changes_a_flood_and_a_thousand_refused_handshakes(
    via: Via,
) {
    let lab = Lab::with(via, |builder| {
        let mut limits = RelayLimits::default();
        // A thousand refusals would take their time at the usual share of a core, and half a minute is all there is.
        limits.handshake_cpu_permille = 1_000;
        builder.limits(limits)
    })
    .await;
    let lab = Arc::new(lab);
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let game = service("game", "both", lab.port, target);
    let alone = instance("neighbour", [game.clone()]);
    let client = Arc::new(lab.client([alone.clone()]).await);
    let silent = UdpSocket::bind((lab.ip, 0)).await.unwrap();
    let flooded = service("udp", "udp", lab.port + 10, silent.local_addr().unwrap());
    let visited = service("tcp", "tcp", lab.port + 11, target);
    let _enemy = lab.client([instance("enemy", [flooded, visited])]).await;

    let done = Arc::new(AtomicBool::new(false));
    let rounds: [Arc<AtomicU64>; 2] = Default::default();
    let mut neighbours = JoinSet::new();
    neighbours.spawn(talk(lab.clone(), done.clone(), rounds[0].clone()));
    let player = play(lab.clone(), client.clone(), done.clone(), rounds[1].clone());
    neighbours.spawn(player);
    let mut enemies = JoinSet::new();
    enemies.spawn(flood(lab.clone(), lab.port + 10));
    enemies.spawn(visit(lab.clone(), lab.port + 11));
    for _ in 0..STRANGERS {
        enemies.spawn(knock(lab.clone()));
    }
    for _ in 0..100 {
        // Another instance, and a further service of the neighbour's own.
        let beside = simple("beside", "both", lab.port + 1, target);
        let more = instance(
            "neighbour",
            [game.clone(), service("more", "tcp", lab.port + 2, target)],
        );
        client
            .set_instances([more.clone(), beside.clone()])
            .await
            .unwrap();
        bound(&client, &more).await;
        bound(&client, &beside).await;
        tcp_echo(&mut lab.tcp(lab.port + 1).await, b"hello").await;
        client.set_instances([alone.clone()]).await.unwrap();
        bound(&client, &alone).await;
        let gone = lab.at(lab.port + 1);
        waited("the end of the service", async || {
            TcpStream::connect(gone).await.err()
        })
        .await;
        if let Some(failed) = neighbours.try_join_next() {
            let [relay, own] = [lab.relay().metrics(), client.metrics()];
            panic!("{failed:?}\nthe relay: {relay:#?}\nthe client: {own:#?}");
        }
    }
    waited("a thousand refusals", async || {
        (lab.relay().metrics().handshakes_failed >= 1_000).then_some(())
    })
    .await;
    assert_eq!(lab.relay().metrics().tunnels_opened, 2);
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = hang("the neighbours' end", neighbours.join_next()).await {
        let [relay, own] = [lab.relay().metrics(), client.metrics()];
        assert!(
            ended.is_ok(),
            "{ended:?}\nthe relay: {relay:#?}\nthe client: {own:#?}"
        );
    }
    for rounds in rounds {
        assert!(rounds.load(Ordering::Relaxed) > 10);
    }
}

/// One TCP connection that asks all the time.
async fn talk(lab: Arc<Lab>, done: Arc<AtomicBool>, rounds: Arc<AtomicU64>) {
    let mut player = lab.tcp(lab.port).await;
    let block = pattern(7, 20_000);
    while !done.load(Ordering::Relaxed) {
        tcp_echo(&mut player, &block).await;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// One flow whose every packet is answered: numbered, of several sizes, a few at once. The one loss allowed is to age, where
/// the machine is so busy that a queue is not looked at for 100 ms: it is counted, and happens without neighbours too.
async fn play(lab: Arc<Lab>, client: Arc<Client>, done: Arc<AtomicBool>, rounds: Arc<AtomicU64>) {
    let aged = || lab.relay().metrics().drop_too_old + client.metrics().drop_too_old;
    let player = lab.udp(lab.port).await;
    let mut buffer = vec![0; 65_536];
    let mut number = 0_u64;
    let mut forgiven = 0;
    while !done.load(Ordering::Relaxed) {
        let mut due: Vec<_> = [8, 200, 1_100, 4_000]
            .map(|size| {
                number += 1;
                let mut packet = pattern(number, size);
                packet[..8].copy_from_slice(&number.to_be_bytes());
                packet
            })
            .into();
        for packet in &due {
            player.send(packet).await.unwrap();
        }
        let mut waited = Duration::ZERO;
        while !due.is_empty() {
            let Ok(received) = timeout(LOOK, player.recv(&mut buffer)).await else {
                waited += LOOK;
                assert!(waited < HANG, "packets were lost: {}", due.len());
                if aged() >= forgiven + due.len() as u64 {
                    forgiven = aged();
                    break;
                }
                continue;
            };
            let got = &buffer[..received.unwrap()];
            let place = due.iter().position(|packet| packet == got);
            due.swap_remove(place.expect("an answer to what was asked, once"));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

async fn flood(lab: Arc<Lab>, port: u16) {
    let player = lab.udp(port).await;
    loop {
        for _ in 0..10 {
            // A full socket is no reason to stop.
            player.try_send(&[0; 600]).ok();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn visit(lab: Arc<Lab>, port: u16) {
    loop {
        tcp_echo(&mut lab.tcp(port).await, b"hello").await;
    }
}

/// Tries one wrong key after the other.
async fn knock(lab: Arc<Lab>) {
    let mut stranger = lab.identity();
    if lab.via == Via::Lane {
        // Strangers may use what the laboratory's own clients may not.
        stranger.relay = lab.listen().into();
    }
    for number in 0_u64.. {
        stranger.psk = Psk::generate().unwrap();
        // In turn: a known key without its secret, and a key that nobody knows.
        if number % 2 == 1 {
            stranger.secret_key = SecretKey::generate().unwrap();
        }
        let client = lab.start(stranger.clone(), []);
        let mut events = client.events();
        while !matches!(
            events.next().await.unwrap().unwrap(),
            Event::Reconnecting { .. }
        ) {}
    }
}

/// Strangers at the door at one time.
const STRANGERS: usize = 4;
/// After so long without an answer it is looked whether it can still come.
const LOOK: Duration = Duration::from_secs(2);
