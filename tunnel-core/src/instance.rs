//! What is tunnelled: instances and their services, as written ([`RawInstance`]) and as validated ([`Instance`]).
//!
//! Validation happens once, here; running code only ever sees values that hold.

mod claims;

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

pub use claims::PortClaims;

/// Which transport protocols a service's public port accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// One public port, both protocols.
    Both,
}

impl Protocol {
    /// Whether TCP connections are accepted.
    pub const fn tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Both)
    }

    /// Whether UDP datagrams are accepted.
    pub const fn udp(self) -> bool {
        matches!(self, Self::Udp | Self::Both)
    }

    /// Whether the two have a protocol in common, so that they cannot share a port.
    pub const fn overlaps(self, other: Self) -> bool {
        (self.tcp() && other.tcp()) || (self.udp() && other.udp())
    }
}

impl FromStr for Protocol {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "both" => Ok(Self::Both),
            _ => Err(ServiceError::Protocol(shown(text))),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
        })
    }
}

/// How a service's TCP connections travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Optimize {
    /// A QUIC stream each: a lost packet is repaired fastest.
    Latency,
    /// A lane each: the highest rate for the least CPU.
    Throughput,
    /// Starts as latency; what turns out to be bulk may move to a lane.
    #[default]
    Auto,
}

impl FromStr for Optimize {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        match text {
            "latency" => Ok(Self::Latency),
            "throughput" => Ok(Self::Throughput),
            "auto" => Ok(Self::Auto),
            _ => Err(ServiceError::Optimize(shown(text))),
        }
    }
}

impl fmt::Display for Optimize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Auto => "auto",
        })
    }
}

/// How a service's small datagrams are protected against loss in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Redundancy {
    /// Not at all.
    Off = 0,
    /// Each is sent again, a little later: about twice the bytes.
    Duplicate = 1,
    /// Repairs are sent beside them: less than half as many bytes again, and a few milliseconds more until a lost
    /// datagram is there.
    Fec = 2,
    /// Off on a clean path; on a lossy one copies of few bytes, repairs of many.
    #[default]
    Adaptive = 3,
}

impl Redundancy {
    /// All of them, each at its number.
    pub(crate) const ALL: [Self; 4] = [Self::Off, Self::Duplicate, Self::Fec, Self::Adaptive];
}

impl FromStr for Redundancy {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        match text {
            "off" => Ok(Self::Off),
            "duplicate" => Ok(Self::Duplicate),
            "fec" => Ok(Self::Fec),
            "adaptive" => Ok(Self::Adaptive),
            _ => Err(ServiceError::Redundancy(shown(text))),
        }
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Duplicate => "duplicate",
            Self::Fec => "fec",
            Self::Adaptive => "adaptive",
        })
    }
}

/// A run of consecutive ports, at least one. Port 0 is in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `first..=last`; `None` if it is empty or holds port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports, 1 to 65,535.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// The ports in rising order.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// Whether a port is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether every port of `other` is in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the two have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let wrong = || ServiceError::Ports(shown(text));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = digits(first.trim()).ok_or_else(wrong)?;
        let last = digits(last.trim()).ok_or_else(wrong)?;
        Self::new(first, last).ok_or_else(wrong)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of ports: what a client may be given. Text form: ranges separated by commas, `7777,30000-30999`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// Every port from 1 to 65,535.
    pub fn all() -> Self {
        Self(vec![PortRange {
            first: 1,
            last: u16::MAX,
        }])
    }

    /// Whether every port of `range` is in the set.
    pub fn covers(&self, range: PortRange) -> bool {
        self.0.iter().any(|own| own.covers(range))
    }

    /// The ranges, sorted, merged where they touch.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// The ports that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let pairs = self
            .0
            .iter()
            .flat_map(|own| other.0.iter().map(move |other| (own, other)));
        pairs
            .filter_map(|(a, b)| PortRange::new(a.first.max(b.first), a.last.min(b.last)))
            .collect()
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(end) if range.first <= end.last.saturating_add(1) => {
                    end.last = end.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromStr for PortSet {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        text.split(',')
            .map(|part| part.trim().parse::<PortRange>())
            .collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

/// The id of an instance: 1 to 63 of `a-z 0-9 _ -`. Upper case is refused, not folded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Box<str>);

impl InstanceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        valid_name(text)
            .map(Self)
            .ok_or_else(|| ServiceError::Name(shown(text)))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a service within its instance; the same characters as an [`InstanceId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Box<str>);

impl ServiceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        valid_name(text)
            .map(Self)
            .ok_or_else(|| ServiceError::Name(shown(text)))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP address or a host name. Names may hold `_`, as container names do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address, used as it is.
    Ip(IpAddr),
    /// A name, resolved when it is needed and again while it is in use.
    Name(Box<str>),
}

impl FromStr for Host {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        if let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let ip = inner
                .parse::<Ipv6Addr>()
                .map_err(|_| HostPortError::Host(shown(text)))?;
            return Ok(Self::Ip(ip.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let labels_hold = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        // All digits in the last label: a mistyped IPv4 address, never a name.
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > 253 || !labels_hold || numeric {
            return Err(HostPortError::Host(shown(text)));
        }
        Ok(Self::Name(text.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A host and a port, `relay.example.net:4433`, `192.0.2.1:4433` or `[2001:db8::1]:4433`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address or name.
    pub host: Host,
    /// 1 to 65,535.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = split_host_port(text)?;
        let port = digits(port).filter(|port| *port != 0);
        Ok(Self {
            host,
            port: port.ok_or_else(|| HostPortError::Port(shown(text)))?,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Ip(address.ip()),
            port: address.port(),
        }
    }
}

/// Where a service's traffic goes on the node: a host and as many ports as are public.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Address or name.
    pub host: Host,
    /// One port, or a range as long as the public one.
    pub ports: PortRange,
}

impl FromStr for Target {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, ports) = split_host_port(text)?;
        Ok(Self {
            host,
            ports: ports
                .parse()
                .map_err(|_| HostPortError::Port(shown(text)))?,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.ports)
    }
}

/// Limits and clocks of a service's UDP flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Idle time after which a flow is forgotten. RFC 4787 REQ-5 asks for at least 120 s, the default.
    pub idle: Duration,
    /// Flows that one player address may hold on the service. 1,024: the players of a game behind one carrier's NAT, or
    /// a resolver with as many questions under way.
    pub per_address: u32,
    /// Flows that the service may hold. 16,384: each costs a socket on the node.
    pub per_service: u32,
}

impl FlowLimits {
    /// What [`idle`](Self::idle) may be, in seconds.
    pub const IDLE_SECONDS: RangeInclusive<u64> = 10..=86_400;
    /// What [`per_address`](Self::per_address) may be.
    pub const PER_ADDRESS: RangeInclusive<u32> = 1..=65_536;
    /// What [`per_service`](Self::per_service) may be.
    pub const PER_SERVICE: RangeInclusive<u32> = 1..=1_048_576;
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            per_address: 1024,
            per_service: 16_384,
        }
    }
}

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

/// A service that holds: parsed once, used everywhere.
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
    /// A remark for the operator, where the service holds but may not do what they want.
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

/// Why an instance or a service does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Neither `tcp`, `udp` nor `both`.
    #[error("unknown protocol {0:?}: expected tcp, udp or both")]
    Protocol(String),
    /// Neither `latency`, `throughput` nor `auto`.
    #[error("unknown optimize {0:?}: expected latency, throughput or auto")]
    Optimize(String),
    /// Neither `off`, `duplicate`, `fec` nor `adaptive`.
    #[error("unknown redundancy {0:?}: expected off, duplicate, fec or adaptive")]
    Redundancy(String),
    /// Not a port nor a range.
    #[error("not a port or range: {0:?} (expected 7777 or 30000-30009, within 1-65535)")]
    Ports(String),
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
    /// Not 1 to 63 of `a-z 0-9 _ -`.
    #[error("not a valid name: {0:?} (1 to 63 of a-z 0-9 _ -, no upper case)")]
    Name(String),
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

/// Why `HOST:PORT` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostPortError {
    /// No port.
    #[error("{0:?} has no port (expected HOST:PORT, IPv6 in brackets)")]
    NoPort(String),
    /// The port is not a number within bounds.
    #[error("{0:?} has no valid port (1-65535)")]
    Port(String),
    /// The host is neither an address nor a name.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
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

fn split_host_port(text: &str) -> Result<(Host, &str), HostPortError> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| HostPortError::NoPort(shown(text)))?;
    // A bare IPv6 address has colons of its own.
    if host.contains(':') && !host.starts_with('[') {
        return Err(HostPortError::NoPort(shown(text)));
    }
    Ok((host.parse()?, port))
}

fn digits(text: &str) -> Option<u16> {
    // `u16::from_str` takes a leading '+'.
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn valid_name(text: &str) -> Option<Box<str>> {
    let holds = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    holds.then(|| text.into())
}

/// What an error repeats of its input: never more than 80 characters.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
