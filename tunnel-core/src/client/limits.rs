//! The bounds of a client.

use std::time::Duration;

use crate::{
    proto::stream::TUNNEL_BUDGET,
    tunnel::{datagram::QueueLimits, stream::MEMORY},
};

/// Bounds of a client, each with the reason for its default. What bites is counted: see
/// [`Snapshot`](crate::metrics::Snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// Players' TCP connections at once. 16,384: as many as a relay may open on one QUIC connection.
    pub streams: usize,
    /// Players' UDP flows at once. 65,536: each takes a socket, and a raised descriptor limit usually allows that.
    pub flows: usize,
    /// How long the socket of a flow is kept for its player once the relay has been replaced by another process. 60 s: a
    /// player who is still there says something many times in it.
    pub parked_flow_time: Duration,
    /// Lanes that stand idle at most, whatever the relay wants. 256: what it may ask for.
    pub idle_lanes: usize,
    /// Lanes that carry datagrams where UDP is blocked, beside the first. 3: with four, a lost segment stalls a quarter.
    pub datagram_lanes: usize,
    /// How long a target may take to accept a connection. 10 s: a container that starts answers its first SYN within a
    /// retransmission or two.
    pub connect_time: Duration,
    /// Age at which a datagram that waits for the tunnel is dropped. 100 ms: two or three of a game's ticks; later
    /// ones replace it. A burst does not age while it leaves, for ten times as long at most.
    pub datagram_age: Duration,
    /// Datagrams that wait for QUIC at most. 4,096: 100 ms of a node's 40,000 packets/s, or 6 MB of full packets.
    pub datagram_queue: usize,
    /// Datagrams that wait for one lane at most; one counts for each 1,500 bytes that it has begun. 1,024: two worlds of 480 kB
    /// that a game sends at once, or 100 ms of 10,000 packets/s on each of four lanes; 1.5 MiB at most.
    pub lane_datagram_queue: usize,
    /// Bytes that the streams of the tunnel may hold, sent and not acknowledged. 60 MiB: with framing, what the
    /// protocol allows at most.
    pub tunnel_memory: u64,
    /// Bytes that the streams of all tunnels may hold together: those, and what has come and waits for sockets that do not read.
    /// 512 MiB, half of what a small VPS has. A tunnel gets a quarter of what is free.
    pub stream_memory: u64,
}

impl Default for ClientLimits {
    fn default() -> Self {
        let queues = QueueLimits::default();
        Self {
            streams: 16_384,
            flows: 65_536,
            parked_flow_time: Duration::from_secs(60),
            idle_lanes: 256,
            datagram_lanes: 3,
            connect_time: Duration::from_secs(10),
            datagram_age: queues.age,
            datagram_queue: queues.quic,
            lane_datagram_queue: queues.lane,
            tunnel_memory: TUNNEL_BUDGET,
            stream_memory: MEMORY,
        }
    }
}

impl ClientLimits {
    pub(super) const fn queues(&self) -> QueueLimits {
        QueueLimits {
            age: self.datagram_age,
            quic: self.datagram_queue,
            lane: self.lane_datagram_queue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_reach_what_holds_them() {
        let limits = ClientLimits {
            datagram_age: Duration::from_millis(4),
            datagram_queue: 5,
            lane_datagram_queue: 6,
            ..ClientLimits::default()
        };
        let queues = QueueLimits {
            age: Duration::from_millis(4),
            quic: 5,
            lane: 6,
        };
        assert_eq!(limits.queues(), queues);
    }
}
