//! The control conversation of a tunnel: who is welcome, which instances are bound, and whether the other side lives.
//!
//! Both sides are driven alike: `handle_*` takes what happened, `poll_message` and `poll_event` yield what to send and
//! what to do, `poll_timeout` says when `handle_timeout` is due.

pub mod client;
mod health;
mod heartbeat;
mod misbehaved;
pub mod relay;

pub use self::{
    heartbeat::{DEAD_AFTER, HEARTBEAT, Liveness, SUSPECT_GRACE},
    misbehaved::SessionMisbehaved,
};

#[cfg(test)]
mod tests;
