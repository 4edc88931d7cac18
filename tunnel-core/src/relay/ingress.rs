//! Public ports: where players come in.

mod front_end;
mod health;
pub(crate) mod open;
pub(crate) mod players;
pub(crate) mod replies;
mod room;
pub(crate) mod service;
mod shard;
pub(crate) mod tcp;
mod udp;
