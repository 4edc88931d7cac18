//! The protocol without sockets, clock, tasks or randomness: every input is an argument, every output a value.

pub mod backoff;
pub mod datagram;
pub mod flow;
pub mod fragment;
pub mod handshake;
pub mod message;
pub mod proxy;
pub mod record;
pub mod redundancy;
pub mod session;
pub mod stream;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;
