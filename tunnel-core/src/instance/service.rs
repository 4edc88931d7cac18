//! Services and the instances that they make up.

use std::{collections::HashSet, convert::Infallible, ops::RangeInclusive};

use crate::health::{self, HealthCheck};
use crate::instance::{
    host::{Host, HostPortError, Target},
    name::{InstanceId, NameError, ServiceName},
    options::{FlowLimits, Optimize, OptionError, Protocol, Redundancy},
    parse::shown,
    players::{ProxyDatagrams, ProxyProtocol, Source},
    port::{PortRange, PortsError},
};

/// A public port, or a range of them, of an instance: valid by itself since it was made.
///
/// ```
/// use tunnel_core::instance::{Optimize, Protocol, Service};
///
/// # fn main() -> Result<(), tunnel_core::instance::ServiceError> {
/// let game = Service::new("game", Protocol::Both, "127.0.0.1:7777")?;
/// let map = Service::new("map", Protocol::Tcp, "127.0.0.1:8123")?
///     .public_port(80)?
///     .with_optimize(Optimize::Throughput);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub(crate) name: ServiceName,
    pub(crate) protocol: Protocol,
    pub(crate) public: PortRange,
    pub(crate) target: Target,
    pub(crate) optimize: Optimize,
    pub(crate) redundancy: Redundancy,
    pub(crate) flows: FlowLimits,
    pub(crate) proxy: ProxyProtocol,
    pub(crate) proxy_datagrams: ProxyDatagrams,
    pub(crate) health: Option<HealthCheck>,
    pub(crate) source: Source,
}

impl Service {
    /// A service of this name within its instance, whose public ports are those of the target: `HOST:PORT` or
    /// `HOST:FIRST-LAST`.
    pub fn new<N, T>(name: N, protocol: Protocol, target: T) -> Result<Self, ServiceError>
    where
        N: TryInto<ServiceName>,
        T: TryInto<Target>,
        ServiceError: From<N::Error> + From<T::Error>,
    {
        let target = target.try_into()?;
        let public = target.ports;
        if public.count() > MAX_RANGE {
            return Err(ServiceError::RangeTooLong(public));
        }
        Ok(Self {
            name: name.try_into()?,
            protocol,
            public,
            target,
            optimize: Optimize::default(),
            redundancy: Redundancy::default(),
            flows: FlowLimits::default(),
            proxy: ProxyProtocol::default(),
            proxy_datagrams: ProxyDatagrams::default(),
            health: None,
            source: Source::default(),
        })
    }

    /// Another public port, 1 to 65,535, than the target's.
    pub fn public_port(self, port: u16) -> Result<Self, ServiceError> {
        let ports = PortRange::new(port, port).ok_or_else(|| PortsError::new(port))?;
        self.public_ports(ports)
    }

    /// Other public ports than the target's, but as many.
    pub fn public_ports(mut self, public: PortRange) -> Result<Self, ServiceError> {
        let target = self.target.ports;
        if public.count() != target.count() {
            return Err(ServiceError::Lengths { public, target });
        }
        self.public = public;
        Ok(self)
    }

    /// Has TCP connections travel so.
    #[must_use]
    pub const fn with_optimize(mut self, optimize: Optimize) -> Self {
        self.optimize = optimize;
        self
    }

    /// Has UDP datagrams protected so.
    #[must_use]
    pub const fn with_redundancy(mut self, redundancy: Redundancy) -> Self {
        self.redundancy = redundancy;
        self
    }

    /// Other bounds of UDP flows, each within its own.
    pub fn with_flow_limits(mut self, flows: FlowLimits) -> Result<Self, ServiceError> {
        bounded(
            "idle_timeout",
            flows.idle.as_secs(),
            FlowLimits::IDLE_SECONDS,
        )?;
        bounded(
            "flows_per_address",
            flows.per_address,
            FlowLimits::PER_ADDRESS,
        )?;
        bounded("max_flows", flows.per_service, FlowLimits::PER_SERVICE)?;
        self.flows = flows;
        Ok(self)
    }

    /// Has the target told who each player is, by a PROXY header in front of each connection and of `datagrams`. Version 1 has no
    /// form for UDP: with it, a service that takes UDP needs [`ProxyDatagrams::Off`].
    pub fn with_proxy_protocol(
        mut self,
        proxy: ProxyProtocol,
        datagrams: ProxyDatagrams,
    ) -> Result<Self, ServiceError> {
        let tells_datagrams = self.protocol.udp() && !matches!(datagrams, ProxyDatagrams::Off);
        if matches!(proxy, ProxyProtocol::V1) && tells_datagrams {
            return Err(ServiceError::ProxyV1OverUdp);
        }
        self.proxy = proxy;
        self.proxy_datagrams = datagrams;
        Ok(self)
    }

    /// Has the client check whether its target works. The service must take what the check is carried over.
    pub fn with_health(mut self, check: HealthCheck) -> Result<Self, ServiceError> {
        let is_taken = match check.probe().over() {
            health::Over::Tcp => self.protocol.tcp(),
            health::Over::Udp => self.protocol.udp(),
        };
        if !is_taken {
            return Err(ServiceError::HealthProtocol {
                check: shown(check.probe().name()),
                protocol: self.protocol,
            });
        }
        self.health = Some(check);
        Ok(self)
    }

    /// Has its players come from other addresses. Refused where the system is not Linux, and [`Source::Loopback`] where the target
    /// is an IPv6 address; whether the machine can do it, [`source_problems`](crate::client::source_problems) says.
    pub fn with_source(mut self, source: Source) -> Result<Self, ServiceError> {
        if source != Source::Default && !cfg!(target_os = "linux") {
            return Err(ServiceError::SourceNeedsLinux(source));
        }
        if source == Source::Loopback && matches!(self.target.host, Host::Ip(ip) if ip.is_ipv6()) {
            return Err(ServiceError::LoopbackNeedsIpv4);
        }
        self.source = source;
        Ok(self)
    }

    /// Its name within the instance.
    pub const fn name(&self) -> &ServiceName {
        &self.name
    }

    /// What the public ports accept.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The public ports, as many as the target's.
    pub const fn public(&self) -> PortRange {
        self.public
    }

    /// Where the traffic goes on the node.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// How TCP connections travel.
    pub const fn optimize(&self) -> Optimize {
        self.optimize
    }

    /// How UDP datagrams are protected.
    pub const fn redundancy(&self) -> Redundancy {
        self.redundancy
    }

    /// The bounds of UDP flows.
    pub const fn flow_limits(&self) -> FlowLimits {
        self.flows
    }

    /// The PROXY header in front of what goes to the target.
    pub const fn proxy_protocol(&self) -> ProxyProtocol {
        self.proxy
    }

    /// In front of which datagrams it stands, if there are any and it is of version 2.
    pub const fn proxy_datagrams(&self) -> ProxyDatagrams {
        self.proxy_datagrams
    }

    /// Which address its players' sockets leave from.
    pub const fn source(&self) -> Source {
        self.source
    }

    /// Whether its target is told who a flow is of.
    pub(crate) const fn tells_datagrams(&self) -> bool {
        self.protocol.udp()
            && matches!(self.proxy, ProxyProtocol::V2)
            && !matches!(self.proxy_datagrams, ProxyDatagrams::Off)
    }

    /// How the client checks whether its target works, if it does.
    pub const fn health(&self) -> Option<&HealthCheck> {
        self.health.as_ref()
    }

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

/// A game server as one unit: bound, changed, drained and removed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: InstanceId,
    services: Vec<Service>,
}

impl Instance {
    /// An instance of these services, 1 to 64; refused if they contradict each other.
    pub fn new<I>(id: I, services: impl IntoIterator<Item = Service>) -> Result<Self, ServiceError>
    where
        I: TryInto<InstanceId>,
        ServiceError: From<I::Error>,
    {
        let id = id.try_into()?;
        let services: Vec<_> = services.into_iter().take(MAX_SERVICES + 1).collect();
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
    Target(#[from] HostPortError),
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
    /// Version 1 of the PROXY protocol for a service that takes UDP.
    #[error(
        "proxy_protocol = \"v1\" has no form for UDP: use \"v2\", or proxy_protocol_udp = \"off\" for a header over TCP alone"
    )]
    ProxyV1OverUdp,
    /// A check of health over what the service does not take.
    #[error(
        "health: the check {check:?} does not go over {protocol}, which is all that the service takes"
    )]
    HealthProtocol {
        /// The check.
        check: String,
        /// What the service takes.
        protocol: Protocol,
    },
    /// Players' addresses on a system that has no such sockets.
    #[error("source = \"{0}\" takes Linux on the client's machine: use proxy_protocol")]
    SourceNeedsLinux(Source),
    /// Addresses of 127/8 towards an IPv6 target.
    #[error(
        "source = \"loopback\" gives players addresses of 127/8, from which no IPv6 target is reached: write 127.0.0.1"
    )]
    LoopbackNeedsIpv4,
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
pub const MAX_RANGE: u16 = 1024;

/// 64 services of one instance: games need two or three; the bound keeps one declaration small.
pub const MAX_SERVICES: usize = 64;

/// What cannot fail.
impl From<Infallible> for ServiceError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Refuses a setting outside its bounds.
fn bounded<T: Copy + PartialOrd + Into<u64>>(
    name: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), ServiceError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(ServiceError::OutOfBounds {
        name,
        value: value.into(),
        low: (*bounds.start()).into(),
        high: (*bounds.end()).into(),
    })
}
