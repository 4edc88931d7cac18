//! Which address players' sockets leave from: this machine's, one of 127/8 for each player, or the player's own.

mod loopback;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use self::loopback::Loopback;
use crate::{
    instance::{Host, Instance, Source},
    key::{self, KeyError},
    socket,
    sync::lock,
};

/// Which address a player's socket leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// That which the system prefers.
    Machine,
    /// One that no other player has.
    Loopback(Ipv4Addr),
    /// The player's, which is not this machine's.
    Player(IpAddr),
}

impl Origin {
    /// The address to bind a socket to that is to reach `peer`.
    pub(crate) fn towards(self, peer: SocketAddr) -> io::Result<IpAddr> {
        let ip = match self {
            Self::Machine => return Ok(socket::unspecified(peer.ip())),
            Self::Loopback(ip) => ip.into(),
            Self::Player(ip) => ip,
        };
        if ip.is_ipv4() == peer.is_ipv4() {
            return Ok(ip);
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the target has no address of the family that the player's socket is to leave from",
        ))
    }

    /// Whether the address that a socket is bound to is not this machine's.
    pub(crate) const fn is_foreign(self) -> bool {
        matches!(self, Self::Player(_))
    }
}

/// What players' sockets leave from.
#[derive(Debug)]
pub(crate) struct Origins(Mutex<Loopback>);

/// An origin for as long as a player's socket needs it.
#[derive(Debug)]
pub(crate) struct HeldOrigin {
    pub(crate) origin: Origin,
    lent: Option<(Arc<Origins>, Ipv4Addr)>,
}

impl Origins {
    pub(crate) fn new() -> Result<Arc<Self>, KeyError> {
        let seed = u64::from_le_bytes(key::random::<8>()?);
        Ok(Arc::new(Self(Mutex::new(Loopback::new(seed)))))
    }

    /// Where a socket of this player leaves from, if there is such an address.
    pub(crate) fn of(self: &Arc<Self>, source: Source, player: IpAddr) -> Option<HeldOrigin> {
        let player = player.to_canonical();
        let (origin, lent) = match source {
            Source::Default => (Origin::Machine, None),
            Source::Loopback => {
                let own = lock(&self.0).take(player)?;
                (Origin::Loopback(own), Some((self.clone(), own)))
            }
            Source::Transparent => {
                if !is_anybodys(player) {
                    return None;
                }
                (Origin::Player(player), None)
            }
        };
        Some(HeldOrigin { origin, lent })
    }

    /// Keeps off the addresses of these instances' targets.
    pub(crate) fn keep_off<'a>(&self, instances: impl Iterator<Item = &'a Instance>) {
        let services = instances.flat_map(Instance::services);
        let targets = services.filter_map(|service| match service.target.host {
            Host::Ip(IpAddr::V4(v4)) => Some(v4),
            _ => None,
        });
        lock(&self.0).keep_off(targets.collect::<HashSet<_>>());
    }
}

impl Drop for HeldOrigin {
    fn drop(&mut self) {
        if let Some((origins, own)) = &self.lent {
            lock(&origins.0).give_back(*own);
        }
    }
}

/// Whether a player may come from there: not this machine itself, whom its servers trust, nor a link's neighbour.
fn is_anybodys(player: IpAddr) -> bool {
    let is_link_local = match player {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(player.is_loopback() || player.is_unspecified() || player.is_multicast() || is_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_leaves_from_an_address_of_its_peers_family_or_from_none() {
        let [v4, v6] = ["192.0.2.1:5", "[2001:db8::1]:5"].map(|it| it.parse().unwrap());
        for (origin, peer, expected) in [
            (Origin::Machine, v4, Some("0.0.0.0")),
            (Origin::Machine, v6, Some("::")),
            (
                Origin::Loopback([127, 64, 0, 9].into()),
                v4,
                Some("127.64.0.9"),
            ),
            (Origin::Loopback([127, 64, 0, 9].into()), v6, None),
            (
                Origin::Player("198.51.100.7".parse().unwrap()),
                v4,
                Some("198.51.100.7"),
            ),
            (Origin::Player("198.51.100.7".parse().unwrap()), v6, None),
            (
                Origin::Player("2001:db8::7".parse().unwrap()),
                v6,
                Some("2001:db8::7"),
            ),
            (Origin::Player("2001:db8::7".parse().unwrap()), v4, None),
        ] {
            let local = origin.towards(peer).ok();
            assert_eq!(local, expected.map(|ip| ip.parse().unwrap()), "{origin:?}");
        }
    }

    #[test]
    fn a_relay_makes_nobody_come_from_an_address_that_servers_trust() {
        let origins = Origins::new().unwrap();
        for wrong in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "169.254.1.1",
            "fe80::1",
            "255.255.255.255",
        ] {
            let player = wrong.parse().unwrap();
            assert!(origins.of(Source::Transparent, player).is_none(), "{wrong}");
        }
        for right in ["198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7"] {
            let player: IpAddr = right.parse().unwrap();
            let held = origins.of(Source::Transparent, player).unwrap();
            assert_eq!(held.origin, Origin::Player(player.to_canonical()));
        }
    }

    #[test]
    fn an_address_of_127_is_a_players_for_as_long_as_one_of_its_sockets_is_there() {
        let origins = Origins::new().unwrap();
        let player: IpAddr = "198.51.100.7".parse().unwrap();
        let (tcp, udp) = (
            origins.of(Source::Loopback, player).unwrap(),
            origins.of(Source::Loopback, player).unwrap(),
        );
        assert_eq!(tcp.origin, udp.origin);
        let Origin::Loopback(own) = tcp.origin else {
            panic!("it is one of 127/8");
        };
        drop(tcp);
        assert!(lock(&origins.0).has(own));
        drop(udp);
        assert!(!lock(&origins.0).has(own));
    }
}
