//! The round trip of the path without a queue.

use std::time::{Duration, Instant};

/// The lowest of the last minute: a path may become longer.
#[derive(Debug, Default)]
pub(super) struct EmptyPath {
    /// The lowest of the half minute before, and of this one.
    lowest: [Option<Duration>; 2],
    since: Option<Instant>,
}

impl EmptyPath {
    pub(super) fn handle_sample(&mut self, now: Instant, rtt: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= HALF {
            self.lowest = [self.lowest[1], None];
            self.since = Some(now);
        }
        let lowest = self.lowest[1].map_or(rtt, |lowest| lowest.min(rtt));
        self.lowest[1] = Some(lowest);
    }

    /// Zero before the first sample.
    pub(super) fn rtt(&self) -> Duration {
        let lowest = self.lowest.iter().flatten().min();
        lowest.copied().unwrap_or_default()
    }
}

const HALF: Duration = Duration::from_secs(30);
