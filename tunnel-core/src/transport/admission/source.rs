//! Who somebody is, as far as an address says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where somebody comes from, as far as limits tell people apart: an IPv4 address, or the /64 that one site has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(pub(super) IpAddr);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(network(ip.to_canonical(), 32, 64))
    }

    /// Who pays for the address, as far as that can be told: of IPv6, a /48 is one customer's.
    pub(super) fn customer(self) -> IpAddr {
        network(self.0, 32, 48)
    }

    /// The network of a provider.
    pub(super) fn wide(self) -> IpAddr {
        network(self.0, 16, 32)
    }

    /// The network that one customer may have.
    pub(super) fn narrow(self) -> IpAddr {
        network(self.0, 24, 48)
    }
}

/// An address's prefix, of the length for its family.
fn network(ip: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << (32 - v4))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - v6))).into(),
    }
}
