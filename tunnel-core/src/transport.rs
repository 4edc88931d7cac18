//! The transports a tunnel runs on.

pub(crate) mod admission;
pub(crate) mod blocks;
mod kind;
pub(crate) mod lane;
pub mod mem;
mod psk;
pub(crate) mod quic;

pub use kind::Transport;
pub(crate) use psk::PskSource;
