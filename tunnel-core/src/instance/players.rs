//! How a target learns who its players are.

use std::{fmt, str::FromStr};

use crate::instance::{options::OptionError, parse::shown};

/// Whether a PROXY header, which names the player and where it connected to, stands in front of what goes to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off = 0,
    /// The line of text of version 1, in front of a TCP connection's first byte.
    V1 = 1,
    /// The binary one of version 2, in front of a TCP connection's first byte, and of [datagrams](ProxyDatagrams).
    V2 = 2,
}

impl ProxyProtocol {
    /// All of them, each at its number.
    #[cfg(feature = "net")]
    pub(crate) const ALL: [Self; 3] = [Self::Off, Self::V1, Self::V2];
}

impl FromStr for ProxyProtocol {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "off" => Ok(Self::Off),
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(OptionError::ProxyProtocol(shown(text))),
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// In front of which datagrams of a flow the header of [`ProxyProtocol::V2`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ProxyDatagrams {
    /// Of none: the target wants it over TCP alone.
    Off = 0,
    /// Of the first one, and of the next one after the target has refused one, has another address or has been silent for 30 s:
    /// it may have forgotten who the player is.
    #[default]
    First = 1,
    /// Of every one.
    Every = 2,
}

impl ProxyDatagrams {
    /// All of them, each at its number.
    #[cfg(feature = "net")]
    pub(crate) const ALL: [Self; 3] = [Self::Off, Self::First, Self::Every];
}

impl FromStr for ProxyDatagrams {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "off" => Ok(Self::Off),
            "first" => Ok(Self::First),
            "every" => Ok(Self::Every),
            _ => Err(OptionError::ProxyDatagrams(shown(text))),
        }
    }
}

impl fmt::Display for ProxyDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::First => "first",
            Self::Every => "every",
        })
    }
}

/// Which address the sockets of a service's players leave from, on their way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Source {
    /// That which the system prefers: 127.0.0.1 towards a target on the same machine.
    #[default]
    Default = 0,
    /// An address of 127.64.0.0/10 for each player, the same for its connections and its flows for as long as one of them is there.
    /// It reaches IPv4 targets on the same machine.
    Loopback = 1,
    /// The player's own. It reaches targets whose answers come back to this machine, and takes rules for that and CAP_NET_RAW.
    Transparent = 2,
}

impl Source {
    /// All of them, each at its number.
    #[cfg(feature = "net")]
    pub(crate) const ALL: [Self; 3] = [Self::Default, Self::Loopback, Self::Transparent];
}

impl FromStr for Source {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "default" => Ok(Self::Default),
            "loopback" => Ok(Self::Loopback),
            "transparent" => Ok(Self::Transparent),
            _ => Err(OptionError::Source(shown(text))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Loopback => "loopback",
            Self::Transparent => "transparent",
        })
    }
}
