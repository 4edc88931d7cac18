//! `[limits]` of `client.toml`.

use tunnel_core::client::ClientLimits;

adit_daemon::limits! {
    ClientLimits;
    "streams" streams = count(1..=1_048_576),
    "flows" flows = count(1..=1_048_576),
    "parked_flow_time" parked_flow_time = seconds(0..=600),
    "idle_lanes" idle_lanes = count(0..=256),
    "datagram_lanes" datagram_lanes = count(0..=64),
    "connect_time" connect_time = seconds(1..=60),
    "datagram_age_ms" datagram_age = millis(1..=10_000),
    "datagram_queue" datagram_queue = count(1..=65_536),
    "lane_datagram_queue" lane_datagram_queue = count(1..=65_536),
    "tunnel_memory_mib" tunnel_memory = mib(1..=60),
    "stream_memory_mib" stream_memory = mib(16..=1_048_576),
}
