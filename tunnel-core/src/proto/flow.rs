//! The relay's table of one service's flows: which player is which [`FlowId`](crate::proto::datagram::FlowId), and for how long.
//!
//! A packet costs a look-up and touches one entry; nothing is allocated, and no flow has a timer of its own:
//! entries hang in lists by the time of their last packet, and by who makes room for whom. A packet moves its entry at
//! most once a second, and only the lists' ends are looked at.
//!
//! ```
//! use std::time::Instant;
//! use tunnel_core::{
//!     instance::FlowLimits,
//!     proto::{datagram::FlowId, flow::{FlowKey, FlowTable}},
//! };
//!
//! let mut next = 0;
//! let mut table = FlowTable::new(FlowLimits::default());
//! let key = FlowKey::new("192.0.2.1:50000".parse()?, "198.51.100.1".parse()?, 0);
//! let now = Instant::now();
//! let admitted = table.handle_player_packet(now, key, 100, || {
//!     next += 1;
//!     FlowId(next)
//! })?;
//! assert!(admitted.created && !admitted.flow.open_acknowledged);
//!
//! let flow = table.handle_reply(now, FlowId(1), 100)?;
//! assert!(flow.open_acknowledged);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod counts;
mod key;
mod list;
mod parked;
mod spare;
mod standing;
mod table;

pub use self::{
    counts::{FlowCap, FlowCounts, FlowDrop},
    key::FlowKey,
    parked::Parked,
    standing::{GRANULARITY, LIVE, PATIENCE, Rank, SETTLED},
    table::{Admitted, Flow, FlowTable, ReplyDrop, UNANSWERED, UNPROVED_FACTOR},
};
#[cfg(feature = "net")]
pub(crate) use self::{key::by_prefix, spare::spare_map};
