//! Lanes of a tunnel: TCP connections with records of their own, beside QUIC or in its place.
//!
//! A lane stands idle in the relay's pool until a stream takes it, or carries datagrams and control where there is no QUIC.

mod carry;
mod pool;
mod watch;

pub(crate) use carry::{Granted, carry, probe};
pub(crate) use pool::{IDLE_PING, IdleLanes, Lane, Watched};
pub(crate) use watch::LaneWatch;
