//! The local ports of the client's own sockets: none that belongs to a target, and some are left for the machine.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    client::source::Origin,
    instance::{Host, Instance},
    key, socket,
    sync::lock,
    transport::lane,
};

/// Chooses local ports itself, for the system would give a socket any port that nobody has at the moment: that of a game
/// server which is down, and could not start again; or that at which the socket itself is to arrive, and hear itself.
#[derive(Debug)]
pub(crate) struct LocalPorts {
    range: RangeInclusive<u16>,
    /// Ports that the machine's owner has reserved.
    reserved: HashSet<u16>,
    /// Ports of targets.
    targets: ArcSwap<HashSet<u16>>,
    /// Those of them that are, or may be, of this machine's.
    wanted_here: Mutex<HashSet<u16>>,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A player's conversation, from this address: an eighth of the ports is never taken for that.
    Player(Origin),
    /// The tunnel.
    Tunnel,
}

impl Purpose {
    /// Which address its sockets leave from.
    const fn origin(self) -> Origin {
        match self {
            Self::Player(origin) => origin,
            Self::Tunnel => Origin::Machine,
        }
    }
}

impl LocalPorts {
    /// Those that the system gives to sockets which ask for none in particular.
    pub(crate) fn of_system() -> Self {
        let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let range = read("ip_local_port_range").ok();
        let range = range.as_deref().and_then(parse_range).unwrap_or(DEFAULT);
        let reserved = read("ip_local_reserved_ports").unwrap_or_default();
        Self::new(range, parse_list(&reserved))
    }

    fn new(range: RangeInclusive<u16>, reserved: HashSet<u16>) -> Self {
        Self {
            range,
            reserved,
            targets: ArcSwap::default(),
            wanted_here: Mutex::default(),
        }
    }

    /// Keeps off the ports of these instances' targets. Returns those that it may have used so far and that are wanted on this
    /// machine: a target on another host has its port there.
    pub(crate) fn keep_off<'a>(
        &self,
        instances: impl Iterator<Item = &'a Instance>,
    ) -> HashSet<u16> {
        let (mut all, mut here) = (HashSet::new(), HashSet::new());
        let mut ours = HashMap::new();
        for service in instances.flat_map(Instance::services) {
            let target = &service.target;
            // Where a name leads may change at any time.
            let is_here = match &target.host {
                Host::Ip(ip) => *ours.entry(*ip).or_insert_with(|| self.is_ours(*ip)),
                Host::Name(_) => true,
            };
            all.extend(target.ports.ports());
            if is_here {
                here.extend(target.ports.ports());
            }
        }
        self.targets.store(Arc::new(all));
        let mut before = lock(&self.wanted_here);
        let news = here.difference(&before).copied().collect();
        *before = here;
        news
    }

    /// How many there are for players.
    pub(crate) fn count(&self) -> usize {
        let pool = self.pool(Purpose::Player(Origin::Machine));
        pool.filter(|port| !self.reserved.contains(port)).count()
    }

    /// A UDP socket of its own, connected, so that only the peer's answers come in.
    pub(crate) fn udp(
        &self,
        purpose: Purpose,
        peer: SocketAddr,
    ) -> io::Result<std::net::UdpSocket> {
        let socket = self.bound_udp(purpose, peer)?;
        socket.connect(peer)?;
        Ok(socket)
    }

    /// The same, not connected.
    pub(crate) fn bound_udp(
        &self,
        purpose: Purpose,
        peer: SocketAddr,
    ) -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        if peer.is_ipv6() {
            // Otherwise the port would be taken for IPv4, too.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        let socket = std::net::UdpSocket::from(socket);
        if matches!(purpose, Purpose::Player(_)) {
            socket::grow_buffers(&socket, socket::FLOW_BUFFER);
        }
        let from = purpose.origin().towards(peer)?;
        if purpose.origin().is_foreign() {
            socket::make_transparent(&socket, from.is_ipv6())?;
        }
        let bind = |port| {
            let local = SocketAddr::new(from, port);
            socket2::SockRef::from(&socket).bind(&local.into())
        };
        let mut may_choose = false;
        for port in self.candidates(purpose, peer.port())? {
            match bind(port) {
                Ok(()) => return Ok(socket),
                Err(error) if is_taken(&error) => may_choose |= !is_denied(&error),
                Err(error) => return Err(error),
            }
        }
        if !may_choose {
            // There is no port to choose from, or choosing is forbidden: better one that the system chooses than none.
            bind(0)?;
            if !self.is_targets(socket.local_addr()?.port(), peer) {
                return Ok(socket);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// A connection. One that has just ended does not keep its port from the next one to the same peer; nor do those to
    /// other peers.
    pub(crate) async fn tcp(&self, purpose: Purpose, peer: SocketAddr) -> io::Result<TcpStream> {
        let (mut checked, mut may_choose) = (false, false);
        let from = purpose.origin().towards(peer)?;
        for port in self.candidates(purpose, peer.port())? {
            let socket = tcp_socket(purpose, peer)?;
            // A port serves connections to many peers, and a server that starts may have it all the same.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            let local = SocketAddr::new(from, port);
            match socket.bind(local) {
                Ok(()) => may_choose = true,
                Err(error) if is_taken(&error) => {
                    may_choose |= !is_denied(&error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            match socket.connect(peer).await {
                Err(error) if is_in_use(&error) => {
                    // There is such a connection, or no address to connect from.
                    if !std::mem::replace(&mut checked, true) {
                        self.source_towards(peer)?;
                    }
                }
                connected => return connected,
            }
        }
        if !may_choose {
            let socket = tcp_socket(purpose, peer)?;
            if purpose.origin() != Origin::Machine {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            let connected = socket.connect(peer).await?;
            if !self.is_targets(connected.local_addr()?.port(), peer) {
                return Ok(connected);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Whether a port is a target's, or the peer's own.
    fn is_targets(&self, port: u16, peer: SocketAddr) -> bool {
        port == peer.port() || self.targets.load().contains(&port)
    }

    /// The address of this machine from which packets to `peer` leave at the moment. Nothing is sent.
    pub(crate) fn source_towards(&self, peer: SocketAddr) -> io::Result<std::net::IpAddr> {
        Ok(self.udp(Purpose::Tunnel, peer)?.local_addr()?.ip())
    }

    /// Whether an address is this machine's; what cannot be found out is taken for it.
    pub(crate) fn is_ours(&self, ip: std::net::IpAddr) -> bool {
        let bound = self.try_bind(SocketAddr::new(ip, 0));
        bound.map_or_else(
            |error| error.kind() != io::ErrorKind::AddrNotAvailable,
            |()| true,
        )
    }

    /// The same; what cannot be found out is taken for another's. With the scope that link-local addresses need.
    pub(crate) fn is_certainly_ours(&self, address: SocketAddr) -> bool {
        let bound = self.try_bind(address);
        bound.map_or_else(|error| error.kind() == io::ErrorKind::AddrInUse, |()| true)
    }

    /// Binds a socket to an address for a moment, at a port that is no target's.
    fn try_bind(&self, mut address: SocketAddr) -> io::Result<()> {
        let mut ports = self.candidates(Purpose::Tunnel, 0)?;
        address.set_port(ports.next().unwrap_or_default());
        std::net::UdpSocket::bind(address).map(drop)
    }

    /// Where to try, in an order of its own each time: neighbours of a taken port are taken more often than others. None is the
    /// peer's own port: a connection has two ends.
    fn candidates(&self, purpose: Purpose, peer: u16) -> io::Result<impl Iterator<Item = u16>> {
        let pool = self.pool(purpose);
        let count = u64::from(*pool.end() - *pool.start()) + 1;
        let [a, b, c, d] = key::random().map_err(io::Error::other)?;
        let start = u64::from(u16::from_ne_bytes([a, b])) % count;
        let from = u64::from(u16::from_ne_bytes([c, d])) % count;
        // One with no divisor in common with the pool meets each port once.
        let stride = (from..).find(|stride| greatest_common_divisor(*stride, count) == 1);
        let stride = stride.unwrap_or(1);
        let targets = self.targets.load_full();
        let all =
            (0..count).map(move |step| *pool.start() + ((start + step * stride) % count) as u16);
        let free = all.filter(move |port| {
            *port != peer && !targets.contains(port) && !self.reserved.contains(port)
        });
        Ok(free.take(TRIES))
    }

    fn pool(&self, purpose: Purpose) -> RangeInclusive<u16> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let kept = match purpose {
            Purpose::Player(_) => (last - first) / MACHINES_SHARE,
            Purpose::Tunnel => 0,
        };
        first..=last - kept
    }
}

/// A TCP socket to connect to `peer` with.
fn tcp_socket(purpose: Purpose, peer: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match peer {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if peer.is_ipv6() {
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    if purpose.origin().is_foreign() {
        socket::make_transparent(&socket, peer.is_ipv6())?;
    }
    if purpose == Purpose::Tunnel && !peer.ip().is_loopback() {
        lane::keep_segments_short(&socket);
    }
    Ok(socket)
}

const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// Somebody has the port, or nobody may.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

/// Nobody may choose it.
fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// There is such a connection already: each system has its own word for that.
fn is_in_use(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    )
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return None;
    };
    (0 < first && first <= last).then_some(first..=last)
}

fn parse_list(text: &str) -> HashSet<u16> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// What IANA sets aside, where the system does not tell.
const DEFAULT: RangeInclusive<u16> = 49_152..=65_535;
/// An eighth is left for the machine's resolver, its package manager and its game servers.
const MACHINES_SHARE: u16 = 8;
/// Ports that are tried for one socket: 256, a millisecond at most. Of a range that players fill to three quarters, all
/// of them are taken once in 10^30 times.
const TRIES: usize = 256;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::instance::{Protocol, Service};

    fn instance(target: &str) -> Instance {
        let service = Service::new("game", Protocol::Both, target).unwrap();
        Instance::new("srv", [service]).unwrap()
    }

    #[test]
    fn what_the_system_says_is_read_as_it_is_written() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_range("7 7"), Some(7..=7));
        for wrong in ["", "1", "2 1", "0 9", "1 65536", "a b"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
        assert_eq!(parse_list("\n"), HashSet::new());
        assert_eq!(parse_list("5-7,9\n"), HashSet::from([5, 6, 7, 9]));
    }

    #[test]
    fn no_port_of_a_target_is_a_candidate_nor_what_is_left_for_the_machine() {
        let ports = LocalPorts::new(1_000..=1_016, HashSet::from([1_003]));
        assert_eq!(ports.count(), 14);
        let all = |purpose| {
            let mut all: Vec<_> = ports.candidates(purpose, 1_005).unwrap().collect();
            all.sort_unstable();
            all
        };
        let expected: Vec<_> = (1_000..=1_014)
            .filter(|p| ![1_003, 1_005].contains(p))
            .collect();
        assert_eq!(all(Purpose::Player(Origin::Machine)), expected);
        let instance = instance("127.0.0.1:1007-1009");
        let news = ports.keep_off([&instance].into_iter());
        assert_eq!(news, HashSet::from([1_007, 1_008, 1_009]));
        assert_eq!(ports.keep_off([&instance].into_iter()), HashSet::new());
        let expected: Vec<_> = (1_000..=1_016)
            .filter(|p| ![1_003, 1_005, 1_007, 1_008, 1_009].contains(p))
            .collect();
        assert_eq!(all(Purpose::Tunnel), expected);
        assert_eq!(LocalPorts::new(9..=9, HashSet::new()).count(), 1);
        assert_eq!(LocalPorts::new(1..=65_535, HashSet::new()).count(), 57_344);
    }

    #[test]
    fn only_a_target_on_this_machine_takes_a_port_from_who_has_it() {
        let ports = LocalPorts::new(1_000..=1_016, HashSet::new());
        let mut instances = vec![instance("192.0.2.1:1007")];
        assert_eq!(ports.keep_off(instances.iter()), HashSet::new());
        assert!(ports.is_targets(1_007, "192.0.2.2:9".parse().unwrap()));
        for (target, news) in [
            // Now it is wanted here as well.
            ("127.0.0.9:1007", 1_007),
            ("[::1]:1008", 1_008),
            ("game_1:1009", 1_009),
        ] {
            instances.push(instance(target));
            assert_eq!(ports.keep_off(instances.iter()), HashSet::from([news]));
            assert_eq!(ports.keep_off(instances.iter()), HashSet::new());
        }
    }

    #[tokio::test]
    async fn where_no_port_is_left_it_says_so() {
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let held = std::net::UdpSocket::bind((ip, 0)).unwrap();
            let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
            for (peer, port) in [(1, held.local_addr()), (2, listener.local_addr())] {
                let port = port.unwrap().port();
                let ports = LocalPorts::new(port..=port, HashSet::new());
                let peer = SocketAddr::new(ip, peer);
                let error = match peer.port() {
                    1 => ports
                        .udp(Purpose::Player(Origin::Machine), peer)
                        .unwrap_err(),
                    _ => ports
                        .tcp(Purpose::Player(Origin::Machine), peer)
                        .await
                        .unwrap_err(),
                };
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                // Where there is none to choose from the system chooses, but nobody is to arrive at himself.
                let own = SocketAddr::new(ip, port);
                let connected = ports.tcp(Purpose::Player(Origin::Machine), own).await;
                assert_eq!(connected.is_ok(), peer.port() == 2);
                if let Ok(connected) = connected {
                    assert_ne!(connected.local_addr().unwrap().port(), port);
                }
            }
        }
    }

    #[tokio::test]
    async fn one_port_has_connections_to_several_peers_and_one_after_the_other_to_each() {
        let ports = LocalPorts::of_system();
        let mut own = ports
            .candidates(Purpose::Player(Origin::Machine), 0)
            .unwrap();
        let port = own.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let ports = LocalPorts::new(port.unwrap()..=port.unwrap(), HashSet::new());
        let peers = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = peers.each_ref().map(|peer| peer.local_addr().unwrap());
        for _ in 0..3 {
            let [first, second] =
                addresses.map(|peer| ports.tcp(Purpose::Player(Origin::Machine), peer));
            let both = (first.await.unwrap(), second.await.unwrap());
            let again = ports
                .tcp(Purpose::Player(Origin::Machine), addresses[0])
                .await
                .unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
            drop(both);
            for peer in &peers {
                // Ours ends first, and is remembered by the kernel.
                drop(peer.accept().unwrap());
            }
        }
    }
}
