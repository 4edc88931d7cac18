//! A stream: one player's TCP connection, as offsets, acknowledgements and bounds. Its bytes travel elsewhere.
//!
//! A stream is its own thing, not its channel's: the sender keeps what the other side has not handed to its socket
//! yet, so that the stream can go on over another channel, in order, with nothing lost or doubled.

pub mod frame;
pub mod handover;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

/// The sending half: what was sent, what of it is acknowledged, and how much more may be sent.
#[derive(Debug)]
pub struct SendHalf {
    /// Offset of the next byte to send.
    sent: u64,
    /// Every byte below is with the other side's socket.
    acked: u64,
    /// The bytes from `acked` to `sent`, by reference.
    tail: VecDeque<Bytes>,
    fin: bool,
    window: u64,
    round: Round,
    /// When an acknowledgement last said something new, or data went out with nothing unacknowledged.
    progress: Instant,
}

/// One measurement of rate and round trip: from a byte's sending to its acknowledgement.
#[derive(Debug)]
struct Round {
    /// Ends when this offset is acknowledged; `None` while nothing is under way.
    end: Option<u64>,
    started: Instant,
    acked_at_start: u64,
    min_rtt: Option<Duration>,
}

impl SendHalf {
    /// A half at offset 0 with the smallest window.
    pub const fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            acked: 0,
            tail: VecDeque::new(),
            fin: false,
            window: WINDOW_MIN,
            round: Round {
                end: None,
                started: now,
                acked_at_start: 0,
                min_rtt: None,
            },
            progress: now,
        }
    }

    /// How many bytes may be sent now, if the tunnel's budget has `free` bytes left.
    ///
    /// A stream gets a share of what is free, so that however many readers stall, budget is left for the next
    /// (dynamic thresholds, Choudhury and Hahne 1998): a large share if its reader has proved fast, a small one
    /// before that, and never less than [`GRANT_MIN`] while anything is free.
    pub fn allowance(&self, free: u64) -> u64 {
        let unacked = self.unacked();
        let share = if self.window > WINDOW_MIN {
            SHARE_PROVEN
        } else {
            SHARE_NEW
        };
        let bound = self.window.min(((free + unacked) / share).max(GRANT_MIN));
        bound.saturating_sub(unacked).min(free)
    }

    /// Whether the other side's reader has taken nothing for so long that what it holds may be needed by others.
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.unacked() > 0 && now.saturating_duration_since(self.progress) >= STALLED_AFTER
    }

    /// Bytes sent and not acknowledged, which the tail holds.
    pub const fn unacked(&self) -> u64 {
        self.sent - self.acked
    }

    /// Offset of the next byte.
    pub const fn offset(&self) -> u64 {
        self.sent
    }

    /// The present window in bytes, 256 KiB to 16 MiB.
    pub const fn window(&self) -> u64 {
        self.window
    }

    /// Bytes were given to the channel.
    pub fn handle_sent(&mut self, now: Instant, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if self.unacked() == 0 {
            self.progress = now;
        }
        self.sent += data.len() as u64;
        self.tail.push_back(data);
        if self.round.end.is_none() {
            self.round.end = Some(self.sent);
            self.round.started = now;
            self.round.acked_at_start = self.acked;
        }
    }

    /// The other side has handed every byte below `offset` to its socket. Returns how many bytes that releases.
    pub fn handle_ack(&mut self, now: Instant, offset: u64) -> Result<u64, StreamMisbehaved> {
        if offset > self.sent {
            return Err(StreamMisbehaved::AckBeyondSent {
                offset,
                sent: self.sent,
            });
        }
        // Late or doubled: an older acknowledgement says nothing new.
        let released = offset.saturating_sub(self.acked);
        let mut left = released;
        while left > 0 {
            let Some(front) = self.tail.front_mut() else {
                break;
            };
            let length = front.len() as u64;
            if length <= left {
                left -= length;
                self.tail.pop_front();
            } else {
                front.advance(left as usize);
                left = 0;
            }
        }
        if self.tail.is_empty() {
            // An idle stream holds nothing.
            self.tail = VecDeque::new();
        }
        if released > 0 {
            self.progress = now;
        }
        self.acked += released;
        self.end_round(now);
        Ok(released)
    }

    /// The socket has no more to send. Returns the final offset.
    pub const fn handle_fin(&mut self) -> u64 {
        self.fin = true;
        self.sent
    }

    /// Whether the end was announced.
    pub const fn is_finished(&self) -> bool {
        self.fin
    }

    /// What must be sent again on a channel whose other side has received every byte below `offset`.
    pub fn resend_from(&self, offset: u64) -> Result<Vec<Bytes>, StreamMisbehaved> {
        if offset > self.sent {
            return Err(StreamMisbehaved::AckBeyondSent {
                offset,
                sent: self.sent,
            });
        }
        let mut skip = offset
            .checked_sub(self.acked)
            .ok_or(StreamMisbehaved::Forgotten {
                offset,
                acked: self.acked,
            })?;
        let mut again = Vec::with_capacity(self.tail.len());
        for piece in &self.tail {
            let length = piece.len() as u64;
            if skip >= length {
                skip -= length;
            } else {
                again.push(piece.slice(skip as usize..));
                skip = 0;
            }
        }
        Ok(again)
    }

    /// At the end of a round the window follows the bandwidth-delay product: twice rate × round trip, so
    /// that a faster path is found, and a little for what acknowledgements are late. A round trip longer than [`REPAIR`]
    /// of the least is its reader's, for whom no more is kept ready; a shorter one may be the path's, on which what was
    /// lost is repaired one round trip later or two while everything behind it waits: of that the window must not be
    /// the limit, or it would follow its own shadow down.
    fn end_round(&mut self, now: Instant) {
        let Some(end) = self.round.end else { return };
        if self.acked < end {
            return;
        }
        // A clock that stands still (or jumps back) says nothing about the rate.
        let rtt = now
            .saturating_duration_since(self.round.started)
            .max(Duration::from_micros(10));
        let min_rtt = self.round.min_rtt.map_or(rtt, |least| least.min(rtt));
        self.round.min_rtt = Some(min_rtt);
        let delivered = (self.acked - self.round.acked_at_start) as f64;
        let of_the_path = rtt.min(min_rtt * REPAIR);
        let product = delivered * of_the_path.as_secs_f64() / rtt.as_secs_f64();
        self.window = ((2.0 * product) as u64 + WINDOW_MIN).clamp(WINDOW_MIN, WINDOW_MAX);
        // The next one begins with the next byte sent: only its own round trip is a round trip.
        self.round.end = None;
    }
}

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

    /// Whether an acknowledgement is owed at all, to be sent within [`ACK_DELAY`].
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

/// What a peer did wrong on a stream; it ends the stream, not the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamMisbehaved {
    /// Acknowledged what was never sent.
    #[error("the peer acknowledged offset {offset}, but only {sent} were sent")]
    AckBeyondSent {
        /// What it acknowledged.
        offset: u64,
        /// What was sent.
        sent: u64,
    },
    /// Wants bytes again that it had acknowledged.
    #[error("the peer asks for offset {offset} again, but had acknowledged {acked}")]
    Forgotten {
        /// What it asks for.
        offset: u64,
        /// What it had acknowledged.
        acked: u64,
    },
    /// Sent data after the end.
    #[error("the peer sent data after the stream's end")]
    DataAfterFin,
    /// Sent more than any window allows.
    #[error("the peer sent {waiting} bytes ahead of what was taken")]
    WindowExceeded {
        /// How many wait.
        waiting: u64,
    },
    /// Left the channel at another offset than it had sent.
    #[error("the peer left the channel at offset {offset}, but sent {received}")]
    WrongMoveOffset {
        /// What it said.
        offset: u64,
        /// What came.
        received: u64,
    },
    /// Left a channel that it had left before.
    #[error("the peer left the channel twice")]
    MovedTwice,
    /// Left a channel though no other was named by this side.
    #[error("the peer left the channel, and no other was named")]
    MovedUnasked,
    /// Ended at another offset than it had sent.
    #[error("the peer ended the stream at offset {offset}, but sent {received}")]
    WrongFinalOffset {
        /// What it said.
        offset: u64,
        /// What came.
        received: u64,
    },
}

/// Smallest window: 256 KiB, one bulk write of a lane, and 50 Mbit/s at 40 ms before the first measurement.
pub const WINDOW_MIN: u64 = 256 * 1024;
/// Largest window: 16 MiB carries 1 Gbit/s at 130 ms.
pub const WINDOW_MAX: u64 = 16 * 1024 * 1024;
/// Least round trips that a round may take on the path's account: one to arrive, one for a repair, and one for the repair's repair
/// or for a queue.
const REPAIR: u32 = 3;
/// All that the streams of one tunnel may hold: 60 MiB, with framing within the 64 MiB that QUIC's own window grants.
pub const TUNNEL_BUDGET: u64 = 60 * 1024 * 1024;
/// An acknowledgement is sent after so many bytes at the latest: a quarter of the smallest window.
pub const ACK_EVERY: u64 = 64 * 1024;
/// An acknowledgement is sent after so long at the latest.
pub const ACK_DELAY: Duration = Duration::from_millis(100);
/// A stream whose window has grown gets at most a quarter of the free budget: with one stream, nearly 16 MiB.
const SHARE_PROVEN: u64 = 4;
/// A stream that has not proved its reader gets at most a 128th: 256 KiB until half of the budget is held.
const SHARE_NEW: u64 = 128;
/// What every stream gets while anything is free: 16 KiB, so that talk goes on beside 500 stalled downloads.
pub const GRANT_MIN: u64 = 16 * 1024;
/// A reader that takes nothing for a minute while the budget is short has to make room: players do not pause that long.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
