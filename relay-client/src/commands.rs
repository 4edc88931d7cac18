//! The command line: one file per command.

mod check;
mod join;
mod run;

use adit_daemon::{
    exit::{self, Stop},
    log::{self, Format},
};
use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Connects game servers behind NAT to a relay, which players reach.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "\
Examples:
  relay-client join 'adit://relay.example.net:4433/…#…' --dir /var/lib/adit
  relay-client run --config /var/lib/adit/client.toml --expose both:7777
  ADIT_JOIN='adit://…' ADIT_EXPOSE='both:7777=srv_123:7777 udp:15000=srv_123:15000' relay-client run"
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
    Join(join::Arguments),
    Run(run::Arguments),
    Check(check::Arguments),
    /// Write completions for a shell to stdout.
    #[command(after_help = "\
Example:
  relay-client completions bash > /etc/bash_completion.d/relay-client")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs the command.
pub(crate) fn run(cli: Cli) -> Result<(), Stop> {
    log::install(cli.log_format);
    match cli.command {
        Command::Join(arguments) => join::run(arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Completions { shell } => Ok(exit::completions::<Cli>(shell)?),
    }
}
