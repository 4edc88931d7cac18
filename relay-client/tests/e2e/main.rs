//! End to end: the real programs, set up with their own commands, between players and servers that nobody here wrote
//! (iperf3, nginx, HAProxy, curl, NSD, dig, socat).
//!
//! Everything runs on loopback, or in a network namespace that the test makes. `ADIT_TEST_BIN_DIR` names the directory
//! of the programs to test; by default they are those of the same build. With `ADIT_TEST_REQUIRE_ALL` set, a test
//! that would be skipped for want of a program or a right fails instead.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    reason = "these tests start the programs that they test"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on panics, as the test would"
)]
#![expect(
    clippy::print_stderr,
    reason = "a test that fails shows what its programs said"
)]

mod harness;

mod address;
mod addresses;
mod black_out;
mod boot;
mod bulk;
mod bursts;
mod crowds;
mod cut_off;
mod dns;
mod documents;
mod enrolment;
mod fallback;
mod farewell;
mod faults;
mod forgotten;
mod gone;
mod half_close;
mod health;
mod http;
mod isolation;
mod lifecycle;
mod names;
mod night;
mod node_ports;
mod parked;
mod path;
mod player_sources;
mod proxy_protocol;
mod relay_names;
mod reload;
mod shapes;
mod unheard;
