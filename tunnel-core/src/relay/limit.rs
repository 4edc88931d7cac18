//! What the relay's limits are kept by: tables of who holds how much, without sockets.

pub(crate) mod bucket;
pub(crate) mod pending;
pub(crate) mod shares;
