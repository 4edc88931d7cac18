//! The node's side of players: connections and sockets to targets.

pub(crate) mod tcp;
pub(crate) mod udp;
