//! Whether our share of the line is being lost to somebody who does not yield.

use std::time::{Duration, Instant};

/// What we had of the line.
///
/// A line that has become slower is known after a round or two, and then stays. Where what we have falls round after
/// round, others take what we leave.
#[derive(Debug)]
pub(super) struct Share {
    /// The most of the time before, and of this one, in bytes per second.
    most: [f64; 2],
    since: Instant,
    /// When this round began, and what we had then.
    round: (Instant, f64),
    /// Rounds in which it fell, beside a queue.
    falls: u8,
    /// How long we have had less than a quarter.
    little: Duration,
    /// When anything of this was last so.
    lost_at: Instant,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            most: [0.0; 2],
            since: now,
            round: (now, 0.0),
            falls: 0,
            little: Duration::ZERO,
            lost_at: now,
        }
    }

    /// Takes note of what the line carries for us, at a round trip of `rtt`.
    pub(super) fn handle_line(&mut self, now: Instant, line: f64, rtt: Duration, is_queued: bool) {
        if now.saturating_duration_since(self.since) >= HALF {
            self.most = [self.most[1], line];
            self.since = now;
        }
        self.most[1] = self.most[1].max(line);
        let (start, before) = self.round;
        let passed = now.saturating_duration_since(start);
        if passed < (rtt * 2).max(ROUND) {
            return;
        }
        self.round = (now, line);
        if is_queued && line < before * FALLEN {
            self.falls = self.falls.saturating_add(1);
            self.lost_at = now;
        } else {
            self.falls = self.falls.saturating_sub(1);
        }
        if is_queued && line < self.most() * LITTLE {
            self.little += passed;
            self.lost_at = now;
        } else {
            self.little = Duration::ZERO;
        }
    }

    /// Whether others take it.
    pub(super) fn is_lost(&self, line: f64) -> bool {
        (self.falls >= FALLS && line < self.most() * MUCH) || self.little >= LONG
    }

    /// We fight for it: what was lost so far does not count any more.
    pub(super) fn restart(&mut self, now: Instant) {
        self.falls = 0;
        self.little = Duration::ZERO;
        self.round = (now, 0.0);
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

/// What we had is remembered for 10 to 20 s.
const HALF: Duration = Duration::from_secs(10);
/// A round, at least: what is delivered is averaged over as long.
const ROUND: Duration = Duration::from_millis(80);
/// It falls if it is less than so much of what it was in the round before.
const FALLEN: f64 = 0.95;
/// A line that has become slower is known after two rounds; so many are somebody else's work.
const FALLS: u8 = 4;
const MUCH: f64 = 0.7;
const LITTLE: f64 = 0.25;
/// The time in which a queue of our own would be gone, also on a line that has become much slower.
const LONG: Duration = Duration::from_secs(3);
/// Without a loss for so long, the queue is ours and short.
const KEPT: Duration = Duration::from_secs(5);
