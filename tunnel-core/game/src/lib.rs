//! The status queries of game servers: A2S, Minecraft's two and Satisfactory's.
//!
//! Nothing here has a socket, a clock or randomness. Each protocol has four sides:
//!
//! - **ask and read**: a [`Query`] says which bytes to send, takes what comes, and ends with an [`Answer`];
//! - **tell apart**: [`Game::classify`] tells a query from a log-in and from everything else, by the first bytes;
//! - **answer**: a [`Responder`] answers queries over UDP, a [`minecraft::Conversation`] those over TCP, and log-ins with
//!   them, in the place of a server that is away;
//! - **as it is on the wire**: [`a2s::Info`] and the functions of each protocol's module.
//!
//! What comes from a server or a player is hostile: every length is checked before memory is taken for it, and nothing is
//! kept past the bounds that each module names. What is answered over UDP to an address that has proved nothing is at most
//! five times what it sent (see [`Responder`]).
//!
//! ```
//! use adit_game::{Answer, Game, Query, Responder};
//!
//! # fn main() -> Result<(), adit_game::ReadError> {
//! let mut query = Query::new(Game::Bedrock, "127.0.0.1", 19132, 7);
//! let ping = query.poll_transmit().unwrap_or_default();
//!
//! let asleep = Answer { name: "asleep: join to start".into(), ..Answer::default() };
//! let responder = Responder::new(Game::Bedrock, &[1; 32]);
//! let player = "192.0.2.1:50000".parse().expect("an address");
//! let pong = responder.respond(player, 0, &ping, &asleep).expect("it was asked");
//!
//! assert_eq!(query.handle_input(&pong)?.expect("one answer").name, "asleep: join to start");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod a2s;
mod answer;
pub mod bedrock;
mod classify;
mod cursor;
mod error;
mod incoming;
mod kind;
pub mod minecraft;
mod query;
mod respond;
pub mod satisfactory;

pub use self::{
    answer::{Answer, TEXT_MAX},
    error::ReadError,
    incoming::Incoming,
    kind::{Game, Transport, UnknownGame},
    query::Query,
    respond::Responder,
};

#[cfg(test)]
mod testing;
