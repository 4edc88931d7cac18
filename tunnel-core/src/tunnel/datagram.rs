//! A player's datagrams: into the tunnel and out of it.

mod fair;
mod inbound;
pub(crate) mod meter;
mod protection;
mod reader;
mod sender;

pub(crate) use fair::{Fair, Whose};
pub(crate) use inbound::{Inbound, Reassembled};
pub(crate) use protection::{Paths, Source};
pub(crate) use reader::{BATCH, DatagramHandler, read_quic_datagrams};
pub(crate) use sender::{DatagramSender, LaneQueue, LaneQueues, QueueLimits};
