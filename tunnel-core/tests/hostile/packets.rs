//! Against QUIC.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use tokio::{net::UdpSocket, sync::oneshot};
use tunnel_core::{
    Transport,
    client::ClientIdentity,
    instance::PortSet,
    key::{Psk, SecretKey},
    relay::RelayLimits,
};

use crate::{
    Played, fails,
    support::{
        Lab, Via, hang,
        servers::{drain, pattern, pour},
        until,
    },
    wire::{Way, Wire},
};

/// A relay whose handshakes end before the first of its packets would be sent again, so that their number is fixed.
async fn lab() -> Lab {
    Lab::with(Via::Quic, |builder| {
        let mut limits = RelayLimits::default();
        limits.handshake_time = Duration::from_millis(400);
        builder.limits(limits)
    })
    .await
}

/// The first packet of a client with this identity, which no relay has seen.
async fn first_packet(lab: &Lab, identity: ClientIdentity) -> Vec<u8> {
    let wire = Wire::start(lab.ip, lab.listen()).await;
    wire.block_udp();
    let client = lab.start(through(&wire, identity), []);
    let first = wire.first_datagram().await;
    drop(client);
    assert_eq!(first.len(), 1_200);
    first
}

fn through(wire: &Wire, mut identity: ClientIdentity) -> ClientIdentity {
    identity.relay = wire.address().into();
    identity
}

pub(crate) async fn socket(ip: IpAddr) -> UdpSocket {
    UdpSocket::bind((ip, 0)).await.unwrap()
}

/// The lengths of what has come by now.
fn came(socket: &UdpSocket) -> Vec<usize> {
    let mut buffer = vec![0; 65_535];
    std::iter::from_fn(|| socket.try_recv(&mut buffer).ok()).collect()
}

/// Waits until the relay has taken everything that was sent to it before: it reads one packet after another, and
/// this one it answers.
async fn relay_has_read(lab: &Lab) {
    let packet = first_packet(lab, lab.identity()).await;
    let socket = socket(lab.ip).await;
    socket.send_to(&packet, lab.listen()).await.unwrap();
    let answer = hang("an answer", socket.recv(&mut [0; 2_000])).await;
    assert!(answer.unwrap() > 0);
}

/// Sends all of it to the relay, no faster than a socket's buffer bears.
async fn send_all(lab: &Lab, from: &UdpSocket, datagrams: &[Vec<u8>]) {
    for some in datagrams.chunks(64) {
        for datagram in some {
            from.send_to(datagram, lab.listen()).await.unwrap();
        }
        relay_has_read(lab).await;
    }
}

/// Pseudo-random numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005) | 1;
        (self.0 >> 33) as usize % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_session_takes_nothing_over() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let identity = lab.identity();
    let mut recorded = Played::start(&lab, through(&wire, identity.clone()), 0).await;
    recorded.goes_on().await;
    let stranger = socket(lab.ip).await;
    // While the connection lives, nothing of it means anything from elsewhere.
    let session = wire.datagrams(Way::ToRelay);
    assert!(session.len() > 5, "handshake, control, stream and flow");
    send_all(&lab, &stranger, &session).await;
    assert_eq!(came(&stranger), [0; 0]);
    recorded.is_undisturbed(&lab).await;
    // And nothing anew on the very path.
    for way in [Way::ToRelay, Way::ToClient] {
        for datagram in wire.datagrams(way) {
            wire.inject(way, &datagram).await;
        }
    }
    recorded.is_undisturbed(&lab).await;

    // The same key, from another process.
    let session = wire.datagrams(Way::ToRelay);
    let Played { client, .. } = recorded;
    client.shutdown(Duration::ZERO).await;
    until("the flow's and stream's end", || {
        let counters = lab.relay().metrics();
        (counters.flows, counters.streams, counters.tunnels) == (0, 0, 0)
    })
    .await;
    let mut live = Played::start(&lab, identity, 1).await;
    let failed = lab.relay().metrics().handshakes_failed;
    stranger.send_to(&session[0], lab.listen()).await.unwrap();
    for datagram in &session[1..] {
        stranger.send_to(datagram, lab.listen()).await.unwrap();
    }
    until("the replayed handshake's end", || {
        lab.relay().metrics().handshakes_failed > failed
    })
    .await;
    let sent: usize = session.iter().map(Vec::len).sum();
    let answered: usize = came(&stranger).iter().sum();
    assert!(answered <= 3 * sent, "{answered} bytes for {sent}");
    live.goes_on().await;
    let counters = lab.relay().metrics();
    assert_eq!((counters.tunnels, counters.tunnels_opened), (1, 2));
    assert_eq!((counters.flows, counters.streams), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_unknown_wrong_and_revoked_get_the_same_and_at_most_threefold() {
    let lab = lab().await;
    let known = lab.identity();
    let mut wrong = lab.identity();
    wrong.psk = Psk::generate().unwrap();
    let mut unknown = lab.identity();
    unknown.secret_key = SecretKey::generate().unwrap();
    let revoked = lab.identity_with(PortSet::all());
    lab.roster.revoke(&revoked.secret_key.public_key());
    let mut answers = Vec::new();
    for (number, identity) in [known, wrong, unknown, revoked].into_iter().enumerate() {
        let first = first_packet(&lab, identity).await;
        // Whoever recorded it cannot finish: even a known client comes to no more than an unknown one.
        let stranger = socket(lab.ip).await;
        stranger.send_to(&first, lab.listen()).await.unwrap();
        until("the handshake's end", || {
            lab.relay().metrics().handshakes_failed == number as u64 + 1
        })
        .await;
        let lengths = came(&stranger);
        let sum: usize = lengths.iter().sum();
        assert!((1..=3 * first.len()).contains(&sum), "{sum} bytes");
        answers.push(lengths);
    }
    assert_eq!(answers, vec![answers[0].clone(); 4]);
    assert_eq!(lab.relay().metrics().tunnels_opened, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_truncation_and_a_flip_in_every_byte_of_a_first_packet_get_no_byte() {
    let lab = lab().await;
    let mut live = Played::start(&lab, lab.identity(), 0).await;
    let first = first_packet(&lab, lab.identity()).await;
    let truncated = (1..first.len()).map(|end| first[..end].to_vec());
    let flipped = (0..first.len()).map(|at| {
        let mut packet = first.clone();
        packet[at] ^= 1 << (at % 7);
        packet
    });
    let attempts: Vec<_> = truncated.chain(flipped).collect();
    let stranger = socket(lab.ip).await;
    send_all(&lab, &stranger, &attempts).await;
    assert_eq!(came(&stranger), [0; 0]);
    assert_eq!(lab.relay().metrics().strangers, attempts.len() as u64);
    live.is_undisturbed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reflected_doubled_reordered_cut_and_flipped_on_the_path_loses_nothing() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let mut random = Random(7);
    let mut held: Option<(Way, Vec<u8>)> = None;
    // From the first packet on. Each arrives in the end, among what the enemy makes of it.
    wire.meddle(move |way, datagram| {
        let mut out = Vec::new();
        match random.below(8) {
            0 => out.push((way.back(), datagram.to_vec())),
            1 => out.push((way, datagram.to_vec())),
            2 => out.push((way, datagram[..random.below(datagram.len())].to_vec())),
            3 => {
                let mut flipped = datagram.to_vec();
                flipped[random.below(datagram.len())] ^= 1 << random.below(8);
                out.push((way, flipped));
            }
            4 if held.is_none() => {
                held = Some((way, datagram.to_vec()));
                return out;
            }
            _ => {}
        }
        out.push((way, datagram.to_vec()));
        out.extend(held.take());
        out
    });
    let mut played = Played::start(&lab, through(&wire, lab.identity()), 0).await;
    assert_eq!(
        played.client.status().await.unwrap().transport,
        Some(Transport::Quic)
    );

    let (mut from, mut to) = lab.tcp(lab.port).await.into_split();
    let (sent, came) = tokio::join!(pour(&mut to, 5, 16), drain(&mut from));
    assert_eq!(sent, came);

    // None comes twice, and none that was not sent.
    let asks = lab.udp(lab.port).await;
    let mut open: HashSet<Vec<u8>> = (0..300).map(|n| pattern(n, 100)).collect();
    let all = open.len();
    for ask in &open {
        asks.send(ask).await.unwrap();
    }
    played.goes_on().await;
    let mut buffer = [0; 2_000];
    while let Ok(length) = asks.try_recv(&mut buffer) {
        assert!(open.remove(&buffer[..length]), "twice, or never asked");
    }
    assert!(open.len() < all, "something comes through");
    played.goes_on().await;
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_packets_from_on_and_off_the_path_disturb_nobody() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let mut played = Played::start(&lab, through(&wire, lab.identity()), 0).await;
    let stranger = socket(lab.ip).await;
    let mut random = Random(3);
    for round in 0..10 {
        let mut off = Vec::new();
        for way in [Way::ToRelay, Way::ToClient] {
            let seen = wire.datagrams(way);
            for _ in 0..60 {
                let real = &seen[random.below(seen.len())];
                let noise = pattern(random.below(1 << 30) as u64, 1 + random.below(1_300));
                // The head of a packet that was seen, so that it finds its connection, and noise behind it.
                let head = random.below(real.len().min(40));
                let forged = [&real[..head], &noise].concat();
                wire.inject(way, &forged).await;
                wire.inject(way, &noise).await;
                if way == Way::ToRelay {
                    off.extend([noise, [0x40].to_vec()]);
                }
            }
        }
        send_all(&lab, &stranger, &off).await;
        played.is_undisturbed(&lab).await;
        assert_eq!(came(&stranger), [0; 0], "round {round}");
    }
    assert!(lab.relay().metrics().strangers > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_stolen_and_sent_from_elsewhere_take_no_path_away() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let mut played = Played::start(&lab, through(&wire, lab.identity()), 0).await;
    let stranger = socket(lab.ip).await;
    let mut came_back = 0;
    for stolen_so_far in 1..=20 {
        // The relay sees it for the first time from another address, as if the client had moved.
        let (steal, stolen) = oneshot::channel();
        let mut steal = Some(steal);
        wire.meddle(move |way, datagram| {
            if way == Way::ToRelay
                && let Some(steal) = steal.take()
            {
                drop(steal.send(datagram.to_vec()));
                return Vec::new();
            }
            vec![(way, datagram.to_vec())]
        });
        let (stolen, ()) = tokio::join!(stolen, played.udp_says());
        let stolen = stolen.unwrap();
        stranger.send_to(&stolen, lab.listen()).await.unwrap();
        played.is_undisturbed(&lab).await;
        let answers = came(&stranger);
        came_back += answers.len();
        // A probe of the new path, and only for a packet that the client made. quinn makes it a full one however
        // small that was (RFC 9000 §8.2.1 would have it three times as large).
        assert!(answers.iter().all(|length| *length <= 1_500), "{answers:?}");
        assert!(came_back <= stolen_so_far, "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_answers_do_not_end_a_handshake() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    // Before anything of the relay's, to each packet of the client's.
    wire.meddle(|way, datagram| {
        let real = (way, datagram.to_vec());
        if way == Way::ToClient || datagram[0] & 0x80 == 0 {
            return vec![real];
        }
        let destination = &datagram[6..6 + usize::from(datagram[5])];
        let source = &datagram[6 + destination.len()..];
        let source = &source[1..1 + usize::from(source[0])];
        let head = |first: u8, version: [u8; 4]| {
            let ids = [
                &[source.len() as u8][..],
                source,
                &[destination.len() as u8],
                destination,
            ];
            [&[first][..], &version, &ids.concat()].concat()
        };
        let ours: [u8; 4] = datagram[1..5].try_into().unwrap();
        let forged = [
            // Version negotiation; Retry with a token and a made-up tag; an Initial and a Handshake of noise.
            [head(0x80, [0; 4]), vec![0, 0, 0, 1]].concat(),
            [head(0xf0, ours), pattern(1, 60)].concat(),
            [head(0xc0, ours), vec![0, 0x44, 0x00], pattern(2, 1_024)].concat(),
            [head(0xe0, ours), vec![0x44, 0x00], pattern(3, 1_024)].concat(),
            // What a stateless reset looks like.
            [vec![0x40], source.to_vec(), pattern(4, 60)].concat(),
        ];
        let forged = forged.into_iter().map(|forged| (Way::ToClient, forged));
        forged.chain([real]).collect()
    });
    let mut played = Played::start(&lab, through(&wire, lab.identity()), 0).await;
    assert_eq!(
        played.client.status().await.unwrap().transport,
        Some(Transport::Quic)
    );
    played.is_undisturbed(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_of_the_relay_is_no_relay() {
    let lab = lab().await;
    let wire = Wire::start(lab.ip, lab.listen()).await;
    let played = Played::start(&lab, through(&wire, lab.identity()), 0).await;
    let recorded = wire.datagrams(Way::ToClient);
    let tunnels = played.tunnels;

    // Another client's way leads to who has the recording, and hears itself too.
    let other = Wire::start(lab.ip, lab.listen()).await;
    other.meddle(move |_, datagram| {
        let mut answers = vec![(Way::ToClient, datagram.to_vec())];
        answers.extend(recorded.iter().map(|it| (Way::ToClient, it.clone())));
        answers
    });
    other.meddle_tcp(|_, _, chunk| chunk.clear());
    let client = lab.start(through(&other, lab.identity()), []);
    fails(&mut client.events(), 1).await;
    assert_eq!(client.status().await.unwrap().transport, None);
    assert_eq!(lab.relay().metrics().tunnels_opened, tunnels);
}
