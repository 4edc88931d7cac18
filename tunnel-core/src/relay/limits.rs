//! The bounds of a relay.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    proto::stream::{TUNNEL_BUDGET, handover::LANE_RATE},
    relay::limit::{bucket::TokenBucket, pending::Pending},
    transport::admission::AdmissionLimits,
    tunnel::{datagram::QueueLimits, stream::MEMORY},
};

/// Bounds of a relay, each with the reason for its default. What bites is counted: see
/// [`Snapshot`](crate::metrics::Snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayLimits {
    /// Handshakes under way at once: 256 that have been answered and not proved, and as many TCP connections that have
    /// not said anything, or have proved themselves and are not let in. A restarted relay sees all of its clients at once; where all places are taken, the oldest goes.
    pub handshakes: usize,
    /// How many of them one source may have, an IPv4 address or a /64 of IPv6. 32: an eighth, and more nodes than one
    /// site has.
    pub handshakes_per_source: usize,
    /// How long a TCP connection may take to bring its first message. 2 s: it is one packet behind the connect, and
    /// may be lost once.
    pub first_message_time: Duration,
    /// How long a handshake may take. 10 s: several losses on a path of 600 ms.
    pub handshake_time: Duration,
    /// Part of one core for who has not proved itself, in 1/1000. 50 (5 %) is 100 handshakes a second, of 0.4 to
    /// 0.5 ms each as measured, for ever, while the players' packets keep the rest.
    pub handshake_cpu_permille: u32,
    /// What that part may save up. 250 ms are 500 handshakes: every client of a large relay coming back at once.
    pub handshake_burst: Duration,
    /// Clients that have tunnels at once. 1,024: each tunnel takes a few hundred KiB, and one VPS serves fewer nodes.
    pub tunnels: usize,
    /// Tunnels of one client at once: the one in use, and those before it that end with their last player. 8; the
    /// oldest goes for a new one.
    pub tunnels_per_client: usize,
    /// Lanes of one tunnel, idle, in use and with datagrams. 4,096: one for each bulk stream, and an attacker with a
    /// stolen key gets no more.
    pub lanes_per_tunnel: usize,
    /// Those of them that carry datagrams. 8: clients open three beside the first.
    pub datagram_lanes: usize,
    /// How long the ports of a lost tunnel are held. 30 s: a reboot of a router; longer, and a dead node blocks its
    /// replacement's ports.
    pub lease: Duration,
    /// How long a player who arrives while the tunnel is down waits for it. 5 s: most reconnects take a second or two.
    pub stream_wait: Duration,
    /// Players' TCP connections at once. 16,384: each takes a descriptor and, while it is idle, up to 8 KiB.
    pub streams: usize,
    /// Those of one client. 8,192: one client leaves half for the others.
    pub streams_per_client: usize,
    /// Those of one player's address (of IPv6, a /64). 256: players of a whole school behind one NAT, and many that each
    /// open ten.
    pub streams_per_address: usize,
    /// Players' flows at once. 131,072: each takes up to some 500 bytes, so that a flood from as many addresses takes 64 MiB.
    pub flows: usize,
    /// Those of one client. 65,536: as many as a client has sockets for, and half is left for the others.
    pub flows_per_client: usize,
    /// How long a flow lives that nothing ever came back on. 10 s: longer than any game waits for its server's first
    /// packet, and short enough that a flood from forged addresses does not keep what it takes.
    pub unanswered_flow_time: Duration,
    /// Bytes that one flow is sent, beside three times its own, until its address has answered an answer: before that it may be forged.
    /// 1,200: any first answer of one packet, as RFC 9000 counts.
    pub unproved_bytes: usize,
    /// Bytes per second that all unproved addresses of one service are sent together. 1,250,000 (10 Mbit/s): thousands of server browsers,
    /// and useless to who wants a flood.
    pub unproved_rate: u64,
    /// Instances of one client. 256: as many game servers as a large node runs.
    pub instances_per_client: usize,
    /// Public sockets of one instance: ports, each of its protocols counted. 2,048: the largest range, over both.
    pub ports_per_instance: usize,
    /// Public sockets of one client. 4,096: sixteen for each of 256 instances.
    pub ports_per_client: usize,
    /// Declarations of one client in a second, for ever; each 16 sockets that one opens count as one more. 32: an
    /// orchestrator changes less, and 512 sockets a second cost a hundredth of a core.
    pub declarations_per_second: u32,
    /// Declarations that may come at once. 1,024: all instances of a large node with all of their ports, after a restart.
    pub declaration_burst: u32,
    /// Age at which a datagram that waits for the tunnel is dropped. 100 ms: two or three of a game's ticks; later
    /// ones replace it. A burst does not age while it leaves, for ten times as long at most.
    pub datagram_age: Duration,
    /// Datagrams that wait for QUIC at most. 4,096: 100 ms of a node's 40,000 packets/s, or 6 MB of full packets.
    pub datagram_queue: usize,
    /// Datagrams that wait for one lane at most; one counts for each 1,500 bytes that it has begun. 1,024: two worlds of 480 kB
    /// that a game sends at once, or 100 ms of 10,000 packets/s on each of four lanes; 1.5 MiB at most.
    pub lane_datagram_queue: usize,
    /// Bytes that the streams of one tunnel may hold, sent and not acknowledged. 60 MiB: with framing, what the
    /// protocol allows at most.
    pub tunnel_memory: u64,
    /// Bytes that the streams of all tunnels may hold together: those, and what has come and waits for sockets that do not read.
    /// 512 MiB, half of what a small VPS has. A tunnel gets a quarter of what is free.
    pub stream_memory: u64,
    /// Bytes per second from which a stream of `optimize = "auto"` moves from QUIC to a lane; a fifth of it is enough where
    /// this process is busy. 125,000,000 (1 Gbit/s): on slower lines QUIC is as fast, and its one congestion control keeps
    /// the queue short for the games beside it.
    pub lane_rate: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        let queues = QueueLimits::default();
        Self {
            handshakes: 256,
            handshakes_per_source: 32,
            first_message_time: Duration::from_secs(2),
            handshake_time: Duration::from_secs(10),
            handshake_cpu_permille: 50,
            handshake_burst: Duration::from_millis(250),
            tunnels: 1024,
            tunnels_per_client: 8,
            lanes_per_tunnel: 4096,
            datagram_lanes: 8,
            lease: Duration::from_secs(30),
            stream_wait: Duration::from_secs(5),
            streams: 16_384,
            streams_per_client: 8192,
            streams_per_address: 256,
            flows: 131_072,
            flows_per_client: 65_536,
            unanswered_flow_time: crate::proto::flow::UNANSWERED,
            unproved_bytes: 1200,
            unproved_rate: 1_250_000,
            instances_per_client: 256,
            ports_per_instance: 2048,
            ports_per_client: 4096,
            declarations_per_second: 32,
            declaration_burst: 1024,
            datagram_age: queues.age,
            datagram_queue: queues.quic,
            lane_datagram_queue: queues.lane,
            tunnel_memory: TUNNEL_BUDGET,
            stream_memory: MEMORY,
            lane_rate: LANE_RATE,
        }
    }
}

impl RelayLimits {
    /// The same limits for a process that has `descriptors` descriptors for players' sockets: a quarter of them is left by each client for the others.
    pub(super) fn within(mut self, descriptors: usize) -> Self {
        self.streams = self.streams.min(descriptors);
        let of_one = descriptors - descriptors / 4;
        self.streams_per_client = self.streams_per_client.min(of_one);
        self
    }

    pub(super) const fn admission(&self) -> AdmissionLimits {
        AdmissionLimits {
            in_flight: self.handshakes,
            cpu_permille: self.handshake_cpu_permille,
            burst: self.handshake_burst,
        }
    }

    /// A table of places for handshakes under way.
    pub(super) fn pending(&self) -> Arc<Pending> {
        Pending::new(self.handshakes, self.handshakes_per_source)
    }

    /// What unproved addresses of one service are sent together: a second's worth at once.
    pub(super) fn unproved(&self) -> TokenBucket {
        let bytes = u32::try_from(self.unproved_rate).unwrap_or(u32::MAX);
        TokenBucket::new(bytes, bytes, Instant::now())
    }

    pub(super) const fn queues(&self) -> QueueLimits {
        QueueLimits {
            age: self.datagram_age,
            quic: self.datagram_queue,
            lane: self.lane_datagram_queue,
        }
    }
}

/// At most `most` permits.
pub(super) fn permits(most: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clients_players_leave_descriptors_to_the_others() {
        let limits = RelayLimits::default();
        let few = limits.clone().within(384);
        assert_eq!((few.streams, few.streams_per_client), (384, 288));
        assert_eq!(limits.clone().within(1 << 20), limits);
    }

    #[test]
    fn limits_reach_what_holds_them() {
        let limits = RelayLimits {
            handshakes: 1,
            handshake_cpu_permille: 2,
            handshake_burst: Duration::from_millis(3),
            datagram_age: Duration::from_millis(4),
            datagram_queue: 5,
            lane_datagram_queue: 6,
            ..RelayLimits::default()
        };
        let admission = AdmissionLimits {
            in_flight: 1,
            cpu_permille: 2,
            burst: Duration::from_millis(3),
        };
        assert_eq!(limits.admission(), admission);
        let queues = QueueLimits {
            age: Duration::from_millis(4),
            quic: 5,
            lane: 6,
        };
        assert_eq!(limits.queues(), queues);
        assert_eq!(
            RelayLimits::default().admission(),
            AdmissionLimits::default()
        );
    }
}
