//! The path without a queue, and whose a queue is.

use std::time::{Duration, Instant};

/// The path's round trip without a queue.
#[derive(Debug, Clone, Default)]
pub(super) struct EmptyPath {
    /// The lowest seen, or a higher one that was adopted; zero before the first sample.
    pub(super) rtt: Duration,
    /// The lowest before the adoption, and when to try it again.
    forgotten: Option<(Duration, Instant)>,
}

impl EmptyPath {
    pub(super) fn handle_sample(&mut self, rtt: Duration) {
        if self.rtt.is_zero() || rtt < self.rtt {
            self.rtt = rtt;
        }
    }

    /// The lowest seen, whatever was adopted.
    pub(super) fn lowest(&self) -> Duration {
        self.forgotten
            .map_or(self.rtt, |(lowest, _)| lowest.min(self.rtt))
    }

    /// A round trip of `rtt` is as short as this path gets now.
    pub(super) fn adopt(&mut self, now: Instant, rtt: Duration) {
        self.forgotten = Some((self.lowest(), now + ADOPTED_HOLD));
        self.rtt = rtt;
    }

    /// Tries the old value again from time to time: should the queue have been ours after all, the
    /// next drain removes it.
    pub(super) fn forget_adopted(&mut self, now: Instant) {
        if let Some((lowest, until)) = self.forgotten
            && now >= until
        {
            self.rtt = self.rtt.min(lowest);
            self.forgotten = None;
        }
    }
}

/// A queue that has not yet gone away.
#[derive(Debug, Clone, Default)]
pub(super) struct Stubborn {
    /// Drains since it was first too long.
    pub(super) drains: u8,
    /// Window and round trip at the last of them.
    last: Option<(u64, Duration)>,
}

impl Stubborn {
    /// Whether the last drain halved the window and left the round trip nearly as it was, where a
    /// queue of our own would have gone down with the window.
    pub(super) fn is_foreign(&self, empty: Duration, window: u64, rtt: Duration) -> bool {
        self.last.is_some_and(|(last_window, last_rtt)| {
            let ours = (last_rtt / 2).max(empty);
            window <= last_window / 2 && rtt > (ours + last_rtt) / 2
        })
    }

    pub(super) fn handle_drain(&mut self, window: u64, rtt: Duration) {
        self.drains = self.drains.saturating_add(1);
        self.last = Some((window, rtt));
    }
}

/// How long an adopted round trip stands before the lowest is tried again: the trial costs some ten
/// round trips of reduced rate.
const ADOPTED_HOLD: Duration = Duration::from_secs(30);
