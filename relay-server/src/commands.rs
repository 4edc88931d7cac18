//! The command line: one file per command.

mod check;
mod clients;
mod config_file;
mod init;
mod invite;
mod list_format;
mod run;
mod tokens;

use adit_daemon::{
    exit::{self, Stop},
    log::{self, Format},
};
use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Accepts players on public ports and carries them to game servers behind NAT.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "\
Examples:
  relay-server init --dir /etc/adit --advertise relay.example.net:4433
  relay-server run --config /etc/adit/relay.toml
  relay-server invite --config /etc/adit/relay.toml node-1"
)]
pub(crate) struct Cli {
    /// How log lines look.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Arguments),
    Run(run::Arguments),
    Check(check::Arguments),
    Invite(invite::Arguments),
    Clients(clients::Arguments),
    Tokens(tokens::Arguments),
    /// Write completions for a shell to stdout.
    #[command(after_help = "\
Example:
  relay-server completions bash > /etc/bash_completion.d/relay-server")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs the command.
pub(crate) fn run(cli: Cli) -> Result<(), Stop> {
    log::install(cli.log_format);
    match cli.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Invite(arguments) => invite::run(arguments),
        Command::Clients(arguments) => clients::run(arguments),
        Command::Tokens(arguments) => tokens::run(arguments),
        Command::Completions { shell } => Ok(exit::completions::<Cli>(shell)?),
    }
}
