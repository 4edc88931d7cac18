//! `relay-client` as its users meet it: the program itself.
#![cfg(unix)]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start the binaries, and fail where they stand"
)]

mod commands;
#[path = "../../../tunnel-core/daemon/tests/support/program.rs"]
mod program;
mod running;
mod support;
