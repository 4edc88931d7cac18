//! A player's stream: from its socket into a channel of the tunnel and back, over one channel after another.

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
