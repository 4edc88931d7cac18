//! The node's side of players: connections and sockets to targets.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::io;

use crate::{proto::stream::frame::ResetCode, socket};

/// Why a target was not reached.
fn reason(error: &io::Error) -> ResetCode {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ResetCode::Refused,
        io::ErrorKind::TimedOut => ResetCode::Timeout,
        // No local port.
        io::ErrorKind::AddrInUse => ResetCode::Limit,
        _ if socket::is_exhausted(error) => ResetCode::Limit,
        _ => ResetCode::Unreachable,
    }
}
