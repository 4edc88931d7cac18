//! Adit's client: connects game servers behind NAT to a relay.
//!
//! The program is [`main`]. It is a library only so that `fuzz/checks` reaches its parsers.
#![forbid(unsafe_code)]

mod claims;
mod commands;
mod config;
#[doc(hidden)]
pub mod fuzz_support;
mod identity;
mod probe;
mod setup;
mod spec;

use std::process::ExitCode;

use adit_daemon::exit;

/// The whole program: reads the arguments, does what they say, and answers with its exit status.
pub fn main() -> ExitCode {
    match exit::arguments::<commands::Cli>() {
        Ok(cli) => exit::run(|| commands::run(cli)),
        Err(status) => status,
    }
}
