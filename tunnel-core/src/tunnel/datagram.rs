//! Players' UDP packets: into the tunnel and out of it.
//!
//! A datagram is never retransmitted. It is cut to what the path carries, waits in a queue where a flood crowds out only
//! itself, is dropped when it has grown too old, and is protected by copies and repairs where its service asks for that.

mod fair;
mod inbound;
mod lane_queues;
mod limits;
pub(crate) mod meter;
mod protection;
mod quic_queue;
mod reader;
mod sender;

pub(crate) use fair::{Fair, FairKey};
pub(crate) use inbound::{Inbound, Reassembled};
pub(crate) use lane_queues::{LaneQueue, LaneQueues};
pub(crate) use limits::QueueLimits;
pub(crate) use protection::{Paths, Source};
pub(crate) use reader::{BATCH, DatagramHandler, read_quic_datagrams};
pub(crate) use sender::DatagramSender;
