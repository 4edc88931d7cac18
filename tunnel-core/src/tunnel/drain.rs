//! An end in peace, of a relay and of a client alike: no new players come in, and who is there may stay for a grace.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// A shutdown that waits for the last player.
#[derive(Debug)]
pub(crate) struct Drain {
    /// It ends then at the latest; `None` where the grace has no end that a clock could tell.
    until: Option<Instant>,
    look_at: Instant,
    done: oneshot::Sender<()>,
}

impl Drain {
    /// Begins now. `done` hears of the end.
    pub(crate) fn new(now: Instant, grace: Duration, done: oneshot::Sender<()>) -> Self {
        Self {
            until: now.checked_add(grace),
            look_at: now,
            done,
        }
    }

    /// When [`is_over`](Self::is_over) is to be asked next.
    pub(crate) const fn poll_timeout(&self) -> Instant {
        self.look_at
    }

    /// What is left of the grace.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(now);
        self.until.map_or(Duration::MAX, left)
    }

    /// Whether nobody need be waited for any longer. `plays` says whether somebody is still there, where a flow counts that
    /// has carried a datagram within the time that it is given: what is silent for longer ends by itself.
    pub(crate) fn is_over(&mut self, now: Instant, plays: impl FnOnce(Duration) -> bool) -> bool {
        self.look_at = now + LOOK;
        self.until.is_some_and(|until| until <= now) || !plays(ALIVE)
    }

    /// Tells who asked for the end that it has come.
    pub(crate) fn finish(self) {
        // Nobody may wait for it any more.
        _ = self.done.send(());
    }
}

/// How often it is looked whether the last player has left.
const LOOK: Duration = Duration::from_millis(50);
/// How long after its last datagram a flow is still waited for: 2 s; a game that is played sends many each second.
const ALIVE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_with_the_last_player_or_the_grace() {
        let start = Instant::now();
        let (done, mut ended) = oneshot::channel();
        let mut drain = Drain::new(start, Duration::from_secs(10), done);
        assert_eq!(drain.poll_timeout(), start);
        assert!(!drain.is_over(start, |_| true));
        assert!(drain.poll_timeout() > start);
        assert!(drain.is_over(start, |_| false));
        let later = start + Duration::from_secs(10);
        assert_eq!(drain.left(later), Duration::ZERO);
        assert!(drain.is_over(later, |_| true));
        assert!(ended.try_recv().is_err());
        drain.finish();
        assert_eq!(ended.try_recv(), Ok(()));
    }

    #[test]
    fn a_grace_beyond_the_clock_has_no_end() {
        let start = Instant::now();
        let mut drain = Drain::new(start, Duration::MAX, oneshot::channel().0);
        assert_eq!(drain.left(start), Duration::MAX);
        assert!(!drain.is_over(start + Duration::from_secs(1 << 40), |_| true));
    }
}
