//! What acknowledgements, and their absence, add up to.

use std::mem;
use std::time::{Duration, Instant};

/// What a round trip's acknowledgements add up to.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// A packet sent from here on ends the round when it is acknowledged.
    pub(super) start: Instant,
    /// Lowest round trip: the standing queue, without bursts.
    pub(super) rtt: Duration,
    /// Sum of the round trips, and how many there were.
    sum: (Duration, u32),
    pub(super) acked: u64,
    /// Bytes acknowledged while the window or the pacer held data back.
    pub(super) limited: u64,
    /// Most bytes in flight.
    pub(super) peak: u64,
}

impl Round {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            rtt: Duration::MAX,
            sum: (Duration::ZERO, 0),
            acked: 0,
            limited: 0,
            peak: 0,
        }
    }

    pub(super) fn handle_batch(&mut self, batch: &Batch, peak: u64) {
        self.rtt = self.rtt.min(batch.rtt);
        self.sum = (self.sum.0 + batch.rtt, self.sum.1 + 1);
        self.acked += batch.acked;
        self.limited += batch.limited;
        self.peak = self.peak.max(peak);
    }

    /// Bytes per second that arrived, if what arrived was sent within `sending`: acknowledgements that come in a bunch tell of no
    /// faster path.
    pub(super) fn rate(&self, now: Instant, sending: Duration) -> f64 {
        let time = now.saturating_duration_since(self.start).max(sending);
        self.acked as f64 / time.as_secs_f64().max(1e-6)
    }

    /// How far its round trips lie above the lowest of them, on average.
    pub(super) fn spread(&self) -> Option<Duration> {
        (self.sum.1 >= SPREAD_LEAST).then(|| self.mean().saturating_sub(self.rtt))
    }

    /// The average round trip.
    pub(super) fn mean(&self) -> Duration {
        self.sum.0 / self.sum.1.max(1)
    }

    pub(super) fn app_limited(&self) -> bool {
        self.limited * 2 < self.acked
    }
}

/// The packets of one acknowledgement.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// The newest packet's, which waited least for the acknowledgement.
    pub(super) rtt: Duration,
    pub(super) newest: Option<Instant>,
    pub(super) acked: u64,
    pub(super) limited: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            rtt: Duration::MAX,
            newest: None,
            acked: 0,
            limited: 0,
        }
    }
}

/// The lowest of every [`RECENT`] samples.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    rtt: Duration,
    samples: u8,
}

impl Recent {
    /// Returns the lowest once there are enough.
    pub(super) fn handle_sample(&mut self, rtt: Duration) -> Option<Duration> {
        self.rtt = self.rtt.min(rtt);
        self.samples += 1;
        (self.samples >= RECENT).then(|| mem::take(self).rtt)
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            rtt: Duration::MAX,
            samples: 0,
        }
    }
}

/// How much the path has carried of late.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    since: Instant,
    acked: u64,
    /// Bytes per second.
    rate: u64,
}

impl Carried {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            acked: 0,
            rate: 0,
        }
    }

    pub(super) fn handle_ack(&mut self, now: Instant, acked: u64) {
        self.acked += acked;
        let time = now.saturating_duration_since(self.since);
        if time >= CARRIED_LOOK {
            let now_carried = (mem::take(&mut self.acked) as f64 / time.as_secs_f64()) as u64;
            // Slowly down: a game's rate swings with what happens in it.
            self.rate = now_carried.max(self.rate / 16 * 15);
            self.since = now;
        }
    }

    /// Bytes per second.
    pub(super) const fn rate(&self) -> u64 {
        self.rate
    }
}

/// Since when nothing has been heard although something was sent.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    pub(super) since: Instant,
    /// When the last packet left that should be acknowledged.
    asked: Instant,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            asked: now,
        }
    }

    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64, patience: Duration) {
        if bytes < MIN_ASKING {
            return;
        }
        // After a pause nobody owes an answer from before it.
        if now.saturating_duration_since(self.asked) > patience {
            self.since = now;
        }
        self.asked = now;
    }

    pub(super) fn handle_ack(&mut self, now: Instant) {
        self.since = now;
    }
}

/// Batches that a search looks at: enough to pass over a stray sample, few enough to see the queue
/// of a quick doubling within its round (HyStart++, RFC 9406, uses the same number).
const RECENT: u8 = 8;

/// Batches of a round that has a spread.
const SPREAD_LEAST: u32 = 4;

/// As often as the tunnel looks at what its datagrams come to (`tunnel/meter`).
const CARRIED_LOOK: Duration = Duration::from_millis(250);

/// Bytes of the smallest transmission taken to ask for an acknowledgement. A bare acknowledgement
/// is smaller and is itself never answered, so it must not start a silence.
const MIN_ASKING: u64 = 80;
