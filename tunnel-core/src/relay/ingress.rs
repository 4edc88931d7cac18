//! Public ports: where players come in.

pub(crate) mod open;
pub(crate) mod replies;
mod room;
pub(crate) mod service;
mod shard;
pub(crate) mod tcp;
mod udp;
