//! Adit's relay: accepts players on public ports and carries them to clients behind NAT.
#![forbid(unsafe_code)]

mod commands;
mod config;
mod engine;
mod state;
mod time;

use std::process::ExitCode;

use adit_daemon::exit;

fn main() -> ExitCode {
    match exit::arguments::<commands::Cli>() {
        Ok(cli) => exit::report(commands::run(cli)),
        Err(status) => status,
    }
}
