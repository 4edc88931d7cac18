//! How often anybody may ask, in bounded memory.

use std::{fmt, hash::Hash, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

/// A rate for each key: a burst, and then so many a second.
pub(super) struct Throttle<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    clock: DefaultClock,
    most_keys: usize,
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    /// One more each `period`, after `burst` at once. At most `most_keys` are remembered.
    pub(super) fn new(period: Duration, burst: NonZeroU32, most_keys: usize) -> Self {
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self {
            limiter: RateLimiter::hashmap(quota.allow_burst(burst)),
            clock: DefaultClock::default(),
            most_keys,
        }
    }

    /// Takes one; an error says how long until there is one again.
    pub(super) fn take(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() >= self.most_keys {
            // Those go that have their whole burst again: nothing is forgotten that would change an answer.
            self.limiter.retain_recent();
            if self.limiter.len() >= self.most_keys {
                // So many ask at once that they cannot be told apart; that is over within seconds.
                return Err(Duration::from_secs(1));
            }
        }
        let outcome = self.limiter.check_key(key);
        outcome.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Throttle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn each_key_has_its_own_burst_and_is_told_when_to_come_again() {
        let throttle = Throttle::new(HOUR, NonZeroU32::new(3).unwrap(), 100);
        for _ in 0..3 {
            assert_eq!(throttle.take(&"loud"), Ok(()));
        }
        let wait = throttle.take(&"loud").unwrap_err();
        assert!(wait > Duration::from_secs(3000) && wait <= HOUR, "{wait:?}");
        assert_eq!(throttle.take(&"quiet"), Ok(()));
    }

    #[test]
    fn keys_without_end_cost_bounded_memory() {
        let throttle = Throttle::new(HOUR, NonZeroU32::MIN, 1000);
        let taken = (0..10_000).filter(|key| throttle.take(key).is_ok()).count();
        assert_eq!((taken, throttle.limiter.len()), (1000, 1000));
    }
}
