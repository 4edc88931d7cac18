//! How fast a tunnel's lanes may send, so that the bottleneck's queue stays short (docs/congestion.md).
//!
//! The kernel's congestion control fills the queue before a narrow line, and a game waits in it. [`Shape`] watches the
//! lanes' round trips and answers with one rate for all of them together:
//!
//! - **Start**: no queue has shown. The rate may grow quickly, so that a start does not overshoot by much; on short
//!   paths, where that is seen at once, nothing is held back.
//! - **Level**: the rate is led so that the queue stays near its target. What arrives while there is a queue is what
//!   the line carries, and bounds the rate; below the target the rate climbs in steps that grow.
//! - **Drain** and **settle**: a queue that is too long is let run dry. A drain holds lanes back for as long as the
//!   queue takes to empty; what came of it shows a round trip later.
//! - **Compete**: the queue did not fall although we sent less, twice. It is somebody else's: whoever yields to it
//!   starves. The lanes run as the kernel lets them, and try again later.
//!
//! Loss is no signal here: that is the kernel's business.

mod empty;
mod flow;
mod lane;
mod share;

use std::time::{Duration, Instant};

pub use self::lane::{LANE_LEAST, Newest, divide};
use self::{empty::EmptyPath, flow::Delivered, lane::PAIR, share::Share};

/// The rate of a tunnel's lanes.
#[derive(Debug)]
pub struct Shape {
    phase: Phase,
    /// What the line carries, as far as is known, in bytes per second.
    line: f64,
    /// What the lanes may send now.
    rate: f64,
    /// The line's rate when there was last a queue: well above it is new ground.
    mark: f64,
    /// Share that the next step adds.
    step: f64,
    stepped: Instant,
    /// Since when there has been a queue without a break.
    queued: Option<Instant>,
    /// Samples in a row that would end the phase.
    signs: u8,
    empty: EmptyPath,
    delivered: Delivered,
    queue: Duration,
    /// Lanes that have more to send than they may.
    hungry: f64,
    last: Option<Instant>,
    /// Drains in a row that did not help.
    strikes: u8,
    /// The most that the line carried lately.
    share: Share,
    /// How long the next competition lasts.
    hold: Duration,
    dip: Dip,
}

/// What the lanes tell, together, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Their round trip, queue included.
    pub rtt: Duration,
    /// Bytes that have arrived since any moment in the past, the same for all samples.
    pub delivered: u64,
    /// How many of them have more to send than they may.
    pub hungry: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    Level,
    Drain {
        since: Instant,
        /// The longest queue since then.
        queue: Duration,
    },
    Settle {
        until: Instant,
        /// The queue before the drain, and by how much it should have fallen.
        queue: Duration,
        expected: Duration,
    },
    Compete {
        until: Instant,
    },
}

/// A short break that shows the empty path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dip {
    /// None before then.
    Next(Instant),
    /// Until the queue is gone, or until then.
    Until(Instant),
}

impl Shape {
    /// For a tunnel of which nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Start,
            line: 0.0,
            rate: RATE_START,
            mark: 0.0,
            step: STEP_LEAST,
            stepped: now,
            queued: None,
            signs: 0,
            empty: EmptyPath::default(),
            delivered: Delivered::default(),
            queue: Duration::ZERO,
            hungry: 1.0,
            last: None,
            strikes: 0,
            share: Share::new(now),
            hold: HOLD_LEAST,
            dip: Dip::Next(now + DIP_EVERY),
        }
    }

    /// Bytes per second that the lanes may send together; `None` for no limit.
    pub fn rate(&self) -> Option<u64> {
        match self.phase {
            Phase::Start if self.empty.rtt() < SHORT || self.rate > RATE_MOST => None,
            Phase::Compete { .. } => None,
            _ => Some(self.rate.max(self.least()) as u64),
        }
    }

    /// What it is at, for people.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Start => "start",
            Phase::Level => "level",
            Phase::Drain { .. } => "drain",
            Phase::Settle { .. } => "settle",
            Phase::Compete { .. } => "compete",
        }
    }

    /// How long a packet waits at the bottleneck.
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// When the next sample is wanted, while lanes are at work.
    pub fn interval(&self) -> Duration {
        match self.phase {
            Phase::Compete { .. } => SAMPLE_MOST,
            Phase::Start if self.line > RATE_MOST => SAMPLE_MOST,
            Phase::Start if self.empty.rtt() < SHORT => SAMPLE_LEAST * 2,
            // A start is over within a few round trips, and must be seen before it has filled the queue.
            _ => (self.empty.rtt() / 8).clamp(SAMPLE_LEAST, SAMPLE_MOST),
        }
    }

    /// A round trip of the path that is known from elsewhere, such as a lane's connect.
    pub fn handle_rtt(&mut self, now: Instant, rtt: Duration) {
        self.empty.handle_sample(now, rtt);
    }

    /// The lanes have begun to send after a pause, or others than before do.
    pub fn handle_start(&mut self) {
        self.delivered = Delivered::default();
        self.last = None;
        self.queued = None;
        self.signs = 0;
        match self.phase {
            Phase::Start => self.rate = RATE_START,
            Phase::Drain { .. } | Phase::Settle { .. } => self.phase = Phase::Level,
            Phase::Level | Phase::Compete { .. } => {}
        }
    }

    /// The lanes at work.
    pub fn handle_sample(&mut self, now: Instant, sample: Sample) {
        self.empty.handle_sample(now, sample.rtt);
        self.hungry = sample.hungry as f64;
        self.queue = sample.rtt.saturating_sub(self.empty.rtt());
        // Less than a turn says what some lanes have sent.
        let window = (sample.rtt.clamp(WINDOW_LEAST, WINDOW_MOST)).max(self.turn());
        self.delivered.handle_sample(now, sample.delivered, window);
        let passed = self.last.replace(now).map_or(Duration::ZERO, |last| {
            now.saturating_duration_since(last).min(WINDOW_LEAST)
        });
        // Without anything delivered nothing can be learnt: a black-out, or all that was sent is still on its way.
        let Some(delivered) = self.delivered.rate(window) else {
            return;
        };
        if self.queue < self.target() / 2 {
            self.queued = None;
        } else {
            self.queued.get_or_insert(now);
        }
        // All that was delivered in the window stood in a queue: that is what the line carries.
        let whole = self.queued.is_some_and(|since| now >= since + window);
        if whole && self.queue > self.target() {
            self.line = self.line.min(delivered * LINE_MARGIN);
        }
        self.share.handle_delivered(now, delivered);
        if matches!(
            self.phase,
            Phase::Level | Phase::Drain { .. } | Phase::Settle { .. }
        ) {
            let is_queued = self.queued.is_some();
            self.share
                .handle_line(now, self.line, sample.rtt, is_queued);
            if self.share.is_lost(self.line) {
                self.start_compete(now);
            }
        }
        match self.phase {
            Phase::Start => self.start(now, delivered),
            Phase::Level => self.lead(now, &sample, delivered, passed.as_secs_f64()),
            Phase::Drain { since, queue } => self.drain(now, &sample, since, queue),
            Phase::Settle {
                until,
                queue,
                expected,
            } => {
                if now >= until {
                    self.judge(now, delivered, queue, expected);
                }
            }
            Phase::Compete { until } => self.compete(now, delivered, until),
        }
    }

    /// The rate grows with what arrives, until a queue shows.
    fn start(&mut self, now: Instant, delivered: f64) {
        self.rate = RATE_START.max(delivered * START_GAIN);
        self.line = delivered;
        if self.queue <= self.limit() || delivered > RATE_MOST {
            self.signs = 0;
            return;
        }
        self.signs += 1;
        if self.signs >= SIGNS {
            self.start_drain(now);
        }
    }

    /// Leads the queue to its target.
    fn lead(&mut self, now: Instant, sample: &Sample, delivered: f64, passed: f64) {
        let target = self.target();
        if self.queue >= target / 2 {
            self.step = STEP_LEAST;
            let error = target.as_secs_f64() - self.queue.as_secs_f64();
            if sample.hungry > 0 || error < 0.0 {
                let horizon = self.horizon();
                self.line *= 1.0 + error * passed / (horizon * horizon * INTEGRAL);
            }
            self.mark = self.line;
        } else if sample.hungry > 0 {
            self.climb(now, sample.rtt, delivered);
        }
        self.line = self.line.max(self.least());
        if self.line > RATE_MOST {
            self.phase = Phase::Start;
            return;
        }
        if self.share.is_kept(now) {
            self.hold = HOLD_LEAST;
        }
        let error = target.as_secs_f64() - self.queue.as_secs_f64();
        let answer = (1.0 + error / self.horizon()).clamp(ANSWER_LEAST, ANSWER_MOST);
        self.rate = self.line * answer;
        self.take_dip(now, sample.rtt);
        if self.queue <= self.limit() {
            self.signs = 0;
            return;
        }
        self.signs += 1;
        if self.signs >= SIGNS {
            self.start_drain(now);
        }
    }

    /// One step up each round trip, as far as the lanes use what they have.
    fn climb(&mut self, now: Instant, rtt: Duration, delivered: f64) {
        if now < self.stepped + rtt + self.turn().saturating_sub(LAG)
            || delivered < self.rate * USED
        {
            return;
        }
        self.stepped = now;
        self.step = (self.step * 2.0).min(STEP_MOST);
        if self.line < self.mark * NEW_GROUND {
            // What a step overshoots by stands in the queue one round trip later.
            let room = self.target().as_secs_f64() / rtt.as_secs_f64() / 2.0;
            self.step = self.step.min(room.max(STEP_LEAST));
        }
        self.line *= 1.0 + self.step;
    }

    /// Lets the queue run dry every few seconds, so that the empty path is seen. BBR looks for itself otherwise, with a
    /// stop of 200 ms.
    fn take_dip(&mut self, now: Instant, rtt: Duration) {
        let is_seen = self.queue <= NEARLY_EMPTY;
        match self.dip {
            Dip::Next(_) if is_seen => self.dip = Dip::Next(now + DIP_EVERY),
            Dip::Next(at) if now >= at => self.dip = Dip::Until(now + rtt * 2 + DIP_LEAST),
            Dip::Next(_) => return,
            Dip::Until(until) if is_seen || now >= until => self.dip = Dip::Next(now + DIP_EVERY),
            Dip::Until(_) => {}
        }
        if let Dip::Until(_) = self.dip {
            self.rate = self.rate.min(self.line * DIP_SHARE);
        }
    }

    fn start_drain(&mut self, now: Instant) {
        self.signs = 0;
        self.line = self.line.max(self.least());
        self.rate = self.line * self.drain_share();
        self.phase = Phase::Drain {
            since: now,
            queue: self.queue,
        };
    }

    /// Lasts as long as the queue takes to empty, which may still grow from what was sent before.
    fn drain(&mut self, now: Instant, sample: &Sample, since: Instant, queue: Duration) {
        let queue = queue.max(self.queue);
        self.phase = Phase::Drain { since, queue };
        self.rate = self.line * self.drain_share();
        let drained = now.saturating_duration_since(since);
        let wanted = queue.saturating_sub(self.target() / 2).min(DRAIN_MOST);
        if drained.mul_f64(1.0 - self.drain_share()) < wanted {
            return;
        }
        self.rate = self.line * AFTER_DRAIN;
        self.phase = Phase::Settle {
            until: now + sample.rtt + self.lag(),
            queue,
            expected: wanted,
        };
    }

    /// What the drain has brought is seen by now.
    fn judge(&mut self, now: Instant, delivered: f64, queue: Duration, expected: Duration) {
        if queue.saturating_sub(self.queue) >= expected / 2 {
            self.strikes = 0;
        } else if self.queue > self.target() + STRIKE {
            self.strikes += 1;
        }
        if self.strikes >= STRIKES {
            // The next time one drain is enough to see it.
            self.strikes = STRIKES - 1;
            self.start_compete(now);
        } else if self.queue > self.limit() {
            self.line = self.line.min(delivered * LINE_MARGIN);
            self.start_drain(now);
        } else {
            self.start_level(now);
        }
    }

    fn start_level(&mut self, now: Instant) {
        self.phase = Phase::Level;
        self.signs = 0;
        self.mark = self.line;
        self.step = STEP_LEAST;
        self.stepped = now;
        self.dip = Dip::Next(now + DIP_EVERY);
    }

    fn start_compete(&mut self, now: Instant) {
        self.signs = 0;
        self.phase = Phase::Compete {
            until: now + self.hold,
        };
        self.hold = (self.hold * 2).min(HOLD_MOST);
        self.share.restart(now);
    }

    /// Runs with the others until it is time to look again, or they are gone.
    fn compete(&mut self, now: Instant, delivered: f64, until: Instant) {
        if self.queue > self.target() {
            self.signs = 0;
        } else {
            self.signs += 1;
        }
        if self.signs >= GONE {
            self.strikes = 0;
            self.hold = HOLD_LEAST;
            self.line = delivered;
            self.rate = delivered;
            self.start_level(now);
        } else if now >= until {
            self.line = delivered;
            self.start_drain(now);
        }
    }

    /// The queue aimed at.
    fn target(&self) -> Duration {
        self.target_at(self.line)
    }

    /// Two segments of the kernel's beyond what the path needs, on a line of so many bytes per second.
    fn target_at(&self, line: f64) -> Duration {
        let segments = Duration::from_secs_f64(2.0 * SEGMENT / line.max(RATE_LEAST));
        TARGET.max(self.empty.rtt() / TARGET_SHARE) + segments.min(SEGMENTS_MOST)
    }

    /// How much later than a round trip it shows what a pace has done.
    fn lag(&self) -> Duration {
        LAG.max(self.turn())
    }

    /// The time in which every lane sends once. A pace is felt only after it: until then lanes wait as their last one
    /// said.
    fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.hungry * PAIR / self.line.max(self.least()))
    }

    /// Bytes per second below which lanes are not held.
    fn least(&self) -> f64 {
        RATE_LEAST.max(self.hungry * LANE_LEAST)
    }

    /// The part of the rate that a drain leaves: so much that no lane waits for long.
    fn drain_share(&self) -> f64 {
        let lanes = self.hungry * PAIR / DRAIN_TURN.as_secs_f64();
        (lanes / self.line.max(self.least())).clamp(DRAIN_SHARE, DRAIN_SHARE_MOST)
    }

    /// The queue beyond which something must be done.
    fn limit(&self) -> Duration {
        self.target() * 2
    }

    /// The time in which an error is to be gone, in seconds. Three times as long as it takes to see what one has done,
    /// so that nothing swings.
    fn horizon(&self) -> f64 {
        ((self.empty.rtt() + self.lag()) * 3).as_secs_f64()
    }
}

/// Players do not feel 3 ms, and it stands clear of what timers and schedulers add.
const TARGET: Duration = Duration::from_millis(3);
/// On long paths the target is so much of the round trip: what is felt there is the path.
const TARGET_SHARE: u32 = 32;
/// Bytes that leave the kernel at once, in pairs.
const SEGMENT: f64 = 1500.0;
/// As on a line of 2 Mbit/s; on a slower one a game has other troubles.
const SEGMENTS_MOST: Duration = Duration::from_millis(12);
/// On paths below 2 ms a queue is seen within a few milliseconds of its start, and nothing has to be held back before.
const SHORT: Duration = Duration::from_millis(2);
/// 12.5 Mbit/s, as QUIC's floor: what may be sent before anything is known.
const RATE_START: f64 = 12_500_000.0 / 8.0;
/// The rate's growth in a round trip: the kernel's own start takes 2 to 2.9 and overshoots by as much.
const START_GAIN: f64 = 1.6;
/// Two samples, 5 ms apart at least: one may be a stray.
const SIGNS: u8 = 2;
/// Samples without a queue, 25 ms apart, after which the others are gone: their queue falls for a moment, too.
const GONE: u8 = 16;
/// Bytes per second below which lanes are never held: 256 kbit/s, at which a lane's record takes half a second.
const RATE_LEAST: f64 = 256_000.0 / 8.0;
/// 2.5 Gbit/s: at such a rate a queue is this machine's, not a line's.
const RATE_MOST: f64 = 2.5e9 / 8.0;
/// What the kernel counts and we do not: headers, and what was sent twice.
const LINE_MARGIN: f64 = 1.05;
/// The weight of the error's sum against the error itself, in horizons: four of them let the sum follow without
/// swinging.
const INTEGRAL: f64 = 4.0;
const ANSWER_LEAST: f64 = 0.8;
const ANSWER_MOST: f64 = 1.05;
const STEP_LEAST: f64 = 0.01;
/// A line that has become faster is found with a quarter more each round trip.
const STEP_MOST: f64 = 0.25;
/// So far above the last known rate the line has become faster.
const NEW_GROUND: f64 = 1.2;
/// Less than so much of the rate in use: something else holds the lanes back, and more would do nothing.
const USED: f64 = 0.8;
/// What the kernel's average and our samples lag behind.
const LAG: Duration = Duration::from_millis(20);
/// A drain leaves a fifth: acknowledgements keep coming, and the queue falls nearly as fast as it can.
const DRAIN_SHARE: f64 = 0.2;
/// A drain of many slow lanes takes less of each for longer: one that sent during it would else wait on after it.
const DRAIN_SHARE_MOST: f64 = 0.7;
const DRAIN_TURN: Duration = Duration::from_millis(500);
/// The longest stop. A longer queue takes several.
const DRAIN_MOST: Duration = Duration::from_millis(400);
const AFTER_DRAIN: f64 = 0.95;
/// Drains that must fail before a queue is somebody else's: after a fall of the line's rate the first one sends too
/// much.
const STRIKES: u8 = 2;
/// A shorter queue says nothing: slow lanes tell of it late.
const STRIKE: Duration = Duration::from_millis(15);
const HOLD_LEAST: Duration = Duration::from_secs(5);
/// Others may go at any time, and the game should not feel our own queue for longer than that.
const HOLD_MOST: Duration = Duration::from_secs(16);
/// BBR looks for the empty path after 10 s.
const DIP_EVERY: Duration = Duration::from_secs(4);
const DIP_LEAST: Duration = Duration::from_millis(40);
const DIP_SHARE: f64 = 0.7;
const NEARLY_EMPTY: Duration = Duration::from_millis(1);
const SAMPLE_LEAST: Duration = Duration::from_millis(5);
const SAMPLE_MOST: Duration = Duration::from_millis(25);
/// Over so much time what is delivered is a rate: a few segments at least, and a burst of the receiver's
/// acknowledgements spread out.
const WINDOW_LEAST: Duration = Duration::from_millis(50);
const WINDOW_MOST: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
