//! Adit's relay: accepts players on public ports and carries them to clients behind NAT.
//!
//! The program is [`main`]. It is a library only so that `fuzz/checks` reaches its parsers.
#![forbid(unsafe_code)]

mod admin;
mod commands;
mod config;
#[doc(hidden)]
pub mod fuzz_support;
mod operate;
mod state;

use std::process::ExitCode;

use adit_daemon::exit;

/// The whole program: reads the arguments, does what they say, and answers with its exit status.
pub fn main() -> ExitCode {
    match exit::arguments::<commands::Cli>() {
        Ok(cli) => exit::run(|| commands::run(cli)),
        Err(status) => status,
    }
}
