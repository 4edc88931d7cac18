//! Cuts the bytes of a control stream into messages.

use bytes::{Buf, BytesMut};
use zeroize::Zeroize;

use crate::proto::{
    message::table::Message,
    wire::{Reader, WireError},
};

/// Longest body of a control message, in bytes. A DECLARE of 64 services with the longest names takes 8 KiB.
pub const MAX_MESSAGE: u64 = 65_536;

/// Makes messages of the control stream's bytes, however they are cut.
///
/// After [`handle_input`](Self::handle_input) call [`poll_message`](Self::poll_message) until it yields `None`:
/// then no more than one message and one piece of input are ever held.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(super) buffer: BytesMut,
    /// What is still to come of a message of unknown type.
    skip: usize,
    failed: Option<MessageError>,
}

impl Decoder {
    /// A decoder at the start of a control stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. After an error they are thrown away.
    pub fn handle_input(&mut self, input: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let skipped = self.skip.min(input.len());
        self.skip -= skipped;
        self.buffer
            .extend_from_slice(input.get(skipped..).unwrap_or_default());
    }

    /// The next message, or `None` until more input came. An error is final: the stream has lost its place.
    pub fn poll_message(&mut self) -> Result<Option<Message>, MessageError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.next().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = BytesMut::new();
        })
    }

    fn next(&mut self) -> Result<Option<Message>, MessageError> {
        loop {
            let mut reader = Reader::new(&self.buffer);
            let (Ok(number), Ok(length)) = (reader.varint(), reader.varint()) else {
                return Ok(None);
            };
            if length > MAX_MESSAGE {
                return Err(MessageError::TooLong { length });
            }
            let head = self.buffer.len() - reader.remaining();
            let total = head + length as usize;
            let Some(message) = Message::name_of(number) else {
                let held = total.min(self.buffer.len());
                self.buffer.advance(held);
                self.skip = total - held;
                continue;
            };
            let Ok(body) = reader.bytes(length as usize) else {
                return Ok(None);
            };
            let decoded = Message::decode_fields(number, body)
                .map_err(|error| MessageError::Malformed { message, error })?;
            // WELCOME brings a secret.
            self.buffer[..total].zeroize();
            self.buffer.advance(total);
            return Ok(decoded);
        }
    }
}

/// Why the control stream cannot go on. The peer is to blame: close with [`Code::ProtocolError`](crate::proto::message::Code::ProtocolError).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A message longer than any.
    #[error("a control message of {length} bytes where at most {MAX_MESSAGE} are allowed")]
    TooLong {
        /// What the peer promised.
        length: u64,
    },
    /// A known message whose fields are not valid.
    #[error("control message {message}: {error}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
}
