//! Why lanes do not open, and why they end.

use std::io;

use super::window::NumberError;
use crate::{
    key::KeyError,
    proto::{
        handshake::{ExportTooLong, HandshakeError},
        record::{RecordError, RecordType},
    },
};

/// Why a lane did not open, or ended. The connection is to be dropped; the peer is told nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LaneError {
    /// The TCP connection broke.
    #[error("the lane's connection broke: {0}")]
    Io(#[from] io::Error),
    /// The TCP connection ended inside an opening or a record.
    #[error("the lane's connection ended in the middle of a message")]
    Truncated,
    /// The relay closed the connection instead of answering the opening: it does not know us, or has forgotten the
    /// tunnel.
    #[error("the relay closed the connection without answering")]
    Refused,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A record could not be made or opened.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The peer sent what nobody following the protocol sends.
    #[error(transparent)]
    Peer(#[from] PeerMisbehaved),
    /// The operating system gave no randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The exporter refused, which it does for no length used here.
    #[error(transparent)]
    Export(#[from] ExportTooLong),
    /// Our own code pushed more than one flush may hold.
    #[error("16 full records wait already")]
    Full,
}

/// What a peer did that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerMisbehaved {
    /// A first byte that opens nothing: a stranger, or a port scan.
    #[error("{0:#04x} does not open a lane")]
    UnknownOpening(u8),
    /// A handshake message longer than any.
    #[error("a handshake message of {0} bytes is too long")]
    MessageTooLong(usize),
    /// The client got an answer but did not prove that it could read it: unknown, revoked, or a replay.
    #[error("the client left without proving itself")]
    Unproven,
    /// An opening for a tunnel that is not there.
    #[error("no tunnel has this id")]
    UnknownTunnel,
    /// An opening whose MAC does not fit.
    #[error("the lane's opening was not made with the tunnel's secret")]
    WrongMac,
    /// An opening that was used before, or is too old.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// A relay that starts a further lane with something else than READY.
    #[error("the relay answered a lane's opening with {0:?} instead of READY")]
    NotReady(RecordType),
    /// A record that has no business on a lane in this state.
    #[error("a {0:?} record in the wrong place")]
    WrongPlace(RecordType),
}
