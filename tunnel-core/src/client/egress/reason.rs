//! What the relay is told of a target that was not reached.

use std::io;

use crate::{proto::stream::frame::ResetCode, socket};

/// Why a target was not reached.
pub(super) fn reason(error: &io::Error) -> ResetCode {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ResetCode::Refused,
        io::ErrorKind::TimedOut => ResetCode::Timeout,
        // No local port.
        io::ErrorKind::AddrInUse => ResetCode::Limit,
        _ if socket::is_exhausted(error) => ResetCode::Limit,
        _ => ResetCode::Unreachable,
    }
}
