//! Lanes at work.

mod carry;
mod watch;

pub(crate) use carry::{Granted, IDLE_PING, IdleLanes, Lane, Watched, carry, probe};
pub(crate) use watch::{LaneWatch, gone};
