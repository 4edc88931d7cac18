//! The rate at which bytes arrive.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What had been delivered when.
#[derive(Debug, Default)]
pub(super) struct Delivered(VecDeque<(Instant, u64)>);

impl Delivered {
    /// Keeps what is needed for a rate over `window`.
    pub(super) fn handle_sample(&mut self, now: Instant, delivered: u64, window: Duration) {
        // A counter that falls is another one.
        if self.0.back().is_some_and(|(_, last)| delivered < *last) {
            self.0.clear();
        }
        self.0.push_back((now, delivered));
        let is_old = |at: Instant| now.saturating_duration_since(at) >= window;
        while self.0.len() > SAMPLES || self.0.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.0.pop_front();
        }
    }

    /// Bytes per second over about `window`. `None` while less than half of it is known, or if nothing came.
    pub(super) fn rate(&self, window: Duration) -> Option<f64> {
        let ((first, before), (last, after)) = (self.0.front()?, self.0.back()?);
        let time = last.saturating_duration_since(*first);
        let bytes = after - before;
        (time * 2 >= window && bytes > 0).then(|| bytes as f64 / time.as_secs_f64())
    }
}

/// The longest window, in which lanes at their least send once, at the shortest interval.
const SAMPLES: usize = 400;
