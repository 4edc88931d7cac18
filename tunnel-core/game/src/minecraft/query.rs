//! Asks for the status.

use crate::{
    answer::Answer,
    error::ReadError,
    minecraft::{
        frame::{Packet, packet, put_string, put_varint, string},
        status,
    },
};

/// A query for the status, up to its answer. At most 96 KiB of it are kept.
#[derive(Debug)]
pub struct Query {
    question: Option<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Query {
    /// A query that has not been sent, to the server that players know by this name and port.
    pub fn new(host: &str, port: u16) -> Self {
        let mut handshake = Vec::new();
        put_varint(&mut handshake, ANY_PROTOCOL.cast_unsigned());
        put_string(&mut handshake, host);
        handshake.extend_from_slice(&port.to_be_bytes());
        put_varint(&mut handshake, 1);
        let question = [packet(0, &handshake), packet(0, &[])].concat();
        Self {
            question: Some(question),
            buffer: Vec::new(),
        }
    }

    /// The bytes to send next, if any.
    pub const fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.question.take()
    }

    /// The next bytes of the connection came. `None` until the answer is whole.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Option<Answer>, ReadError> {
        // What is behind the packet is not needed, and what is too long is refused by its length.
        let room = (STATUS_MAX + 8).saturating_sub(self.buffer.len());
        self.buffer
            .extend_from_slice(&input[..input.len().min(room)]);
        let Some(packet) = Packet::first(&self.buffer, STATUS_MAX, WHAT)? else {
            return Ok(None);
        };
        if packet.id != 0 {
            return Err(ReadError::Unexpected(WHAT));
        }
        let mut body = packet.body;
        let json = string(&mut body, JSON_MAX, WHAT)?;
        status::read(&json).map(Some)
    }
}

const WHAT: &str = "status";
/// The protocol of whoever has none: servers answer to any.
const ANY_PROTOCOL: i32 = -1;
/// Longest JSON, in characters, as clients read it.
const JSON_MAX: usize = 32_767;
/// Longest answer, in bytes.
const STATUS_MAX: usize = 1 + 3 + 3 * JSON_MAX;
