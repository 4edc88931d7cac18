//! Lanes of the kernel's before one line, in virtual time and seeded. The kernel's congestion control is drawn with a
//! broad brush: what counts is that it fills the queue.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::LazyLock,
    time::{Duration, Instant},
};

use super::super::{LANE_LEAST, Newest, Sample, Shape, divide};
use crate::proto::testing::XorShift;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const MBIT: u64 = 1_000_000;

/// Where virtual time starts.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What all packets have to pass; the way back has the same delay and no queue.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Bits per second.
    pub(super) rate: u64,
    /// One way.
    pub(super) delay: Duration,
    /// Bytes that wait at most.
    pub(super) queue: u64,
    /// Share lost at random.
    pub(super) loss: f64,
}

/// Whose congestion control a sender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// A window that grows until something is lost, as CUBIC's.
    Window,
    /// A rate that follows what arrives, probing with a quarter more, as BBR's.
    Bbr,
}

/// What was seen in a measurement.
#[derive(Debug)]
pub(super) struct Seen {
    /// Our lanes together, in Mbit/s.
    pub(super) ours: f64,
    /// Each sender.
    pub(super) each: Vec<f64>,
    /// The game's wait in the queue.
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
    /// Share of the game lost at the queue.
    pub(super) lost: f64,
}

pub(super) struct Sim {
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    serial: u64,
    random: XorShift,
    line: Line,
    free_at: Duration,
    dark_until: Duration,
    senders: Vec<Sender>,
    shape: Option<Shape>,
    /// The last that our lanes told.
    rtt: Duration,
    /// Whose turn it is to be asked.
    turn: usize,
    waits: Vec<Duration>,
    games: u64,
    games_lost: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Game,
    Tick,
    Start(usize),
    Stop(usize),
    Send(usize),
    Acked(usize, Packet),
    Lost(usize, Packet),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Duration,
    /// What had been delivered when it left.
    delivered: u64,
    delivered_at: Duration,
}

struct Sender {
    kernel: Kernel,
    ours: bool,
    active: bool,
    /// Bytes per second that the application has; none for as much as goes.
    app: Option<f64>,
    pace: f64,
    next_send: Duration,
    send_planned: bool,
    is_odd: bool,
    in_flight: u64,
    delivered: u64,
    delivered_at: Duration,
    seen: u64,
    /// What was delivered when it was last asked.
    told: u64,
    srtt: Duration,
    newest: Newest,
    min_rtt: Duration,
    min_rtt_at: Duration,
    window: f64,
    threshold: f64,
    cut_at: Duration,
    /// Delivery rates by time, highest first.
    rates: VecDeque<(Duration, f64)>,
    startup: bool,
    full: f64,
    full_rounds: u8,
    round_end: Duration,
    probe_until: Duration,
    cycle: u32,
}

impl Sim {
    /// `shaped` of our lanes with these controls, all from the start.
    pub(super) fn new(line: Line, lanes: &[Kernel], shaped: bool) -> Self {
        let mut sim = Self {
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            serial: 0,
            random: XorShift::new(7),
            line,
            free_at: Duration::ZERO,
            dark_until: Duration::ZERO,
            senders: Vec::new(),
            shape: shaped.then(|| Shape::new(*EPOCH)),
            rtt: Duration::ZERO,
            turn: 0,
            waits: Vec::new(),
            games: 0,
            games_lost: 0,
        };
        for &kernel in lanes {
            sim.add(kernel, true, Duration::ZERO, None);
        }
        sim.at(Duration::ZERO, Event::Game);
        sim.at(Duration::ZERO, Event::Tick);
        sim
    }

    /// One more sender from `start` on; returns its place.
    pub(super) fn add(
        &mut self,
        kernel: Kernel,
        ours: bool,
        start: Duration,
        app: Option<f64>,
    ) -> usize {
        self.senders.push(Sender::new(kernel, ours, app));
        let id = self.senders.len() - 1;
        let rtt = self.line.delay * 2;
        self.senders[id].srtt = rtt;
        self.senders[id].newest = Newest::new(rtt, 0);
        self.senders[id].min_rtt = rtt;
        self.at(self.now + start, Event::Start(id));
        id
    }

    pub(super) fn stop(&mut self, id: usize) {
        self.at(self.now, Event::Stop(id));
    }

    pub(super) fn set_rate(&mut self, rate: u64) {
        self.line.rate = rate;
    }

    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.line.delay = delay;
    }

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
            self.handle(event);
        }
        self.now = end;
    }

    pub(super) fn measure(&mut self, time: Duration) -> Seen {
        self.waits.clear();
        (self.games, self.games_lost) = (0, 0);
        for sender in &mut self.senders {
            sender.seen = sender.delivered;
        }
        self.run(time);
        let mbit = |s: &Sender| (s.delivered - s.seen) as f64 * 8.0 / time.as_secs_f64() / 1e6;
        let each: Vec<f64> = self.senders.iter().map(mbit).collect();
        let ours = (self.senders.iter().zip(&each))
            .filter(|(sender, _)| sender.ours)
            .map(|(_, mbit)| mbit)
            .sum();
        self.waits.sort_unstable();
        let of = |share: f64| {
            let index = (self.waits.len() as f64 * share) as usize;
            self.waits.get(index).copied().unwrap_or_default()
        };
        Seen {
            ours,
            each,
            p50: of(0.5),
            p99: of(0.99),
            max: self.waits.last().copied().unwrap_or_default(),
            lost: self.games_lost as f64 / self.games.max(1) as f64,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Game => {
                self.games += 1;
                match self.cross(GAME) {
                    Some((wait, _)) => self.waits.push(wait),
                    None => self.games_lost += 1,
                }
                self.at(self.now + GAME_EVERY, Event::Game);
            }
            Event::Tick => self.tick(),
            Event::Start(id) => {
                self.senders[id].active = true;
                let lanes = self.senders.iter().filter(|s| s.ours && s.active).count();
                if let Some(shape) = &mut self.shape
                    && self.senders[id].ours
                {
                    shape.handle_rtt(*EPOCH + self.now, self.line.delay * 2);
                    if lanes == 1 {
                        shape.handle_start();
                    }
                    let share = |rate| (rate as f64 / lanes as f64).max(LANE_LEAST);
                    self.senders[id].pace = shape.rate().map_or(f64::INFINITY, share);
                }
                self.pump(id);
            }
            Event::Stop(id) => self.senders[id].active = false,
            Event::Send(id) => {
                self.senders[id].send_planned = false;
                self.pump(id);
            }
            Event::Acked(id, packet) => {
                self.senders[id].handle_ack(self.now, &packet);
                self.pump(id);
            }
            Event::Lost(id, packet) => {
                self.senders[id].handle_loss(self.now, &packet);
                self.pump(id);
            }
        }
    }

    fn tick(&mut self) {
        let Some(shape) = &mut self.shape else { return };
        let mut ours: Vec<_> = (self.senders.iter_mut())
            .filter(|s| s.ours && s.active)
            .collect();
        let lanes = ours.len();
        let asked = lanes.min(LANES_PER_LOOK);
        let rtt = (0..asked)
            .filter_map(|n| {
                let s = &mut ours[(self.turn + n) % lanes];
                s.told = s.delivered;
                let segments = (s.delivered / PAYLOAD) as u32;
                s.newest.handle_average(s.srtt, segments, s.min_rtt)
            })
            .min();
        self.turn += asked;
        self.rtt = rtt.unwrap_or(self.rtt);
        if !self.rtt.is_zero() {
            let sample = Sample {
                rtt: self.rtt,
                delivered: ours.iter().map(|s| s.told).sum(),
                hungry: ours.iter().filter(|s| s.app.is_none()).count(),
            };
            shape.handle_sample(*EPOCH + self.now, sample);
        }
        let interval = shape.interval();
        let uses: Vec<_> = ours.iter().map(|s| s.app).collect();
        let mut shares = Vec::new();
        divide(shape.rate().unwrap_or(0) as f64, &uses, &mut shares);
        for (sender, share) in ours.iter_mut().zip(shares) {
            sender.pace = shape.rate().map_or(f64::INFINITY, |_| share);
        }
        self.at(self.now + interval, Event::Tick);
    }

    fn pump(&mut self, id: usize) {
        loop {
            let now = self.now;
            let sender = &mut self.senders[id];
            if !sender.may_send() {
                return;
            }
            if sender.next_send > now {
                if !sender.send_planned {
                    sender.send_planned = true;
                    let at = sender.next_send;
                    self.at(at, Event::Send(id));
                }
                return;
            }
            let jitter = 0.9 + self.random.below(1000) as f64 / 5000.0;
            let gap = Duration::from_secs_f64(PACKET as f64 / sender.pacing(now) * jitter);
            // Two leave at once, which matters where lanes are slow. Nothing shortens the pause after them.
            sender.is_odd = gap > 40 * MS && !sender.is_odd;
            if gap <= 40 * MS {
                sender.next_send = now + gap;
            } else if !sender.is_odd {
                sender.next_send = now + gap * 2;
            }
            sender.in_flight += 1;
            if sender.in_flight == 1 {
                sender.delivered_at = now;
            }
            let packet = Packet {
                at: now,
                delivered: sender.delivered,
                delivered_at: sender.delivered_at,
            };
            match self.cross(PACKET) {
                Some((_, arrival)) => {
                    self.at(arrival + self.line.delay, Event::Acked(id, packet));
                }
                None => {
                    // What comes behind it tells, a round trip later.
                    let queue = self.free_at.saturating_sub(now);
                    // After a black-out the kernel's timer does.
                    let told_after_dark = match now < self.dark_until {
                        true => self.dark_until + 200 * MS,
                        false => now,
                    };
                    let told = now + queue + self.line.delay * 2 + MS;
                    self.at(told.max(told_after_dark), Event::Lost(id, packet));
                }
            }
        }
    }

    /// How long a packet waits and when it arrives, if it does.
    fn cross(&mut self, size: u64) -> Option<(Duration, Duration)> {
        let wait = self.free_at.saturating_sub(self.now);
        let bytes = wait.as_secs_f64() * self.line.rate as f64 / 8.0;
        if self.now < self.dark_until || bytes as u64 + size > self.line.queue {
            return None;
        }
        let wire = Duration::from_secs_f64(size as f64 * 8.0 / self.line.rate as f64);
        self.free_at = self.free_at.max(self.now) + wire;
        let lost = (self.random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (size == GAME || lost >= self.line.loss).then_some((wait, self.free_at + self.line.delay))
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }
}

impl Sender {
    fn new(kernel: Kernel, ours: bool, app: Option<f64>) -> Self {
        Self {
            kernel,
            ours,
            active: false,
            app,
            pace: f64::INFINITY,
            next_send: Duration::ZERO,
            send_planned: false,
            is_odd: false,
            in_flight: 0,
            delivered: 0,
            delivered_at: Duration::ZERO,
            seen: 0,
            told: 0,
            srtt: Duration::ZERO,
            newest: Newest::new(Duration::ZERO, 0),
            min_rtt: Duration::ZERO,
            min_rtt_at: Duration::ZERO,
            window: 10.0,
            threshold: f64::INFINITY,
            cut_at: Duration::ZERO,
            rates: VecDeque::new(),
            startup: true,
            full: 0.0,
            full_rounds: 0,
            round_end: Duration::ZERO,
            probe_until: Duration::ZERO,
            cycle: 0,
        }
    }

    fn may_send(&self) -> bool {
        self.active && self.in_flight < self.limit() as u64
    }

    fn bandwidth(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// Packets in flight at most.
    fn limit(&self) -> f64 {
        match self.kernel {
            Kernel::Window => self.window,
            Kernel::Bbr if self.probe_until > Duration::ZERO => 4.0,
            Kernel::Bbr => {
                let gain = if self.startup { 2.89 } else { 2.0 };
                let path = self.bandwidth() * self.min_rtt.as_secs_f64() / PACKET as f64;
                (gain * path).max(10.0)
            }
        }
    }

    /// Bytes per second at which it sends.
    fn pacing(&self, now: Duration) -> f64 {
        let own = match self.kernel {
            // Bursts go at the network card's rate.
            Kernel::Window => 1.25e9,
            Kernel::Bbr if self.rates.is_empty() => 10.0 * PACKET as f64 / 0.001,
            Kernel::Bbr if self.startup => self.bandwidth() * 2.89,
            Kernel::Bbr => {
                let phase = (now.as_secs_f64() / self.min_rtt.as_secs_f64().max(0.001)) as u32;
                let gain = match (phase.wrapping_add(self.cycle)) % 8 {
                    0 => 1.25,
                    1 => 0.75,
                    _ => 1.0,
                };
                self.bandwidth() * gain * 0.99
            }
        };
        own.min(self.pace).min(self.app.unwrap_or(f64::INFINITY))
    }

    fn handle_ack(&mut self, now: Duration, packet: &Packet) {
        let was_full = self.in_flight as f64 + 1.0 >= self.limit();
        self.in_flight -= 1;
        self.delivered += PAYLOAD;
        self.delivered_at = now;
        let rtt = now - packet.at;
        // One acknowledgement for two packets.
        if (self.delivered / PAYLOAD).is_multiple_of(2) {
            self.srtt = (self.srtt * 7 + rtt) / 8;
        }
        if rtt <= self.min_rtt || self.min_rtt.is_zero() {
            self.min_rtt = rtt;
            self.min_rtt_at = now;
        }
        match self.kernel {
            Kernel::Window if self.window < self.threshold => {
                self.window += f64::from(u8::from(was_full));
            }
            Kernel::Window => {
                self.window += f64::from(u8::from(was_full)) * 2.0 / self.window;
            }
            Kernel::Bbr => self.follow(now, packet),
        }
    }

    fn follow(&mut self, now: Duration, packet: &Packet) {
        let time = (now - packet.delivered_at).as_secs_f64();
        let rate = (self.delivered - packet.delivered) as f64 / time.max(1e-6) * PACKET as f64
            / PAYLOAD as f64;
        while self.rates.back().is_some_and(|(_, last)| *last <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((now, rate));
        let old = self.srtt * 10;
        while self.rates.front().is_some_and(|(at, _)| *at + old < now) {
            self.rates.pop_front();
        }
        if self.startup && now >= self.round_end {
            self.round_end = now + self.srtt;
            if self.bandwidth() > self.full * 1.25 {
                self.full = self.bandwidth();
                self.full_rounds = 0;
            } else {
                self.full_rounds += 1;
                self.startup = self.full_rounds < 3;
            }
        }
        if self.probe_until > Duration::ZERO {
            if now >= self.probe_until {
                self.probe_until = Duration::ZERO;
                self.min_rtt_at = now;
            }
        } else if now > self.min_rtt_at + 10_000 * MS {
            self.min_rtt = now - packet.at;
            self.probe_until = now + 200 * MS;
        }
    }

    fn handle_loss(&mut self, now: Duration, packet: &Packet) {
        self.in_flight -= 1;
        if packet.at < self.cut_at {
            return;
        }
        self.cut_at = now;
        if self.kernel == Kernel::Window {
            self.window = (self.window * 0.7).max(2.0);
            self.threshold = self.window;
        }
    }
}

/// Bytes of a full packet on the line, and of it what the kernel counts.
const PACKET: u64 = 1500;
const PAYLOAD: u64 = 1448;
/// As many as the shaper asks.
const LANES_PER_LOOK: usize = 64;
/// A game of 400 packets a second.
const GAME: u64 = 240;
const GAME_EVERY: Duration = Duration::from_micros(2_500);
