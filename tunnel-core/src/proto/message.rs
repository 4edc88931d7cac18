//! The messages of the control stream (`docs/protocol.md` §5.2): one table, [`Message`], and a [`Decoder`].

mod decoder;
mod service;
mod table;
mod values;

pub use decoder::{Decoder, MAX_MESSAGE, MessageError};
pub use service::{ServiceDeclaration, ServiceId};
pub use table::Message;
pub use values::{Code, HealthWord, IdleLanes, Revision, Text};

#[cfg(test)]
mod tests;
