//! Lanes: TCP connections of a tunnel, protected record by record (docs/protocol.md §4).
//!
//! ```text
//! client                            relay
//! connect_first ──── message 1 ───► hear, answer  who asks, and with which pre-shared key?
//!               ◄─── message 2 ──── prove
//!               ──── record ──────►               the proof
//!
//! connect_further ── 57 bytes ────► hear, open    a MAC with the tunnel's secret, a number used once
//!                 ◄─ READY ────────
//! ```
//!
//! Then each end has [`LaneHalves`], for two tasks or one. What the records mean is the tunnel's business, and so
//! are time and number: nothing here has a timeout, nothing counts connections.
mod conn;
mod further;
mod opening;
mod reader;
mod tune;
mod window;
mod writer;

use std::io;

pub(crate) use self::{
    conn::Io,
    further::{LaneRegistry, LaneSecretHandle, TunnelId},
    opening::{
        FirstLane, FirstMessage, FurtherLane, Heard, RelaySide, connect_first, connect_further,
        hear,
    },
    reader::LaneReader,
    tune::{LaneTuning, keep_segments_short, tune},
    window::{LaneWindow, NumberError},
    writer::LaneWriter,
};
use crate::{
    key::KeyError,
    proto::{
        handshake::{ExportTooLong, HandshakeError, Secret, Suite},
        record::{self, Deframer, Opener, RecordError, RecordType, Role, Sealer},
    },
};

/// Both directions of an open lane.
#[derive(Debug)]
pub(crate) struct LaneHalves {
    /// From the peer.
    pub(crate) reader: Box<LaneReader>,
    /// To the peer.
    pub(crate) writer: Box<LaneWriter>,
}

impl LaneHalves {
    /// The lane on `io` that `secret` protects, seen from the end `role`.
    pub(crate) fn new(
        io: Io,
        suite: Suite,
        secret: &Secret,
        role: Role,
    ) -> Result<Self, RecordError> {
        let keys = record::directions(suite, secret, role)?;
        Ok(Self::with_keys(io, keys))
    }

    fn with_keys(io: Io, (sealer, opener): (Sealer, Opener)) -> Self {
        let (read, write) = io.into_split();
        Self {
            reader: Box::new(LaneReader::new(read, Deframer::new(opener))),
            writer: Box::new(LaneWriter::new(write, sealer)),
        }
    }
}

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

#[cfg(test)]
mod tests;
