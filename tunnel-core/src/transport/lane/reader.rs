//! The receiving half of a lane.

use std::{cell::RefCell, future::poll_fn, task::Poll};

use bytes::Bytes;

use tokio::sync::OwnedSemaphorePermit;

use super::{conn::ReadHalf, error::LaneError};
use crate::{
    metrics::Gauge,
    proto::record::{Deframer, RECORD_BODY_MAX, RECORD_OVERHEAD, RecordError, RecordType},
    transport::blocks::Blocks,
};

/// Reads records from a lane.
///
/// While the peer is silent it holds no buffer. When data flows, it reads up to 256 KiB at a time.
#[derive(Debug)]
pub(crate) struct LaneReader {
    io: ReadHalf,
    deframer: Deframer,
    /// How much the next read makes room for.
    want: usize,
    /// A record that was read to look at it and is still to be handed out.
    kept: Option<(RecordType, Bytes)>,
    held: Option<Held>,
}

/// What a lane keeps for as long as it lives: its place among the tunnel's, and its count.
type Held = (OwnedSemaphorePermit, Gauge);

impl LaneReader {
    /// Reads what `opener` opens from `io`.
    pub(super) const fn new(io: ReadHalf, deframer: Deframer) -> Self {
        Self {
            io,
            deframer,
            want: READ_MIN,
            kept: None,
            held: None,
        }
    }

    /// The next record: its type, and its head and body. `None` is a TCP end between two records, which anyone on
    /// the path can forge: it says that the channel is gone, never that a stream ended.
    ///
    /// Cancel-safe: no record is lost when the future is dropped. A body keeps the buffer that it came in alive
    /// (up to 256 KiB, when data flows), so what is kept for long should be copied.
    pub(crate) async fn read(&mut self) -> Result<Option<(RecordType, Bytes)>, LaneError> {
        loop {
            if let Some(record) = self.read_ready()? {
                return Ok(Some(record));
            }
            if self.fill().await? == 0 {
                return if self.deframer.is_empty() {
                    Ok(None)
                } else {
                    Err(LaneError::Truncated)
                };
            }
        }
    }

    /// The next record, if it has already come: what a reader gathers into one write of its own.
    pub(crate) fn read_ready(&mut self) -> Result<Option<(RecordType, Bytes)>, RecordError> {
        match self.kept.take() {
            Some(record) => Ok(Some(record)),
            None => self.deframer.poll_record(),
        }
    }

    /// Hands `record` out again as the next one.
    pub(super) fn keep(&mut self, record: (RecordType, Bytes)) {
        self.kept = Some(record);
    }

    /// Keeps `held` until the lane is gone, whoever has it.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// Memory held by the buffer, in bytes.
    #[cfg(test)]
    pub(super) fn held(&mut self) -> usize {
        self.deframer.buffer_mut().capacity()
    }

    /// Reads once, as much as is there and `want` allows.
    async fn fill(&mut self) -> Result<usize, LaneError> {
        let Self {
            io, deframer, want, ..
        } = self;
        // A whole record must have room, or it would never become one.
        let missing = deframer.missing()?;
        poll_fn(|cx| {
            if io.poll_readable(cx)?.is_pending() {
                put_away(deframer, *want);
                return Poll::Pending;
            }
            let buffer = deframer.buffer_mut();
            let more = want.saturating_sub(buffer.len()).max(missing);
            if buffer.capacity() == 0 && more <= BLOCK {
                *buffer = BLOCKS.with_borrow_mut(|blocks| blocks.take(more));
            }
            buffer.reserve(more);
            let room = buffer.capacity() - buffer.len();
            match io.poll_read_buf(cx, buffer)? {
                Poll::Pending => {
                    put_away(deframer, *want);
                    Poll::Pending
                }
                Poll::Ready(read) => {
                    *want = next_want(*want, read, room);
                    Poll::Ready(Ok(read))
                }
            }
        })
        .await
    }
}

/// A silent lane holds no buffer: the next lane that reads has it, or, after bulk, the allocator.
fn put_away(deframer: &mut Deframer, want: usize) {
    let buffer = deframer.buffer_mut();
    if buffer.is_empty() && (1..=BLOCK).contains(&buffer.capacity()) && want <= BLOCK {
        let block = std::mem::take(buffer);
        BLOCKS.with_borrow_mut(|blocks| blocks.put_away(block));
    } else {
        deframer.release();
    }
}

thread_local! {
    /// 8 are more than a thread's lanes use at once: datagrams and messages are dealt with as they come.
    static BLOCKS: RefCell<Blocks> = const { RefCell::new(Blocks::new(BLOCK, 8)) };
}

/// What lanes share for reading anything but bulk: 64 KiB, some 40 full datagrams.
const BLOCK: usize = 64 * 1024;

/// How much to make room for after a read that filled `read` of `room`: fourfold while rooms are filled, half when
/// an eighth would have done, so that a bulk phase is at full size after three reads and game traffic never is.
fn next_want(want: usize, read: usize, room: usize) -> usize {
    if read == room {
        (want * 4).min(READ_MAX)
    } else if read < want / 8 {
        (want / 2).max(READ_MIN)
    } else {
        want
    }
}

/// Reads start with a page: some thirty datagrams of a game, or all of the control stream's usual messages.
const READ_MIN: usize = 4 * 1024;
/// 16 full records, as a bulk writer writes at once: a reader that is behind ends its reads between records, so that
/// no partial one has to be moved to the next buffer.
const READ_MAX: usize = 16 * (RECORD_BODY_MAX + RECORD_OVERHEAD);
