//! A lane that is open.

use super::{conn::Io, reader::LaneReader, writer::LaneWriter};
use crate::proto::{
    handshake::{Secret, Suite},
    record::{self, Deframer, Opener, RecordError, Role, Sealer},
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

    pub(super) fn with_keys(io: Io, (sealer, opener): (Sealer, Opener)) -> Self {
        let (read, write) = io.into_split();
        Self {
            reader: Box::new(LaneReader::new(read, Deframer::new(opener))),
            writer: Box::new(LaneWriter::new(write, sealer)),
        }
    }
}
