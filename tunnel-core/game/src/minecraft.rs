//! Minecraft, Java edition: the server list ping, over TCP, and the first packets of a log-in.
//!
//! A client says first what it wants (handshake), then asks for the status or logs in. Clients before 1.7 send a single packet of
//! another protocol.

mod conversation;
mod first;
mod frame;
mod legacy;
mod query;
mod status;

pub use self::{conversation::Conversation, first::classify, query::Query};

#[cfg(test)]
mod tests;
