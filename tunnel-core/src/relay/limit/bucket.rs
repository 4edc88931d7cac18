//! How often something may be done: a token bucket.

use std::time::Instant;

/// So many a second, and so many at once.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    burst: f64,
    left: f64,
    refilled: Instant,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            left: burst.into(),
            refilled: now,
        }
    }

    /// Takes so many, if they are there.
    pub(crate) fn take(&mut self, count: u32, now: Instant) -> bool {
        self.refill(now);
        let has = self.left >= count.into();
        if has {
            self.left -= f64::from(count);
        }
        has
    }

    /// Takes so many that have been done already; until they are earned, none is there.
    pub(crate) fn owe(&mut self, count: usize, now: Instant) {
        self.refill(now);
        self.left = (self.left - count as f64).max(-self.burst);
    }

    /// Whether nothing was taken lately.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.left = (self.left + elapsed.as_secs_f64() * self.per_second).min(self.burst);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_the_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(10, 3, start);
        assert!(pace.is_full(start));
        assert!((0..3).all(|_| pace.take(1, start)));
        assert!(!pace.take(1, start) && !pace.is_full(start));
        assert!(pace.take(1, start + Duration::from_millis(101)));
        assert!(!pace.take(1, start + Duration::from_millis(101)));
        // What was saved up is bounded, and so is a debt.
        let later = start + Duration::from_secs(3_600);
        assert!(pace.take(3, later) && !pace.take(1, later));
        pace.owe(1_000, later);
        assert!(!pace.take(1, later + Duration::from_millis(390)));
        assert!(pace.take(1, later + Duration::from_millis(410)));
    }
}
