//! `[limits]` of `relay.toml`.

use tunnel_core::relay::RelayLimits;

adit_daemon::limits! {
    RelayLimits;
    "handshakes" handshakes = count(1..=65_536),
    "handshakes_per_source" handshakes_per_source = count(1..=65_536),
    "first_message_time" first_message_time = seconds(1..=60),
    "handshake_time" handshake_time = seconds(1..=60),
    "handshake_cpu_permille" handshake_cpu_permille = count(1..=1_000),
    "handshake_burst_ms" handshake_burst = millis(10..=10_000),
    "tunnels" tunnels = count(1..=65_536),
    "tunnels_per_client" tunnels_per_client = count(1..=64),
    "lanes_per_tunnel" lanes_per_tunnel = count(1..=65_536),
    "datagram_lanes" datagram_lanes = count(0..=64),
    "lease" lease = seconds(0..=86_400),
    "stream_wait" stream_wait = seconds(0..=60),
    "streams" streams = count(1..=1_048_576),
    "streams_per_client" streams_per_client = count(1..=1_048_576),
    "streams_per_address" streams_per_address = count(1..=1_048_576),
    "flows" flows = count(1..=4_194_304),
    "flows_per_client" flows_per_client = count(1..=4_194_304),
    "unanswered_flow_time" unanswered_flow_time = seconds(1..=600),
    "unproved_reply_bytes" unproved_bytes = count(0..=1_073_741_824),
    "unproved_reply_rate_mbit" unproved_rate = mbit(1..=1_000_000),
    // Their answers have room in a queue of 512.
    "instances_per_client" instances_per_client = count(1..=512),
    "ports_per_instance" ports_per_instance = count(1..=131_070),
    "ports_per_client" ports_per_client = count(1..=131_070),
    "declarations_per_second" declarations_per_second = count(1..=10_000),
    "declaration_burst" declaration_burst = count(1..=100_000),
    "datagram_age_ms" datagram_age = millis(1..=10_000),
    "datagram_queue" datagram_queue = count(1..=65_536),
    "lane_datagram_queue" lane_datagram_queue = count(1..=65_536),
    "tunnel_memory_mib" tunnel_memory = mib(1..=60),
    "stream_memory_mib" stream_memory = mib(16..=1_048_576),
    "lane_rate_mbit" lane_rate = mbit(1..=1_000_000),
}
