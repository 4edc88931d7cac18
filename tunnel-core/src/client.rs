//! The client: it holds a tunnel to a relay and connects the relay's players to local targets.
//!
//! [`Client::builder`] starts one, which runs until it is shut down or dropped; its handle changes what is exposed
//! and tells what has become of it. A client dials the relay for ever, over QUIC where UDP gets through and over TCP where it
//! does not, and goes over to a better path without losing a player.

mod addresses;
mod builder;
mod command;
mod connector;
mod dial;
mod driver;
mod egress;
mod enrol;
mod handle;
mod health;
mod lanes;
mod limits;
mod machine;
mod mailbox;
mod policy;
mod ports;
mod race;
mod receipts;
mod resume;
mod room;
mod serve;
mod shared;
mod source;
mod status;
mod streams;
mod targets;
mod tunnel;
mod watch;

pub use builder::{ClientBuilder, ClientIdentity, ClientStartError};
pub use enrol::{EnrolError, Enrolled, enrol, enrol_mem};
pub use handle::Client;
pub use limits::ClientLimits;
pub use machine::source_problems;
pub use receipts::{Receipt, Unsettled};
pub use status::{ClientEnd, ClientStatus, NotBound};

pub use crate::proto::session::client::InstanceState;

#[cfg(test)]
mod tests;
