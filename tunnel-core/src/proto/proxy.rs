//! PROXY protocol headers: what a proxy says in front of a connection's or a datagram's first byte of who it comes from.
//!
//! Version 1 is a line of text, for TCP alone; version 2 is binary, and for both
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>). The crate `ppp` reads and writes their bytes.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ppp::{v1, v2};

/// Longest header of version 1, in bytes, its line end included.
pub const MAX_V1: usize = 107;

/// Longest header of version 2 that is read, in bytes: 2 KiB, the addresses and any extensions that front ends add.
pub const MAX_V2: usize = 2048;

/// The two ends of a conversation, as the proxy in between saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The player.
    pub player: SocketAddr,
    /// What the player connected to.
    pub public: SocketAddr,
}

impl Ends {
    /// The same, both of one family: both as they are, or the IPv4 one as a mapped IPv6 address.
    fn of_one_family(self) -> Self {
        let [player, public] = [self.player, self.public].map(unmapped);
        if player.is_ipv4() == public.is_ipv4() {
            return Self { player, public };
        }
        Self {
            player: mapped(player),
            public: mapped(public),
        }
    }
}

/// The header of version 1 for a connection, up to 107 bytes.
pub fn encode_v1(ends: Ends) -> Vec<u8> {
    let Ends { player, public } = ends.of_one_family();
    let family = if player.is_ipv4() { v1::TCP4 } else { v1::TCP6 };
    let [source, destination] = [player, public].map(|end| text(end.ip()));
    let ports = (player.port(), public.port());
    format!(
        "{} {family} {source} {destination} {} {}{}",
        v1::PROTOCOL_PREFIX,
        ports.0,
        ports.1,
        v1::PROTOCOL_SUFFIX
    )
    .into_bytes()
}

/// The header of version 2 for a connection: 28 bytes of IPv4, 52 of IPv6.
pub fn encode_v2_stream(ends: Ends) -> io::Result<Vec<u8>> {
    encode_v2(ends, v2::Protocol::Stream)
}

/// The header of version 2 for a datagram: 28 bytes of IPv4, 52 of IPv6.
pub fn encode_v2_datagram(ends: Ends) -> io::Result<Vec<u8>> {
    encode_v2(ends, v2::Protocol::Datagram)
}

/// The header of version 1 of a proxy that speaks for nobody but itself, as when it checks whether the other side is there.
pub const LOCAL_V1: &[u8] = b"PROXY UNKNOWN\r\n";

/// The same of version 2, for a connection and for a datagram.
pub const LOCAL_V2: &[u8] = &[
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // the signature
    0x20, 0x00, 0x00, 0x00, // version 2, LOCAL, of no family, no addresses
];

fn encode_v2(ends: Ends, protocol: v2::Protocol) -> io::Result<Vec<u8>> {
    let Ends { player, public } = ends.of_one_family();
    let command = v2::Version::Two | v2::Command::Proxy;
    v2::Builder::with_addresses(command, protocol, (player, public)).build()
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed: no more than [`MAX_V2`] altogether.
    Incomplete,
    /// A whole header.
    Header {
        /// Its length; what follows is the connection's own.
        length: usize,
        /// Who the connection comes from; `None` for one of the proxy's own, such as its health check.
        ends: Option<Ends>,
    },
}

/// Reads the header, of either version, at the beginning of a connection.
pub fn decode(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    let signature = &bytes[..bytes.len().min(v2::PROTOCOL_PREFIX.len())];
    if v2::PROTOCOL_PREFIX.starts_with(signature) {
        return decode_v2(bytes);
    }
    let begin = v1::PROTOCOL_PREFIX.as_bytes();
    if begin.starts_with(&bytes[..bytes.len().min(begin.len())]) {
        return decode_v1(bytes);
    }
    Err(ProxyError::Missing)
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    let line = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return match line.len() {
            MAX_V1 => Err(ProxyError::TooLong),
            _ => Ok(Decoded::Incomplete),
        };
    };
    let length = end + 2;
    let header = v1::Header::try_from(&line[..length]).map_err(|_| ProxyError::Malformed)?;
    let ends = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(v4) => Some(ends(
            (v4.source_address, v4.source_port),
            (v4.destination_address, v4.destination_port),
        )?),
        v1::Addresses::Tcp6(v6) => Some(ends(
            (v6.source_address, v6.source_port),
            (v6.destination_address, v6.destination_port),
        )?),
    };
    Ok(Decoded::Header { length, ends })
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    if let Some([high, low]) = bytes.get(V2_LENGTH..V2_HEAD)
        && V2_HEAD + usize::from(u16::from_be_bytes([*high, *low])) > MAX_V2
    {
        return Err(ProxyError::TooLong);
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => {
            return Ok(Decoded::Incomplete);
        }
        Err(_) => return Err(ProxyError::Malformed),
    };
    let length = header.len();
    let ends = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, ..) => None,
        (_, v2::Protocol::Unspecified, v2::Addresses::Unspecified) => None,
        (_, v2::Protocol::Stream, v2::Addresses::IPv4(v4)) => Some(ends(
            (v4.source_address, v4.source_port),
            (v4.destination_address, v4.destination_port),
        )?),
        (_, v2::Protocol::Stream, v2::Addresses::IPv6(v6)) => Some(ends(
            (v6.source_address, v6.source_port),
            (v6.destination_address, v6.destination_port),
        )?),
        _ => return Err(ProxyError::OtherTransport),
    };
    Ok(Decoded::Header { length, ends })
}

/// The ends that a header names, if a connection can come from there.
fn ends<A: Into<IpAddr>>(
    (player, player_port): (A, u16),
    (public, public_port): (A, u16),
) -> Result<Ends, ProxyError> {
    let player = unmapped(SocketAddr::new(player.into(), player_port));
    let ip = player.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || is_broadcast {
        return Err(ProxyError::NoSuchPlayer(ip));
    }
    let public = unmapped(SocketAddr::new(public.into(), public_port));
    Ok(Ends { player, public })
}

/// Why a connection does not begin with a header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It begins with something else.
    #[error("it does not begin with a PROXY header")]
    Missing,
    /// It begins like a header and goes on otherwise.
    #[error("its PROXY header cannot be read")]
    Malformed,
    /// The header is longer than [`MAX_V1`] or [`MAX_V2`].
    #[error("its PROXY header is longer than a header may be")]
    TooLong,
    /// The header names datagrams, or sockets of another kind than TCP's.
    #[error("its PROXY header is not one of a TCP connection")]
    OtherTransport,
    /// The header names a player from whom nothing can come.
    #[error("its PROXY header names {0} as the player")]
    NoSuchPlayer(IpAddr),
}

/// An address as text that every reader of version 1 takes: a mapped one without dots.
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

/// An IPv4 address as such, however it is written.
fn unmapped(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

fn mapped(end: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match end.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(ip.into(), end.port())
}

/// Where version 2 says how many bytes follow its head, and where they begin.
const V2_LENGTH: usize = 14;
const V2_HEAD: usize = 16;

#[cfg(test)]
mod tests;
