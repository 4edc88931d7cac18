//! Lanes at work.

mod carry;
mod pool;
mod watch;

pub(crate) use carry::{Granted, carry, probe};
pub(crate) use pool::{IDLE_PING, IdleLanes, Lane, Watched};
pub(crate) use watch::LaneWatch;
