//! The simulation: a heap of events, seeded, no clock.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::super::{Level, LevelConfig, UNDECLARED};
use super::rivals::{Bbr, Controls, Cubic};

/// Bytes of a full packet, and what quinn asks room for even when the packet is small.
const MTU: u64 = 1452;

/// Where virtual time starts.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn virtual_now() -> Instant {
    *EPOCH + NOW.get()
}

/// The bottleneck; the way back has the same delay and loss and no queue.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// Bits per second.
    pub(super) rate: u64,
    /// One way.
    pub(super) delay: Duration,
    /// Bytes that wait at most.
    pub(super) queue: u64,
    /// Share lost at random, each way.
    pub(super) loss: f64,
    /// Packets that a random loss takes in a row.
    pub(super) burst: u32,
    /// Bits per second above which packets are dropped without queueing, after a bucket of 20 ms.
    pub(super) policer: Option<u64>,
    /// Up to this much more delay, each way; drifting, or else drawn by each packet, which may overtake.
    pub(super) jitter: Duration,
    pub(super) reorders: bool,
    /// Every so often nothing leaves for so long.
    pub(super) pause: Option<(Duration, Duration)>,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            rate: 0,
            delay: Duration::ZERO,
            queue: 0,
            loss: 0.0,
            burst: 1,
            policer: None,
            jitter: Duration::ZERO,
            reorders: false,
            pause: None,
        }
    }
}

/// What a sender has to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) packets_per_second: u32,
    pub(super) size: u64,
    pub(super) bulk: bool,
    pub(super) control: Control,
}

/// Whose congestion control a sender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Level,
    Cubic,
    Bbr,
}

/// What a receiver saw in a measurement.
#[derive(Debug)]
pub(super) struct Seen {
    /// Everything received.
    pub(super) mbit: f64,
    /// Between two packets received.
    pub(super) standstill: Duration,
    /// Waiting in the bottleneck.
    pub(super) queue_p50: Duration,
    pub(super) queue_p99: Duration,
    /// A game packet's way from the game to the receiver.
    pub(super) game_p50: Duration,
    pub(super) game_p99: Duration,
    /// From the start of the measurement to the first game packet received.
    pub(super) game_first: Duration,
    pub(super) game_loss: f64,
    /// A game packet's wait in the sender.
    pub(super) held_p50: Duration,
    pub(super) held_p99: Duration,
    pub(super) window: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Game(usize),
    Poll(usize),
    Arrive(usize, u64),
    AckTimer(usize),
    Acked(usize, Vec<u64>),
}

pub(super) struct Sim {
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    serial: u64,
    path: Path,
    free_at: Duration,
    bucket: f64,
    bucket_at: Duration,
    dark_until: Duration,
    burst_left: u32,
    random: u64,
    /// When the last packet arrives that keeps its place; forth and back.
    last: [Duration; 2],
    senders: Vec<Sender>,
    measuring: Duration,
    path_seed: u64,
}

struct Sender {
    control: Box<dyn Controls>,
    config: Arc<LevelConfig>,
    load: Load,
    start: Duration,
    game_start: Duration,
    next: u64,
    sent: BTreeMap<u64, Packet>,
    waiting: VecDeque<Duration>,
    in_flight: u64,
    app_limited: bool,
    smoothed: Duration,
    variance: Duration,
    largest: Option<u64>,
    tokens: f64,
    tokens_at: Duration,
    poll_at: Option<Duration>,
    last_sent: Duration,
    probes: u32,
    probe_count: u32,
    // The receiver's side.
    unacked: Vec<u64>,
    bytes: u64,
    queued: Vec<Duration>,
    game: Vec<Duration>,
    held: Vec<Duration>,
    game_sent: u64,
    game_lost: u64,
    game_first: Option<Duration>,
    received: Duration,
    standstill: Duration,
}

#[derive(Clone)]
struct Packet {
    at: Duration,
    size: u64,
    /// When the game made its datagrams.
    games: Vec<Duration>,
    queued: Duration,
}

impl Sim {
    pub(super) fn new(path: Path, loads: &[Load]) -> Self {
        NOW.set(Duration::ZERO);
        let senders = loads.iter().map(|&load| Sender::new(load)).collect();
        let mut sim = Self {
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            serial: 0,
            path,
            free_at: Duration::ZERO,
            bucket: 0.0,
            bucket_at: Duration::ZERO,
            dark_until: Duration::ZERO,
            burst_left: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            last: [Duration::ZERO; 2],
            senders,
            measuring: Duration::ZERO,
            path_seed: 0,
        };
        for (id, load) in loads.iter().enumerate() {
            sim.at(Duration::ZERO, Event::Poll(id));
            if load.packets_per_second > 0 {
                sim.at(Duration::ZERO, Event::Game(id));
            }
        }
        sim
    }

    pub(super) fn config(&self, id: usize) -> &LevelConfig {
        &self.senders[id].config
    }

    pub(super) fn delay_start(&mut self, id: usize, start: Duration) {
        self.senders[id].start = start;
        self.at(start, Event::Poll(id));
    }

    /// The game's first packet comes then.
    pub(super) fn delay_game(&mut self, id: usize, start: Duration) {
        self.senders[id].game_start = start;
    }

    pub(super) fn seed(mut self, seed: u64) -> Self {
        self.random = self.random.wrapping_mul(2 * seed + 1);
        self.path_seed = mix(seed);
        self
    }

    pub(super) fn set_rate(&mut self, rate: u64) {
        self.path.rate = rate;
    }

    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.path.delay = delay;
    }

    /// The network marks a packet of a sender.
    pub(super) fn mark(&mut self, id: usize) {
        let now = virtual_now();
        self.senders[id].control.handle_loss(now, now, false, 0);
    }

    /// Nothing passes for `time`.
    pub(super) fn black_out(&mut self, time: Duration) {
        self.dark_until = self.now + time;
        self.run(time);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            NOW.set(at);
            self.handle(event);
        }
        self.now = end;
        NOW.set(end);
    }

    pub(super) fn measure(&mut self, time: Duration) -> Vec<Seen> {
        self.measure_while(time, |_| {})
    }

    /// The same, while something is done that takes a part of the time.
    pub(super) fn measure_while(
        &mut self,
        time: Duration,
        act: impl FnOnce(&mut Self),
    ) -> Vec<Seen> {
        self.measuring = self.now;
        for sender in &mut self.senders {
            sender.forget(self.measuring);
        }
        act(self);
        self.run(self.measuring + time - self.now);
        self.senders
            .iter_mut()
            .map(|sender| sender.seen(time))
            .collect()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Game(id) if self.now < self.senders[id].game_start => {
                self.at(self.senders[id].game_start, Event::Game(id));
            }
            Event::Game(id) => {
                let sender = &mut self.senders[id];
                sender.waiting.push_back(self.now);
                // What the sender cannot keep, 256 packets, is dropped oldest first.
                if sender.waiting.len() > 256 {
                    sender.waiting.pop_front();
                    sender.game_lost += 1;
                    sender.game_sent += 1;
                }
                let gap = Duration::from_secs(1) / sender.load.packets_per_second;
                self.at(self.now + gap, Event::Game(id));
                self.poll(id);
            }
            Event::Poll(id) => {
                if self.senders[id].poll_at.is_some_and(|at| at <= self.now) {
                    self.senders[id].poll_at = None;
                }
                self.poll(id);
            }
            Event::Arrive(id, number) => {
                let start = self.measuring;
                let sender = &mut self.senders[id];
                sender.receive(self.now, number, start);
                if sender.unacked.len() == 1 {
                    self.at(self.now + Duration::from_millis(25), Event::AckTimer(id));
                } else {
                    self.acknowledge(id);
                }
            }
            Event::AckTimer(id) => self.acknowledge(id),
            Event::Acked(id, numbers) => {
                self.senders[id].handle_ack(self.now, &numbers);
                self.poll(id);
            }
        }
    }

    fn acknowledge(&mut self, id: usize) {
        if self.senders[id].unacked.is_empty() {
            return;
        }
        // A lost acknowledgement is repeated by the next one.
        if self.lose() {
            return;
        }
        let numbers = std::mem::take(&mut self.senders[id].unacked);
        let arrival = self.travel(self.now, 1);
        self.at(arrival, Event::Acked(id, numbers));
    }

    /// Sends what window and pacer allow.
    fn poll(&mut self, id: usize) {
        let now = self.now;
        while let Some(packet) = self.senders[id].poll_transmit(now) {
            let number = self.senders[id].next;
            self.senders[id].next += 1;
            let mut packet = packet;
            if let Some((queued, arrival)) = self.cross(packet.size) {
                packet.queued = queued;
                self.at(arrival, Event::Arrive(id, number));
            }
            self.senders[id].sent.insert(number, packet);
        }
        let sender = &mut self.senders[id];
        if let Some(at) = sender.next_wake(now)
            && sender.poll_at.is_none_or(|planned| at < planned)
        {
            sender.poll_at = Some(at);
            self.at(at, Event::Poll(id));
        }
    }

    /// How long a packet queues and when it arrives, if it does.
    fn cross(&mut self, size: u64) -> Option<(Duration, Duration)> {
        if let Some(policer) = self.path.policer {
            let full = policer as f64 / 8.0 * 0.020;
            let gained = (self.now - self.bucket_at).as_secs_f64() * policer as f64 / 8.0;
            self.bucket = (self.bucket + gained).min(full);
            self.bucket_at = self.now;
            if self.bucket < size as f64 {
                return None;
            }
            self.bucket -= size as f64;
        }
        if let Some((period, pause)) = self.path.pause {
            let since = Duration::from_nanos(
                (self.free_at.max(self.now).as_nanos() % period.as_nanos()) as u64,
            );
            if since < pause {
                self.free_at = self.free_at.max(self.now) + pause - since;
            }
        }
        let queued = self.free_at.saturating_sub(self.now);
        let bytes = queued.as_secs_f64() * self.path.rate as f64 / 8.0;
        if bytes as u64 + size > self.path.queue.max(size) {
            return None;
        }
        let wire = Duration::from_secs_f64(size as f64 * 8.0 / self.path.rate as f64);
        self.free_at = self.free_at.max(self.now) + wire;
        if self.lose() {
            return None;
        }
        let arrival = self.travel(self.free_at, 0);
        Some((queued, arrival))
    }

    /// When a packet arrives that leaves the bottleneck then.
    fn travel(&mut self, leaves: Duration, back: usize) -> Duration {
        let due = leaves + self.path.delay;
        if self.path.jitter.is_zero() {
            return due;
        }
        if self.path.reorders {
            return due + self.path.jitter.mul_f64(self.share());
        }
        // A line between points of chance, two of the longest delays apart.
        let step = self.path.jitter.as_nanos() * 2;
        let (before, along) = (leaves.as_nanos() / step, leaves.as_nanos() % step);
        let seed = self.random_of_path(back as u64);
        let point = |place: u128| share(mix(seed ^ (place as u64).wrapping_mul(GOLDEN)));
        let along = along as f64 / step as f64;
        let wander = point(before) * (1.0 - along) + point(before + 1) * along;
        let due = (due + self.path.jitter.mul_f64(wander)).max(self.last[back]);
        self.last[back] = due;
        due
    }

    fn random_of_path(&self, back: u64) -> u64 {
        self.path_seed ^ back
    }

    fn lose(&mut self) -> bool {
        if self.now < self.dark_until {
            return true;
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        let lost = self.share() < self.path.loss / f64::from(self.path.burst);
        if lost {
            self.burst_left = self.path.burst - 1;
        }
        lost
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.random = self.random.wrapping_add(GOLDEN);
        share(mix(self.random))
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }
}

impl Sender {
    fn new(load: Load) -> Self {
        let config = Arc::new(LevelConfig {
            game_rate: AtomicU64::new(UNDECLARED),
            is_felt: true.into(),
            clock: virtual_now,
            is_choked: false.into(),
        });
        Self {
            control: match load.control {
                Control::Level => Box::new(Level::new(config.clone(), *EPOCH, MTU as u16)),
                Control::Cubic => Box::new(Cubic::default()),
                Control::Bbr => Box::new(Bbr::default()),
            },
            config,
            load,
            start: Duration::ZERO,
            game_start: Duration::ZERO,
            next: 0,
            sent: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            app_limited: false,
            smoothed: Duration::from_millis(333),
            variance: Duration::from_millis(166),
            largest: None,
            tokens: 10.0 * MTU as f64,
            tokens_at: Duration::ZERO,
            poll_at: None,
            last_sent: Duration::ZERO,
            probes: 0,
            probe_count: 0,
            unacked: Vec::new(),
            bytes: 0,
            queued: Vec::new(),
            game: Vec::new(),
            held: Vec::new(),
            game_sent: 0,
            game_lost: 0,
            game_first: None,
            received: Duration::ZERO,
            standstill: Duration::ZERO,
        }
    }

    /// The next packet, datagrams first, as `Connection::poll_transmit` fills it.
    fn poll_transmit(&mut self, now: Duration) -> Option<Packet> {
        if !self.sent.is_empty() && now >= self.probe_at() {
            self.probes = 2;
            self.probe_count += 1;
        }
        let bulk = self.load.bulk && now >= self.start;
        if self.waiting.is_empty() && !bulk {
            self.app_limited = true;
            return None;
        }
        let window = self.control.window_at(virtual_now());
        if self.probes > 0 {
            self.probes -= 1;
        } else if self.in_flight + MTU >= window || self.pacer_delay(now, window).is_some() {
            self.app_limited = false;
            return None;
        }
        let mut packet = Packet {
            at: now,
            size: 0,
            games: Vec::new(),
            queued: Duration::ZERO,
        };
        while let Some(&made) = self.waiting.front()
            && packet.size + self.load.size <= MTU
        {
            self.waiting.pop_front();
            self.held.push(now - made);
            self.game_sent += 1;
            packet.size += self.load.size;
            packet.games.push(made);
        }
        if bulk {
            packet.size = MTU;
        }
        self.tokens = (self.tokens - packet.size as f64).max(0.0);
        self.in_flight += packet.size;
        self.last_sent = now;
        self.control.handle_sent(virtual_now(), packet.size);
        Some(packet)
    }

    /// quinn's `Pacer`.
    fn pacer_delay(&mut self, now: Duration, window: u64) -> Option<Duration> {
        let rate = (self.control.pace())
            .map_or(window as f64 / self.smoothed.as_secs_f64(), |pace| {
                pace / 1.25
            });
        let capacity = (rate * 0.002).clamp(10.0 * MTU as f64, 256.0 * MTU as f64);
        self.tokens = self.tokens.min(capacity);
        if self.tokens >= MTU as f64 {
            return None;
        }
        let gained = (now - self.tokens_at).as_secs_f64() * rate * 1.25;
        self.tokens = (self.tokens + gained).min(capacity);
        self.tokens_at = now;
        let missing = capacity - self.tokens;
        (self.tokens < MTU as f64).then(|| {
            now + Duration::from_secs_f64(missing / rate * 0.8).max(Duration::from_micros(1))
        })
    }

    fn next_wake(&mut self, now: Duration) -> Option<Duration> {
        if self.load.bulk && now < self.start {
            return Some(self.start);
        }
        let probe =
            (!self.sent.is_empty()).then(|| self.probe_at().max(now + Duration::from_micros(1)));
        let window = self.control.window_at(virtual_now());
        let paced = (!self.app_limited && self.in_flight + MTU < window)
            .then(|| self.pacer_delay(now, window))
            .flatten();
        probe.into_iter().chain(paced).min()
    }

    fn probe_at(&self) -> Duration {
        let base = self.smoothed + self.variance * 4 + Duration::from_millis(25);
        self.last_sent + base * 2u32.pow(self.probe_count.min(16))
    }

    fn handle_ack(&mut self, now: Duration, numbers: &[u64]) {
        let instant = virtual_now();
        let mut newest = None;
        for number in numbers {
            let Some(packet) = self.sent.remove(number) else {
                continue;
            };
            self.in_flight -= packet.size;
            newest = newest.max(Some((*number, packet.at)));
            self.control
                .handle_ack(instant, *EPOCH + packet.at, packet.size, self.app_limited);
        }
        let Some((number, at)) = newest else { return };
        self.control.handle_acks_end(instant, self.in_flight);
        self.probe_count = 0;
        let rtt = now - at;
        if self.largest.is_none() {
            self.smoothed = rtt;
            self.variance = rtt / 2;
        }
        self.variance = (self.variance * 3 + self.smoothed.abs_diff(rtt)) / 4;
        self.smoothed = (self.smoothed * 7 + rtt) / 8;
        self.largest = self.largest.max(Some(number));
        self.detect_losses(now, rtt);
    }

    fn detect_losses(&mut self, now: Duration, rtt: Duration) {
        let largest = self.largest.unwrap_or(0);
        let late = self.smoothed.max(rtt) * 5 / 4;
        let lost: Vec<u64> = self
            .sent
            .range(..largest)
            .filter(|(_, packet)| packet.at + late <= now)
            .map(|(number, _)| *number)
            .collect();
        let mut bytes = 0;
        let mut span: Option<(Duration, Duration)> = None;
        for number in lost {
            let Some(packet) = self.sent.remove(&number) else {
                continue;
            };
            bytes += packet.size;
            self.game_lost += packet.games.len() as u64;
            let first = span.map_or(packet.at, |(first, _)| first);
            span = Some((first, packet.at));
        }
        if let Some((first, last)) = span {
            self.in_flight -= bytes;
            let period = (self.smoothed + self.variance * 4 + Duration::from_millis(25)) * 3;
            let persistent = last - first > period;
            self.control
                .handle_loss(virtual_now(), *EPOCH + last, persistent, bytes);
        }
    }

    fn receive(&mut self, now: Duration, number: u64, start: Duration) {
        self.unacked.push(number);
        let Some(packet) = self.sent.get(&number) else {
            return;
        };
        self.bytes += packet.size;
        self.standstill = self.standstill.max(now.saturating_sub(self.received));
        self.received = now;
        self.queued.push(packet.queued);
        for made in &packet.games {
            self.game.push(now - *made);
            if self.game_first.is_none() && packet.at >= start {
                self.game_first = Some(now - start);
            }
        }
    }

    fn forget(&mut self, now: Duration) {
        self.standstill = Duration::ZERO;
        self.received = now.max(self.start);
        self.bytes = 0;
        self.queued.clear();
        self.game.clear();
        self.held.clear();
        self.game_sent = 0;
        self.game_lost = 0;
        self.game_first = None;
    }

    fn seen(&mut self, time: Duration) -> Seen {
        let of = |samples: &mut Vec<Duration>, share: f64| {
            samples.sort_unstable();
            let index = (samples.len() as f64 * share) as usize;
            samples.get(index).copied().unwrap_or_default()
        };
        Seen {
            mbit: self.bytes as f64 * 8.0 / time.as_secs_f64() / 1e6,
            queue_p50: of(&mut self.queued, 0.5),
            queue_p99: of(&mut self.queued, 0.99),
            game_p50: of(&mut self.game, 0.5),
            game_p99: of(&mut self.game, 0.99),
            game_first: self.game_first.unwrap_or(Duration::MAX),
            game_loss: self.game_lost as f64 / self.game_sent.max(1) as f64,
            held_p50: of(&mut self.held, 0.5),
            held_p99: of(&mut self.held, 0.99),
            window: self.control.window_at(virtual_now()),
            standstill: self.standstill,
        }
    }
}

/// SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn share(drawn: u64) -> f64 {
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
