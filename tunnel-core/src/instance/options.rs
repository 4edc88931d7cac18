//! What may be said of a service: which protocols it speaks, how they travel, and how much of it there may be.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use crate::instance::parse::shown;

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
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "both" => Ok(Self::Both),
            _ => Err(OptionError::Protocol(shown(text))),
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
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "latency" => Ok(Self::Latency),
            "throughput" => Ok(Self::Throughput),
            "auto" => Ok(Self::Auto),
            _ => Err(OptionError::Optimize(shown(text))),
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
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "off" => Ok(Self::Off),
            "duplicate" => Ok(Self::Duplicate),
            "fec" => Ok(Self::Fec),
            "adaptive" => Ok(Self::Adaptive),
            _ => Err(OptionError::Redundancy(shown(text))),
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

/// A word that is none of an option's. Each holds at most 80 characters of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// Neither `tcp`, `udp` nor `both`.
    #[error("unknown protocol {0:?}: expected tcp, udp or both")]
    Protocol(String),
    /// Neither `latency`, `throughput` nor `auto`.
    #[error("unknown optimize {0:?}: expected latency, throughput or auto")]
    Optimize(String),
    /// Neither `off`, `duplicate`, `fec` nor `adaptive`.
    #[error("unknown redundancy {0:?}: expected off, duplicate, fec or adaptive")]
    Redundancy(String),
    /// Neither `off`, `v1` nor `v2`.
    #[error("unknown proxy_protocol {0:?}: expected off, v1 or v2")]
    ProxyProtocol(String),
    /// Neither `off`, `first` nor `every`.
    #[error("unknown proxy_protocol_udp {0:?}: expected off, first or every")]
    ProxyDatagrams(String),
    /// Neither `default`, `loopback` nor `transparent`.
    #[error("unknown source {0:?}: expected default, loopback or transparent")]
    Source(String),
}
