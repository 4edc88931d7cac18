//! `relay-server clients`: who may connect, and ending that.

use std::collections::BTreeMap;

use adit_daemon::{config::suggestion, exit::Stop, print};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::ConfigFile;
use crate::{
    config::{ClientName, Config},
    state::{Revoked, Store, time::UnixTime},
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ListFormat {
    /// Columns for people.
    Table,
    /// A JSON array of objects.
    Json,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    match arguments.command {
        Command::List { config, format } => list(&config.load()?, format),
        Command::Revoke { name, config } => revoke(&config.load()?, &name),
    }
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// `None` while nobody has taken the invitation up.
    public_key: Option<String>,
    /// Ranges; `None`: all of the relay's.
    ports: Option<String>,
    state: State,
    /// RFC 3339; `None` for a client of the configuration file.
    created: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Enrolled, may connect.
    Enrolled,
    /// Was enrolled, may not connect any more.
    Revoked,
    /// An invitation is open, nobody has taken it up.
    Invited,
    /// Written down in the configuration file, may connect.
    File,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Revoked => "revoked",
            Self::Invited => "invited",
            Self::File => "file",
        }
    }
}

fn list(config: &Config, format: ListFormat) -> Result<(), Stop> {
    let listed = collect(config)?;
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

/// By name; the configuration file wins over the state file, as it does in the relay.
fn collect(config: &Config) -> Result<Vec<Listed>, Stop> {
    let mut listed = BTreeMap::new();
    let now = UnixTime::now();
    if let Some(store) = Store::open_existing(&config.state_file)? {
        for client in store.clients()? {
            let state = match client.revoked {
                Some(_) => State::Revoked,
                None => State::Enrolled,
            };
            let row = Listed {
                name: client.name.to_string(),
                public_key: Some(client.public_key.to_string()),
                ports: client.ports.map(|ports| ports.to_string()),
                state,
                created: Some(client.created.rfc3339()),
            };
            listed.insert(client.name, row);
        }
        for token in store.tokens()? {
            let shown = listed.get(&token.client);
            let enrolled = shown.is_some_and(|row| row.state == State::Enrolled);
            if enrolled || !token.is_open(now) {
                continue;
            }
            let row = Listed {
                name: token.client.to_string(),
                public_key: None,
                ports: token.ports.map(|ports| ports.to_string()),
                state: State::Invited,
                created: Some(token.created.rfc3339()),
            };
            listed.insert(token.client, row);
        }
    }
    for client in &config.clients {
        let row = Listed {
            name: client.name.to_string(),
            public_key: Some(client.public_key.to_string()),
            ports: client.ports.as_ref().map(ToString::to_string),
            state: State::File,
            created: None,
        };
        listed.insert(client.name.clone(), row);
    }
    Ok(listed.into_values().collect())
}

fn revoke(config: &Config, name: &ClientName) -> Result<(), Stop> {
    let now = UnixTime::now();
    let mut store = Store::open_existing(&config.state_file)?;
    let revoked = match &mut store {
        Some(store) => store.revoke(name, now)?,
        None => Revoked::Unknown,
    };
    // Last: what the state file has under that name must not come back once the lines are gone.
    if let Some(written) = config.client(name) {
        return Err(Stop::misuse(format!(
            "{name} stands in {path} (line {line}): remove its [[client]] there, then reload the relay \
             (systemctl reload relay-server, or kill -HUP), which ends its tunnel",
            path = config.path.display(),
            line = written.line
        )));
    }
    match revoked {
        Revoked::Client => print::note(format_args!("Revoked {name}.")),
        Revoked::Invitation => print::note(format_args!("Ended the open invitation of {name}.")),
        Revoked::Already => print::note(format_args!("{name} was revoked before.")),
        Revoked::Unknown => {
            let clients = store
                .as_ref()
                .map_or_else(|| Ok(Vec::new()), Store::clients)?;
            let names = clients.iter().map(|client| client.name.as_str());
            let close = suggestion(name.as_str(), names);
            let hint = close.map_or_else(
                || "relay-server clients list shows all".into(),
                |close| format!("did you mean {close}?"),
            );
            return Err(Stop::failure(format!("no client is called {name}: {hint}")));
        }
    }
    Ok(())
}
