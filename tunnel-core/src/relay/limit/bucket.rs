//! A token bucket: bounds how often something may be done.

use std::time::Instant;

/// Allows `per_second` in the long run and `burst` at once.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    burst: f64,
    left: f64,
    refilled: Instant,
}

impl TokenBucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            left: burst.into(),
            refilled: now,
        }
    }

    /// Takes `count` tokens, if there are as many.
    pub(crate) fn take(&mut self, count: u32, now: Instant) -> bool {
        self.refill(now);
        let has = self.left >= count.into();
        if has {
            self.left -= f64::from(count);
        }
        has
    }

    /// Takes `count` tokens for what has been done already. Until they are earned, there are none.
    pub(crate) fn owe(&mut self, count: usize, now: Instant) {
        self.refill(now);
        self.left = (self.left - count as f64).max(-self.burst);
    }

    /// Whether all tokens are there: then the bucket need not be kept.
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
        let mut bucket = TokenBucket::new(10, 3, start);
        assert!(bucket.is_full(start));
        assert!((0..3).all(|_| bucket.take(1, start)));
        assert!(!bucket.take(1, start) && !bucket.is_full(start));
        assert!(bucket.take(1, start + Duration::from_millis(101)));
        assert!(!bucket.take(1, start + Duration::from_millis(101)));
        // What was saved up is bounded, and so is a debt.
        let later = start + Duration::from_secs(3_600);
        assert!(bucket.take(3, later) && !bucket.take(1, later));
        bucket.owe(1_000, later);
        assert!(!bucket.take(1, later + Duration::from_millis(390)));
        assert!(bucket.take(1, later + Duration::from_millis(410)));
    }
}
