//! Players' TCP connections: from a socket into a channel of the tunnel and back.
//!
//! A channel is a QUIC stream or a lane. A stream outlives its channel: when that breaks, or when another is better, the
//! stream goes on over the next one at the byte where it was (`docs/protocol.md` §6).

mod backlog;
mod budget;
mod channel;
mod downward;
mod handover;
mod liveness;
pub(crate) mod pump;
mod resumption;
mod state;
mod upward;

pub(crate) use budget::{Budget, MEMORY, Memory};
pub(crate) use channel::{Channel, ChannelError, Item};
#[cfg(test)]
pub(crate) use channel::{ChannelRx, ChannelTx};
pub(crate) use handover::{Flowing, NextChannel};
pub(crate) use resumption::{
    Carrier, Direction, Moved, RESUME_PATIENCE, Resumed, Resumption, StreamEnd, StreamKind,
};
