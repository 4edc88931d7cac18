//! Beside somebody else's queue: who yields to it starves.

use std::time::{Duration, Instant};

/// Competes as CUBIC (RFC 9438) does, once the queue has overflowed; until then, as BBR, the model's window is doubled.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    /// Half of what we had before, in bytes per second.
    fair: f64,
    /// What waits though we hardly send.
    pub(super) queue: Duration,
    /// From the first overflow on: the window, and what CUBIC grows it from.
    cubic: Option<Cubic>,
    /// Losses of packets sent before have been answered.
    answered: Instant,
}

#[derive(Debug, Clone)]
struct Cubic {
    start: Instant,
    /// Before the loss.
    most: f64,
    /// What Reno would have.
    reno: f64,
    /// What it asked for last.
    wanted: f64,
}

impl Rival {
    pub(super) const fn new(now: Instant, queue: Duration, had: f64) -> Self {
        Self {
            queue,
            fair: had / 2.0,
            cubic: None,
            answered: now,
        }
    }

    pub(super) fn handle_drained(&mut self, queue: Duration) {
        self.queue = (self.queue + queue) / 2;
    }

    /// What of it is taken as given: all of a queue as other controllers keep it, and less of a longer one, or two that each
    /// take the other's for granted would go on for ever.
    pub(super) fn accepted(&self, empty: Duration) -> Duration {
        let usual = self.queue.min(empty);
        usual + (self.queue - usual) / 5 * 4
    }

    /// A packet was lost while the queue was about to overflow.
    pub(super) fn handle_loss(&mut self, now: Instant, sent: Instant, window: u64, rtt: Duration) {
        if sent < self.answered {
            return;
        }
        self.answered = now;
        // What it is going to, for what overflows in several round trips would cut it each time before it got there.
        let wanted = match &self.cubic {
            Some(cubic) => cubic.wanted,
            None => self.fair * rtt.as_secs_f64(),
        };
        let most = wanted.max(window as f64);
        self.cubic = Some(Cubic {
            start: now,
            most,
            reno: most * BETA,
            wanted: most * BETA,
        });
    }

    pub(super) const fn has_overflowed(&self) -> bool {
        self.cubic.is_some()
    }

    /// Whether nothing has overflowed for long.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.cubic.is_none() || now.saturating_duration_since(self.answered) >= QUIET
    }

    /// The window, to be asked for once a round; `None` as long as nothing has overflowed.
    pub(super) fn window(&mut self, now: Instant, rtt: Duration, mtu: u64) -> Option<u64> {
        let cubic = self.cubic.as_mut()?;
        let mtu = mtu as f64;
        cubic.reno += mtu * 3.0 * (1.0 - BETA) / (1.0 + BETA);
        let most = cubic.most / mtu;
        let time = (now.saturating_duration_since(cubic.start) + rtt).as_secs_f64();
        let inflection = (most * (1.0 - BETA) / C).cbrt();
        let wanted = C * (time - inflection).powi(3) + most;
        cubic.wanted = (wanted * mtu).max(cubic.reno);
        Some(cubic.wanted as u64)
    }
}

/// Longer than CUBIC's turns on lines up to 300 Mbit/s: who hears nothing of them for so long is alone, or beside BBR.
const QUIET: Duration = Duration::from_secs(12);

/// RFC 9438.
const BETA: f64 = 0.7;
const C: f64 = 0.4;
