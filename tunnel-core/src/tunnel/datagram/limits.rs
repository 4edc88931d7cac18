//! How many datagrams may wait in a send queue, and for how long.

use std::time::Duration;

/// How many datagrams may wait for the tunnel, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Age at which a datagram that waits is dropped.
    pub(crate) age: Duration,
    /// Datagrams that wait for QUIC at most.
    pub(crate) quic: usize,
    /// Datagrams that wait for one lane at most.
    pub(crate) lane: usize,
}

impl Default for QueueLimits {
    /// See [`RelayLimits`](crate::relay::RelayLimits) for the reasons.
    fn default() -> Self {
        Self {
            age: Duration::from_millis(100),
            quic: 4096,
            lane: 1024,
        }
    }
}
