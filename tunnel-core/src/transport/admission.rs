//! How much of a core strangers may use, and who goes first when there is little. A pure decision; the socket filter
//! and the accept loops execute it.
//!
//! A handshake costs its client one packet, even a recorded one, and the relay four Diffie-Hellman operations; opening
//! an Initial packet costs a fiftieth of that. All of it is paid out of one budget of CPU time. Where the budget runs
//! low, those go first who cost an attacker most to be: who comes from where a client has been let in before; then
//! who has shown that it receives what is sent to its address (Retry, TCP); then everybody else. And no source, by
//! its address, takes more than an eighth; nor does a /48 of IPv6, whose owner has 65,536 sources.

mod known;
mod source;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use self::known::Known;
pub(crate) use self::source::Source;
use crate::sync::lock;

/// The bounds of [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLimits {
    /// Handshakes begun and not proved at a time.
    pub(crate) in_flight: usize,
    /// Part of one core for strangers, in 1/1000.
    pub(crate) cpu_permille: u32,
    /// What the share may save up.
    pub(crate) burst: Duration,
}

impl Default for AdmissionLimits {
    /// See [`RelayLimits`](crate::relay::RelayLimits) for the reasons.
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

/// Decides who may cost something.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    /// CPU time left, in ns; below zero when the last handshake cost more than was left.
    budget: i64,
    refilled: Instant,
    /// What sources have cost lately, by a keyed hash of theirs. Two that share a place share their part, too.
    spent: Vec<Spent>,
    hasher: RandomState,
    /// Where clients have been let in.
    known: Known,
}

/// What a source has cost, in ns; it is forgotten at the pace of the source's part.
#[derive(Clone, Copy, Debug)]
struct Spent {
    cost: i64,
    at: Instant,
}

/// One [`Admission`] for all that accept.
pub(crate) type Shared = Arc<Mutex<Admission>>;

impl Admission {
    /// A full budget at `now`.
    pub(crate) fn new(limits: AdmissionLimits, now: Instant) -> Self {
        Self {
            limits,
            budget: nanos(limits.burst),
            refilled: now,
            spent: vec![Spent { cost: 0, at: now }; PLACES],
            hasher: RandomState::new(),
            known: Known::default(),
        }
    }

    /// The same, to be shared.
    pub(crate) fn shared(limits: AdmissionLimits) -> Shared {
        Arc::new(Mutex::new(Self::new(limits, Instant::now())))
    }

    /// Whether somebody's packet may be looked at who has proved nothing but, perhaps, its address (`validated`).
    pub(crate) fn may_spend(&mut self, now: Instant, source: Source, validated: bool) -> bool {
        self.refill(now);
        let floor = if self.known.has(source) {
            0
        } else if validated {
            nanos(self.limits.burst) / FLOOR_VALIDATED
        } else {
            nanos(self.limits.burst) / FLOOR_STRANGERS
        };
        self.budget > floor && !(self.is_short() && self.has_had_its_part(now, source))
    }

    /// What to do with a handshake from an address that is `validated` or not, while `in_flight` others run.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        source: Source,
        validated: bool,
        in_flight: usize,
    ) -> Verdict {
        if !self.may_spend(now, source, validated) {
            return Verdict::Ignore;
        }
        let is_busy = self.is_short() || in_flight >= self.limits.in_flight.div_ceil(2);
        if is_busy && !validated && !self.known.has(source) {
            Verdict::Retry
        } else {
            Verdict::Accept
        }
    }

    /// Takes what somebody has cost from the budget.
    pub(crate) fn charge(&mut self, now: Instant, source: Source, cost: Duration) {
        self.refill(now);
        let (burst, cost) = (nanos(self.limits.burst), nanos(cost));
        // A debt is bounded too: a machine that slept must not stay closed for long.
        self.budget = self.budget.saturating_sub(cost).max(-burst);
        let left = self.spent_by(now, source);
        let place = self.place(source);
        self.spent[place] = Spent {
            // Nobody is shut out for longer than seconds.
            cost: left.saturating_add(cost).min(2 * burst / PART),
            at: now,
        };
    }

    /// A client has been let in from there: when it comes again, it goes first.
    pub(crate) fn let_in(&mut self, source: Source) {
        self.known.add(source);
    }

    /// Whether a client has been let in from there.
    pub(crate) fn knows(&self, source: Source) -> bool {
        self.known.has(source)
    }

    /// Whether half of the budget is gone.
    fn is_short(&self) -> bool {
        self.budget < nanos(self.limits.burst) / 2
    }

    fn has_had_its_part(&self, now: Instant, source: Source) -> bool {
        self.spent_by(now, source) >= nanos(self.limits.burst) / PART
    }

    fn spent_by(&self, now: Instant, source: Source) -> i64 {
        let Spent { cost, at } = self.spent[self.place(source)];
        (cost - self.earned(now.saturating_duration_since(at)) / PART).max(0)
    }

    fn place(&self, source: Source) -> usize {
        (self.hasher.hash_one(source.customer()) % PLACES as u64) as usize
    }

    fn refill(&mut self, now: Instant) {
        let earned = self.earned(now.saturating_duration_since(self.refilled));
        self.budget = self
            .budget
            .saturating_add(earned)
            .min(nanos(self.limits.burst));
        self.refilled = self.refilled.max(now);
    }

    fn earned(&self, elapsed: Duration) -> i64 {
        (nanos(elapsed) / 1_000).saturating_mul(i64::from(self.limits.cpu_permille))
    }
}

/// Runs `work` for a source, and charges what it cost.
pub(crate) fn charged<T>(
    admission: &Mutex<Admission>,
    source: Source,
    work: impl FnOnce() -> T,
) -> T {
    let started = Instant::now();
    let done = work();
    let now = Instant::now();
    lock(admission).charge(now, source, now - started);
    done
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The last quarter of the budget is for those whose address is proved, the last eighth for those who were here before.
const FLOOR_STRANGERS: i64 = 4;
const FLOOR_VALIDATED: i64 = 8;
/// One source gets an eighth: it takes eight to use the share up.
const PART: i64 = 8;
/// Places to count sources in: 4,096, of 24 bytes. With 100 sources at a time, two in a hundred share theirs.
const PLACES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn admission() -> (Admission, Instant) {
        let now = Instant::now();
        (Admission::new(AdmissionLimits::default(), now), now)
    }

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
    }

    /// Spends for sources that each stay below their part.
    fn spend(admission: &mut Admission, now: Instant, cost: Duration) {
        for number in 0..(cost.as_millis() as u32) {
            admission.charge(now, source(1_000 + number), MS);
        }
    }

    #[test]
    fn quiet_relay_takes_strangers_at_once() {
        let (mut admission, now) = admission();
        assert_eq!(admission.decide(now, source(1), false, 0), Verdict::Accept);
        assert_eq!(
            admission.decide(now, source(1), false, 127),
            Verdict::Accept
        );
    }

    #[test]
    fn half_of_the_budget_gone_asks_for_the_address() {
        let (mut admission, now) = admission();
        spend(&mut admission, now, 126 * MS);
        assert_eq!(admission.decide(now, source(1), false, 0), Verdict::Retry);
        assert_eq!(admission.decide(now, source(1), true, 0), Verdict::Accept);
        admission.let_in(source(1));
        assert_eq!(admission.decide(now, source(1), false, 0), Verdict::Accept);
    }

    #[test]
    fn many_in_flight_ask_for_the_address() {
        let (mut admission, now) = admission();
        assert_eq!(admission.decide(now, source(1), false, 128), Verdict::Retry);
        assert_eq!(admission.decide(now, source(1), true, 128), Verdict::Accept);
    }

    #[test]
    fn the_last_of_the_budget_is_for_who_has_proved_most() {
        let (mut admission, now) = admission();
        admission.let_in(source(3));
        let may = |admission: &mut Admission| {
            [
                admission.may_spend(now, source(1), false),
                admission.may_spend(now, source(2), true),
                admission.may_spend(now, source(3), false),
            ]
        };
        spend(&mut admission, now, 187 * MS);
        assert_eq!(may(&mut admission), [true, true, true]);
        spend(&mut admission, now, 2 * MS);
        assert_eq!(may(&mut admission), [false, true, true]);
        spend(&mut admission, now, 32 * MS);
        assert_eq!(may(&mut admission), [false, false, true]);
        spend(&mut admission, now, 40 * MS);
        assert_eq!(may(&mut admission), [false, false, false]);
        // 11 ms are owed, and 5 % of a core pays 1 ms in 20.
        let later = now + 19 * 20 * MS;
        assert!(admission.may_spend(later, source(3), false));
        assert!(!admission.may_spend(later, source(2), true));
    }

    /// Spends as fast as may be, for a source for each step; others are always looked at.
    fn leaves_budget_for_the_others(source_of: impl Fn(u32) -> Source) {
        let (mut admission, mut now) = admission();
        let mut spent = Duration::ZERO;
        for step in 0..100_000u32 {
            now += MS;
            let greedy = source_of(step);
            if admission.may_spend(now, greedy, false) {
                admission.charge(now, greedy, MS);
                spent += MS;
            }
            if step % 1_000 == 0 {
                assert_ne!(
                    admission.decide(now, source(2), false, 0),
                    Verdict::Ignore,
                    "{step}"
                );
            }
        }
        // It had the first half as everybody, and what is above the half since: never what is below.
        assert!(admission.budget >= nanos(124 * MS), "{}", admission.budget);
        assert!(spent <= 5_260 * MS, "{spent:?}");
    }

    #[test]
    fn one_source_leaves_budget_for_the_others() {
        leaves_budget_for_the_others(|_| source(1));
    }

    #[test]
    fn who_has_a_48_of_ipv6_leaves_budget_for_the_others() {
        leaves_budget_for_the_others(|step| {
            Source::of(Ipv6Addr::from_bits(0x2001_0db8_ffff << 80 | u128::from(step) << 64).into())
        });
    }

    #[test]
    fn addresses_of_one_site_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn share_of_a_core_holds_over_time() {
        let (mut admission, start) = admission();
        let mut spent = Duration::ZERO;
        for step in 0..100_000u32 {
            let now = start + step * MS;
            let source = source(step % 5_000);
            if admission.decide(now, source, true, 0) == Verdict::Accept {
                admission.charge(now, source, 4 * MS / 5);
                spent += 4 * MS / 5;
            }
        }
        // 5 % of 100 s, and the burst.
        assert!(spent >= 5_150 * MS && spent <= 5_260 * MS, "{spent:?}");
    }

    #[test]
    fn clock_that_stands_still_or_jumps_does_no_harm() {
        let (mut admission, now) = admission();
        admission.charge(now, source(1), Duration::MAX);
        assert_eq!(admission.decide(now, source(1), true, 0), Verdict::Ignore);
        let later = now + Duration::from_secs(86_400 * 365);
        assert_eq!(
            admission.decide(later, source(1), false, 0),
            Verdict::Accept
        );
        assert_eq!(admission.decide(now, source(1), false, 0), Verdict::Accept);
    }
}
