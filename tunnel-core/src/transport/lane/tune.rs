//! What a lane asks of the kernel.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// Asks for everything that a lane wants, and says what was refused. A lane works without any of it.
pub(crate) fn tune(tcp: &TcpStream) -> LaneTuning {
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    let asked = [
        (LaneOption::NoDelay, socket.set_tcp_nodelay(true)),
        (LaneOption::Keepalive, socket.set_tcp_keepalive(&keepalive)),
        (LaneOption::Bbr, set_bbr(&socket)),
        (LaneOption::NotSentLowat, set_notsent_lowat(&socket)),
    ];
    LaneTuning {
        congestion: congestion(&socket),
        refused: (asked.into_iter())
            .filter_map(|(option, answer)| {
                let reason = answer.err()?.kind();
                Some(DeniedOption { option, reason })
            })
            .collect(),
    }
}

/// Before a connection is made: neither side sends larger packets over it than every path passes. TCP alone goes by its
/// interfaces and by ICMP, and repeats for ever what a narrower path drops without a word.
pub(crate) fn keep_segments_short(socket: &TcpSocket) {
    // Where that is refused, lanes go by what the system knows of the path.
    #[cfg(unix)]
    drop(SockRef::from(socket).set_tcp_mss(SEGMENT));
    #[cfg(not(unix))]
    let _ = socket;
}

/// What the kernel granted a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneTuning {
    /// The congestion control in use, as the kernel names it ("bbr", "cubic"); none where it cannot be asked.
    pub(crate) congestion: Option<String>,
    /// What it refused.
    pub(crate) refused: Vec<DeniedOption>,
}

impl LaneTuning {
    /// A remark for the operator, if lanes have no BBR.
    pub(crate) fn warning(&self) -> Option<String> {
        let reason = self.bbr_refused()?;
        let instead = self.congestion.as_deref().unwrap_or("the system's default");
        Some(format!(
            "lanes run with {instead} instead of bbr ({reason}), which is slow where packets are lost: load the \
             kernel module tcp_bbr and allow it in net.ipv4.tcp_allowed_congestion_control"
        ))
    }

    /// Why this lane has no BBR, if it has none.
    pub(super) fn bbr_refused(&self) -> Option<io::ErrorKind> {
        (self.refused.iter())
            .find(|denied| denied.option == LaneOption::Bbr)
            .map(|denied| denied.reason)
    }
}

/// A wish that the kernel did not grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeniedOption {
    /// The wish.
    pub(crate) option: LaneOption,
    /// The answer. For BBR: `NotFound` if the kernel does not have it, `PermissionDenied` if it is not among the
    /// allowed ones (`net.ipv4.tcp_allowed_congestion_control`), `Unsupported` on other systems than Linux.
    pub(crate) reason: io::ErrorKind,
}

/// What a lane wants of its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneOption {
    /// `TCP_NODELAY`: a game's small record leaves at once.
    NoDelay,
    /// `SO_KEEPALIVE`: middleboxes keep an idle lane in mind, and a dead one is noticed.
    Keepalive,
    /// `TCP_CONGESTION`: at 40 ms and 1 % loss BBR carried 177 Mbit/s where CUBIC carried 4.5.
    Bbr,
    /// `TCP_NOTSENT_LOWAT`: what waits should wait with us, where a datagram can still overtake bulk.
    NotSentLowat,
}

#[cfg(target_os = "linux")]
fn set_bbr(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_congestion(b"bbr")
}

#[cfg(target_os = "linux")]
fn congestion(socket: &SockRef<'_>) -> Option<String> {
    let name = socket.tcp_congestion().ok()?;
    let name = name.split(|&byte| byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(target_os = "linux")]
fn set_notsent_lowat(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

#[cfg(not(target_os = "linux"))]
fn set_bbr(_: &SockRef<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn congestion(_: &SockRef<'_>) -> Option<String> {
    None
}

#[cfg(not(target_os = "linux"))]
fn set_notsent_lowat(_: &SockRef<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What follows on a segment's head of 20 bytes: as much as makes a packet as large as QUIC's smallest, 1,200 bytes and a head
/// of 8 (RFC 9000 §14). On Ethernet that costs bulk 0.8 % of the line; who sees no UDP through has no better measure, and what
/// QUIC finds out of the one direction says nothing of the other.
#[cfg(unix)]
const SEGMENT: u32 = 1_200 + 8 - 20;
/// Below the minute or two after which home routers forget a silent TCP connection at the worst.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(45);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// Two bulk writes: the kernel never runs dry between them, and no more than 512 KiB wait unsent.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 512 * 1024;
