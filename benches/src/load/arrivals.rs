//! What a receiving application sees of a transfer: how much, when, and for how long nothing.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::series::Series;

/// A moment on the clock that all processes of a machine share, in whatever namespace they are.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Counts what arrives from a start on, for a length. The time before the first byte and that behind the last one count as
/// any other: nothing is warm-up.
#[derive(Debug)]
pub(super) struct Arrivals {
    start: Duration,
    length: Duration,
    bytes: u64,
    /// From the start on.
    last: Duration,
    standstill: Standstill,
    series: Series,
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrived {
    pub(super) bytes: u64,
    /// The longest of them.
    pub(super) standstill: Standstill,
    /// Bytes in each [`STEP`](super::series::STEP).
    pub(super) series: Vec<u64>,
}

/// A time in which no byte came to the application.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Standstill {
    /// Seconds.
    pub lasted: f64,
    /// When it began, in seconds from the start on.
    pub at: f64,
}

impl Arrivals {
    pub(super) fn new(start: Duration, length: Duration) -> Self {
        Self {
            start,
            length,
            bytes: 0,
            last: Duration::ZERO,
            standstill: Standstill::default(),
            series: Series::new(start, length),
        }
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.start) >= self.length
    }

    /// What comes after the end is not counted.
    pub(super) fn add(&mut self, now: Duration, bytes: usize) {
        if self.is_over(now) {
            return;
        }
        self.move_on(now.saturating_sub(self.start));
        self.bytes += bytes as u64;
        self.series.add(now, bytes as u64);
    }

    pub(super) fn finish(mut self) -> Arrived {
        self.move_on(self.length);
        Arrived {
            bytes: self.bytes,
            standstill: self.standstill,
            series: self.series.steps,
        }
    }

    fn move_on(&mut self, to: Duration) {
        let lasted = to.saturating_sub(self.last).as_secs_f64();
        if lasted > self.standstill.lasted {
            let at = self.last.as_secs_f64();
            self.standstill = Standstill { lasted, at };
        }
        self.last = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const START: Duration = Duration::from_secs(100);

    fn standstill(arrived: &Arrived) -> (u64, u64) {
        let millis = |seconds: f64| (seconds * 1e3).round() as u64;
        let Standstill { lasted, at } = arrived.standstill;
        (millis(lasted), millis(at))
    }

    fn arrive(at: &[u32]) -> Arrived {
        let mut arrivals = Arrivals::new(START, 1000 * MS);
        for at in at {
            arrivals.add(START + *at * MS, 10);
        }
        arrivals.finish()
    }

    #[test]
    fn standstill_is_the_longest_wherever_it_is() {
        assert_eq!(standstill(&arrive(&[])), (1000, 0));
        assert_eq!(standstill(&arrive(&[400, 500, 900])), (400, 0));
        assert_eq!(standstill(&arrive(&[100, 200, 650, 900])), (450, 200));
        assert_eq!(standstill(&arrive(&[1, 100, 300])), (700, 300));
    }

    #[test]
    fn what_comes_after_the_end_neither_counts_nor_ends_a_standstill() {
        let arrived = arrive(&[999, 1000, 1500]);
        assert_eq!(arrived.bytes, 10);
        assert_eq!(standstill(&arrived), (999, 0));
        assert_eq!(arrived.series.iter().sum::<u64>(), 10);
    }

    #[test]
    fn series_says_when_it_came() {
        let arrived = arrive(&[0, 99, 100, 950]);
        assert_eq!(arrived.series, [20, 10, 0, 0, 0, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn clock_is_that_of_the_machine() {
        let earlier = now();
        assert!(now() >= earlier);
        assert!(earlier > Duration::ZERO);
    }
}
