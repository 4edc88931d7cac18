//! `relay.toml`: one row per key.

mod admin;
mod client;
pub(crate) mod limits;

pub(crate) use admin::AdminConfig;
pub(crate) use client::{ClientName, FileClient};

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use adit_daemon::config::{self, At, Fault, Invalid, Key, Keys, Loaded, Reader, Section};
use tunnel_core::{
    instance::{HostPort, PortRange, PortSet},
    key::{Psk, PublicKey, SecretKey},
    relay::{RelayLimits, TrustedProxy},
};

/// A relay's configuration that is valid.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where it was read.
    pub(crate) path: PathBuf,
    /// QUIC on UDP and lanes on TCP, the same number.
    pub(crate) listen: SocketAddr,
    /// The address that public ports are bound on.
    pub(crate) public_bind: IpAddr,
    /// What clients may be given at all.
    pub(crate) ports: PortSet,
    /// Out of which of them the relay chooses where an instance leaves its port open.
    pub(crate) pool: PortSet,
    /// Front ends that say who connects.
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
    /// Who the relay is.
    pub(crate) key: SecretKey,
    /// Enrolled clients.
    pub(crate) state_file: PathBuf,
    /// The host and port in join strings.
    pub(crate) advertise: Option<HostPort>,
    /// What players have when the relay is stopped.
    pub(crate) grace: Duration,
    /// Clients written down by hand.
    pub(crate) clients: Vec<FileClient>,
    /// The engine's bounds.
    pub(crate) limits: RelayLimits,
    /// The admin API, if there is one.
    pub(crate) admin: Option<AdminConfig>,
}

impl Config {
    /// Reads and validates the file.
    pub(crate) fn load(path: &Path) -> Result<Loaded<Self>, Invalid> {
        config::load(path, "relay-server init", |reader, root| {
            Self::read(path, reader, root)
        })
    }

    /// As [`load`](Self::load), of a text whose key files all hold `key`.
    pub(crate) fn parse(path: &Path, text: &str, key: &str) -> Result<Loaded<Self>, Invalid> {
        config::parse(path, text, Keys::Are(key), |reader, root| {
            Self::read(path, reader, root)
        })
    }

    /// The client of the file that is called `name`.
    pub(crate) fn client(&self, name: &ClientName) -> Option<&FileClient> {
        self.clients.iter().find(|client| client.name == *name)
    }

    fn read(path: &Path, reader: &mut Reader<'_>, root: &Section<'_>) -> Option<Self> {
        let mut raw = RawFile::default();
        reader.fill(root, ROOT, &mut raw);
        let relay = raw.relay?;
        let ports = relay.ports.unwrap_or_else(default_ports);
        let key = relay.key.as_ref().map(SecretKey::public_key);
        let clients = validate_clients(raw.clients, &ports, key, reader);
        Some(Self {
            path: path.to_owned(),
            listen: relay.listen?,
            public_bind: relay.public_bind.unwrap_or(DEFAULT_PUBLIC_BIND),
            pool: relay.pool.unwrap_or_else(|| default_pool(&ports)),
            ports,
            trusted_proxies: relay.trusted_proxies,
            key: relay.key?,
            state_file: relay
                .state_file
                .unwrap_or_else(|| reader.resolve(DEFAULT_STATE_FILE)),
            advertise: relay.advertise,
            grace: relay.grace.unwrap_or(config::DEFAULT_GRACE),
            clients,
            limits: raw.limits,
            admin: raw.admin.and_then(|admin| admin.validate(reader)),
        })
    }
}

/// What `listen` must be.
pub(crate) const ADDRESS_AND_PORT: &str =
    "an address and a port, such as 0.0.0.0:4433 or [::]:4433";
/// `public_bind` unless said otherwise: every IPv4 address.
pub(crate) const DEFAULT_PUBLIC_BIND: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// `listen` that `init` writes unless said otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(DEFAULT_PUBLIC_BIND, 4433);
/// `state_file` unless said otherwise.
pub(crate) const DEFAULT_STATE_FILE: &str = "state.db";

/// Networks in `trusted_proxies`: 1,024, more than the largest protection service lists. Each new connection is held against all.
const TRUSTED_MOST: usize = 1024;

/// `pool` unless said otherwise: below the ports that Linux gives to outgoing connections, or all where none of these is the relay's.
fn default_pool(ports: &PortSet) -> PortSet {
    let usual: PortSet = PortRange::new(30_000, 31_999).into_iter().collect();
    let own = usual.intersection(ports);
    if own.is_empty() { ports.clone() } else { own }
}

/// `ports` unless said otherwise: all that need no privilege.
pub(crate) fn default_ports() -> PortSet {
    PortRange::new(1024, u16::MAX).into_iter().collect()
}

#[derive(Default)]
struct RawFile {
    relay: Option<RawRelay>,
    clients: Vec<RawClient>,
    limits: RelayLimits,
    admin: Option<admin::RawAdmin>,
}

#[derive(Default)]
struct RawRelay {
    listen: Option<SocketAddr>,
    public_bind: Option<IpAddr>,
    ports: Option<PortSet>,
    pool: Option<PortSet>,
    trusted_proxies: Vec<TrustedProxy>,
    key: Option<SecretKey>,
    state_file: Option<PathBuf>,
    advertise: Option<HostPort>,
    grace: Option<Duration>,
}

#[derive(Default)]
struct RawClient {
    name: Option<At<ClientName>>,
    public_key: Option<At<PublicKey>>,
    psk: Option<Psk>,
    ports: Option<At<PortSet>>,
    line: usize,
}

const ROOT: &[Key<RawFile>] = &[
    Key::required("relay", "[relay]", |file, value, reader| {
        let section = value.section("[relay]")?;
        let relay = file.relay.insert(RawRelay::default());
        reader.fill(&section, RELAY, relay);
        Ok(())
    }),
    Key::optional("client", |file, value, reader| {
        for section in value.sections("[[client]]")? {
            let mut client = RawClient {
                line: reader.line(&section.span),
                ..RawClient::default()
            };
            reader.fill(&section, CLIENT, &mut client);
            file.clients.push(client);
        }
        Ok(())
    }),
    Key::optional("limits", |file, value, reader| {
        let section = value.section("[limits]")?;
        reader.fill(&section, limits::KEYS, &mut file.limits);
        Ok(())
    }),
    Key::optional("admin", |file, value, reader| {
        let section = value.section("[admin]")?;
        let admin = file.admin.insert(admin::RawAdmin::default());
        reader.fill(&section, admin::KEYS, admin);
        Ok(())
    }),
];

const RELAY: &[Key<RawRelay>] = &[
    Key::required("listen", r#"listen = "0.0.0.0:4433""#, |relay, value, _| {
        let address: SocketAddr = value.parse_expecting(ADDRESS_AND_PORT)?;
        if address.port() == 0 {
            return Err(Fault::new("clients need a port that stays: 0 is none"));
        }
        relay.listen = Some(address);
        Ok(())
    }),
    Key::optional("public_bind", |relay, value, _| {
        let expected = "an IP address without a port, such as 0.0.0.0 or ::";
        relay.public_bind = Some(value.parse_expecting(expected)?);
        Ok(())
    }),
    Key::optional("ports", |relay, value, _| {
        relay.ports = Some(some_ports(value.list()?)?);
        Ok(())
    }),
    Key::optional("trusted_proxies", |relay, value, _| {
        let networks: Vec<_> = value.list::<TrustedProxy, _>()?;
        if networks.len() > TRUSTED_MOST {
            return Err(Fault::new(format!(
                "{} networks are more than {TRUSTED_MOST}",
                networks.len()
            )));
        }
        relay.trusted_proxies = networks;
        Ok(())
    }),
    Key::required(
        "private_key_file",
        r#"private_key_file = "relay.key" (relay-server init makes one)"#,
        |relay, value, reader| {
            relay.key = Some(reader.secret(value)?.value.1);
            Ok(())
        },
    ),
    Key::optional("state_file", |relay, value, reader| {
        relay.state_file = Some(reader.resolve(value.text()?));
        Ok(())
    }),
    Key::optional("grace", |relay, value, _| {
        relay.grace = Some(Duration::from_secs(value.number(config::GRACE_SECONDS)?));
        Ok(())
    }),
    Key::optional("pool", |relay, value, _| {
        relay.pool = Some(some_ports(value.list()?)?);
        Ok(())
    }),
    Key::optional("advertise", |relay, value, _| {
        relay.advertise = Some(value.parse()?);
        Ok(())
    }),
];

const CLIENT: &[Key<RawClient>] = &[
    Key::required("name", r#"name = "node-1""#, |client, value, _| {
        client.name = Some(value.at(value.parse()?));
        Ok(())
    }),
    Key::required(
        "public_key",
        "public_key = \"…\" (43 characters)",
        |client, value, _| {
            client.public_key = Some(value.at(value.parse()?));
            Ok(())
        },
    ),
    Key::required(
        "psk_file",
        r#"psk_file = "node-1.psk""#,
        |client, value, reader| {
            client.psk = Some(reader.secret(value)?.value.1);
            Ok(())
        },
    ),
    Key::optional("ports", |client, value, _| {
        client.ports = Some(value.at(some_ports(value.list()?)?));
        Ok(())
    }),
];

fn some_ports(ports: PortSet) -> Result<PortSet, Fault> {
    if ports.is_empty() {
        return Err(Fault::new("the list has no port"));
    }
    Ok(ports)
}

fn validate_clients(
    raw: Vec<RawClient>,
    relay_ports: &PortSet,
    relay_key: Option<PublicKey>,
    reader: &mut Reader<'_>,
) -> Vec<FileClient> {
    let mut names = HashMap::new();
    let mut keys = HashMap::new();
    let mut clients = Vec::new();
    for client in raw {
        if let Some(name) = &client.name
            && let Some(first) = names.insert(name.value.clone(), client.line)
        {
            let message = format!(
                "name: the client in line {first} is called {} too",
                name.value
            );
            reader.problem(name.span.clone(), message);
        }
        if let Some(key) = &client.public_key {
            if let Some(first) = keys.insert(key.value, client.line) {
                let message = format!("public_key: the client in line {first} has the same");
                reader.problem(key.span.clone(), message);
            }
            if relay_key == Some(key.value) {
                let message = "public_key: this is the relay's own, not the client's";
                reader.problem(key.span.clone(), message);
            }
        }
        if let Some(ports) = &client.ports
            && ports.value.intersection(relay_ports) != ports.value
        {
            let message = format!(
                "ports: {} are not all within the relay's {relay_ports}",
                ports.value
            );
            reader.problem(ports.span.clone(), message);
        }
        if let (Some(name), Some(public_key), Some(psk)) =
            (client.name, client.public_key, client.psk)
        {
            clients.push(FileClient {
                name: name.value,
                public_key: public_key.value,
                psk,
                ports: client.ports.map(|ports| ports.value),
                line: client.line,
            });
        }
    }
    clients
}

#[cfg(test)]
mod tests;
