//! Sockets: what the engine asks of the operating system beyond the standard library.

#[cfg(target_os = "linux")]
pub(crate) mod tcp;

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sync::lock;

/// Processor time that this process has used so far. Nothing where the system does not tell.
pub(crate) fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// How many of the descriptors that this process may have players' sockets may take: three quarters. The others are for
/// tunnels, their lanes, public ports, and the program.
pub(crate) fn descriptors_for_players() -> usize {
    #[cfg(unix)]
    let limit = {
        use rustix::process::{Resource, getrlimit};
        getrlimit(Resource::Nofile).current
    };
    #[cfg(not(unix))]
    let limit: Option<u64> = None;
    let limit = limit.map_or(DESCRIPTORS_MAX, |limit| {
        (limit as usize).min(DESCRIPTORS_MAX)
    });
    limit - limit / 4
}

/// A UDP socket bound to an address, with large buffers. Not shared: a port that another process has is an error.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    only_v6(&socket, address)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets a socket be bound to an address that is not this machine's. It takes CAP_NET_RAW or CAP_NET_ADMIN.
pub(crate) fn make_transparent<'a>(socket: impl Into<SockRef<'a>>, is_v6: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let socket = socket.into();
        if is_v6 {
            socket.set_ip_transparent_v6(true)
        } else {
            socket.set_ip_transparent_v4(true)
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (socket.into(), is_v6);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether this process may have such sockets.
#[cfg(target_os = "linux")]
pub(crate) fn try_transparent() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    make_transparent(&socket, false)
}

/// One more socket at `local`, the port that `sockets` are bound to. The system gives it what no connected one of them is to
/// have.
pub(crate) fn join_udp(sockets: &[SockRef<'_>], local: SocketAddr) -> io::Result<UdpSocket> {
    let one_more = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    one_more.set_nonblocking(true)?;
    one_more.set_reuse_address(true)?;
    let share = |shares| {
        let mut sockets = sockets.iter();
        sockets.try_for_each(|socket| socket.set_reuse_address(shares))
    };
    let bound = share(true).and_then(|()| one_more.bind(&local.into()));
    // From now on the port is shared with nobody else.
    share(false)?;
    one_more.set_reuse_address(false)?;
    bound?;
    let one_more = one_more.into();
    grow_buffers(&one_more, FLOW_BUFFER);
    Ok(one_more)
}

/// The same as [`bind_udp`], with several sockets: the system gives each player's packets to one of them, always the
/// same. One, where it cannot do that or has no more.
///
/// The first is bound like any other, so that a port that somebody has, another relay too, is an error; only then may
/// the others join it, while it holds the port. From then on a process of the same user that asks for it could join as well.
pub(crate) fn bind_udp_shards(address: SocketAddr, shards: usize) -> io::Result<Vec<UdpSocket>> {
    let first = bind_udp(address)?;
    #[cfg(target_os = "linux")]
    {
        let mut sockets = vec![first];
        if shards > 1 && add_shards(&mut sockets, address, shards).is_err() {
            sockets.truncate(1);
            share_no_more(&sockets[0]);
        }
        Ok(sockets)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = shards;
        Ok(vec![first])
    }
}

/// Makes the only socket of a port that no other may join.
pub(crate) fn share_no_more(socket: &UdpSocket) {
    // Where there is no such option, nobody shares.
    #[cfg(target_os = "linux")]
    drop(SockRef::from(socket).set_reuse_port(false));
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

#[cfg(target_os = "linux")]
fn add_shards(sockets: &mut Vec<UdpSocket>, address: SocketAddr, shards: usize) -> io::Result<()> {
    let bound = sockets[0].local_addr()?;
    SockRef::from(&sockets[0]).set_reuse_port(true)?;
    while sockets.len() < shards {
        let socket = Socket::new(Domain::for_address(bound), Type::DGRAM, Some(Protocol::UDP))?;
        only_v6(&socket, address)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        sockets.push(socket.into());
    }
    // What came before all were there may be at another socket than what follows: nobody was promised the port yet.
    for socket in &*sockets {
        let mut left = DISCARDED_MAX;
        while left > 0 && socket.recv_from(&mut [0]).is_ok() {
            left -= 1;
        }
    }
    Ok(())
}

/// Grows a socket's buffers. Returns the smaller of what the system granted, in bytes: it may cap them
/// (`net.core.rmem_max`, `net.core.wmem_max`) without an error.
pub(crate) fn grow_buffers(socket: &UdpSocket, bytes: usize) -> usize {
    let socket = SockRef::from(socket);
    // A refusal leaves the default, which the return value shows.
    drop(socket.set_recv_buffer_size(bytes));
    drop(socket.set_send_buffer_size(bytes));
    let received = socket.recv_buffer_size().unwrap_or(0);
    received.min(socket.send_buffer_size().unwrap_or(0))
}

/// Lets the system cut what is larger than the next link: a player's path is not the tunnel's, and a large answer
/// arrives in IP fragments as it would without Adit. (quinn-udp forbids that, as QUIC must.)
pub(crate) fn allow_fragments(socket: &UdpSocket, is_v6: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt::{
            Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
        };
        if is_v6 {
            set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)?;
            // A switch of its own: with it, what is too large is refused here already.
            nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Ipv6DontFrag, &false)?;
        }
        // On a socket for both families this is what its IPv4 players need; on one for IPv6 alone it is refused.
        let v4 = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT);
        if !is_v6 {
            v4?;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, is_v6);
    Ok(())
}

/// A listening TCP socket. Addresses in TIME_WAIT do not block it; another listener does.
pub(crate) fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    only_v6(&socket, address)?;
    // On Windows the option would let another process take the port over.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening TCP socket for players, whose connections are as [`tune_player`] makes them.
pub(crate) fn listen_players(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = listen_tcp(address)?;
    if INHERITED {
        tune(&SockRef::from(&listener))?;
    }
    Ok(listener)
}

/// Options of a connection that a player has opened.
pub(crate) fn tune_accepted(stream: &TcpStream) -> io::Result<()> {
    if INHERITED {
        return Ok(());
    }
    tune_player(stream)
}

/// What `stream` has received already, without waiting; `None` if that is nothing. Its end is left for later reads.
pub(crate) fn read_early(stream: &TcpStream) -> io::Result<Option<Bytes>> {
    let mut buffer = [0; EARLY_MAX];
    match (&*SockRef::from(stream)).read(&mut buffer) {
        Ok(0) => Ok(None),
        Ok(length) => Ok(Some(Bytes::copy_from_slice(&buffer[..length]))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// After a read that came short of what was asked for: unless more is there already, the next one waits until it comes.
/// A read ends before an urgent byte, too, so that it comes short says nothing.
pub(crate) fn settle(stream: &TcpStream) {
    // Elsewhere the next read finds out.
    #[cfg(target_os = "linux")]
    drop(stream.try_io(Interest::READABLE, || {
        match rustix::io::ioctl_fionread(stream)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }));
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Options of a player's or a target's connection: no delay, urgent bytes in their place among the others, keepalive
/// that notices a silent peer's death; and a reset as its end, however that comes about, unless [`end_cleanly`] says
/// otherwise: what a dead process has cut off must not look complete.
pub(crate) fn tune_player(stream: &TcpStream) -> io::Result<()> {
    tune(&SockRef::from(stream))
}

fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku")))]
    let keepalive = keepalive.with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Closes a connection that has ended in both directions. The system goes on with what its reader has not taken yet.
pub(crate) fn end_cleanly(stream: TcpStream) {
    // If it fails, the connection is gone already.
    drop(SockRef::from(&stream).set_linger(None));
}

/// A descriptor kept for the moment when none is left: with it a waiting connection can be taken and refused, where
/// it would otherwise hang and wake the listener for ever.
#[derive(Debug)]
pub(crate) struct Spare(Mutex<Option<Socket>>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(spare_descriptor()))
    }

    /// Refuses one waiting connection, then pauses: whoever runs out of descriptors must not spin.
    pub(crate) async fn refuse(&self, listener: &tokio::net::TcpListener) {
        let spare = lock(&self.0).take();
        if spare.is_some() {
            drop(spare);
            drop(tokio::time::timeout(Duration::from_millis(1), listener.accept()).await);
            *lock(&self.0) = spare_descriptor();
        }
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

fn spare_descriptor() -> Option<Socket> {
    // Not bound: it needs no port.
    Socket::new(Domain::IPV4, Type::DGRAM, None).ok()
}

/// Whether an error of `accept` or `socket` says that descriptors or memory have run out.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        // EMFILE 24, ENFILE 23, ENOBUFS 105, ENOMEM 12 on Linux.
        matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
    }
    #[cfg(not(unix))]
    {
        // WSAEMFILE, WSAENOBUFS.
        matches!(error.raw_os_error(), Some(10_024 | 10_055))
    }
}

/// The address of any interface, of the same family as `ip`.
pub(crate) const fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// An IPv4 address as such, also where a socket for both families reports it as a mapped one. Anything else stays as it
/// is: a link-local address says nothing without its scope.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// An IPv4 address as a socket for both families takes it.
pub(crate) fn family(address: SocketAddr, is_v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) if is_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

/// `::` takes IPv4 too, as mapped addresses; any other IPv6 address is IPv6 only.
fn only_v6(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V6(v6) => socket.set_only_v6(!v6.ip().is_unspecified()),
        SocketAddr::V4(_) => Ok(()),
    }
}

/// 16 million: more than any process may have.
const DESCRIPTORS_MAX: usize = 1 << 24;
/// Buffers of the tunnel's own UDP socket: 4 MiB hold 80 ms at 400 Mbit/s while the process does something else.
pub(crate) const TUNNEL_BUFFER: usize = 4 << 20;
/// Buffers of a public UDP port: 2 MiB hold 1,000 packets of 1,400 bytes with the kernel's own overhead.
pub(crate) const PUBLIC_BUFFER: usize = 2 << 20;
/// Buffers of one flow's socket to its target: 1 MiB hold 900 packets of 1,200 bytes with the kernel's own overhead, a world that a
/// game sends at once. What does not wait costs nothing.
pub(crate) const FLOW_BUFFER: usize = 1 << 20;
/// Packets discarded of a port that was just opened: 1,024, as many as come in a millisecond.
#[cfg(target_os = "linux")]
const DISCARDED_MAX: usize = 1024;
/// Connections that wait to be accepted; the system may cap it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// On Linux a connection begins with its listener's options: four system calls less for each player.
const INHERITED: bool = cfg!(target_os = "linux");
/// First bytes of a player that go with the opening of its stream: 2 KiB, a game's greeting or a request with its head.
const EARLY_MAX: usize = 2 * 1024;
/// Silence after which a player or a target is held for dead, while it is sent something or asked whether it is there: two
/// minutes, in which a router has started again and a laptop has found another network.
#[cfg(target_os = "linux")]
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Two minutes altogether, as `GONE_AFTER`.
const KEEPALIVE_RETRIES: u32 = 6;
/// 20 ms: out of descriptors, a listener refuses 50 connections a second and costs nothing.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        collections::HashSet,
        io::Write,
        net::{SocketAddrV6, TcpStream as StdTcp},
    };

    use super::*;

    const ANY: [&str; 4] = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];

    /// Which shard a packet of `player` comes to.
    fn shard_of(player: &UdpSocket, shards: &[UdpSocket]) -> usize {
        let own = player.local_addr().unwrap().port();
        player.send(b"a packet").unwrap();
        loop {
            let came = shards.iter().position(|shard| {
                (shard.recv_from(&mut [0; 16])).is_ok_and(|(_, from)| from.port() == own)
            });
            if let Some(came) = came {
                return came;
            }
        }
    }

    #[test]
    fn players_sockets_let_the_system_cut_what_is_too_large_in_both_families() {
        use nix::sys::socket::{getsockopt, sockopt::Ipv6DontFrag};
        for address in ["[::1]:0", "[::]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
            assert!(
                getsockopt(&socket, Ipv6DontFrag).unwrap(),
                "as QUIC wants it"
            );
            allow_fragments(&socket, true).unwrap();
            assert!(!getsockopt(&socket, Ipv6DontFrag).unwrap());
        }
    }

    #[test]
    fn every_player_keeps_to_one_shard_and_all_shards_have_players() {
        for address in ANY {
            let shards = bind_udp_shards(address.parse().unwrap(), 4).unwrap();
            assert_eq!(shards.len(), 4);
            let public = shards[0].local_addr().unwrap();
            let loopback: IpAddr = match public {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            let mut seen = HashSet::new();
            for _ in 0..64 {
                let player = UdpSocket::bind((loopback, 0)).unwrap();
                player.connect((loopback, public.port())).unwrap();
                let place = shard_of(&player, &shards);
                assert!((0..3).all(|_| shard_of(&player, &shards) == place));
                seen.insert(place);
            }
            // That 64 players miss one of four happens once in 10^7 runs.
            assert_eq!(seen.len(), 4, "{address}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_an_error_whether_it_is_shared_or_not() {
        for address in ANY {
            for shards in [1, 4] {
                let held = bind_udp_shards(address.parse().unwrap(), shards).unwrap();
                let port = held[0].local_addr().unwrap();
                for wanted in [1, 4] {
                    let error = bind_udp_shards(port, wanted).unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                }
                drop(held);
                assert_eq!(bind_udp_shards(port, shards).unwrap().len(), shards);
            }
        }
    }

    #[test]
    fn a_single_socket_is_shared_with_nobody() {
        let held = bind_udp_shards("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let port = held[0].local_addr().unwrap();
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        other.set_reuse_port(true).unwrap();
        let error = other.bind(&port.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_mapped_address_is_ipv4_and_a_link_local_one_keeps_its_scope() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:7".parse().unwrap());
        let link_local = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3);
        assert_eq!(canonical(link_local.into()), link_local.into());
    }

    #[tokio::test]
    async fn a_players_connection_has_its_options_and_its_first_bytes_are_read_once() {
        let listener = listen_players((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mut player = StdTcp::connect(listener.local_addr().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        tune_accepted(&accepted).unwrap();
        let options = SockRef::from(&accepted);
        assert!(options.tcp_nodelay().unwrap());
        assert!(options.out_of_band_inline().unwrap());
        assert_eq!(options.linger().unwrap(), Some(Duration::ZERO));
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(
            options.tcp_keepalive_interval().unwrap(),
            KEEPALIVE_INTERVAL
        );
        assert_eq!(options.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
        let interval = KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES;
        assert_eq!(KEEPALIVE + interval, GONE_AFTER);

        assert_eq!(read_early(&accepted).unwrap(), None);
        player.write_all(b"hello").unwrap();
        accepted.readable().await.unwrap();
        let early = read_early(&accepted).unwrap();
        assert_eq!(early.as_deref(), Some(&b"hello"[..]));
        assert_eq!(read_early(&accepted).unwrap(), None);
        drop(player);
        accepted.readable().await.unwrap();
        // The end stays to be found by who waits for it.
        assert_eq!(read_early(&accepted).unwrap(), None);
        assert_eq!(accepted.try_read(&mut [0]).unwrap(), 0);
    }
}
