//! Which datagrams of a flow have a PROXY header in front. Pure: no socket, no clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// When the target is to be told anew who the player is. Times are milliseconds on any clock that only rises.
#[derive(Debug, Default)]
pub(super) struct Preface {
    /// From when on the next datagram tells it; 0 before the first.
    due: AtomicU64,
}

impl Preface {
    /// Whether the datagram that is sent now is to tell it: of several at once, one.
    pub(super) fn take(&self, now: u64) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let next = now + SILENCE;
        now >= due
            && (self.due)
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The target has answered: it knows who the player is.
    pub(super) fn handle_answer(&self, now: u64) {
        // Unless it is to be told in any case: the answer may have been on its way.
        let later = |due: u64| (due != 0).then_some(now + SILENCE);
        (self.due)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later)
            .ok();
    }

    /// The target has refused a datagram, or the one that was to tell it was not sent.
    pub(super) fn handle_lost(&self) {
        self.due.store(0, Ordering::Relaxed);
    }
}

/// Without an answer for 30 s the target may have been started again, and have forgotten who the player is.
const SILENCE: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_datagram_tells_it_and_none_that_follows_while_the_target_answers() {
        let preface = Preface::default();
        assert!(preface.take(0));
        for now in [0, 1, 29_999] {
            assert!(!preface.take(now), "{now}");
        }
        for now in (29_999..1_000_000).step_by(29_999) {
            preface.handle_answer(now);
            assert!(!preface.take(now + 29_999), "{now}");
        }
    }

    #[test]
    fn it_is_told_again_after_half_a_minute_without_an_answer_and_not_before() {
        let preface = Preface::default();
        assert!(preface.take(5));
        assert!(!preface.take(30_004));
        assert!(preface.take(30_005), "nobody has answered");
        assert!(!preface.take(30_006));
        preface.handle_answer(40_000);
        assert!(!preface.take(69_999));
        assert!(preface.take(70_000));
        assert!(!preface.take(99_999));
        assert!(preface.take(100_000), "however often that is needed");
    }

    #[test]
    fn a_refusal_has_the_next_datagram_tell_it_whatever_is_still_answered() {
        let preface = Preface::default();
        assert!(preface.take(1));
        preface.handle_lost();
        preface.handle_answer(2);
        assert!(preface.take(2));
        assert!(!preface.take(3));
        preface.handle_answer(4);
        assert!(!preface.take(5));
    }

    #[test]
    fn of_many_senders_at_once_one_tells_it() {
        for round in 1..200 {
            let preface = Preface::default();
            let told = std::thread::scope(|scope| {
                let senders = [(); 4].map(|()| scope.spawn(|| preface.take(round)));
                senders.map(|sender| sender.join().unwrap())
            });
            assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
        }
    }
}
