//! Services and the instances that they make up.

use std::{collections::HashSet, ops::RangeInclusive, time::Duration};

use crate::instance::{
    host::{HostPortError, Target},
    name::{InstanceId, NameError, ServiceName},
    options::{FlowLimits, Optimize, OptionError, Protocol, Redundancy},
    port::{PortRange, PortsError},
};

/// A service as written in a file, on the command line or by an API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawService {
    /// Name within the instance.
    pub name: String,
    /// `tcp`, `udp` or `both`.
    pub protocol: String,
    /// Public port or range; the target's when absent.
    pub public_port: Option<String>,
    /// `HOST:PORT` or `HOST:FIRST-LAST`.
    pub target: String,
    /// `latency`, `throughput` or `auto` (the default).
    pub optimize: Option<String>,
    /// `off`, `duplicate`, `fec` or `adaptive` (the default).
    pub redundancy: Option<String>,
    /// Idle time of a UDP flow, in seconds, 10 to 86,400.
    pub idle_timeout: Option<u64>,
    /// Cap of UDP flows per player address, 1 to 65,536.
    pub flows_per_address: Option<u32>,
    /// Cap of UDP flows of the service, 1 to 1,048,576.
    pub max_flows: Option<u32>,
}

/// A valid service: parsed once, used everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name within the instance.
    pub name: ServiceName,
    /// What the public port accepts.
    pub protocol: Protocol,
    /// The public ports; as many as the target's.
    pub public: PortRange,
    /// Where the traffic goes.
    pub target: Target,
    /// How TCP connections travel.
    pub optimize: Optimize,
    /// How UDP datagrams are protected.
    pub redundancy: Redundancy,
    /// UDP limits.
    pub flows: FlowLimits,
}

impl Service {
    /// A remark for the operator, where the service is valid but may not do what they want.
    pub fn warning(&self) -> Option<String> {
        (self.name.as_str() == "game" && self.public != self.target.ports).then(|| {
            format!(
                "service game maps public port {} to {}: games such as Satisfactory need both to be the same",
                self.public, self.target.ports
            )
        })
    }
}

impl TryFrom<&RawService> for Service {
    type Error = ServiceError;

    fn try_from(raw: &RawService) -> Result<Self, ServiceError> {
        let target: Target = raw
            .target
            .parse()
            .map_err(|e: HostPortError| ServiceError::Target(e))?;
        let public = match &raw.public_port {
            Some(text) => text.parse()?,
            None => target.ports,
        };
        if public.count() != target.ports.count() {
            return Err(ServiceError::Lengths {
                public,
                target: target.ports,
            });
        }
        if public.count() > MAX_RANGE {
            return Err(ServiceError::RangeTooLong(public));
        }
        let defaults = FlowLimits::default();
        let idle = bounded(
            "idle_timeout",
            raw.idle_timeout,
            defaults.idle.as_secs(),
            FlowLimits::IDLE_SECONDS,
        )?;
        let per_address = bounded(
            "flows_per_address",
            raw.flows_per_address,
            defaults.per_address,
            FlowLimits::PER_ADDRESS,
        )?;
        let per_service = bounded(
            "max_flows",
            raw.max_flows,
            defaults.per_service,
            FlowLimits::PER_SERVICE,
        )?;
        Ok(Self {
            name: raw.name.parse()?,
            protocol: raw.protocol.parse()?,
            public,
            target,
            optimize: raw
                .optimize
                .as_deref()
                .map_or(Ok(Optimize::default()), str::parse)?,
            redundancy: raw
                .redundancy
                .as_deref()
                .map_or(Ok(Redundancy::default()), str::parse)?,
            flows: FlowLimits {
                idle: Duration::from_secs(idle),
                per_address,
                per_service,
            },
        })
    }
}

/// An instance as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawInstance {
    /// Unique on a relay.
    pub id: String,
    /// At least one.
    pub services: Vec<RawService>,
}

/// A game server as one unit: bound, changed, drained and removed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: InstanceId,
    services: Vec<Service>,
}

impl Instance {
    /// An instance of validated services; refused if they contradict each other.
    pub fn new(id: InstanceId, services: Vec<Service>) -> Result<Self, ServiceError> {
        if services.is_empty() {
            return Err(ServiceError::NoServices(id));
        }
        if services.len() > MAX_SERVICES {
            return Err(ServiceError::TooManyServices(id));
        }
        let mut names = HashSet::new();
        for (i, service) in services.iter().enumerate() {
            if !names.insert(&service.name) {
                return Err(ServiceError::NameTwice(service.name.clone()));
            }
            for other in &services[..i] {
                if service.protocol.overlaps(other.protocol)
                    && service.public.overlaps(other.public)
                {
                    return Err(ServiceError::PortTwice {
                        first: other.name.clone(),
                        second: service.name.clone(),
                        ports: service.public,
                    });
                }
            }
        }
        Ok(Self { id, services })
    }

    /// Unique on a relay.
    pub const fn id(&self) -> &InstanceId {
        &self.id
    }

    /// At least one, at most 64.
    pub fn services(&self) -> &[Service] {
        &self.services
    }
}

impl TryFrom<&RawInstance> for Instance {
    type Error = ServiceError;

    fn try_from(raw: &RawInstance) -> Result<Self, ServiceError> {
        let services = raw
            .services
            .iter()
            .map(Service::try_from)
            .collect::<Result<_, _>>()?;
        Self::new(raw.id.parse()?, services)
    }
}

/// Why an instance or a service is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// An option with an unknown word.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Not a port nor a range.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A range longer than one service may hold.
    #[error("range {0} has more than {MAX_RANGE} ports: split it over several services")]
    RangeTooLong(PortRange),
    /// Public and target range differ in length.
    #[error("public ports {public} and target ports {target} differ in number")]
    Lengths {
        /// The public range.
        public: PortRange,
        /// The target's range.
        target: PortRange,
    },
    /// Not a name of an instance or a service.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The target is not `HOST:PORT`.
    #[error("target: {0}")]
    Target(#[source] HostPortError),
    /// A number outside its bounds.
    #[error("{name} = {value} is outside {low} to {high}")]
    OutOfBounds {
        /// The setting.
        name: &'static str,
        /// What was written.
        value: u64,
        /// The least allowed.
        low: u64,
        /// The most allowed.
        high: u64,
    },
    /// An instance without services.
    #[error("instance {0} has no service")]
    NoServices(InstanceId),
    /// An instance with more services than allowed.
    #[error("instance {0} has more than {MAX_SERVICES} services")]
    TooManyServices(InstanceId),
    /// Two services of one name.
    #[error("two services are called {0}")]
    NameTwice(ServiceName),
    /// Two services on one public port.
    #[error("services {first} and {second} both use public port {ports}")]
    PortTwice {
        /// The one that has it.
        first: ServiceName,
        /// The one that wants it too.
        second: ServiceName,
        /// The ports that the second wants.
        ports: PortRange,
    },
}

/// 1,024 ports of one service: each is a socket on the relay, and descriptors are what runs out first.
pub(crate) const MAX_RANGE: u16 = 1024;

/// 64 services of one instance: games need two or three; the bound keeps one declaration small.
pub(crate) const MAX_SERVICES: usize = 64;

/// A setting within its bounds, or its default where it is not set.
fn bounded<T: Copy + PartialOrd + Into<u64>>(
    name: &'static str,
    value: Option<T>,
    default: T,
    bounds: RangeInclusive<T>,
) -> Result<T, ServiceError> {
    let value = value.unwrap_or(default);
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(ServiceError::OutOfBounds {
        name,
        value: value.into(),
        low: (*bounds.start()).into(),
        high: (*bounds.end()).into(),
    })
}
