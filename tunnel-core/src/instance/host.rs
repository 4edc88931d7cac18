//! Hosts with a port: where a relay is, and where a service's target is.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use crate::instance::{
    parse::{digits, shown},
    port::PortRange,
};

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
        let are_labels_valid = name.split('.').all(|label| {
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
        if name.len() > 253 || !are_labels_valid || numeric {
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

impl TryFrom<&str> for Target {
    type Error = HostPortError;

    fn try_from(text: &str) -> Result<Self, HostPortError> {
        text.parse()
    }
}

impl TryFrom<SocketAddr> for Target {
    type Error = HostPortError;

    fn try_from(address: SocketAddr) -> Result<Self, HostPortError> {
        let port = address.port();
        let ports = PortRange::new(port, port);
        Ok(Self {
            host: Host::Ip(address.ip()),
            ports: ports.ok_or_else(|| HostPortError::Port(address.to_string()))?,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.ports)
    }
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
