//! `client.toml`: one row per key.

mod health;
pub(crate) mod limits;

use std::{collections::HashMap, path::Path, time::Duration};

use adit_daemon::config::{self, At, Fault, Invalid, Key, Keys, Loaded, Reader, Section, Span};
use tunnel_core::{
    client::{ClientIdentity, ClientLimits},
    health::HealthCheck,
    instance::{
        FlowLimits, HostPort, Instance, InstanceId, Optimize, PortRange, Protocol, ProxyDatagrams,
        ProxyProtocol, Redundancy, Service, ServiceError, ServiceName, Source, Target,
    },
    key::{Psk, PublicKey, SecretKey},
};

use crate::claims::Claims;

/// A client's configuration that is valid.
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
    /// Those whose every value is valid by itself.
    services: Vec<WrittenService>,
    /// Whether all that the section says is valid by itself.
    sound: bool,
    span: Span,
}

/// A service whose every value is valid by itself, and where it stands.
#[derive(Default)]
struct WrittenService {
    name: Option<At<ServiceName>>,
    protocol: Option<Protocol>,
    public_port: Option<At<PortRange>>,
    target: Option<At<Target>>,
    optimize: Optimize,
    redundancy: Redundancy,
    flows: FlowLimits,
    proxy: ProxyProtocol,
    proxy_datagrams: Option<At<ProxyDatagrams>>,
    health: Option<At<HealthCheck>>,
    source: Source,
    span: Span,
}

impl WrittenService {
    /// The service, once its required keys are there.
    fn build(&self) -> Option<Result<Service, ServiceError>> {
        let (name, target) = (self.name.as_ref()?, self.target.as_ref()?);
        let (name, target) = (name.value.clone(), target.value.clone());
        let service = Service::new(name, self.protocol?, target).and_then(|service| {
            let service = match &self.public_port {
                Some(ports) => service.public_ports(ports.value)?,
                None => service,
            };
            let service = service
                .with_optimize(self.optimize)
                .with_redundancy(self.redundancy)
                .with_flow_limits(self.flows)?
                .with_proxy_protocol(self.proxy, self.datagrams())?
                .with_source(self.source)?;
            match &self.health {
                Some(check) => service.with_health(check.value.clone()),
                None => Ok(service),
            }
        });
        Some(service)
    }

    fn datagrams(&self) -> ProxyDatagrams {
        let written = self.proxy_datagrams.as_ref();
        written.map_or_else(ProxyDatagrams::default, |written| written.value)
    }

    /// Where its public ports stand: where its target does, if it says no others.
    fn ports_span(&self) -> Span {
        let ports = self.public_port.as_ref().map(|ports| &ports.span);
        let target = self.target.as_ref().map(|target| &target.span);
        ports.or(target).unwrap_or(&self.span).clone()
    }
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
    Key::optional("health", |service, value, reader| {
        let section = value.section("[instance.service.health]")?;
        let mut check = health::WrittenCheck::default();
        if reader.fill(&section, health::KEYS, &mut check) {
            service.health = check.build()?.map(|check| value.at(check));
        }
        Ok(())
    }),
    Key::required("name", r#"name = "game""#, |service, value, _| {
        service.name = Some(value.at(value.parse()?));
        Ok(())
    }),
    Key::required(
        "protocol",
        r#"protocol = "udp" (or "tcp", "both")"#,
        |service, value, _| {
            service.protocol = Some(value.parse()?);
            Ok(())
        },
    ),
    Key::optional("public_port", |service, value, _| {
        let ports = value.number_or_text()?.parse().map_err(Fault::new)?;
        service.public_port = Some(value.at(ports));
        Ok(())
    }),
    Key::required(
        "target",
        r#"target = "127.0.0.1:7777""#,
        |service, value, _| {
            service.target = Some(value.at(value.parse()?));
            Ok(())
        },
    ),
    Key::optional("optimize", |service, value, _| {
        service.optimize = value.parse()?;
        Ok(())
    }),
    Key::optional("redundancy", |service, value, _| {
        service.redundancy = value.parse()?;
        Ok(())
    }),
    Key::optional("proxy_protocol", |service, value, _| {
        service.proxy = value.parse()?;
        Ok(())
    }),
    Key::optional("proxy_protocol_udp", |service, value, _| {
        service.proxy_datagrams = Some(value.at(value.parse()?));
        Ok(())
    }),
    Key::optional("source", |service, value, _| {
        service.source = value.parse()?;
        Ok(())
    }),
    Key::optional("idle_timeout", |service, value, _| {
        let seconds = value.number(FlowLimits::IDLE_SECONDS)?;
        service.flows.idle = Duration::from_secs(seconds);
        Ok(())
    }),
    Key::optional("flows_per_address", |service, value, _| {
        service.flows.per_address = value.number(FlowLimits::PER_ADDRESS)?;
        Ok(())
    }),
    Key::optional("max_flows", |service, value, _| {
        service.flows.per_service = value.number(FlowLimits::PER_SERVICE)?;
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
        let ports = written.ports_span();
        let service = match written.build()? {
            Ok(service) => service,
            Err(error) => {
                let span = match (&error, &written.health) {
                    (ServiceError::HealthProtocol { .. }, Some(check)) => check.span.clone(),
                    _ => ports,
                };
                reader.problem(span, error.to_string());
                sound = false;
                continue;
            }
        };
        if let Some(datagrams) = &written.proxy_datagrams
            && datagrams.value != ProxyDatagrams::Off
            && (service.proxy_protocol(), service.protocol().udp()) != (ProxyProtocol::V2, true)
        {
            let message = "proxy_protocol_udp: datagrams have a header with proxy_protocol = \"v2\" alone, \
                           and where protocol is \"udp\" or \"both\"";
            reader.problem(datagrams.span.clone(), message);
            sound = false;
        }
        if let Err(first) = claims.ports(&service, line) {
            let message = format!(
                "public port {} is taken by the service in line {first}",
                service.public()
            );
            reader.problem(ports.clone(), message);
            sound = false;
        }
        if let Some(first) = names.insert(service.name().clone(), line) {
            let message = format!(
                "name: the service in line {first} is called {} too",
                service.name()
            );
            let span = written
                .name
                .as_ref()
                .map_or(&written.span, |name| &name.span);
            reader.problem(span.clone(), message);
            sound = false;
        }
        if let Some(warning) = service.warning() {
            reader.warning(ports, warning);
        }
        services.push(service);
    }
    sound.then_some(services)
}

#[cfg(test)]
mod tests;
