//! What players have seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{arrivals::Standstill, histogram::Latencies, series::STEP};

/// What players have seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// How long they measured, in seconds.
    pub seconds: f64,
    /// When they began, in nanoseconds of the clock that all processes share; 0 where it does not matter.
    pub started: u64,
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Round trips, connections: whatever was counted.
    pub events: u64,
    /// Datagrams that players sent.
    pub sent: u64,
    /// Of them, those that came back, once each.
    pub received: u64,
    /// Datagrams that came back again.
    pub doubled: u64,
    /// Datagrams that came back wrong: to another player, or of another length.
    pub wrong: u64,
    /// The longest that no datagram came back, in seconds.
    pub silence: f64,
    /// The longest that bulk did not arrive.
    pub standstill: Standstill,
    /// How long each took.
    pub latencies: Option<Latencies>,
    /// How late the generator itself was.
    pub lateness: Option<Latencies>,
    /// Bytes (bulk) or events in each [`STEP`].
    pub series: Vec<u64>,
}

impl Seen {
    /// Bytes a second while another one measured; where the series does not say when bytes came, over all of its own time.
    pub fn bytes_a_second_beside(&self, other: &Self) -> f64 {
        let own = Duration::from_nanos(self.started);
        let from = Duration::from_nanos(other.started);
        let to = from + Duration::from_secs_f64(other.seconds);
        let within = |place: usize| {
            let begins = own + STEP * place as u32;
            begins >= from && begins + STEP <= to
        };
        let steps: Vec<u64> = (0..self.series.len())
            .filter(|&place| within(place))
            .map(|place| self.series[place])
            .collect();
        let counts_bytes = self.events == 0;
        if !counts_bytes || self.started == 0 || other.started == 0 || steps.is_empty() {
            return self.bytes as f64 / self.seconds;
        }
        let seconds = (STEP * steps.len() as u32).as_secs_f64();
        steps.iter().sum::<u64>() as f64 / seconds
    }
}

/// What a load says before it begins to measure.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Begins;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(started_ms: u64, seconds: f64, series: &[u64]) -> Seen {
        Seen {
            seconds,
            started: started_ms * 1_000_000,
            bytes: series.iter().sum(),
            series: series.to_vec(),
            ..Seen::default()
        }
    }

    #[test]
    fn rate_beside_another_is_that_of_their_common_time() {
        let bulk = seen(1000, 0.5, &[100, 1, 2, 3, 100]);
        assert_eq!(bulk.bytes_a_second_beside(&seen(1100, 0.3, &[])), 20.0);
        // Steps that only begin or end within it do not count.
        assert_eq!(bulk.bytes_a_second_beside(&seen(1050, 0.3, &[])), 15.0);
        // What does not overlap, or began at no known time, has its own average.
        for other in [seen(9000, 1.0, &[]), seen(0, 1.0, &[])] {
            assert_eq!(bulk.bytes_a_second_beside(&other), 412.0);
        }
    }
}
