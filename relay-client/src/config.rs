//! `client.toml`: one row per key.

pub(crate) mod limits;

use std::{collections::HashMap, path::Path, time::Duration};

use adit_daemon::config::{self, At, Fault, Invalid, Key, Keys, Loaded, Reader, Section, Span};
use tunnel_core::{
    client::{ClientIdentity, ClientLimits},
    instance::{
        FlowLimits, HostPort, Instance, InstanceId, Optimize, PortRange, Protocol, RawService,
        Redundancy, Service, ServiceName, Target,
    },
    key::{Psk, PublicKey, SecretKey},
};

use crate::claims::Claims;

/// A client's configuration that holds.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Who the client is, and of which relay.
    pub(crate) identity: ClientIdentity,
    /// What players have when the client is stopped.
    pub(crate) grace: Duration,
    /// What it exposes.
    pub(crate) instances: Vec<Instance>,
    /// The engine's bounds.
    pub(crate) limits: ClientLimits,
}

impl Config {
    /// Reads and validates the file.
    pub(crate) fn load(path: &Path) -> Result<Loaded<Self>, Invalid> {
        config::load(path, "relay-client join", Self::read)
    }

    /// As [`load`](Self::load), of a text whose key files all hold `key`.
    pub(crate) fn parse(path: &Path, text: &str, key: &str) -> Result<Loaded<Self>, Invalid> {
        config::parse(path, text, Keys::Are(key), Self::read)
    }

    fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<Self> {
        let mut raw = RawFile::default();
        reader.fill(root, ROOT, &mut raw);
        let instances = validate_instances(raw.instances, reader);
        let client = raw.client?;
        Some(Self {
            identity: ClientIdentity::new(
                client.relay?,
                client.relay_public_key?,
                client.key?,
                client.psk?,
            ),
            grace: client.grace.unwrap_or(config::DEFAULT_GRACE),
            instances,
            limits: raw.limits,
        })
    }
}

#[derive(Default)]
struct RawFile {
    client: Option<RawClient>,
    instances: Vec<RawInstance>,
    limits: ClientLimits,
}

#[derive(Default)]
struct RawClient {
    relay: Option<HostPort>,
    relay_public_key: Option<PublicKey>,
    key: Option<SecretKey>,
    psk: Option<Psk>,
    grace: Option<Duration>,
}

#[derive(Default)]
struct RawInstance {
    id: Option<At<InstanceId>>,
    /// Those whose every value holds by itself.
    services: Vec<WrittenService>,
    /// Whether all that the section says holds by itself.
    sound: bool,
    span: Span,
}

/// A service whose every value holds by itself, and where it stands.
#[derive(Default)]
struct WrittenService {
    raw: RawService,
    name: Span,
    public_port: Option<Span>,
    target: Span,
    span: Span,
}

const ROOT: &[Key<RawFile>] = &[
    Key::required(
        "client",
        "[client] (relay-client join writes one)",
        |file, value, reader| {
            let section = value.section("[client]")?;
            let client = file.client.insert(RawClient::default());
            reader.fill(&section, CLIENT, client);
            Ok(())
        },
    ),
    Key::optional("instance", |file, value, reader| {
        for section in value.sections("[[instance]]")? {
            let mut instance = RawInstance {
                span: section.span.clone(),
                ..RawInstance::default()
            };
            instance.sound = reader.fill(&section, INSTANCE, &mut instance);
            file.instances.push(instance);
        }
        Ok(())
    }),
    Key::optional("limits", |file, value, reader| {
        let section = value.section("[limits]")?;
        reader.fill(&section, limits::KEYS, &mut file.limits);
        Ok(())
    }),
];

const CLIENT: &[Key<RawClient>] = &[
    Key::required(
        "relay",
        r#"relay = "relay.example.net:4433""#,
        |client, value, _| {
            client.relay = Some(value.parse()?);
            Ok(())
        },
    ),
    Key::required(
        "relay_public_key",
        "relay_public_key = \"…\" (43 characters, as relay-server init printed it)",
        |client, value, _| {
            client.relay_public_key = Some(value.parse()?);
            Ok(())
        },
    ),
    Key::required(
        "private_key_file",
        r#"private_key_file = "client.key""#,
        |client, value, reader| {
            client.key = Some(reader.secret(value)?.value.1);
            Ok(())
        },
    ),
    Key::required(
        "psk_file",
        r#"psk_file = "client.psk""#,
        |client, value, reader| {
            client.psk = Some(reader.secret(value)?.value.1);
            Ok(())
        },
    ),
    Key::optional("grace", |client, value, _| {
        client.grace = Some(Duration::from_secs(value.number(config::GRACE_SECONDS)?));
        Ok(())
    }),
];

const INSTANCE: &[Key<RawInstance>] = &[
    Key::required("id", r#"id = "srv_123""#, |instance, value, _| {
        instance.id = Some(value.at(value.parse()?));
        Ok(())
    }),
    Key::required(
        "service",
        "[[instance.service]]",
        |instance, value, reader| {
            for section in value.sections("[[instance.service]]")? {
                let mut service = WrittenService {
                    span: section.span.clone(),
                    ..WrittenService::default()
                };
                if reader.fill(&section, SERVICE, &mut service) {
                    instance.services.push(service);
                }
            }
            Ok(())
        },
    ),
];

const SERVICE: &[Key<WrittenService>] = &[
    Key::required("name", r#"name = "game""#, |service, value, _| {
        let name: ServiceName = value.parse()?;
        service.raw.name = name.as_str().into();
        service.name = value.span.clone();
        Ok(())
    }),
    Key::required(
        "protocol",
        r#"protocol = "udp" (or "tcp", "both")"#,
        |service, value, _| {
            let protocol: Protocol = value.parse()?;
            service.raw.protocol = protocol.to_string();
            Ok(())
        },
    ),
    Key::optional("public_port", |service, value, _| {
        let text = value.number_or_text()?;
        text.parse::<PortRange>().map_err(Fault::new)?;
        service.raw.public_port = Some(text);
        service.public_port = Some(value.span.clone());
        Ok(())
    }),
    Key::required(
        "target",
        r#"target = "127.0.0.1:7777""#,
        |service, value, _| {
            let target: Target = value.parse()?;
            service.raw.target = target.to_string();
            service.target = value.span.clone();
            Ok(())
        },
    ),
    Key::optional("optimize", |service, value, _| {
        let optimize: Optimize = value.parse()?;
        service.raw.optimize = Some(optimize.to_string());
        Ok(())
    }),
    Key::optional("redundancy", |service, value, _| {
        let redundancy: Redundancy = value.parse()?;
        service.raw.redundancy = Some(redundancy.to_string());
        Ok(())
    }),
    Key::optional("idle_timeout", |service, value, _| {
        service.raw.idle_timeout = Some(value.number(FlowLimits::IDLE_SECONDS)?);
        Ok(())
    }),
    Key::optional("flows_per_address", |service, value, _| {
        service.raw.flows_per_address = Some(value.number(FlowLimits::PER_ADDRESS)?);
        Ok(())
    }),
    Key::optional("max_flows", |service, value, _| {
        service.raw.max_flows = Some(value.number(FlowLimits::PER_SERVICE)?);
        Ok(())
    }),
];

fn validate_instances(raw: Vec<RawInstance>, reader: &mut Reader<'_>) -> Vec<Instance> {
    let mut claims = Claims::new();
    let mut instances = Vec::new();
    for instance in raw {
        let line = reader.line(&instance.span);
        if let Some(id) = &instance.id
            && let Err(first) = claims.id(&id.value, line)
        {
            let message = format!(
                "id: the instance in line {first} is called {} too",
                id.value
            );
            reader.problem(id.span.clone(), message);
        }
        let services = validate_services(&instance.services, &mut claims, reader);
        let (Some(id), Some(services), true) = (instance.id, services, instance.sound) else {
            continue;
        };
        match Instance::new(id.value, services) {
            Ok(instance) => instances.push(instance),
            Err(error) => reader.problem(instance.span, error.to_string()),
        }
    }
    instances
}

/// The services of an instance, if all of them hold.
fn validate_services(
    written: &[WrittenService],
    claims: &mut Claims<usize>,
    reader: &mut Reader<'_>,
) -> Option<Vec<Service>> {
    let mut names = HashMap::new();
    let mut services = Vec::new();
    let mut sound = true;
    for written in written {
        let line = reader.line(&written.span);
        let ports = written.public_port.as_ref().unwrap_or(&written.target);
        let service = match Service::try_from(&written.raw) {
            Ok(service) => service,
            Err(error) => {
                reader.problem(ports.clone(), error.to_string());
                sound = false;
                continue;
            }
        };
        if let Err(first) = claims.ports(&service, line) {
            let message = format!(
                "public port {} is taken by the service in line {first}",
                service.public
            );
            reader.problem(ports.clone(), message);
            sound = false;
        }
        if let Some(first) = names.insert(service.name.clone(), line) {
            let message = format!(
                "name: the service in line {first} is called {} too",
                service.name
            );
            reader.problem(written.name.clone(), message);
            sound = false;
        }
        if let Some(warning) = service.warning() {
            reader.warning(ports.clone(), warning);
        }
        services.push(service);
    }
    sound.then_some(services)
}

#[cfg(test)]
mod tests;
