//! The test bed's program: `cargo run --release -p benches -- compare`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use benches::{compare, worker::Worker};
use clap::{Parser, Subcommand};

/// The test bed: measures Adit beside the direct path and beside other tunnels.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the direct path, Adit and every peer that is found through the same scenarios.
    Compare(compare::Arguments),
    /// Prints the tables of an earlier run again, or draws its page.
    Report(compare::Redraw),
    /// What this process is when the test bed has started itself.
    #[command(hide = true)]
    Worker { worker: String },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            compare::console::warn(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(arguments),
        Command::Report(arguments) => compare::redraw(&arguments),
        Command::Worker { worker } => serde_json::from_str::<Worker>(&worker)?.run(),
    }
}
