//! How many handshakes a relay takes on. A pure decision; the accept loop executes it.
//!
//! A handshake costs its client one packet, even a recorded one, and the relay four Diffie-Hellman operations, so
//! their number in flight and their share of a core are bounded. Before the bound an address must show that it
//! receives what is sent to it (Retry), which who forges addresses cannot.

use std::time::{Duration, Instant};

/// The bounds of [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLimits {
    /// Handshakes begun and not proved at a time. At 100 ms of round trip 256 leave room for 2,500 a second, many
    /// more than the CPU's share does; what they hold is a few MiB.
    pub(crate) in_flight: usize,
    /// Part of one core for handshakes, in 1/1000. 50 (5 %) is 100 handshakes a second, of 0.4 to 0.5 ms each as
    /// measured, for ever, while the players' packets keep the rest.
    pub(crate) cpu_permille: u32,
    /// What the share may save up. 250 ms are 500 handshakes: every client of a large relay coming back at
    /// once after a restart.
    pub(crate) burst: Duration,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            in_flight: 256,
            cpu_permille: 50,
            burst: Duration::from_millis(250),
        }
    }
}

/// What to do with a handshake that asks to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Begin it, and [`charge`](Admission::charge) what it cost.
    Accept,
    /// Ask for proof of the address.
    Retry,
    /// Leave it without an answer: a client comes again, and the first packet of the next try costs nothing.
    Ignore,
}

/// Decides which handshakes begin.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    /// CPU time left, in ns; below zero when the last handshake cost more than was left.
    budget: i64,
    refilled: Instant,
}

impl Admission {
    /// A full budget at `now`.
    pub(crate) fn new(limits: AdmissionLimits, now: Instant) -> Self {
        Self {
            limits,
            budget: nanos(limits.burst),
            refilled: now,
        }
    }

    /// What to do with a handshake from an address that is `validated` or not, while `in_flight` others run.
    pub(crate) fn decide(&mut self, now: Instant, validated: bool, in_flight: usize) -> Verdict {
        self.refill(now);
        if self.budget <= 0 || in_flight >= self.limits.in_flight {
            Verdict::Ignore
        } else if !validated && self.is_busy(in_flight) {
            Verdict::Retry
        } else {
            Verdict::Accept
        }
    }

    /// Takes what a handshake cost from the budget.
    pub(crate) fn charge(&mut self, now: Instant, cost: Duration) {
        self.refill(now);
        // A debt is bounded too: a machine that slept must not stay closed for long.
        self.budget = (self.budget - nanos(cost)).max(-nanos(self.limits.burst));
    }

    /// Whether half of either bound is gone.
    fn is_busy(&self, in_flight: usize) -> bool {
        self.budget < nanos(self.limits.burst) / 2 || in_flight >= self.limits.in_flight.div_ceil(2)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = nanos(now.saturating_duration_since(self.refilled));
        let earned = elapsed / 1_000 * i64::from(self.limits.cpu_permille);
        self.budget = self
            .budget
            .saturating_add(earned)
            .min(nanos(self.limits.burst));
        self.refilled = self.refilled.max(now);
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn admission() -> (Admission, Instant) {
        let now = Instant::now();
        (Admission::new(AdmissionLimits::default(), now), now)
    }

    #[test]
    fn quiet_relay_takes_strangers_at_once() {
        let (mut admission, now) = admission();
        assert_eq!(admission.decide(now, false, 0), Verdict::Accept);
        assert_eq!(admission.decide(now, false, 127), Verdict::Accept);
    }

    #[test]
    fn half_of_the_budget_gone_asks_for_the_address() {
        let (mut admission, now) = admission();
        admission.charge(now, 126 * MS);
        assert_eq!(admission.decide(now, false, 0), Verdict::Retry);
        assert_eq!(admission.decide(now, true, 0), Verdict::Accept);
    }

    #[test]
    fn exhausted_budget_ignores_everyone_until_it_refills() {
        let (mut admission, now) = admission();
        admission.charge(now, 260 * MS);
        assert_eq!(admission.decide(now, true, 0), Verdict::Ignore);
        // 10 ms are owed, and 5 % of a core pays 1 ms in 20.
        assert_eq!(admission.decide(now + 199 * MS, true, 0), Verdict::Ignore);
        assert_eq!(admission.decide(now + 201 * MS, true, 0), Verdict::Accept);
        assert_eq!(admission.decide(now + 201 * MS, false, 0), Verdict::Retry);
        assert_eq!(
            admission.decide(now + 10_000 * MS, false, 0),
            Verdict::Accept
        );
    }

    #[test]
    fn handshakes_in_flight_are_bounded() {
        let (mut admission, now) = admission();
        assert_eq!(admission.decide(now, false, 128), Verdict::Retry);
        assert_eq!(admission.decide(now, true, 255), Verdict::Accept);
        assert_eq!(admission.decide(now, true, 256), Verdict::Ignore);
    }

    #[test]
    fn share_of_a_core_holds_over_time() {
        let (mut admission, start) = admission();
        let mut spent = Duration::ZERO;
        for step in 0..100_000u32 {
            let now = start + step * MS;
            if admission.decide(now, true, 0) == Verdict::Accept {
                admission.charge(now, 4 * MS / 5);
                spent += 4 * MS / 5;
            }
        }
        // 5 % of 100 s, and the burst.
        assert!(spent >= 5_200 * MS && spent <= 5_260 * MS, "{spent:?}");
    }

    #[test]
    fn clock_that_stands_still_or_jumps_does_no_harm() {
        let (mut admission, now) = admission();
        admission.charge(now, Duration::MAX);
        assert_eq!(admission.decide(now, true, 0), Verdict::Ignore);
        assert_eq!(
            admission.decide(now + Duration::from_secs(86_400 * 365), false, 0),
            Verdict::Accept
        );
        assert_eq!(admission.decide(now, false, 0), Verdict::Accept);
    }
}
