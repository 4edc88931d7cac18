//! Whether the other end of a player's or a target's connection is still there.
//!
//! A player or a target has no other way, so it is waited for as long as it may yet come back, and no longer.

use std::{io, time::Duration};

use tokio::net::TcpStream;

/// Comes when the other end of a player's or a target's connection is gone: it was sent something, and has not said anything
/// for long. One that is there and only reads nothing does answer.
pub(crate) async fn gone(tcp: &TcpStream) -> io::Error {
    loop {
        tokio::time::sleep(GONE_LOOK).await;
        if is_gone(tcp) {
            return io::ErrorKind::TimedOut.into();
        }
    }
}

#[cfg(target_os = "linux")]
fn is_gone(tcp: &TcpStream) -> bool {
    use std::os::fd::AsFd;

    use crate::socket::tcp::TcpState;

    (TcpState::of(tcp.as_fd())).is_ok_and(|known| {
        (known.unacked > 0 || known.probes > 0) && known.silent >= crate::socket::GONE_AFTER
    })
}

#[cfg(not(target_os = "linux"))]
const fn is_gone(_: &TcpStream) -> bool {
    false
}

/// How often a player's or a target's connection is looked at: every 15 s, a system call.
const GONE_LOOK: Duration = Duration::from_secs(15);
