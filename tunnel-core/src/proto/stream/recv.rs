//! The receiving half of a stream.

use crate::proto::stream::{
    bounds::{ACK_EVERY, WINDOW_MAX},
    misbehaved::StreamMisbehaved,
};

/// The receiving half: what came, and what of it is with the socket.
#[derive(Debug, Default)]
pub struct RecvHalf {
    received: u64,
    delivered: u64,
    acked: u64,
    fin: Option<u64>,
}

impl RecvHalf {
    /// A half at offset 0.
    pub const fn new() -> Self {
        Self {
            received: 0,
            delivered: 0,
            acked: 0,
            fin: None,
        }
    }

    /// Bytes came that follow on the last. What waits for the socket is bounded by what the sender's window may be.
    pub fn handle_data(&mut self, length: u64) -> Result<(), StreamMisbehaved> {
        if self.fin.is_some() {
            return Err(StreamMisbehaved::DataAfterFin);
        }
        let waiting = (self.received - self.delivered).saturating_add(length);
        if waiting > WINDOW_MAX {
            // Not counted: what is refused does not wait.
            return Err(StreamMisbehaved::WindowExceeded { waiting });
        }
        self.received += length;
        Ok(())
    }

    /// The other side's socket has no more to send.
    pub const fn handle_fin(&mut self, offset: u64) -> Result<(), StreamMisbehaved> {
        if offset != self.received {
            return Err(StreamMisbehaved::WrongFinalOffset {
                offset,
                received: self.received,
            });
        }
        self.fin = Some(offset);
        Ok(())
    }

    /// The socket took `length` bytes.
    pub const fn handle_delivered(&mut self, length: u64) {
        self.delivered += length;
    }

    /// The stream's channel is gone, and with it perhaps acknowledgements: on the next one they are owed anew.
    pub const fn handle_channel_lost(&mut self) {
        self.acked = 0;
    }

    /// Bytes that wait for the socket.
    pub const fn waiting(&self) -> u64 {
        self.received - self.delivered
    }

    /// Every byte below came: what an ATTACH says.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Whether the sender has ended and the socket has everything.
    pub fn is_complete(&self) -> bool {
        self.fin == Some(self.delivered)
    }

    /// Whether the sender has ended.
    pub const fn is_finished(&self) -> bool {
        self.fin.is_some()
    }

    /// Whether an acknowledgement is owed at all, to be sent within [`ACK_DELAY`](crate::proto::stream::ACK_DELAY).
    pub const fn owes_ack(&self) -> bool {
        self.delivered > self.acked
    }

    /// Whether so much was delivered that the sender should know now.
    pub fn owes_ack_now(&self) -> bool {
        self.delivered - self.acked >= ACK_EVERY || (self.is_complete() && self.owes_ack())
    }
    /// The offset to acknowledge, if that says something new.
    pub const fn poll_ack(&mut self) -> Option<u64> {
        if !self.owes_ack() {
            return None;
        }
        self.acked = self.delivered;
        Some(self.delivered)
    }
}
