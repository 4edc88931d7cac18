//! Valve's server queries (A2S), over UDP.
//!
//! Every datagram begins with `FF FF FF FF` and its type, or with `FE FF FF FF` if it is a piece of a longer one. INFO is asked
//! with 25 bytes; since December 2020 most servers answer first with a challenge, and the question is repeated with it.

mod challenge;
mod info;
mod query;
mod respond;
mod split;
mod wire;

use self::wire::{
    CHALLENGE_LENGTH, CONNECT, CONNECT_CHALLENGE, GET_CHALLENGE, INFO, INFO_TEXT, PING, PLAYER,
    RULES,
};
pub use self::{
    challenge::Challenges,
    info::{INFO_MAX, Info},
    query::Query,
    respond::respond,
};
use crate::incoming::Incoming;

/// What a datagram is. The handshake of Source's own clients is a log-in; other games have protocols of their own.
pub fn classify(datagram: &[u8]) -> Incoming {
    match datagram {
        [0xff, 0xff, 0xff, 0xff, kind, body @ ..] => match *kind {
            INFO if body.starts_with(INFO_TEXT) => Incoming::Status,
            PLAYER | RULES if body.len() <= CHALLENGE_LENGTH => Incoming::Status,
            PING | GET_CHALLENGE => Incoming::Status,
            CONNECT_CHALLENGE | CONNECT => Incoming::Login,
            _ => Incoming::Other,
        },
        _ => Incoming::Other,
    }
}

#[cfg(test)]
mod tests;
