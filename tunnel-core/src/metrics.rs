//! Counters: what moved, what was dropped and why.
//!
//! A counter is one row of the table below: its field, its name for Prometheus, and what it counts. The engine calls
//! `Metrics`' event methods; whoever embeds it reads a [`Snapshot`].

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident = $name:literal $([$label:literal])?,)+) => {
        /// Counters of one relay or client. All are cheap, and none takes a lock.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[doc = $doc])+ pub(crate) $field: Counter,)+
        }

        /// The values of all counters at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> Snapshot {
                Snapshot { $($field: self.$field.get(),)+ }
            }
        }

        impl Snapshot {
            /// Every counter with its Prometheus name, its label if it has one, and its kind.
            pub fn rows(&self) -> impl Iterator<Item = Row> {
                [$(Row {
                    name: $name,
                    label: counters!(@label $($label)?),
                    kind: Kind::$kind,
                    help: concat!($($doc),+),
                    value: self.$field,
                },)+].into_iter()
            }
        }
    };
    (@label $label:literal) => { Some($label) };
    (@label) => { None };
}

/// One counter of a [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its Prometheus name, `adit_…`.
    pub name: &'static str,
    /// `key="value"`, where several counters share a name.
    pub label: Option<&'static str>,
    /// Whether it only rises.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

/// The kind of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
}

counters! {
    /// Tunnels that stand now.
    tunnels: Gauge = "adit_tunnels",
    /// Tunnels that were set up.
    tunnels_opened: Counter = "adit_tunnels_opened_total",
    /// Tunnels refused because the relay has as many as it may.
    tunnels_refused: Counter = "adit_tunnels_refused_total",
    /// Earlier tunnels of a client, ended with their players because it has more than it may.
    tunnels_ended: Counter = "adit_tunnels_ended_total",
    /// Lanes that are open now.
    lanes: Gauge = "adit_lanes",
    /// Lanes that could not be opened: TCP to the relay is blocked, or the relay refuses more.
    lanes_failed: Counter = "adit_lanes_failed_total",
    /// Lanes refused because their tunnel has as many as it may.
    lanes_refused: Counter = "adit_lanes_refused_total",
    /// Lanes that were left because what was sent on them did not arrive: a firewall that has forgotten their connections.
    lanes_stuck: Counter = "adit_lanes_stuck_total",
    /// Streams (players' TCP connections) that are open now.
    streams: Gauge = "adit_streams",
    /// Streams that were opened.
    streams_opened: Counter = "adit_streams_opened_total",
    /// Streams that went on over another channel after theirs had broken.
    streams_resumed: Counter = "adit_streams_resumed_total",
    /// Streams that moved to a lane while QUIC carried them.
    streams_moved: Counter = "adit_streams_moved_total",
    /// Streams that are on a lane now; the others are on QUIC.
    streams_on_lanes: Gauge = "adit_streams_on_lanes",
    /// Bytes from players to game servers in streams.
    stream_bytes_in: Counter = "adit_stream_bytes_total" ["direction=\"in\""],
    /// Bytes from game servers to players in streams.
    stream_bytes_out: Counter = "adit_stream_bytes_total" ["direction=\"out\""],
    /// Flows (players' UDP conversations) that are open now.
    flows: Gauge = "adit_flows",
    /// Flows that were opened.
    flows_opened: Counter = "adit_flows_opened_total",
    /// Flows whose player has not come back yet through the relay's new process. They keep their sockets meanwhile.
    flows_parked: Gauge = "adit_flows_parked",
    /// Flows whose player repeats himself for 5 s or more without an answer of the game.
    flows_unanswered: Gauge = "adit_flows_unanswered",
    /// Flows that went on through another process of the relay, with the socket that they had.
    flows_resumed: Counter = "adit_flows_resumed_total",
    /// Datagrams from players to game servers.
    datagrams_in: Counter = "adit_datagrams_total" ["direction=\"in\""],
    /// Datagrams from game servers to players.
    datagrams_out: Counter = "adit_datagrams_total" ["direction=\"out\""],
    /// Bytes in datagrams from players to game servers.
    datagram_bytes_in: Counter = "adit_datagram_bytes_total" ["direction=\"in\""],
    /// Bytes in datagrams from game servers to players.
    datagram_bytes_out: Counter = "adit_datagram_bytes_total" ["direction=\"out\""],
    /// Datagrams dropped because the queue to the tunnel was full.
    drop_queue_full: Counter = "adit_datagrams_dropped_total" ["reason=\"queue_full\""],
    /// Datagrams dropped because they had waited too long to be of use.
    drop_too_old: Counter = "adit_datagrams_dropped_total" ["reason=\"too_old\""],
    /// Datagrams dropped because no tunnel stood.
    drop_no_tunnel: Counter = "adit_datagrams_dropped_total" ["reason=\"no_tunnel\""],
    /// Datagrams of new players dropped because the relay or the client shuts down, or their instance takes none.
    drop_draining: Counter = "adit_datagrams_dropped_total" ["reason=\"draining\""],
    /// Answers dropped because they are more than an address is sent that has not proved to be the player's.
    drop_unproved: Counter = "adit_datagrams_dropped_total" ["reason=\"unproved\""],
    /// Datagrams and connections of addresses that the operator has banned.
    banned: Counter = "adit_banned_total",
    /// Datagrams of new players dropped because the service is unhealthy and refuses them.
    drop_unhealthy: Counter = "adit_datagrams_dropped_total" ["reason=\"unhealthy\""],
    /// Datagrams dropped because they were larger than fragments can carry.
    drop_too_large: Counter = "adit_datagrams_dropped_total" ["reason=\"too_large\""],
    /// Datagrams dropped because their flow is unknown.
    drop_unknown_flow: Counter = "adit_datagrams_dropped_total" ["reason=\"unknown_flow\""],
    /// Datagrams dropped because they name a service that the client does not have.
    drop_unknown_service: Counter = "adit_datagrams_dropped_total" ["reason=\"unknown_service\""],
    /// Datagrams dropped because they could not be read.
    drop_malformed: Counter = "adit_datagrams_dropped_total" ["reason=\"malformed\""],
    /// Datagrams dropped because fragments were missing or contradicted each other.
    drop_fragments: Counter = "adit_datagrams_dropped_total" ["reason=\"fragments\""],
    /// Datagrams dropped because the player's address holds too many flows.
    drop_address_cap: Counter = "adit_datagrams_dropped_total" ["reason=\"address_cap\""],
    /// Datagrams dropped because the service holds too many flows.
    drop_service_cap: Counter = "adit_datagrams_dropped_total" ["reason=\"service_cap\""],
    /// Datagrams dropped because the client's services hold too many flows.
    drop_client_cap: Counter = "adit_datagrams_dropped_total" ["reason=\"client_cap\""],
    /// Datagrams dropped because there are as many flows as the program may have.
    drop_limit: Counter = "adit_datagrams_dropped_total" ["reason=\"limit\""],
    /// Datagrams dropped because they say of their flow what it is not: another service, port or player.
    drop_mismatch: Counter = "adit_datagrams_dropped_total" ["reason=\"mismatch\""],
    /// Answers of games dropped because their player has not come back yet through the relay's new process.
    drop_parked: Counter = "adit_datagrams_dropped_total" ["reason=\"parked\""],
    /// Datagrams dropped because they came to a player's local port from elsewhere than the game.
    drop_foreign: Counter = "adit_datagrams_dropped_total" ["reason=\"foreign\""],
    /// Datagrams dropped because they had come already: copies that were not needed.
    drop_duplicate: Counter = "adit_datagrams_dropped_total" ["reason=\"duplicate\""],
    /// Copies of datagrams sent into the tunnel, so that a loss costs a game nothing.
    copies_sent: Counter = "adit_redundancy_sent_total" ["kind=\"copy\""],
    /// Repairs of datagrams sent into the tunnel, for the same reason.
    repairs_sent: Counter = "adit_redundancy_sent_total" ["kind=\"repair\""],
    /// Datagrams lost in the tunnel that repairs brought back.
    repaired: Counter = "adit_datagrams_repaired_total",
    /// Datagrams that a socket refused: the target's ICMP, a full socket buffer, an unreachable player.
    drop_socket: Counter = "adit_datagrams_dropped_total" ["reason=\"socket\""],
    /// Datagrams dropped because no descriptor or socket was to be had for their flow.
    drop_no_socket: Counter = "adit_datagrams_dropped_total" ["reason=\"no_socket\""],
    /// Datagrams dropped because the target's name does not resolve.
    drop_unresolved: Counter = "adit_datagrams_dropped_total" ["reason=\"unresolved\""],
    /// Flows that made room for others: never answered, or silent for longest.
    flows_evicted: Counter = "adit_flows_evicted_total",
    /// Streams ended because the target refused the connection.
    stream_target_refused: Counter = "adit_streams_failed_total" ["reason=\"target_refused\""],
    /// Streams ended because the target could not be reached.
    stream_target_unreachable: Counter = "adit_streams_failed_total" ["reason=\"target_unreachable\""],
    /// Streams ended because the target's name does not resolve.
    stream_unresolved: Counter = "adit_streams_failed_total" ["reason=\"unresolved\""],
    /// Streams ended because they name a service that the client does not have.
    stream_no_service: Counter = "adit_streams_failed_total" ["reason=\"no_service\""],
    /// Streams ended because no tunnel stood, or none came back in time.
    stream_no_tunnel: Counter = "adit_streams_failed_total" ["reason=\"no_tunnel\""],
    /// Players refused because the relay or the client shuts down, or their instance takes none.
    stream_draining: Counter = "adit_streams_failed_total" ["reason=\"draining\""],
    /// Players refused because the service is unhealthy and refuses them.
    stream_unhealthy: Counter = "adit_streams_failed_total" ["reason=\"unhealthy\""],
    /// Streams ended because their channel broke.
    stream_broken: Counter = "adit_streams_failed_total" ["reason=\"broken\""],
    /// Streams ended because the peer broke the protocol.
    stream_misbehaved: Counter = "adit_streams_failed_total" ["reason=\"misbehaved\""],
    /// Streams ended by a reset of the player or the target.
    stream_reset: Counter = "adit_streams_failed_total" ["reason=\"reset\""],
    /// Players refused because a limit of connections was reached.
    stream_limit: Counter = "adit_streams_failed_total" ["reason=\"limit\""],
    /// Streams refused because their tunnel has TCP lanes alone, and all that it may have are in use.
    stream_lanes: Counter = "adit_streams_failed_total" ["reason=\"lanes\""],
    /// Players refused because their address holds as many connections as one may.
    stream_address_cap: Counter = "adit_streams_failed_total" ["reason=\"address_cap\""],
    /// Players refused because the client's services hold as many connections as one client's may.
    stream_client_cap: Counter = "adit_streams_failed_total" ["reason=\"client_cap\""],
    /// Connections of trusted front ends refused because they did not begin with a PROXY header.
    stream_proxy_header: Counter = "adit_streams_failed_total" ["reason=\"proxy_header\""],
    /// PROXY headers of trusted front ends that were read.
    proxy_headers_in: Counter = "adit_proxy_headers_total" ["direction=\"in\""],
    /// PROXY headers sent to targets.
    proxy_headers_out: Counter = "adit_proxy_headers_total" ["direction=\"out\""],
    /// Services that are unhealthy now, as their checks say.
    services_unhealthy: Gauge = "adit_services_unhealthy",
    /// Health checks that were answered.
    health_checks_answered: Counter = "adit_health_checks_total" ["result=\"answered\""],
    /// Health checks that were not answered, or not as they should be.
    health_checks_failed: Counter = "adit_health_checks_total" ["result=\"failed\""],
    /// Connections refused because the process had no descriptor, or the machine no local port, left.
    no_descriptors: Counter = "adit_descriptors_exhausted_total",
    /// Times that a listener could not accept a connection for another reason.
    accepts_failed: Counter = "adit_accepts_failed_total",
    /// Handshakes that failed or timed out.
    handshakes_failed: Counter = "adit_handshakes_failed_total",
    /// First messages not looked at because too many handshakes were under way or had cost too much.
    handshakes_ignored: Counter = "adit_handshakes_ignored_total",
    /// Unproven handshakes, silent connections and those that were not let in that had to make room for others.
    handshakes_evicted: Counter = "adit_handshakes_evicted_total",
    /// First messages answered with Retry.
    handshakes_retried: Counter = "adit_handshakes_retried_total",
    /// Packets at the tunnel's socket that no client sent: other QUIC versions, random bytes.
    strangers: Counter = "adit_stranger_packets_total",
    /// Instances that were refused.
    instances_refused: Counter = "adit_instances_refused_total",
    /// Declarations refused because the client sends them faster than it may.
    declarations_limited: Counter = "adit_declarations_limited_total",
    /// Panics that were caught: those of tasks, and of what an embedder decides by.
    panics: Counter = "adit_panics_total",
    /// Log lines that the program could not write; the engine itself writes none.
    log_lines_lost: Counter = "adit_log_lines_lost_total",
}

impl Metrics {}

/// One number that many tasks count in.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed: counters order nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves a part of the sum from one value to another.
    pub(crate) fn change(&self, from: u64, to: u64) {
        // Wrapping: what was added before makes it right.
        self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }

    fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
}

/// Bytes that have passed on one stream.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From the socket.
    pub(crate) read: Counter,
    /// To the socket.
    pub(crate) written: Counter,
}

/// Counts a gauge up for as long as it lives.
#[derive(Debug)]
pub(crate) struct Gauge {
    metrics: std::sync::Arc<Metrics>,
    of: fn(&Metrics) -> &Counter,
}

impl Gauge {
    pub(crate) fn new(metrics: &std::sync::Arc<Metrics>, of: fn(&Metrics) -> &Counter) -> Self {
        of(metrics).one();
        Self {
            metrics: metrics.clone(),
            of,
        }
    }
}

/// A gauge's part that changes; it falls by what is left when it is dropped.
#[derive(Debug)]
pub(crate) struct Level {
    metrics: std::sync::Arc<Metrics>,
    of: fn(&Metrics) -> &Counter,
    value: u64,
}

impl Level {
    pub(crate) fn new(metrics: &std::sync::Arc<Metrics>, of: fn(&Metrics) -> &Counter) -> Self {
        Self {
            metrics: metrics.clone(),
            of,
            value: 0,
        }
    }

    pub(crate) fn set(&mut self, value: u64) {
        let before = std::mem::replace(&mut self.value, value);
        (self.of)(&self.metrics).change(before, value);
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.metrics).sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;

    #[test]
    fn names_and_labels_are_unique() {
        let mut seen = HashSet::new();
        for row in Snapshot::default().rows() {
            assert!(row.name.starts_with("adit_"));
            assert_eq!(
                row.name.ends_with("_total"),
                row.kind == Kind::Counter,
                "{}",
                row.name
            );
            assert!(seen.insert((row.name, row.label)), "{row:?}");
            assert!(!row.help.trim().is_empty());
        }
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let metrics = Arc::new(Metrics::default());
        let guard = Gauge::new(&metrics, |m| &m.streams);
        assert_eq!(metrics.snapshot().streams, 1);
        let mut level = Level::new(&metrics, |m| &m.streams);
        level.set(5);
        level.set(3);
        assert_eq!(metrics.snapshot().streams, 4);
        drop(level);
        drop(guard);
        assert_eq!(metrics.snapshot().streams, 0);
    }
}
