//! Both sides of the protocol against each other, in virtual time, over a network that a seed decides.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tunnel_core::{
    instance::{FlowLimits, Instance, InstanceId, Protocol, Service},
    proto::{
        datagram::{
            DatagramHead, FlowId, FlowOpen, FragmentHead, Kind, MAX_HEAD, RedundancyHead, Scheme,
        },
        flow::{FlowKey, FlowTable},
        fragment::{Reassembler, ReassemblyLimits, split},
        message::{Code, Decoder, Message, ServiceId, Text},
        redundancy::Dedup,
        session::{
            Liveness,
            client::{ClientEvent, ClientSession},
            relay::{RelayEvent, RelaySession},
        },
        stream::{RecvHalf, SendHalf, TUNNEL_BUDGET, WINDOW_MAX},
    },
};

#[path = "pair/moves.rs"]
mod moves;

#[test]
fn every_instance_ends_bound_however_often_the_tunnel_is_cut() {
    let base = Instant::now();
    for seed in 0..1_500 {
        let trace = control(base, seed);
        if seed % 20 == 0 {
            assert_eq!(control(base, seed), trace, "seed {seed}");
        }
    }
}

#[test]
fn a_stream_loses_and_doubles_nothing_however_often_its_channel_is_cut() {
    let base = Instant::now();
    let pool = pool();
    for seed in 0..1_000 {
        let trace = stream(base, seed, &pool);
        if seed % 20 == 0 {
            assert_eq!(stream(base, seed, &pool), trace, "seed {seed}");
        }
    }
}

#[test]
fn what_arrives_of_a_flow_is_what_was_sent_on_it() {
    let base = Instant::now();
    let pool = pool();
    for seed in 0..1_000 {
        let trace = flows(base, seed, &pool);
        if seed % 20 == 0 {
            assert_eq!(flows(base, seed, &pool), trace, "seed {seed}");
        }
    }
}

/// A client and a relay that refuses, change and lose each other; the first minute and a half is unquiet.
fn control(base: Instant, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut trace = DefaultHasher::new();
    let mut net = Net::<Bytes>::new();
    let mut client = ClientSession::new(random.next());
    let mut relay: Option<RelaySession> = None;
    let mut decoders = [Decoder::new(), Decoder::new()];
    let mut held: BTreeMap<InstanceId, HashSet<ServiceId>> = BTreeMap::new();
    for n in 0..1 + random.below(5) {
        client.insert(instance(n, 0));
    }
    let latency = 1_000 + random.below(150_000);
    let mut change = Some(random.below(QUIET));
    let mut turn = random.below(1_000_000);
    let mut now;
    loop {
        let at = |micros| base + Duration::from_micros(micros);
        let timeouts = [
            client.poll_timeout(),
            relay.as_ref().map(RelaySession::poll_timeout),
        ];
        let wake = timeouts.into_iter().flatten().min();
        let wake = wake.map(|wake| wake.duration_since(base).as_nanos().div_ceil(1000) as u64);
        now = [net.next_at(), wake, change, Some(turn)]
            .into_iter()
            .flatten()
            .min()
            .unwrap();
        assert!(now < 40 * QUIET, "seed {seed}: not all is bound");
        now.hash(&mut trace);
        if now == turn {
            if relay.is_none() {
                client.handle_connected(at(now));
                relay = Some(RelaySession::new(at(now), 1, LEASE, "node", None));
                turn = now + 1 + random.below(20_000_000);
                if now > QUIET {
                    turn = u64::MAX;
                }
            } else {
                // Part of what was under way still comes, and the client hears it without a tunnel.
                relay = None;
                client.handle_disconnected();
                for (_, bytes) in net.cut(&mut random) {
                    let mut decoder = Decoder::new();
                    decoder.handle_input(&bytes);
                    let message = decoder.poll_message().unwrap().unwrap();
                    client.handle_message(at(now), message).unwrap();
                }
                decoders = [Decoder::new(), Decoder::new()];
                turn = now + 1 + random.below(10_000_000);
            }
        } else if Some(now) == change {
            let n = random.below(5);
            if random.below(4) == 0 {
                client.remove(instance(n, 0).id());
            } else {
                client.insert(instance(n, random.below(4)));
            }
            change = Some(now + 1 + random.below(5_000_000)).filter(|at| *at < QUIET);
        } else if let Some((to, bytes)) = net.take(now) {
            let decoder = &mut decoders[to];
            let (first, rest) = bytes.split_at(random.below(bytes.len() as u64 + 1) as usize);
            decoder.handle_input(first);
            let early = decoder.poll_message().unwrap();
            decoder.handle_input(rest);
            for message in early.into_iter().chain(decoder.poll_message().unwrap()) {
                message.name().hash(&mut trace);
                if to == CLIENT {
                    client.handle_message(at(now), message).unwrap();
                } else if let Some(relay) = &mut relay {
                    relay.handle_message(at(now), message).unwrap();
                }
            }
        }
        if timeouts[0].is_some_and(|due| due <= at(now)) {
            client.handle_timeout(at(now));
        }
        if let Some(relay) = &mut relay {
            if relay.poll_timeout() <= at(now) {
                relay.handle_timeout(at(now));
            }
            while let Some(event) = relay.poll_event() {
                if let Some(answer) = answer(&mut held, event, &mut random) {
                    // An answer may come late, and again.
                    for _ in 0..1 + random.below(8) / 7 {
                        relay.send(answer.clone());
                    }
                }
            }
            while let Some(message) = relay.poll_message() {
                net.send_in_order(now, CLIENT, latency, encode(&message), &mut random);
            }
        }
        while let Some(message) = client.poll_message() {
            net.send_in_order(now, RELAY, latency, encode(&message), &mut random);
        }
        while let Some(event) = client.poll_event() {
            assert_ne!(event, ClientEvent::Liveness(Liveness::Dead), "seed {seed}");
            format!("{event:?}").hash(&mut trace);
        }
        if turn == u64::MAX && client.is_all_bound() {
            break;
        }
    }
    // What is said to be bound is bound, with the very services that the client knows.
    let mut wanted: BTreeMap<InstanceId, HashSet<ServiceId>> = BTreeMap::new();
    for (id, instance, _) in client.services() {
        wanted.entry(instance.clone()).or_default().insert(id);
    }
    for (instance, ids) in wanted {
        assert_eq!(held.get(&instance), Some(&ids), "seed {seed}");
    }
    trace.finish()
}

/// The relay's authority: binds, or refuses one in three.
fn answer(
    held: &mut BTreeMap<InstanceId, HashSet<ServiceId>>,
    event: RelayEvent,
    random: &mut Random,
) -> Option<Message> {
    match event {
        RelayEvent::Declare {
            instance,
            revision,
            services,
        } => {
            if random.below(3) == 0 {
                return Some(Message::Refused {
                    instance,
                    revision,
                    code: Code::PortInUse,
                    text: Text::new("in use"),
                    port: Some(7777),
                });
            }
            let ids = services.iter().map(|service| service.id).collect();
            held.insert(instance.clone(), ids);
            Some(Message::Bound { instance, revision })
        }
        RelayEvent::Withdraw { instance, .. } => {
            held.remove(&instance);
            None
        }
        other => {
            assert_ne!(other, RelayEvent::Liveness(Liveness::Dead));
            None
        }
    }
}

fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}

fn instance(n: u64, variant: u64) -> Instance {
    let service = |s: u64| {
        let target = format!("127.0.0.1:{}", 1000 + variant);
        let service = Service::new(&*format!("s{s}"), Protocol::Both, &*target).unwrap();
        let public = u16::try_from(2000 + n * 10 + s).unwrap();
        service.public_port(public).unwrap()
    };
    Instance::new(&*format!("srv_{n}"), (0..=variant).map(service)).unwrap()
}

/// What a channel of a stream carries.
enum Piece {
    Attach(u64),
    Data(Bytes),
    Ack(u64),
    Fin(u64),
}

/// One side of a stream: its socket's bytes, and what came for its socket.
struct End {
    send: SendHalf,
    recv: RecvHalf,
    source: Bytes,
    waiting: VecDeque<Bytes>,
    taken: usize,
    attached: bool,
}

impl End {
    fn new(base: Instant, source: Bytes) -> Self {
        Self {
            send: SendHalf::new(base),
            recv: RecvHalf::new(),
            source,
            waiting: VecDeque::new(),
            taken: 0,
            attached: true,
        }
    }

    fn is_done(&self) -> bool {
        self.send.is_finished() && self.send.unacked() == 0 && self.recv.is_complete()
    }
}

/// A stream both ways; its channel is cut up to eight times.
fn stream(base: Instant, seed: u64, pool: &Bytes) -> u64 {
    let mut random = Random::new(seed);
    let mut trace = DefaultHasher::new();
    let mut net = Net::<Piece>::new();
    let mut ends = [0, 1].map(|_| {
        let length = (64 << 10) + random.below((960 << 10) + 1) as usize;
        let start = random.below((pool.len() - length) as u64) as usize;
        End::new(base, pool.slice(start..start + length))
    });
    let sources = [0, 1].map(|side: usize| ends[side].source.clone());
    let latency = 200 + random.below(60_000);
    let mut cuts: Vec<u64> = (0..random.below(9))
        .map(|_| random.below(latency * 20))
        .collect();
    cuts.sort_unstable_by(|a, b| b.cmp(a));
    let mut tick = 0;
    while !ends.iter().all(End::is_done) {
        let times = [net.next_at(), cuts.last().copied(), Some(tick)];
        let now = times.into_iter().flatten().min().unwrap();
        assert!(
            now < latency * 2000 + 60_000_000,
            "seed {seed} stands still"
        );
        let clock = base + Duration::from_micros(now);
        now.hash(&mut trace);
        if cuts.last() == Some(&now) {
            cuts.pop();
            net.clear();
            for (side, end) in ends.iter_mut().enumerate() {
                end.attached = false;
                end.recv.handle_channel_lost();
                let attach = Piece::Attach(end.recv.received());
                net.send_in_order(now, 1 - side, latency, attach, &mut random);
            }
        }
        if let Some((side, piece)) = net.take(now) {
            let end = &mut ends[side];
            match piece {
                Piece::Attach(offset) => {
                    end.attached = true;
                    for again in end.send.resend_from(offset).unwrap() {
                        net.send_in_order(now, 1 - side, latency, Piece::Data(again), &mut random);
                    }
                    if end.send.is_finished() {
                        let fin = Piece::Fin(end.send.offset());
                        net.send_in_order(now, 1 - side, latency, fin, &mut random);
                    }
                }
                Piece::Data(data) => {
                    end.recv.handle_data(data.len() as u64).unwrap();
                    end.waiting.push_back(data);
                }
                Piece::Ack(offset) => {
                    end.send.handle_ack(clock, offset).unwrap();
                }
                Piece::Fin(offset) => end.recv.handle_fin(offset).unwrap(),
            }
        }
        if now < tick {
            continue;
        }
        tick = now + 1 + random.below(latency / 2);
        for (side, end) in ends.iter_mut().enumerate() {
            // The socket takes some of what waits.
            for _ in 0..random.below(6) {
                let Some(data) = end.waiting.pop_front() else {
                    break;
                };
                let until = end.taken + data.len();
                let sent = sources[1 - side].get(end.taken..until);
                assert_eq!(sent, Some(&data[..]), "seed {seed} at {}", end.taken);
                end.taken = until;
                end.recv.handle_delivered(data.len() as u64);
            }
            if !end.attached {
                continue;
            }
            if (end.recv.owes_ack_now() || random.below(4) == 0)
                && let Some(offset) = end.recv.poll_ack()
            {
                net.send_in_order(now, 1 - side, latency, Piece::Ack(offset), &mut random);
            }
            // And has some to send.
            for _ in 0..random.below(6) {
                let most = end.send.allowance(TUNNEL_BUDGET - end.send.unacked());
                let most = most.min(end.source.len() as u64);
                if most == 0 {
                    break;
                }
                let data = end
                    .source
                    .split_to(1 + random.below(most.min(40_000)) as usize);
                end.send.handle_sent(clock, data.clone());
                net.send_in_order(now, 1 - side, latency, Piece::Data(data), &mut random);
            }
            assert!(end.send.unacked() <= WINDOW_MAX, "seed {seed}");
            if end.source.is_empty() && !end.send.is_finished() {
                let fin = Piece::Fin(end.send.handle_fin());
                net.send_in_order(now, 1 - side, latency, fin, &mut random);
            }
        }
    }
    for (side, end) in ends.iter().enumerate() {
        assert_eq!(end.taken, sources[1 - side].len(), "seed {seed}");
        let tail = end.send.resend_from(end.send.offset()).unwrap();
        assert!(tail.is_empty() && end.send.unacked() == 0, "seed {seed}");
        (end.taken, end.send.window()).hash(&mut trace);
    }
    trace.finish()
}

/// Packets of players to the client, through a network that loses, doubles, delays and reorders.
fn flows(base: Instant, seed: u64, pool: &Bytes) -> u64 {
    let mut random = Random::new(seed);
    let mut trace = DefaultHasher::new();
    let mut net = Net::<Bytes>::new();
    let mut table = FlowTable::new(FlowLimits {
        per_service: 4,
        ..FlowLimits::default()
    });
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    let loss = random.below(20);
    let spread = 1 + random.below(100_000);
    let is_sequenced = random.below(3) > 0;
    let (mut last_id, mut now) = (0, 0);
    // The packets of each flow, as slices of the pool, and which of them have come.
    let mut sent: HashMap<FlowId, Vec<Bytes>> = HashMap::new();
    let mut received: HashMap<FlowId, HashSet<u64>> = HashMap::new();
    let (mut sequence, mut dedup) = (u16::MAX - 40, Dedup::new());
    let (mut total, mut delivered, mut discarded) = (0, 0, 0);
    let mut left = 150;
    while left > 0 || net.next_at().is_some() {
        let arrival = net.next_at().unwrap_or(u64::MAX);
        if left > 0 && now < arrival {
            left -= 1;
            // Now and then a silence in which flows end.
            let is_silent = random.below(40) == 0;
            now += random.below(if is_silent { 15_000_000 } else { 20_000 });
            let clock = base + Duration::from_micros(now);
            while let Some(flow) = table.poll_expired(clock) {
                assert!(table.get(flow.id).is_none());
            }
            let player = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000 + random.below(6) as u16));
            let key = FlowKey::new(player, Ipv4Addr::LOCALHOST.into(), 0);
            let mut allocate = || {
                last_id += 1;
                FlowId(last_id)
            };
            let (flow, created) = loop {
                match table.handle_player_packet(clock, key, 0, &mut allocate) {
                    Ok(admitted) => break (*admitted.flow, admitted.created),
                    // Nothing is ever answered here, so that one can always go.
                    Err(full) => assert!(table.make_room(clock, full, &key).is_some()),
                }
            };
            let is_new = !sent.contains_key(&flow.id);
            assert_eq!(created, is_new, "seed {seed}: an id came again");
            let packets = sent.entry(flow.id).or_default();
            let length = match random.below(3) {
                0 => random.below(8001),
                _ => random.below(1200),
            } as usize;
            let start = random.below((pool.len() - length) as u64) as usize;
            let packet = pool.slice(start..start + length);
            let mut head = DatagramHead::data(flow.id);
            head.open = (!flow.open_acknowledged).then_some(FlowOpen {
                service: ServiceId(7),
                port_index: 0,
                player,
                local: None,
            });
            let number = packets.len() as u16;
            packets.push(packet.clone());
            total += 1;
            let mut parts = vec![(None, packet.clone())];
            if let Some(ranges) = split(length, PATH - MAX_HEAD) {
                let count = ranges.parts();
                parts = (0..count)
                    .zip(ranges)
                    .map(|(index, range)| {
                        let fragment = FragmentHead {
                            packet: number,
                            index,
                            count,
                        };
                        (Some(fragment), packet.slice(range))
                    })
                    .collect();
            }
            for (fragment, payload) in parts {
                head.fragment = fragment;
                head.redundancy = is_sequenced.then_some(RedundancyHead {
                    sequence,
                    scheme: Scheme::Copied,
                });
                sequence = sequence.wrapping_add(1);
                let mut out = BytesMut::new();
                head.encode(&mut out);
                assert_eq!(out.len(), head.encoded_len());
                out.extend_from_slice(&payload);
                assert!(out.len() <= PATH, "seed {seed}");
                let out = out.freeze();
                for _ in 0..1 + random.below(2) {
                    if random.below(100) >= loss {
                        net.send(now + random.below(spread), CLIENT, out.clone());
                    }
                }
            }
            continue;
        }
        now = now.max(arrival);
        let clock = base + Duration::from_micros(now);
        let Some((_, datagram)) = net.take(arrival) else {
            continue;
        };
        let (head, payload) = DatagramHead::decode(datagram).unwrap();
        assert_eq!(head.kind, Kind::Data);
        let flow = received.entry(head.flow).or_default();
        if head.redundancy.is_some_and(|it| !dedup.accept(it.sequence)) {
            continue;
        }
        let whole = match head.fragment {
            None => Some(payload),
            Some(fragment) => reassembler
                .handle_fragment(clock, head.flow, fragment, payload)
                .unwrap(),
        };
        let Some(packet) = whole else { continue };
        // Tiny packets may be alike: each that arrives takes one that was sent.
        let packets = &sent[&head.flow];
        let mut alike = (0..packets.len() as u64).filter(|n| packets[*n as usize] == packet);
        if is_sequenced {
            let fresh = alike.find(|n| !flow.contains(n));
            assert!(fresh.is_some(), "seed {seed}: {} came twice", head.flow.0);
            flow.extend(fresh);
        } else {
            let known = alike.next();
            assert!(known.is_some(), "seed {seed}: nobody sent this");
            flow.extend(known);
        }
        delivered += 1;
        (now, head.flow.0, packet.len()).hash(&mut trace);
        if random.below(4) == 0 {
            _ = table.handle_reply(clock, head.flow, 0);
        }
    }
    reassembler.handle_timeout(base + Duration::from_micros(now) + Duration::from_secs(2));
    assert_eq!((reassembler.packets(), reassembler.bytes()), (0, 0));
    let reasons = reassembler.drain_discarded();
    assert_eq!((reasons.contradictory, reasons.too_large), (0, 0));
    discarded += reasons.timeout + reasons.evicted;
    if is_sequenced {
        assert!(delivered <= total, "seed {seed}");
        if loss == 0 && reasons.evicted == 0 {
            assert!(delivered + discarded >= total, "seed {seed}");
        }
    }
    assert!(
        delivered * 3 >= total,
        "seed {seed}: {delivered} of {total}"
    );
    (total, delivered, discarded, last_id).hash(&mut trace);
    trace.finish()
}

/// What is under way, by the time it arrives.
struct Net<T> {
    under_way: BTreeMap<(u64, u64), (usize, T)>,
    sent: u64,
    /// When the last thing sent in order arrives at each side.
    last: [u64; 2],
}

impl<T> Net<T> {
    fn new() -> Self {
        Self {
            under_way: BTreeMap::new(),
            sent: 0,
            last: [0; 2],
        }
    }

    fn send(&mut self, at: u64, to: usize, what: T) {
        self.sent += 1;
        self.under_way.insert((at, self.sent), (to, what));
    }

    fn send_in_order(&mut self, now: u64, to: usize, latency: u64, what: T, random: &mut Random) {
        let at = now + latency + random.below(latency);
        self.last[to] = self.last[to].max(at);
        self.send(self.last[to], to, what);
    }

    fn next_at(&self) -> Option<u64> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    fn take(&mut self, now: u64) -> Option<(usize, T)> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn clear(&mut self) {
        self.under_way.clear();
        self.last = [0; 2];
    }

    /// Loses all but what happens to reach the client yet.
    fn cut(&mut self, random: &mut Random) -> Vec<(usize, T)> {
        self.last = [0; 2];
        let lost = std::mem::take(&mut self.under_way).into_values();
        lost.filter(|(to, _)| *to == CLIENT && random.below(2) == 0)
            .collect()
    }
}

/// Xorshift, so that a failure comes back.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// 2 MiB of bytes that all is cut from.
fn pool() -> Bytes {
    let mut random = Random::new(99);
    let words = (2 << 20) / 8;
    let bytes: Vec<u8> = (0..words)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    bytes.into()
}

const RELAY: usize = 0;
const CLIENT: usize = 1;
const LEASE: Duration = Duration::from_secs(30);
/// Room of a datagram on the path, in bytes.
const PATH: usize = 1162;
/// After this time, in microseconds, the tunnel is not cut any more, and nothing changes.
const QUIET: u64 = 90_000_000;
