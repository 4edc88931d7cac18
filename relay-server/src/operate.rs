//! What an operator does with a relay: use cases, whoever asks for them. The command line is one who asks.

pub(crate) mod clients;
pub(crate) mod invite;
pub(crate) mod tokens;
