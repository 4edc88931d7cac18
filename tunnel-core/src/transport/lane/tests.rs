use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{window::NumberError, *};
use crate::{
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    proto::{
        handshake::{
            Answer, Capabilities, HandshakeError, Hello, ProcessId, SUPPORTED, Secret, Suite,
        },
        record::{self, RECORD_BODY_MAX, RecordError, RecordType, Role},
        testing::XorShift,
    },
    transport::PskSource,
};

/// One relay, one client, and what the relay knows.
struct Lab {
    relay: RelaySide,
    tunnels: Arc<Tunnels>,
    client: SecretKey,
    psk: Psk,
}

impl Lab {
    fn new() -> Self {
        let client = SecretKey::generate().unwrap();
        let psk = Psk::generate().unwrap();
        let tunnels = Arc::new(Tunnels::default());
        let relay = RelaySide {
            key: SecretKey::generate().unwrap(),
            psks: Arc::new(OnePsk(client.public_key(), psk.clone())),
            lanes: tunnels.clone(),
            answer: Answer {
                versions: SUPPORTED,
                capabilities: Capabilities::REDUNDANCY,
                process: ProcessId::from([2; 16]),
                transport_parameters: None,
            },
        };
        Self {
            relay,
            tunnels,
            client,
            psk,
        }
    }

    fn connect(&self, io: Io, suite: Suite) -> impl Future<Output = Connected> + '_ {
        self.connect_as(io, suite, &self.client, &self.psk)
    }

    async fn connect_as(&self, io: Io, suite: Suite, key: &SecretKey, psk: &Psk) -> Connected {
        let relay = self.relay.key.public_key();
        connect_first(io, suite, key, &relay, psk, &hello()).await
    }

    /// A tunnel with its first lane open.
    async fn open(&self, (near, far): (Io, Io), suite: Suite) -> (LaneHalves, FirstLane, Secret) {
        let (client, relay) = tokio::join!(self.connect(near, suite), accept(far, &self.relay));
        let (client, answer, exporter) = client.unwrap();
        assert_eq!(answer, self.relay.answer);
        let Opening::First(first) = relay.unwrap() else {
            panic!("not a first lane");
        };
        self.tunnels.add(suite, &exporter);
        (client, first, exporter)
    }

    /// What the relay makes of `bytes` from a stranger who then ends its side, and every byte it answers.
    async fn offer(&self, bytes: &[u8]) -> (LaneError, Vec<u8>) {
        let (mut near, far) = duplex(4_096);
        let stranger = async {
            near.write_all(bytes).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let accepting = async { accept(far.into(), &self.relay).await.map(drop) };
        let (result, answer) = tokio::join!(accepting, stranger);
        (result.unwrap_err(), answer)
    }
}

/// What has opened.
#[derive(Debug)]
enum Opening {
    First(FirstLane),
    Further(FurtherLane),
}

/// Takes in a connection from anyone, without a limit of any kind.
async fn accept(mut io: Io, relay: &RelaySide) -> Result<Opening, LaneError> {
    match read_opening(&mut io).await? {
        LaneOpening::First(first) => first.answer(relay)?.prove(io).await.map(Opening::First),
        LaneOpening::Further(further) => further.open(io, relay).await.map(Opening::Further),
    }
}

type Connected = Result<(LaneHalves, Answer, Secret), LaneError>;

#[derive(Debug)]
struct OnePsk(PublicKey, Psk);

impl PskSource for OnePsk {
    fn psk(&self, client: &PublicKey, _: Option<TokenId>) -> Option<Psk> {
        (*client == self.0).then(|| self.1.clone())
    }
}

#[derive(Debug, Default)]
struct Tunnels(Mutex<HashMap<TunnelId, LaneSecretHandle>>);

impl Tunnels {
    fn add(&self, suite: Suite, exporter: &Secret) {
        let handle = LaneSecretHandle::new(suite, exporter.clone());
        (self.0.lock().unwrap()).insert(TunnelId::of(exporter), handle);
    }
}

impl LaneRegistry for Tunnels {
    fn secret(&self, id: &TunnelId) -> Option<LaneSecretHandle> {
        self.0.lock().unwrap().get(id).cloned()
    }
}

fn hello() -> Hello {
    Hello {
        versions: SUPPORTED,
        capabilities: Capabilities::default(),
        process: ProcessId::from([1; 16]),
        token: None,
        transport_parameters: None,
    }
}

fn mem(size: usize) -> (Io, Io) {
    let (near, far) = duplex(size);
    (near.into(), far.into())
}

async fn tcp() -> (Io, Io) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap().into(), far.unwrap().0.into())
}

/// Both ends of a lane without a handshake, rekeyed after `generation` records.
fn lane((near, far): (Io, Io), suite: Suite, generation: u64) -> (LaneHalves, LaneHalves) {
    let secret = Secret::from([5; 32]);
    let end = |io, role| {
        LaneHalves::with_keys(
            io,
            record::directions_with(suite, &secret, role, generation).unwrap(),
        )
    };
    (end(near, Role::Client), end(far, Role::Relay))
}

/// Two lane ends with someone in between who writes down what passes: client to relay, relay to client.
fn tapped() -> (Io, Io, Arc<Mutex<[Vec<u8>; 2]>>) {
    let ((near, tap_near), (far, tap_far)) = (duplex(4_096), duplex(4_096));
    let seen = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let (near_read, near_write) = tokio::io::split(tap_near);
    let (far_read, far_write) = tokio::io::split(tap_far);
    let copy = |mut from: tokio::io::ReadHalf<DuplexStream>,
                mut to: tokio::io::WriteHalf<DuplexStream>,
                direction: usize| {
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                seen.lock().unwrap()[direction].extend_from_slice(&buffer[..read]);
                if to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            drop(to.shutdown().await);
        })
    };
    copy(near_read, far_write, 0);
    copy(far_read, near_write, 1);
    (near.into(), far.into(), seen)
}

async fn exchange(near: &mut LaneHalves, far: &mut LaneHalves) {
    let ping = (RecordType::Ping, Bytes::from_static(&[3; 8]));
    near.writer.write_frame(ping.0, &ping.1).await.unwrap();
    assert_eq!(far.reader.read().await.unwrap().as_ref(), Some(&ping));
    let pong = (RecordType::Pong, ping.1);
    far.writer.write_frame(pong.0, &pong.1).await.unwrap();
    assert_eq!(near.reader.read().await.unwrap().as_ref(), Some(&pong));
}

#[tokio::test]
async fn both_suites_open_first_and_further_lanes_over_memory_and_tcp() {
    for suite in Suite::ALL {
        for on_tcp in [false, true] {
            let lab = Lab::new();
            let pair = || async { if on_tcp { tcp().await } else { mem(100) } };
            let (mut client, mut first, exporter) = lab.open(pair().await, suite).await;
            assert_eq!(first.peer, lab.client.public_key());
            assert_eq!((first.hello, first.suite), (hello(), suite));
            assert_eq!(first.exporter.as_bytes(), exporter.as_bytes());
            exchange(&mut client, &mut first.halves).await;
            for number in [1, 3, 2] {
                let (near, far) = pair().await;
                let (client, relay) = tokio::join!(
                    connect_further(near, &exporter, number, suite),
                    accept(far, &lab.relay)
                );
                let Opening::Further(mut further) = relay.unwrap() else {
                    panic!("not a further lane");
                };
                assert_eq!(further.tunnel, TunnelId::of(&exporter));
                assert_eq!(further.number, number);
                exchange(&mut client.unwrap(), &mut further.halves).await;
            }
        }
    }
}

#[tokio::test]
async fn unknown_revoked_and_wrong_look_the_same_on_the_wire() {
    let lab = Lab::new();
    let stranger = SecretKey::generate().unwrap();
    let wrong = Psk::generate().unwrap();
    let mut answered = Vec::new();
    for (key, psk, known) in [
        (&lab.client, &lab.psk, true),
        (&lab.client, &wrong, false),
        (&stranger, &lab.psk, false),
        (&stranger, &wrong, false),
    ] {
        let (near, far, seen) = tapped();
        let connecting = async {
            // The lane is dropped here, so that the relay sees the end.
            lab.connect_as(near, Suite::Aes256Gcm, key, psk)
                .await
                .map(drop)
        };
        let (client, relay) = tokio::join!(connecting, accept(far, &lab.relay));
        if known {
            assert!(matches!(relay, Ok(Opening::First(_))));
            client.unwrap();
        } else {
            let unread = LaneError::Handshake(HandshakeError::Undecryptable);
            assert_eq!(client.unwrap_err().to_string(), unread.to_string());
            let unproven = LaneError::Peer(PeerMisbehaved::Unproven);
            assert_eq!(relay.unwrap_err().to_string(), unproven.to_string());
        }
        let seen = seen.lock().unwrap();
        answered.push(seen[1].len());
        assert_eq!(seen[0].len(), 355 + if known { 19 } else { 0 });
    }
    assert_eq!(answered, [answered[0]; 4]);
}

#[tokio::test]
async fn a_recorded_first_lane_proves_nothing_when_replayed() {
    let lab = Lab::new();
    let (near, far, seen) = tapped();
    let (client, relay) =
        tokio::join!(lab.connect(near, Suite::Aes256Gcm), accept(far, &lab.relay));
    let recorded = seen.lock().unwrap()[0].clone();
    drop((client.unwrap(), relay.unwrap()));
    let (error, answer) = lab.offer(&recorded).await;
    assert!(matches!(
        error,
        LaneError::Record(RecordError::NotAuthentic)
    ));
    assert_eq!(answer.len(), seen.lock().unwrap()[1].len());
    let (error, _) = lab.offer(&recorded[..355]).await;
    assert!(matches!(error, LaneError::Peer(PeerMisbehaved::Unproven)));
}

#[tokio::test]
async fn who_has_not_the_relays_key_gets_no_byte() {
    let lab = Lab::new();
    for first in 0..=u8::MAX {
        let mut bytes = vec![first, 1, 96];
        bytes.extend_from_slice(&[first; 352]);
        let (_, answer) = lab.offer(&bytes).await;
        assert!(answer.is_empty(), "{first:#04x}");
    }
    let other = SecretKey::generate().unwrap().public_key();
    let (near, far) = mem(4_096);
    let (key, hello) = (&lab.client, &hello());
    let connecting = connect_first(near, Suite::Aes256Gcm, key, &other, &lab.psk, hello);
    let accepting = async { accept(far, &lab.relay).await.map(drop) };
    let (client, relay) = tokio::join!(connecting, accepting);
    assert!(matches!(client, Err(LaneError::Refused)));
    assert!(matches!(relay, Err(LaneError::Handshake(_))));
}

#[tokio::test]
async fn too_long_a_message_is_refused_before_it_comes() {
    let lab = Lab::new();
    for length in [1_121u16, u16::MAX] {
        let [high, low] = length.to_be_bytes();
        let (error, answer) = lab.offer(&[1, high, low]).await;
        let refused = LaneError::Peer(PeerMisbehaved::MessageTooLong(length.into()));
        assert_eq!(error.to_string(), refused.to_string());
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn every_truncation_of_an_opening_is_closed_without_a_byte() {
    let lab = Lab::new();
    let (near, far, seen) = tapped();
    let (client, relay) =
        tokio::join!(lab.connect(near, Suite::Aes256Gcm), accept(far, &lab.relay));
    let exporter = client.unwrap().2;
    drop(relay.unwrap());
    lab.tunnels.add(Suite::Aes256Gcm, &exporter);
    let first = seen.lock().unwrap()[0].clone();
    for end in 0..355 {
        let (error, answer) = lab.offer(&first[..end]).await;
        assert!(matches!(error, LaneError::Truncated), "{end}: {error}");
        assert!(answer.is_empty());
    }
    let opening = further::FurtherOpening::new(&exporter, 1);
    for end in 0..57 {
        let (error, answer) = lab.offer(&opening.as_bytes()[..end]).await;
        assert!(matches!(error, LaneError::Truncated), "{end}: {error}");
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn replayed_old_reflected_and_foreign_openings_are_closed_without_a_byte() {
    let lab = Lab::new();
    let suite = Suite::ChaCha20Poly1305;
    let (_client, _first, exporter) = lab.open(mem(4_096), suite).await;
    let further = |number| *further::FurtherOpening::new(&exporter, number).as_bytes();
    let open = async |number| {
        let (near, far, seen) = tapped();
        let (client, relay) = tokio::join!(
            connect_further(near, &exporter, number, suite),
            accept(far, &lab.relay)
        );
        client.unwrap();
        relay.unwrap();
        seen.lock().unwrap()[1].clone()
    };
    let ready = open(2_000).await;
    open(1_000).await;
    open(976).await;
    assert_eq!(ready.len(), 19);

    let mut wrong_mac = further(3_000);
    wrong_mac[56] ^= 1;
    let foreign = *further::FurtherOpening::new(&Secret::from([1; 32]), 1).as_bytes();
    let reflected = [&[0x11], &ready[..], &[0; 37]].concat();
    for (bytes, refused) in [
        (
            &further(2_000)[..],
            PeerMisbehaved::Number(NumberError::Used(2_000)),
        ),
        (
            &further(976),
            PeerMisbehaved::Number(NumberError::Used(976)),
        ),
        (
            &further(975),
            PeerMisbehaved::Number(NumberError::TooOld(975)),
        ),
        (&further(0), PeerMisbehaved::Number(NumberError::TooOld(0))),
        (&wrong_mac, PeerMisbehaved::WrongMac),
        (&foreign, PeerMisbehaved::UnknownTunnel),
        (&reflected, PeerMisbehaved::UnknownTunnel),
        (&ready, PeerMisbehaved::UnknownOpening(0)),
    ] {
        let (error, answer) = lab.offer(bytes).await;
        assert_eq!(error.to_string(), refused.to_string());
        assert!(answer.is_empty(), "{refused}");
    }
    // None of them used a number up.
    open(3_000).await;
}

#[tokio::test]
async fn a_client_takes_nothing_but_ready_for_ready() {
    let exporter = Secret::from([8; 32]);
    let suite = Suite::Aes256Gcm;
    let (near, far) = mem(4_096);
    let relay = async {
        let mut opening = [0; 57];
        let mut far = far;
        far.read_exact(&mut opening).await.unwrap();
        let secret = further::lane_secret(&exporter, 1);
        let mut lane = LaneHalves::new(far, suite, &secret, Role::Relay).unwrap();
        lane.writer
            .write_frame(RecordType::Control, &[])
            .await
            .unwrap();
        lane
    };
    let (client, _relay) = tokio::join!(connect_further(near, &exporter, 1, suite), relay);
    let refused = PeerMisbehaved::NotReady(RecordType::Control);
    assert_eq!(client.unwrap_err().to_string(), refused.to_string());

    // A relay that mirrors the client's bytes.
    let (near, mut far) = duplex(4_096);
    let mirror = async move {
        let mut opening = [0; 57];
        far.read_exact(&mut opening).await.unwrap();
        far.write_all(&opening).await.unwrap();
    };
    let connecting = connect_further(near.into(), &exporter, 1, suite);
    let (client, ()) = tokio::join!(connecting, mirror);
    assert!(matches!(client, Err(LaneError::Truncated)));
}

#[tokio::test]
async fn a_first_record_that_says_something_is_not_lost() {
    let lab = Lab::new();
    let (mut near, far) = mem(4_096);
    let client = async {
        let relay = lab.relay.key.public_key();
        let (initiator, message) = crate::proto::handshake::Initiator::new(
            Suite::Aes256Gcm,
            crate::proto::handshake::TransportKind::Lane,
            &lab.client,
            &relay,
            &lab.psk,
            crate::key::random().unwrap(),
            &hello(),
        )
        .unwrap();
        near.write_u8(1).await.unwrap();
        near.write_u16(message.len() as u16).await.unwrap();
        near.write_all(&message).await.unwrap();
        let mut answer = vec![0; near.read_u16().await.unwrap().into()];
        near.read_exact(&mut answer).await.unwrap();
        let (_, secrets) = initiator.read_answer(&answer).unwrap();
        let mut lane =
            LaneHalves::new(near, Suite::Aes256Gcm, &secrets.lane, Role::Client).unwrap();
        let ping = lane.writer.write_frame(RecordType::Ping, &[1; 8]);
        ping.await.unwrap();
        lane
    };
    let (mut client, relay) = tokio::join!(client, accept(far, &lab.relay));
    let Opening::First(mut first) = relay.unwrap() else {
        panic!("not a first lane");
    };
    let (kind, body) = first.halves.reader.read().await.unwrap().unwrap();
    assert_eq!((kind, &body[..]), (RecordType::Ping, &[1; 8][..]));
    exchange(&mut client, &mut first.halves).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_byte_waits_only_as_long_as_the_caller() {
    let lab = Lab::new();
    let exporter = Secret::from([1; 32]);
    lab.tunnels.add(Suite::Aes256Gcm, &exporter);
    let opening = *further::FurtherOpening::new(&exporter, 1).as_bytes();
    for sent in [0, 1, 56] {
        let (mut near, far) = duplex(4_096);
        near.write_all(&opening[..sent]).await.unwrap();
        let limit = Duration::from_secs(5);
        assert!(
            timeout(limit, accept(far.into(), &lab.relay))
                .await
                .is_err()
        );
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn an_end_between_records_is_clean_and_one_inside_is_not() {
    let mut records = bytes::BytesMut::new();
    let (mut sealer, _) =
        record::directions(Suite::Aes256Gcm, &Secret::from([5; 32]), Role::Client).unwrap();
    for body in [&b"first"[..], b"second"] {
        (sealer.seal_into(&mut records, RecordType::DATA, &[], body)).unwrap();
    }
    let boundaries = [0, 24, records.len()];
    for end in 0..=records.len() {
        let (mut near, far) = duplex(4_096);
        let mut lane = LaneHalves::new(
            far.into(),
            Suite::Aes256Gcm,
            &Secret::from([5; 32]),
            Role::Relay,
        )
        .unwrap();
        near.write_all(&records[..end]).await.unwrap();
        drop(near);
        let last = loop {
            match lane.reader.read().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        match last {
            Ok(None) => assert!(boundaries.contains(&end), "{end}"),
            Err(LaneError::Truncated) => assert!(!boundaries.contains(&end), "{end}"),
            other => panic!("{end}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_reader_stays_broken_after_a_bad_record() {
    let (near, far) = duplex(4_096);
    let (mut good, mut lane) = lane((near.into(), far.into()), Suite::Aes256Gcm, 4);
    good.writer.push(RecordType::DATA, &[], b"bad").unwrap();
    good.writer.damage();
    good.writer.flush().await.unwrap();
    good.writer
        .write_frame(RecordType::DATA, b"good")
        .await
        .unwrap();
    assert!(lane.reader.read().await.is_err());
    assert!(lane.reader.read().await.is_err());
}

/// 64 MiB in pieces of every size, rekeyed after every 7 records, arrive as they left.
async fn carries_64_mib(pair: (Io, Io), suite: Suite) {
    const TOTAL: usize = 64 << 20;
    let (mut near, mut far) = lane(pair, suite, 7);
    let sending = tokio::spawn(async move {
        let mut random = XorShift::new(11);
        let mut sent = digest::Context::new(&digest::SHA256);
        let pattern: Bytes = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
        let mut left = TOTAL;
        while left > 0 {
            let chunks: Vec<_> = (0..1 + random.below(3))
                .map(|_| {
                    let length = [10, 20_000, 700_000][random.below(3)];
                    let length = random.below(length).min(left);
                    left -= length;
                    let start = random.below(pattern.len() - length);
                    pattern.slice(start..start + length)
                })
                .collect();
            chunks.iter().for_each(|chunk| sent.update(chunk));
            near.writer.write_data(&chunks).await.unwrap();
        }
        near.writer.shutdown().await.unwrap();
        (near, sent.finish())
    });
    let mut got = digest::Context::new(&digest::SHA256);
    let mut total = 0;
    while let Some((kind, body)) = far.reader.read().await.unwrap() {
        assert_eq!(kind, RecordType::DATA);
        assert!(body.len() <= RECORD_BODY_MAX);
        total += body.len();
        got.update(&body);
    }
    let (_near, sent) = sending.await.unwrap();
    assert_eq!(total, TOTAL);
    assert_eq!(got.finish().as_ref(), sent.as_ref());
}

#[tokio::test]
async fn aes_carries_64_mib_over_tcp_with_many_rekeys() {
    carries_64_mib(tcp().await, Suite::Aes256Gcm).await;
}

#[tokio::test]
async fn chacha_carries_64_mib_over_memory_with_many_rekeys() {
    carries_64_mib(mem(300_000), Suite::ChaCha20Poly1305).await;
}

#[tokio::test]
async fn dropped_reads_and_flushes_lose_nothing() {
    for on_tcp in [false, true] {
        let pair = if on_tcp { tcp().await } else { mem(100) };
        let (mut near, mut far) = lane(pair, Suite::Aes256Gcm, 7);
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let expected = data.clone();
        let sending = tokio::spawn(async move {
            let mut random = XorShift::new(1);
            let mut rest = &data[..];
            while !rest.is_empty() {
                let piece = random.below(60_000).min(rest.len());
                while near.writer.is_full() {
                    drop(poll_a_few_times(near.writer.flush(), random.below(3)).await);
                }
                let taken = near.writer.push_data(&rest[..piece]).unwrap();
                rest = &rest[taken..];
                drop(poll_a_few_times(near.writer.flush(), random.below(3)).await);
            }
            near.writer.shutdown().await.unwrap();
            near
        });
        let mut random = XorShift::new(2);
        let mut got = Vec::new();
        loop {
            match poll_a_few_times(far.reader.read(), random.below(3)).await {
                None => tokio::task::yield_now().await,
                Some(record) => match record.unwrap() {
                    Some((_, body)) => got.extend_from_slice(&body),
                    None => break,
                },
            }
        }
        drop(sending.await.unwrap());
        assert!(got == expected);
    }
}

/// Polls `future` at most `times` times, then drops it.
async fn poll_a_few_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..=times {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx)));
        if let std::task::Poll::Ready(output) = polled.await {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn a_writer_refuses_more_than_one_flush_holds() {
    let (mut near, _far) = lane(mem(100), Suite::Aes256Gcm, 7);
    let data = vec![1; 1 << 20];
    assert_eq!(near.writer.push_data(&data).unwrap(), 16 * RECORD_BODY_MAX);
    assert!(near.writer.is_full());
    assert_eq!(near.writer.push_data(&data).unwrap(), 0);
    let refused = near.writer.push(RecordType::Ping, &[], &[0; 8]);
    assert!(matches!(refused, Err(LaneError::Full)));
}

#[tokio::test]
async fn an_idle_lane_holds_no_buffer() {
    assert!(size_of::<LaneHalves>() < 768);
    for on_tcp in [false, true] {
        let pair = if on_tcp { tcp().await } else { mem(1 << 20) };
        let (mut near, mut far) = lane(pair, Suite::Aes256Gcm, 1 << 24);
        let bulk = [Bytes::from(vec![1; 4 << 20])];
        let mut left = 4 << 20;
        let receiving = async {
            let mut largest = 0;
            while left > 0 {
                left -= far.reader.read().await.unwrap().unwrap().1.len();
                largest = far.reader.held().max(largest);
            }
            largest
        };
        let (sent, largest) = tokio::join!(near.writer.write_data(&bulk), receiving);
        sent.unwrap();
        assert!(near.writer.held() > 256 * 1024);
        // Not told to release, it notices that bulk is over.
        for _ in 0..32 {
            near.writer
                .write_frame(RecordType::Ping, &[0; 8])
                .await
                .unwrap();
            far.reader.read().await.unwrap().unwrap();
        }
        assert!(near.writer.held() < 4_096);
        near.writer.release();
        assert_eq!(near.writer.held(), 0);
        if on_tcp {
            assert!(largest > 128 * 1024, "{largest}");
            // Waiting is what gives the memory back.
            let waiting = timeout(Duration::from_millis(300), far.reader.read()).await;
            assert!(waiting.is_err());
            assert_eq!(far.reader.held(), 0);
        }
    }
}

#[tokio::test]
async fn a_tuned_lane_says_what_it_runs_on() {
    let (Io::Tcp(near), _far) = tcp().await else {
        panic!("not TCP");
    };
    let tuning = tune(&near);
    assert!(near.nodelay().unwrap());
    if cfg!(target_os = "linux") {
        let bbr = tuning.congestion.as_deref() == Some("bbr");
        assert_eq!(bbr, tuning.bbr_refused().is_none(), "{tuning:?}");
    } else {
        assert_eq!(tuning.bbr_refused(), Some(io::ErrorKind::Unsupported));
    }
}
