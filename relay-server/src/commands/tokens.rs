//! `relay-server tokens`: who may use the admin API.

use adit_control::access::Role;
use adit_daemon::{config::suggestion, exit::Stop, print};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{config_file::ConfigFile, list_format::ListFormat};
use crate::{
    config::Config,
    operate::tokens::{self as operate, CreateError},
    state::{TokenName, time::UnixTime},
};

/// Make, list and revoke tokens of the admin API.
///
/// Works while the relay runs, which acts within a second, and while it does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay-server tokens create --config /etc/adit/relay.toml --role operator panel
  relay-server tokens list --config /etc/adit/relay.toml
  relay-server tokens revoke --config /etc/adit/relay.toml panel")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token and print it. It is shown this once.
    #[command(after_help = "\
Example:
  relay-server tokens create --config /etc/adit/relay.toml --role viewer grafana")]
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// What the token is called: 1 to 63 of a-z 0-9 _ -.
        name: TokenName,
        /// What its holder may do: metrics (read counters), viewer (read all), operator (change what runs) or admin (change who may do
        /// what).
        #[arg(long, value_name = "ROLE")]
        role: Role,
    },
    /// List tokens; their secrets are kept nowhere.
    #[command(after_help = "\
Example:
  relay-server tokens list --config /etc/adit/relay.toml --format json")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// How the list looks.
        #[arg(long, value_enum, default_value = "table")]
        format: ListFormat,
    },
    /// End a token, and the sessions and event streams that it has opened.
    #[command(after_help = "\
Example:
  relay-server tokens revoke --config /etc/adit/relay.toml panel")]
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// The token's name.
        name: TokenName,
    },
}

/// A token, as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    role: Role,
    created: String,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    match arguments.command {
        Command::Create { config, name, role } => create(&config.load()?, name, role),
        Command::List { config, format } => list(&config.load()?, format),
        Command::Revoke { config, name } => revoke(&config.load()?, &name),
    }
}

fn create(config: &Config, name: TokenName, role: Role) -> Result<(), Stop> {
    let shown = name.to_string();
    let secret =
        operate::create(config, name, role, UnixTime::now()).map_err(|error| match error {
            CreateError::Taken(_) | CreateError::Full => Stop::Misuse(error.into()),
            other => other.into(),
        })?;
    print::line(&*secret.to_text())?;
    print::note(format_args!(
        "The line above is the token of {shown} ({role}): it is not shown again."
    ));
    if config.admin.is_none() {
        print::note(format_args!(
            "{} has no [admin] section yet: with listen = \"127.0.0.1:7001\" in it, the relay has an API.",
            config.path.display()
        ));
    }
    Ok(())
}

fn list(config: &Config, format: ListFormat) -> Result<(), Stop> {
    let listed = operate::list(config)?.into_iter().map(|token| Listed {
        name: token.name.to_string(),
        role: token.role,
        created: token.created.rfc3339(),
    });
    match format {
        ListFormat::Json => {
            print::line(serde_json::to_string_pretty(&listed.collect::<Vec<_>>())?)?;
        }
        ListFormat::Table => {
            let heads = ["NAME", "ROLE", "CREATED"].map(String::from);
            let rows = listed.map(|token| vec![token.name, token.role.to_string(), token.created]);
            let rows: Vec<_> = std::iter::once(heads.to_vec()).chain(rows).collect();
            print::bytes(print::table(&rows).as_bytes())?;
        }
    }
    Ok(())
}

fn revoke(config: &Config, name: &TokenName) -> Result<(), Stop> {
    if operate::revoke(config, name)? {
        print::note(format_args!("Revoked {name}."));
        return Ok(());
    }
    let tokens = operate::list(config)?;
    let names = tokens.iter().map(|token| token.name.as_str());
    let hint = suggestion(name.as_str(), names).map_or_else(
        || "relay-server tokens list shows all".into(),
        |close| format!("did you mean {close}?"),
    );
    Err(Stop::failure(format!("no token is called {name}: {hint}")))
}
