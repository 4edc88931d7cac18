//! Adit's client: connects game servers behind NAT to a relay.
#![forbid(unsafe_code)]

mod claims;
mod commands;
mod config;
mod engine;
mod identity;
mod setup;
mod spec;

use std::process::ExitCode;

use adit_daemon::exit;

fn main() -> ExitCode {
    match exit::arguments::<commands::Cli>() {
        Ok(cli) => exit::report(commands::run(cli)),
        Err(status) => status,
    }
}
