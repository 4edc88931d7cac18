//! How long to wait before the next try: doubling, bounded, with jitter, and never giving up.

use std::time::Duration;

/// The state of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits of `least` at first, doubling to `most`.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            attempt: 0,
        }
    }

    /// The next wait. `random` is 64 random bits: they spread the wait between half of it and all of it, so that
    /// many clients do not come back at the same moment.
    pub fn next(&mut self, random: u64) -> Duration {
        let doubled = self
            .least
            .saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX));
        self.attempt = self.attempt.saturating_add(1).min(31);
        let full = doubled.min(self.most);
        let half = full / 2;
        half + half.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// It worked: the next failure waits shortly again.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_bound_and_stay_there() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<_> = (0..40)
            .map(|_| backoff.next(u64::MAX).as_millis())
            .collect();
        assert!((99..=100).contains(&waits[0]), "{waits:?}");
        assert!((199..=200).contains(&waits[1]), "{waits:?}");
        assert!((4_999..=5_000).contains(&waits[39]), "{waits:?}");
        backoff.reset();
        assert!(backoff.next(0) == Duration::from_millis(50));
    }

    #[test]
    fn jitter_stays_within_half_and_all() {
        let mut random = 1_u64;
        for _ in 0..1000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let wait = Backoff::new(Duration::from_secs(1), Duration::from_secs(9)).next(random);
            assert!((500..=1000).contains(&wait.as_millis()));
        }
    }
}
