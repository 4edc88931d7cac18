//! Whether our share of the line is being lost to somebody who does not yield.

use std::time::{Duration, Instant};

/// What we had of the line.
///
/// A line that has become slower is known after a round or two, and then stays. Where what we have falls round after
/// round, others take what we leave.
#[derive(Debug)]
pub(super) struct Share {
    /// What arrives, averaged over a second: acknowledgements may come in bursts.
    average: f64,
    averaged: Instant,
    /// The most of the time before, and of this one, in bytes per second.
    most: [f64; 2],
    since: Instant,
    /// Round trips, and what takes longer.
    quick: Falls,
    slow: Falls,
    /// How long we have had less than a quarter.
    little: Duration,
    /// When anything of this was last so.
    lost_at: Instant,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            average: 0.0,
            averaged: now,
            most: [0.0; 2],
            since: now,
            quick: Falls::new(now),
            slow: Falls::new(now),
            little: Duration::ZERO,
            lost_at: now,
        }
    }

    /// Takes note of what arrives.
    pub(super) fn handle_delivered(&mut self, now: Instant, delivered: f64) {
        let passed = now.saturating_duration_since(self.averaged);
        self.averaged = now;
        self.average += (delivered - self.average) * passed.as_secs_f64().min(1.0);
        if now.saturating_duration_since(self.since) >= HALF {
            self.most = [self.most[1], self.average];
            self.since = now;
        }
        self.most[1] = self.most[1].max(self.average);
    }

    /// Takes note of what the line carries for us, at a round trip of `rtt`.
    pub(super) fn handle_line(&mut self, now: Instant, line: f64, rtt: Duration, is_queued: bool) {
        self.slow.handle_line(now, line, SLOW, is_queued);
        let round = (rtt * 2).max(ROUND);
        let Some(passed) = self.quick.handle_line(now, line, round, is_queued) else {
            return;
        };
        if is_queued && line < self.most() * LITTLE {
            self.little += passed;
        } else {
            self.little = Duration::ZERO;
        }
        if self.quick.count > 0 || self.slow.count > 0 || !self.little.is_zero() {
            self.lost_at = now;
        }
    }

    /// Whether others take it.
    pub(super) fn is_lost(&self, line: f64) -> bool {
        let falls = self.quick.count >= QUICK_FALLS || self.slow.count >= SLOW_FALLS;
        (falls && line < self.most() * MUCH) || self.little >= LONG
    }

    /// We fight for it: what was lost so far does not count any more.
    pub(super) fn restart(&mut self, now: Instant) {
        self.quick = Falls::new(now);
        self.slow = Falls::new(now);
        self.little = Duration::ZERO;
        self.lost_at = now;
    }

    /// Whether nothing was lost for long.
    pub(super) fn is_kept(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.lost_at) >= KEPT
    }

    fn most(&self) -> f64 {
        self.most[0].max(self.most[1])
    }
}

/// Rounds in a row in which what we have fell, beside a queue.
#[derive(Debug)]
struct Falls {
    /// When this round began, and what we had then.
    since: Instant,
    line: f64,
    count: u8,
}

impl Falls {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            line: 0.0,
            count: 0,
        }
    }

    /// Returns how long the round was, if it ends.
    fn handle_line(
        &mut self,
        now: Instant,
        line: f64,
        round: Duration,
        is_queued: bool,
    ) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since);
        if passed < round {
            return None;
        }
        self.count = if is_queued && line < self.line * FALLEN {
            self.count.saturating_add(1)
        } else {
            self.count.saturating_sub(1)
        };
        self.since = now;
        self.line = line;
        Some(passed)
    }
}

/// What we had is remembered for 10 to 20 s.
const HALF: Duration = Duration::from_secs(10);
/// A round, at least: what is delivered is averaged over as long.
const ROUND: Duration = Duration::from_millis(80);
/// It falls if it is less than so much of what it was in the round before.
const FALLEN: f64 = 0.95;
/// A line that has become slower is known after two rounds; so many are somebody else's work.
const QUICK_FALLS: u8 = 4;
/// Or three of these: to find a slower line takes less than one, and may fall into two.
const SLOW: Duration = Duration::from_millis(700);
const SLOW_FALLS: u8 = 3;
const MUCH: f64 = 0.7;
const LITTLE: f64 = 0.25;
/// The time in which a queue of our own would be gone, also on a line that has become much slower.
const LONG: Duration = Duration::from_secs(3);
/// Without a loss for so long, the queue is ours and short.
const KEPT: Duration = Duration::from_secs(5);
