//! The sending half of a lane.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncWriteExt, net::tcp::OwnedWriteHalf};

use super::{conn::WriteHalf, error::LaneError};
use crate::proto::record::{RECORD_BODY_MAX, RECORD_MAX, RECORD_OVERHEAD, RecordType, Sealer};

/// Writes records to a lane.
///
/// Records are sealed into one buffer and written together. [`push`](Self::push) and [`flush`](Self::flush) are for
/// a task that waits for several things; [`write_frame`](Self::write_frame) and [`write_data`](Self::write_data) are
/// for one that does not.
#[derive(Debug)]
pub(crate) struct LaneWriter {
    io: WriteHalf,
    sealer: Sealer,
    /// Sealed records, of which the first `written` bytes are the connection's already.
    buffer: BytesMut,
    written: usize,
    /// Small flushes in a row while the buffer is large.
    small: u8,
}

impl LaneWriter {
    /// Writes what `sealer` seals to `io`.
    pub(super) fn new(io: WriteHalf, sealer: Sealer) -> Self {
        Self {
            io,
            sealer,
            buffer: BytesMut::new(),
            written: 0,
            small: 0,
        }
    }

    /// The connection under it, if it is one of TCP.
    pub(crate) fn tcp(&self) -> Option<&Arc<OwnedWriteHalf>> {
        self.io.tcp()
    }

    /// Seals one record, to go out with the next flush. Fails with [`LaneError::Full`] while 16 full records wait.
    pub(crate) fn push(
        &mut self,
        kind: RecordType,
        head: &[u8],
        body: &[u8],
    ) -> Result<(), LaneError> {
        if self.is_full() {
            return Err(LaneError::Full);
        }
        Ok(self.sealer.seal_into(&mut self.buffer, kind, head, body)?)
    }

    /// Seals as much of `data` as there is room for into DATA records, and says how much that was.
    pub(crate) fn push_data(&mut self, data: &[u8]) -> Result<usize, LaneError> {
        let room = (WRITE_MAX.saturating_sub(self.buffer.len())).div_ceil(FULL) * RECORD_BODY_MAX;
        let taken = data.len().min(room);
        // At once, so that the buffer does not grow by copying itself.
        (self.buffer).reserve(taken + taken.div_ceil(RECORD_BODY_MAX) * RECORD_OVERHEAD);
        for body in data[..taken].chunks(RECORD_BODY_MAX) {
            self.push(RecordType::DATA, &[], body)?;
        }
        Ok(taken)
    }

    /// Whether nothing more can be pushed before a flush.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= WRITE_MAX
    }

    /// Hands everything pushed to the connection, in one write if it takes it.
    ///
    /// Cancel-safe: what a dropped future did not write goes first with the next one.
    pub(crate) async fn flush(&mut self) -> Result<(), LaneError> {
        while self.written < self.buffer.len() {
            match self.io.write(&self.buffer[self.written..]).await? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
                written => self.written += written,
            }
        }
        self.shrink_after_bulk();
        self.buffer.clear();
        self.written = 0;
        Ok(())
    }

    /// Pushes one record and flushes. When the future is dropped, the record was sealed or not: the lane still
    /// holds, but a caller that needs to know uses `push` and `flush`.
    pub(crate) async fn write_frame(
        &mut self,
        kind: RecordType,
        body: &[u8],
    ) -> Result<(), LaneError> {
        if self.is_full() {
            self.flush().await?;
        }
        self.push(kind, &[], body)?;
        self.flush().await
    }

    /// Writes `chunks` as DATA records, 16 full ones (256 KiB) at a time. When the future is dropped, some of the
    /// data was sealed: a caller that goes on uses `push_data` and `flush`.
    pub(crate) async fn write_data(&mut self, chunks: &[Bytes]) -> Result<(), LaneError> {
        for chunk in chunks {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                if self.is_full() {
                    self.flush().await?;
                }
                let taken = self.push_data(rest)?;
                rest = &rest[taken..];
            }
        }
        self.flush().await
    }

    /// Gives the buffer's memory back, if nothing waits in it: to be called when there is nothing more to send.
    pub(crate) fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Flushes, and ends this direction of the TCP connection.
    pub(crate) async fn shutdown(&mut self) -> Result<(), LaneError> {
        self.flush().await?;
        self.release();
        Ok(self.io.shutdown().await?)
    }

    /// Memory held by the buffer, in bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Flips a bit of what waits.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        if let Some(byte) = self.buffer.last_mut() {
            *byte ^= 1;
        }
    }

    fn shrink_after_bulk(&mut self) {
        if self.buffer.capacity() <= RECORD_MAX || self.buffer.len() > RECORD_MAX {
            self.small = 0;
            return;
        }
        self.small += 1;
        if self.small == SMALL_FLUSHES {
            self.small = 0;
            self.buffer = BytesMut::new();
        }
    }
}

/// A full DATA record without head.
const FULL: usize = RECORD_BODY_MAX + RECORD_OVERHEAD;
/// 16 full records a write: 4 carried 0.65 of plain TCP, 16 carried 0.91.
const WRITE_MAX: usize = 16 * FULL;
/// Small flushes after which a large buffer goes: few enough that a game which follows a download does not keep
/// 256 KiB for it, enough that a bulk stream with pauses does not allocate for each piece.
const SMALL_FLUSHES: u8 = 32;
