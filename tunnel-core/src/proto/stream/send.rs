//! The sending half of a stream.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};

use crate::proto::stream::{
    bounds::{GRANT_MIN, STALLED_AFTER, WINDOW_MAX, WINDOW_MIN},
    misbehaved::StreamMisbehaved,
};

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

/// Least round trips that a round may take on the path's account: one to arrive, one for a repair, and one for the repair's repair
/// or for a queue.
const REPAIR: u32 = 3;
/// A stream whose window has grown gets at most a quarter of the free budget: with one stream, nearly 16 MiB.
const SHARE_PROVEN: u64 = 4;
/// A stream that has not proved its reader gets at most a 128th: 256 KiB until half of the budget is held.
const SHARE_NEW: u64 = 128;
