//! `relay-server clients`: who may connect, and ending that.

use adit_daemon::{exit::Stop, print};
use clap::{Args, Subcommand};

use super::{config_file::ConfigFile, list_format::ListFormat};
use crate::{
    config::{ClientName, Config},
    operate::clients::{self as operate, RevokeError},
    state::{Revoked, time::UnixTime},
};

/// List clients, or revoke one.
///
/// Works while the relay runs, which acts within a second, and while it does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay-server clients list --config /etc/adit/relay.toml
  relay-server clients revoke --config /etc/adit/relay.toml node-1")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List clients and open invitations.
    #[command(after_help = "\
Example:
  relay-server clients list --config /etc/adit/relay.toml --format json")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// How the list looks.
        #[arg(long, value_enum, default_value = "table")]
        format: ListFormat,
    },
    /// End a client's right to connect, and its tunnel if it has one.
    #[command(after_help = "\
Example:
  relay-server clients revoke --config /etc/adit/relay.toml node-1")]
    Revoke {
        /// The client's name.
        name: ClientName,
        #[command(flatten)]
        config: ConfigFile,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    match arguments.command {
        Command::List { config, format } => list(&config.load()?, format),
        Command::Revoke { name, config } => revoke(&config.load()?, &name),
    }
}

fn list(config: &Config, format: ListFormat) -> Result<(), Stop> {
    let listed = operate::list(config, UnixTime::now())?;
    match format {
        ListFormat::Json => print::line(serde_json::to_string_pretty(&listed)?)?,
        ListFormat::Table => {
            let heads = ["NAME", "KEY", "PORTS", "STATE", "CREATED"].map(String::from);
            let rows = listed.into_iter().map(|client| {
                vec![
                    client.name,
                    client.public_key.unwrap_or_else(|| "-".into()),
                    client.ports.unwrap_or_else(|| "all".into()),
                    client.state.as_str().into(),
                    client.created.unwrap_or_else(|| "-".into()),
                ]
            });
            let rows: Vec<_> = std::iter::once(heads.to_vec()).chain(rows).collect();
            print::bytes(print::table(&rows).as_bytes())?;
        }
    }
    Ok(())
}

fn revoke(config: &Config, name: &ClientName) -> Result<(), Stop> {
    let revoked =
        operate::revoke(config, name, UnixTime::now()).map_err(|error| match error {
            RevokeError::Written { line } => Stop::misuse(format!(
                "{name} stands in {path} (line {line}): remove its [[client]] there, then reload the relay \
                 (systemctl reload relay-server, or kill -HUP), which ends its tunnel",
                path = config.path.display(),
            )),
            RevokeError::Store(error) => error.into(),
        })?;
    match revoked {
        Revoked::Client => print::note(format_args!("Revoked {name}.")),
        Revoked::Invitation => print::note(format_args!("Ended the open invitation of {name}.")),
        Revoked::Already => print::note(format_args!("{name} was revoked before.")),
        Revoked::Unknown => {
            let hint = operate::similar(config, name)?.map_or_else(
                || "relay-server clients list shows all".into(),
                |close| format!("did you mean {close}?"),
            );
            return Err(Stop::failure(format!("no client is called {name}: {hint}")));
        }
    }
    Ok(())
}
