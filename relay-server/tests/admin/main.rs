//! The admin API of the program itself, over real HTTP.
#![cfg(unix)]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start the binaries, and fail where they stand"
)]

mod access;
mod bad_input;
mod crash;
mod disk;
mod documents;
mod endpoints;
mod events;
mod instances;
mod players;
#[path = "../../../tunnel-core/daemon/tests/support/program.rs"]
#[expect(dead_code, reason = "these tests need not all of it")]
mod program;
mod support;
mod tls;
