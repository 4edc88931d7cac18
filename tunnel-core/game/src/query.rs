//! Asks a server how it is.

use crate::{a2s, answer::Answer, bedrock, error::ReadError, kind::Game, minecraft, satisfactory};

/// One question to a server, up to its answer.
///
/// Send what [`poll_transmit`](Self::poll_transmit) yields, give what comes to [`handle_input`](Self::handle_input), and
/// again, until there is an answer or an error. Over UDP a question or its answer may be lost:
/// [`handle_silence`](Self::handle_silence) asks again.
#[derive(Debug)]
pub struct Query(State);

#[derive(Debug)]
enum State {
    A2s(a2s::Query),
    Minecraft(minecraft::Query),
    Bedrock(bedrock::Query),
    Satisfactory(satisfactory::Query),
}

impl Query {
    /// A question to the server that players know by this name and port. `nonce` is 64 random bits, which the answer
    /// repeats where the protocol has that.
    pub fn new(game: Game, host: &str, port: u16, nonce: u64) -> Self {
        Self(match game {
            Game::A2s => State::A2s(a2s::Query::new()),
            Game::Minecraft => State::Minecraft(minecraft::Query::new(host, port)),
            Game::Bedrock => State::Bedrock(bedrock::Query::new(nonce)),
            Game::Satisfactory => State::Satisfactory(satisfactory::Query::new(nonce)),
        })
    }

    /// What to send next, if anything.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        match &mut self.0 {
            State::A2s(query) => query.poll_transmit(),
            State::Minecraft(query) => query.poll_transmit(),
            State::Bedrock(query) => query.poll_transmit(),
            State::Satisfactory(query) => query.poll_transmit(),
        }
    }

    /// A datagram, or the next bytes of the connection, came. `None` until the answer is whole; what answers another
    /// question is passed over.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Option<Answer>, ReadError> {
        match &mut self.0 {
            State::A2s(query) => query.handle_input(input),
            State::Minecraft(query) => query.handle_input(input),
            State::Bedrock(query) => query.handle_input(input),
            State::Satisfactory(query) => query.handle_input(input),
        }
    }

    /// Nothing came for a while: the last datagram is sent again. On a connection nothing is.
    pub fn handle_silence(&mut self) {
        match &mut self.0 {
            State::A2s(query) => query.handle_silence(),
            State::Minecraft(_) => {}
            State::Bedrock(query) => query.handle_silence(),
            State::Satisfactory(query) => query.handle_silence(),
        }
    }
}
