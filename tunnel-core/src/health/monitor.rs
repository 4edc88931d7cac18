//! What follows from the results of checks: when the next one is due, and what the verdict is.

use std::time::{Duration, Instant};

use crate::health::{check::HealthCheck, state::HealthState};

/// Judges a service by the results of its checks.
///
/// A verdict changes after several results in a row that speak against it. A service that fails again soon after it has recovered
/// has to answer twice as often each time before it counts as healthy again, up to four doublings, so that one that flaps
/// does not take its players along each time; what stays healthy for ten minutes is trusted as before.
#[derive(Debug)]
pub struct Monitor {
    interval: Duration,
    start_until: Instant,
    up: u32,
    down: u32,
    state: HealthState,
    since: Instant,
    /// Answers in a row, and failures in a row that count: one of them is zero.
    answers: u32,
    failures: u32,
    penalty: u32,
    next: Instant,
}

impl Monitor {
    /// A service that was started now and is to be checked so. `delay` spreads the first checks of many.
    pub fn new(check: &HealthCheck, now: Instant, delay: Duration) -> Self {
        Self {
            interval: check.interval,
            start_until: now + check.start_period,
            up: check.up,
            down: check.down,
            state: HealthState::Starting,
            since: now,
            answers: 0,
            failures: 0,
            penalty: 0,
            next: now + delay,
        }
    }

    /// The verdict.
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// Since when it stands.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// When the next check is due.
    pub const fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// A check could not be made, for a reason that says nothing of the service.
    pub fn handle_skipped(&mut self, now: Instant) {
        self.next = now + self.pause();
    }

    /// A check has ended: whether the service works. Returns whether the verdict has changed.
    pub fn handle_result(&mut self, now: Instant, works: bool) -> bool {
        if works {
            self.failures = 0;
            self.answers = self.answers.saturating_add(1);
        } else {
            self.answers = 0;
            let may_start = self.state == HealthState::Starting && now < self.start_until;
            self.failures = self.failures.saturating_add(u32::from(!may_start));
        }
        let changed = match self.state {
            HealthState::Starting => self.answers >= self.up || self.failures >= self.down,
            HealthState::Healthy => self.failures >= self.down,
            HealthState::Unhealthy => self.answers >= self.up << self.penalty,
        };
        if changed {
            self.turn(now, works);
        } else if self.state == HealthState::Healthy && self.stands_for(now) >= CALM {
            self.penalty = 0;
        }
        self.next = now + self.pause();
        changed
    }

    fn turn(&mut self, now: Instant, works: bool) {
        let was_healthy = self.state == HealthState::Healthy;
        if was_healthy && self.stands_for(now) < CALM {
            self.penalty = (self.penalty + 1).min(PENALTY_MAX);
        }
        self.state = if works {
            HealthState::Healthy
        } else {
            HealthState::Unhealthy
        };
        self.since = now;
        (self.answers, self.failures) = (0, 0);
    }

    fn stands_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// A service that starts is looked at more often, so that players need not wait for the next round.
    fn pause(&self) -> Duration {
        match self.state {
            HealthState::Starting => self.interval.min(START_INTERVAL),
            HealthState::Healthy | HealthState::Unhealthy => self.interval,
        }
    }
}

/// How often a service is asked that starts, at least.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// How long a service has to stay healthy to be trusted as before: 10 minutes, 20 checks.
pub(super) const CALM: Duration = Duration::from_secs(600);
/// Four doublings: a service that flaps is led to after 16 answers in a row, 8 minutes by default.
pub(super) const PENALTY_MAX: u32 = 4;
