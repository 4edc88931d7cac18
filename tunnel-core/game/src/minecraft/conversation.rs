//! Answers a connection in the place of a server.

use crate::{
    answer::{Answer, cut, plain},
    error::ReadError,
    minecraft::{
        first::{Handshake, Next},
        frame::{Packet, packet, put_string, string},
        legacy::Legacy,
        status,
    },
};

/// A connection that is answered in the place of a server: a query with a status, a log-in with a text, after which it is
/// over. At most 5 KiB of what the player sends are kept.
#[derive(Debug)]
pub struct Conversation {
    answer: Answer,
    text: String,
    buffer: Vec<u8>,
    out: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Handshake,
    /// A client of this protocol asks.
    Status {
        protocol: i32,
        is_answered: bool,
    },
    Login,
    /// Nothing more is read.
    Over {
        player: Option<String>,
    },
}

impl Conversation {
    /// A connection that has not said anything. Queries are answered with `answer`, log-ins with `text`.
    pub fn new(answer: Answer, text: &str) -> Self {
        Self {
            answer,
            text: cut(text, LOGIN_TEXT_MAX).into(),
            buffer: Vec::new(),
            out: Vec::new(),
            state: State::Handshake,
        }
    }

    /// The next bytes of the player came. After an error there is nothing more to say.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), ReadError> {
        // Packet by packet: what a player sends at once is bounded like what it sends bit by bit.
        for piece in input.chunks(PACKET_MAX) {
            if self.is_over() {
                break;
            }
            self.buffer.extend_from_slice(piece);
            while self.step()? {}
        }
        Ok(())
    }

    /// What to send next, if anything.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out))
    }

    /// Whether the connection is to be closed once all is sent.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// The name of the player who wanted to log in, as it says.
    pub fn login(&self) -> Option<&str> {
        match &self.state {
            State::Over { player } => player.as_deref(),
            _ => None,
        }
    }

    /// Deals with one packet. Returns whether there was one.
    fn step(&mut self) -> Result<bool, ReadError> {
        let taken = match self.state {
            State::Handshake => self.read_handshake()?,
            State::Status {
                protocol,
                is_answered,
            } => self.read_query(protocol, is_answered)?,
            State::Login => self.read_login()?,
            State::Over { .. } => 0,
        };
        if self.is_over() {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..taken);
        }
        Ok(taken > 0)
    }

    fn read_handshake(&mut self) -> Result<usize, ReadError> {
        if let Some(legacy) = Legacy::of(&self.buffer) {
            self.out = legacy.answer(&self.answer);
            self.state = State::Over { player: None };
            return Ok(0);
        }
        let Some(handshake) = Handshake::read(&self.buffer)? else {
            return Ok(0);
        };
        self.state = match handshake.next {
            Next::Status => State::Status {
                protocol: handshake.protocol,
                is_answered: false,
            },
            Next::Login => State::Login,
        };
        Ok(handshake.length)
    }

    fn read_query(&mut self, protocol: i32, is_answered: bool) -> Result<usize, ReadError> {
        const WHAT: &str = "status query";
        let Some(asked) = Packet::first(&self.buffer, QUERY_MAX, WHAT)? else {
            return Ok(0);
        };
        let length = asked.length;
        match (asked.id, asked.body.rest()) {
            (0, []) if !is_answered => {
                let mut body = Vec::new();
                put_string(&mut body, &status::write(&self.answer, protocol));
                self.out.extend(packet(0, &body));
                self.state = State::Status {
                    protocol,
                    is_answered: true,
                };
            }
            (1, time) if time.len() == 8 => {
                self.out.extend(packet(1, time));
                self.state = State::Over { player: None };
            }
            _ => return Err(ReadError::Unexpected(WHAT)),
        }
        Ok(length)
    }

    fn read_login(&mut self) -> Result<usize, ReadError> {
        const WHAT: &str = "log-in";
        let Some(start) = Packet::first(&self.buffer, PACKET_MAX, WHAT)? else {
            return Ok(0);
        };
        if start.id != 0 {
            return Err(ReadError::Unexpected(WHAT));
        }
        let mut body = start.body;
        let player = plain(&string(&mut body, NAME_MAX, WHAT)?);
        let mut body = Vec::new();
        put_string(&mut body, &status::text(&self.text).to_string());
        self.out.extend(packet(0, &body));
        self.state = State::Over {
            player: Some(player),
        };
        Ok(0)
    }
}

/// Longest text for a log-in, in bytes: a screen of it.
const LOGIN_TEXT_MAX: usize = 2048;
/// Longest name of a player, in characters.
const NAME_MAX: usize = 16;
/// Longest packet that is read, in bytes: a log-in of 1.19 brings a key of 600.
const PACKET_MAX: usize = 2048;
/// A query is one byte, a ping nine.
const QUERY_MAX: usize = 16;
