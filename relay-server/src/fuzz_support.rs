//! What `fuzz/checks` needs of the program's inside. It is no part of any API and changes at will.

use std::{net::SocketAddr, path::Path};

use adit_daemon::config::{Invalid, Loaded};
use tunnel_core::{instance::PortSet, key::PublicKey};

use crate::config::Config;

/// What a configuration says.
#[derive(Debug)]
pub struct Relay {
    /// `listen`.
    pub listen: SocketAddr,
    /// `ports`.
    pub ports: PortSet,
    /// Who the relay is.
    pub public_key: PublicKey,
    /// The clients: name, key, ports.
    pub clients: Vec<(String, PublicKey, Option<PortSet>)>,
}

/// Reads `text` as `relay.toml`, whose key files all hold `key`.
pub fn parse(text: &str, key: &str) -> Result<Loaded<Relay>, Invalid> {
    let Loaded { value, warnings } = Config::parse(Path::new("relay.toml"), text, key)?;
    let clients = value
        .clients
        .iter()
        .map(|client| {
            let name = client.name.as_str().to_owned();
            (name, client.public_key, client.ports.clone())
        })
        .collect();
    let value = Relay {
        listen: value.listen,
        public_key: value.key.public_key(),
        ports: value.ports,
        clients,
    };
    Ok(Loaded { value, warnings })
}
