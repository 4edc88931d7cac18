//! What a player's packets have in common.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What a player's packets have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    player: SocketAddr,
    local: IpAddr,
    port_index: u16,
}

impl FlowKey {
    /// A player at one port of the service. IPv4-mapped addresses count as IPv4, and IPv6 flow labels do not count.
    pub fn new(player: SocketAddr, local: IpAddr, port_index: u16) -> Self {
        let player = match (player, player.ip().to_canonical()) {
            (SocketAddr::V6(mut v6), IpAddr::V6(_)) => {
                v6.set_flowinfo(0);
                v6.into()
            }
            (_, ip) => SocketAddr::new(ip, player.port()),
        };
        Self {
            player,
            local: local.to_canonical(),
            port_index,
        }
    }

    /// The player: where replies go.
    pub const fn player(&self) -> SocketAddr {
        self.player
    }

    /// The relay's address that the player sent to: where replies come from.
    pub const fn local(&self) -> IpAddr {
        self.local
    }

    /// Which port of the service's range, from 0.
    pub const fn port_index(&self) -> u16 {
        self.port_index
    }

    /// What the player's flows are counted by: the address, of IPv6 its /64, which is what one player is given.
    pub fn address(&self) -> IpAddr {
        by_prefix(self.player.ip())
    }
}

/// An address as flows are counted by.
pub(crate) fn by_prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
