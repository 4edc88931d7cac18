//! Latencies, with every one counted and three digits kept.

use std::time::Duration;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A distribution of latencies, as it travels between processes and into the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many there are.
    pub count: u64,
    /// Milliseconds at each of [`SHARES`].
    pub milliseconds: Vec<f64>,
    /// The longest, in milliseconds.
    pub longest: f64,
}

impl Latencies {
    /// The latency that so large a share (0 to 1, one of [`SHARES`]) stays within, in milliseconds.
    pub fn within(&self, share: f64) -> Option<f64> {
        let place = SHARES.iter().position(|known| *known == share)?;
        self.milliseconds.get(place).copied()
    }
}

/// Counts latencies.
#[derive(Debug)]
pub(super) struct Counter(Histogram<u64>);

impl Counter {
    pub(super) fn new() -> Result<Self> {
        Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3)
            .map(Self)
            .map_err(|error| anyhow!("{error}"))
    }

    pub(super) fn add(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos() as u64);
    }

    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        self.0.add(&other.0).map_err(|error| anyhow!("{error}"))
    }

    pub(super) fn finish(&self) -> Option<Latencies> {
        let histogram = &self.0;
        (!histogram.is_empty()).then(|| Latencies {
            count: histogram.len(),
            milliseconds: SHARES
                .iter()
                .map(|share| histogram.value_at_quantile(*share) as f64 / 1e6)
                .collect(),
            longest: histogram.max() as f64 / 1e6,
        })
    }
}

/// The shares that a distribution is kept at: the closer to the whole, the closer together.
pub const SHARES: [f64; 24] = [
    0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98,
    0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999,
];
/// No player waits for longer.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_thousand_latencies_are_what_they_are() -> Result<()> {
        let mut counter = Counter::new()?;
        let mut other = Counter::new()?;
        for millis in 1..=500 {
            counter.add(Duration::from_millis(millis));
            other.add(Duration::from_millis(500 + millis));
        }
        counter.merge(&other)?;
        let latencies = counter.finish().expect("there are some");
        assert_eq!(latencies.count, 1000);
        for (share, millis) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = latencies.within(share).expect("it is kept");
            assert!((found / millis - 1.0).abs() < 0.001, "{share}: {found}");
        }
        assert!(latencies.within(0.123).is_none());
        Ok(())
    }

    #[test]
    fn no_latency_is_no_distribution() -> Result<()> {
        assert!(Counter::new()?.finish().is_none());
        Ok(())
    }
}
