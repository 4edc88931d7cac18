//! A stream: one player's TCP connection, as offsets, acknowledgements and bounds. Its bytes travel elsewhere.
//!
//! A stream is its own thing, not its channel's: the sender keeps what the other side has not handed to its socket
//! yet, so that the stream can go on over another channel, in order, with nothing lost or doubled.

mod bounds;
pub mod frame;
pub mod handover;
mod misbehaved;
mod recv;
mod send;

pub use self::{
    bounds::{
        ACK_DELAY, ACK_EVERY, GRANT_MIN, STALLED_AFTER, TUNNEL_BUDGET, WINDOW_MAX, WINDOW_MIN,
    },
    misbehaved::StreamMisbehaved,
    recv::RecvHalf,
    send::SendHalf,
};

#[cfg(test)]
mod tests;
