//! Counts over time.

use std::time::Duration;

/// Counts over time.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) start: Duration,
    pub(super) steps: Vec<u64>,
}

impl Series {
    /// Times are those of the clock that all processes share.
    pub(super) fn new(start: Duration, length: Duration) -> Self {
        let steps = (length.as_secs_f64() / STEP.as_secs_f64()).ceil() as usize;
        Self {
            start,
            steps: vec![0; steps.max(1)],
        }
    }

    /// What comes after the end is not counted.
    pub(super) fn add(&mut self, at: Duration, amount: u64) {
        let step = at.saturating_sub(self.start).as_nanos() / STEP.as_nanos();
        if let Some(step) = self.steps.get_mut(step as usize) {
            *step += amount;
        }
    }

    pub(super) fn merge(&mut self, other: &[u64]) {
        for (step, other) in self.steps.iter_mut().zip(other) {
            *step += other;
        }
    }
}

/// One point of a series.
pub const STEP: Duration = Duration::from_millis(100);
