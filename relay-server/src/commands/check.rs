//! `relay-server check`: whether a configuration is valid, and what it would do.

use adit_daemon::{
    exit::{self, Stop},
    limits, print,
};
use clap::Args;

use super::config_file::ConfigFile;
use crate::{
    config::{self, AdminConfig, Config},
    state::{Store, StoreError},
};

/// Check a configuration: report every problem with its line and column, or say what would be bound.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  relay-server check --config /etc/adit/relay.toml")]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Stop> {
    let config = exit::checked(Config::load(&arguments.config.path))?;
    let enrolled = enrolled(&config).map_err(|error| Stop::Misuse(error.into()))?;
    print::line(summary(&config, enrolled))?;
    Ok(())
}

fn enrolled(config: &Config) -> Result<usize, StoreError> {
    let Some(store) = Store::open_existing(&config.state_file)? else {
        return Ok(0);
    };
    let clients = store.clients()?.into_iter();
    Ok(clients.filter(|client| client.revoked.is_none()).count())
}

fn summary(config: &Config, enrolled: usize) -> String {
    let advertise = config.advertise.as_ref().map_or_else(
        || "nothing (invite needs --advertise)".into(),
        ToString::to_string,
    );
    format!(
        "\
ok
public key   {key}
listen       {listen} (QUIC on UDP, lanes on TCP)
public ports {ports} on {bind}
advertise    {advertise}
clients      {written} in the file, {enrolled} in {state}
API          {api}
limits       {limits}",
        api = config.admin.as_ref().map_or_else(|| "none".into(), api),
        key = config.key.public_key(),
        listen = config.listen,
        ports = config.ports,
        bind = config.public_bind,
        written = config.clients.len(),
        state = config.state_file.display(),
        limits = limits::summary(&config.limits, config::limits::ROWS),
    )
}

/// Where the API listens.
fn api(admin: &AdminConfig) -> String {
    let tls = if admin.tls.is_some() { " with TLS" } else { "" };
    format!("{}{tls}", admin.listen)
}
