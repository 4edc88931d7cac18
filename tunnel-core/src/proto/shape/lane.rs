//! What one lane tells, and what it gets.

use std::time::Duration;

/// Finds the newest round trips in the kernel's average of them.
#[derive(Debug)]
pub struct Newest {
    average: Duration,
    delivered: u32,
}

impl Newest {
    /// With the kernel's average and its count of segments as they are now.
    pub fn new(average: Duration, delivered: u32) -> Self {
        Self { average, delivered }
    }

    /// `average` and `delivered` (segments, wrapping) as the kernel has them now, and the lowest round trip that it has
    /// seen. `None` if nothing has come since the last time.
    ///
    /// The average moves an eighth towards each new round trip. A slow lane has few, and its average would tell of a
    /// queue long after it has gone.
    pub fn handle_average(
        &mut self,
        average: Duration,
        delivered: u32,
        lowest: Duration,
    ) -> Option<Duration> {
        let segments = delivered.wrapping_sub(self.delivered);
        let last = self.average;
        // Not every segment is acknowledged by itself.
        if segments == 0 || (average == last && segments < FEW) {
            return None;
        }
        self.delivered = delivered;
        self.average = average;
        // An acknowledgement for every other segment.
        let acks = (segments / 2).clamp(1, MANY) as i32;
        let moved = 1.0 - KEPT.powi(acks);
        let change = (average.as_secs_f64() - last.as_secs_f64()) / moved;
        let newest = last.as_secs_f64() + change;
        Some(Duration::from_secs_f64(newest.max(0.0)).max(lowest))
    }
}

/// Divides `rate` among lanes that use so much of it: `None` for as much as they get. Nobody gets more than an equal
/// share while others want it, nor less than [`LANE_LEAST`].
pub fn divide(rate: f64, uses: &[Option<f64>], shares: &mut Vec<f64>) {
    shares.clear();
    shares.resize(uses.len(), 0.0);
    let (mut left, mut lanes) = (rate, uses.len());
    // Each round settles those that want less than an equal share; with none of them it is the last.
    for _ in 0..ROUNDS {
        let share = left / lanes.max(1) as f64;
        let mut settled = false;
        for (used, got) in uses.iter().zip(shares.iter_mut()) {
            let wanted = used.map_or(f64::INFINITY, |used| used * ROOM + rate * FIRST);
            if *got == 0.0 && wanted < share {
                *got = wanted;
                left -= wanted;
                lanes -= 1;
                settled = true;
            }
        }
        if !settled {
            break;
        }
    }
    let share = left / lanes.max(1) as f64;
    for got in shares.iter_mut() {
        *got = if *got == 0.0 { share } else { *got }.max(LANE_LEAST);
    }
}

/// Bytes per second that a lane has at least: the kernel sends two segments at once and then waits until they have had
/// their time, which a later and higher pace does not shorten. 2 s at most.
pub const LANE_LEAST: f64 = PAIR / 2.0;
/// The bytes that leave a paced lane at once: two segments.
pub(super) const PAIR: f64 = 2.0 * 1500.0;

/// What the average keeps of itself with each round trip.
const KEPT: f64 = 7.0 / 8.0;
/// Until so many have come, an average that stays has not been touched.
const FEW: u32 = 8;
/// So many, and nothing is left of what was before.
const MANY: u32 = 64;
/// A lane that uses less than it gets may double that at once, and has a fiftieth to begin with.
const ROOM: f64 = 2.0;
const FIRST: f64 = 0.02;
const ROUNDS: usize = 4;
