//! What `fuzz/checks` needs of the program's inside. It is no part of any API and changes at will.

use std::path::Path;

use adit_daemon::config::{Invalid, Loaded};
use tunnel_core::{client::ClientIdentity, instance::Instance};

use crate::{config::Config, spec};

/// Reads `text` as `client.toml`, whose key files all hold `key`.
pub fn parse(text: &str, key: &str) -> Result<Loaded<(ClientIdentity, Vec<Instance>)>, Invalid> {
    let Loaded { value, warnings } = Config::parse(Path::new("client.toml"), text, key)?;
    let value = (value.identity, value.instances);
    Ok(Loaded { value, warnings })
}

/// Reads `text` as the SPEC of `--expose`; an error comes as it is printed.
pub fn expose(text: &str) -> Result<Instance, String> {
    spec::parse(text).map_err(|error| error.to_string())
}
