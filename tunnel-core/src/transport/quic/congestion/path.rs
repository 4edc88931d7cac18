//! What the path is: its delay, its jitter, what it carries, and how much waits in it at most.

use std::time::{Duration, Instant};

use super::samples::Round;

/// The path's round trip without a queue: the lowest of the last [`EMPTY_FOR`] or twice that.
#[derive(Debug, Clone)]
pub(super) struct EmptyPath {
    now: Duration,
    before: Duration,
    since: Instant,
}

impl EmptyPath {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            now: Duration::MAX,
            before: Duration::MAX,
            since: now,
        }
    }

    pub(super) fn handle_sample(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.since) >= EMPTY_FOR {
            self.before = self.now;
            self.now = Duration::MAX;
            self.since = now;
        }
        self.now = self.now.min(rtt);
    }

    /// Zero before the first sample.
    pub(super) fn rtt(&self) -> Duration {
        match self.now.min(self.before) {
            Duration::MAX => Duration::ZERO,
            rtt => rtt,
        }
    }
}

/// What the path carried in each of the last rounds, in bytes per second.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    rounds: [f64; RATE_ROUNDS],
    next: usize,
}

impl Rates {
    pub(super) fn handle_round(&mut self, rate: f64) {
        self.rounds[self.next % RATE_ROUNDS] = rate;
        self.next = self.next.wrapping_add(1);
    }

    /// The most of the last rounds: a short one or a gap in the acknowledgements shows less than there is.
    pub(super) fn most(&self) -> f64 {
        self.rounds.iter().copied().fold(0.0, f64::max)
    }

    /// The last round carried more than any a few rounds before it.
    pub(super) fn is_growing(&self) -> bool {
        let of = |back: usize| self.rounds[self.next.wrapping_sub(back) % RATE_ROUNDS];
        let before = (4..=RATE_ROUNDS).map(of).fold(0.0, f64::max);
        of(1) > before * GROWTH
    }

    /// The network asks for less.
    pub(super) fn scale(&mut self, factor: f64) {
        for rate in &mut self.rounds {
            *rate *= factor;
        }
    }

    /// Forgets all but the last `rounds`.
    pub(super) fn forget_but(&mut self, rounds: usize) {
        for back in rounds + 1..=RATE_ROUNDS {
            self.rounds[self.next.wrapping_sub(back) % RATE_ROUNDS] = 0.0;
        }
    }
}

/// How much round trips differ although no queue does: what drifts, and what radio links do to every packet.
#[derive(Debug, Clone)]
pub(super) struct Jitter {
    spreads: [Duration; JITTER_ROUNDS],
    /// How far round trips lay above the lowest while the queue was dry.
    drained: Option<Duration>,
    next: usize,
}

impl Default for Jitter {
    fn default() -> Self {
        Self {
            spreads: [Duration::ZERO; JITTER_ROUNDS],
            drained: None,
            next: 0,
        }
    }
}

impl Jitter {
    pub(super) fn handle_round(&mut self, round: &Round) {
        if let Some(spread) = round.spread() {
            self.spreads[self.next % JITTER_ROUNDS] = spread;
            self.next = self.next.wrapping_add(1);
        }
    }

    pub(super) fn handle_drained(&mut self, above: Duration) {
        self.drained = match self.drained {
            Some(drained) => Some((drained * 3 + above) / 4),
            None => Some(above),
        };
    }

    /// How much longer than the lowest round trips are on average for jitter alone: as seen while the queue was dry, if it is
    /// jitter.
    pub(super) fn allowance(&self) -> Duration {
        let steady = self.steady();
        let (least, most) = (steady * 3 / 2, steady * 2);
        (self.drained).map_or(least, |drained| drained.clamp(least, most))
    }

    /// What three quarters of the last rounds exceeded: queues come and go, jitter stays.
    fn steady(&self) -> Duration {
        let mut spreads = self.spreads;
        spreads.sort_unstable();
        spreads[JITTER_ROUNDS / 4]
    }
}

/// How long the queue gets before it overflows.
#[derive(Debug, Clone, Default)]
pub(super) struct Full {
    /// The longest round of the last [`TALLEST_FOR`] or twice that, of the present one, and when that began.
    tallest: Duration,
    recent: Duration,
    since: Option<Instant>,
    /// Share of packets that is lost although the queue has room.
    base: f64,
    /// The queue that does not overflow, as far as is known, and when a little more is tried.
    bound: Option<(Duration, Instant)>,
}

impl Full {
    /// The average round trip of a round, with whatever queue. Single ones are longer by chance.
    pub(super) fn handle_round(&mut self, now: Instant, rtt: Duration) {
        if let Some((bound, until)) = self.bound
            && now >= until
        {
            let more = (bound / 4 * 5, now + MORE_EVERY);
            self.bound = (bound < NO_BOUND).then_some(more);
        }
        let is_old = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) > TALLEST_FOR);
        if is_old {
            self.tallest = self.recent;
            self.recent = Duration::ZERO;
            self.since = Some(now);
        }
        self.recent = self.recent.max(rtt);
        self.tallest = self.tallest.max(rtt);
    }

    /// Whether a round trip is nearly as long as it gets here.
    pub(super) fn is_near(&self, rtt: Duration, empty: Duration) -> bool {
        rtt > empty + self.tallest.saturating_sub(empty) / 10 * 6
    }

    /// `share` of what was sent in a while was lost, while the queue was so long. Returns whether it overflowed.
    pub(super) fn handle_loss(
        &mut self,
        now: Instant,
        share: f64,
        queue: Duration,
        is_near: bool,
    ) -> bool {
        let is_much = share > self.base + OVERFLOW && share > self.base * 2.0;
        let overflows = (is_much && is_near) || share > MOST_BASE;
        // What is lost while the queue is long may be what its overflow costs, unless yielding all there is has not helped.
        let has_yielded = self.bound.is_some_and(|(bound, _)| bound <= ROOM);
        if !is_near || has_yielded || share < self.base {
            let weight = if is_much { 16.0 } else { 4.0 };
            self.base += (share - self.base) / weight;
        }
        if overflows {
            let bound = self.bound.map_or(queue, |(bound, _)| bound.min(queue));
            // What bursts overflow shows no queue; and of none there would never be more again.
            self.bound = Some(((bound / 4 * 3).max(ROOM), now + BOUND_FOR));
        }
        overflows
    }

    /// Share of packets that is lost although the queue has room.
    pub(super) const fn base(&self) -> f64 {
        self.base.min(MOST_BASE)
    }

    /// Whether the target leaves room.
    pub(super) const fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// A target that does not overflow.
    /// On any path some room is left: a window that carries just what was carried carries less by every round trip that is
    /// longer by chance.
    pub(super) fn bound(&self, target: Duration, empty: Duration) -> Duration {
        let room = ROOM.max((empty / 20).min(ROOM * 3));
        (self.bound).map_or(target, |(bound, _)| target.min(bound.max(room)))
    }
}

/// How long a lowest round trip is believed, at least: the queue runs dry several times meanwhile.
const EMPTY_FOR: Duration = Duration::from_secs(5);

/// Growth in three rounds that tells of room: about the least that the target allows.
const GROWTH: f64 = 1.05;

/// Rounds of which the most is what the path carries.
const RATE_ROUNDS: usize = 8;

/// Rounds of which a quarter may have less of a spread than the path's own.
const JITTER_ROUNDS: usize = 16;

/// How long a longest round trip counts, at least: a few turns of a queue's filling and emptying.
const TALLEST_FOR: Duration = Duration::from_secs(5);

/// Share lost beyond the path's own that tells of an overflow.
const OVERFLOW: f64 = 0.02;

/// Most that a path loses by itself: whoever makes up for more than that may be making up for what its own window makes overflow.
const MOST_BASE: f64 = 0.2;

/// Least room that a shallow queue is taken to have: two packets of 10 Mbit/s, and what timers are late.
const ROOM: Duration = Duration::from_micros(1_500);

/// How long a bound stands before more is tried, and how often a quarter more is tried then: what does not fit is lost, and repaired.
const MORE_EVERY: Duration = Duration::from_secs(1);
/// No target is as long.
const NO_BOUND: Duration = Duration::from_secs(1);
const BOUND_FOR: Duration = Duration::from_secs(5);
