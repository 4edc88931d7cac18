//! Lane records: what keeps a lane's TCP connection secret and whole (docs/protocol.md §4).
//!
//! ```text
//! length (2) | AEAD( type (1) | head (0–15) | body (0–16,384) ) | tag (16)
//! ```
//!
//! Each direction has its own secret, a key from it, and a counter for a nonce. A record that was cut, flipped,
//! replayed, swapped with another or sent back to its author does not open, and nothing opens after it.

mod cipher;
mod format;

use std::{fmt, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use self::{
    cipher::{Key, NONCE_LEN},
    format::{LENGTH_LEN, LENGTH_MAX, LENGTH_MIN, TAG_LEN, TYPE_LEN},
};
use super::handshake::{Secret, Suite, keys::expand};

pub use self::format::{
    FrameType, RECORD_BODY_MAX, RECORD_HEAD_MAX, RECORD_MAX, RECORD_OVERHEAD, RecordError,
    RecordType,
};

/// Which end of a lane this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened it.
    Client,
    /// The end that accepted it.
    Relay,
}

/// Both directions of a lane, seen from one end.
pub fn directions(
    suite: Suite,
    lane_secret: &Secret,
    role: Role,
) -> Result<(Sealer, Opener), RecordError> {
    directions_with(suite, lane_secret, role, GENERATION)
}

/// [`directions`] that rekey after a given number of records.
pub(crate) fn directions_with(
    suite: Suite,
    lane_secret: &Secret,
    role: Role,
    generation: u64,
) -> Result<(Sealer, Opener), RecordError> {
    let (client, relay) = (
        expand(lane_secret, b"client"),
        expand(lane_secret, b"relay"),
    );
    let (ours, theirs) = match role {
        Role::Client => (client, relay),
        Role::Relay => (relay, client),
    };
    Ok((
        Sealer(Generations::new(suite, ours, generation)?),
        Opener {
            generations: Generations::new(suite, theirs, generation)?,
            broken: false,
        },
    ))
}

/// Makes the records of one direction.
#[derive(Debug)]
pub struct Sealer(Generations);

impl Sealer {
    /// The direction that `secret` protects, from its first record on.
    pub fn new(suite: Suite, secret: Secret) -> Result<Self, RecordError> {
        Generations::new(suite, secret, GENERATION).map(Self)
    }

    /// Appends one record to `out`. `head` goes before `body`, so that a frame's number need not be copied
    /// together with its bytes. On an error `out` is as it was.
    pub fn seal_into(
        &mut self,
        out: &mut BytesMut,
        kind: RecordType,
        head: &[u8],
        body: &[u8],
    ) -> Result<(), RecordError> {
        if head.len() > RECORD_HEAD_MAX || body.len() > RECORD_BODY_MAX {
            return Err(RecordError::TooLongToSend(head.len(), body.len()));
        }
        let plaintext_len = TYPE_LEN + head.len() + body.len();
        // Both were bounded above: the length is at most 16,416.
        let length = ((plaintext_len + TAG_LEN) as u16).to_be_bytes();
        let nonce = self.0.advance()?;
        let start = out.len();
        out.reserve(LENGTH_LEN + plaintext_len + TAG_LEN);
        out.put_slice(&length);
        out.put_u8(kind.number());
        out.put_slice(head);
        out.put_slice(body);
        let plaintext = &mut out[start + LENGTH_LEN..];
        match self.0.key.seal(nonce, length, plaintext) {
            Ok(tag) => {
                out.put_slice(&tag);
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }
}

/// Opens the records of one direction.
#[derive(Debug)]
pub struct Opener {
    generations: Generations,
    broken: bool,
}

impl Opener {
    /// The direction that `secret` protects, from its first record on.
    pub fn new(suite: Suite, secret: Secret) -> Result<Self, RecordError> {
        Ok(Self {
            generations: Generations::new(suite, secret, GENERATION)?,
            broken: false,
        })
    }

    /// Opens the next record in place. `record` is its ciphertext with the tag, without the length; the answer
    /// says where in it the body lies. After an error every further call fails.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(RecordType, Range<usize>), RecordError> {
        if self.broken {
            return Err(RecordError::Broken);
        }
        let opened = self.open_next(record);
        self.broken = opened.is_err();
        opened
    }

    fn open_next(&mut self, record: &mut [u8]) -> Result<(RecordType, Range<usize>), RecordError> {
        let length = (u16::try_from(record.len()).ok())
            .filter(|&length| length_is_valid(length.into()))
            .ok_or(RecordError::BadLength(record.len()))?;
        let nonce = self.generations.advance()?;
        let plaintext = (self.generations.key).open(nonce, length.to_be_bytes(), record)?;
        // A valid length leaves at least the type.
        let number = plaintext[0];
        let kind = RecordType::from_number(number).ok_or(RecordError::UnknownType(number))?;
        Ok((kind, TYPE_LEN..plaintext.len()))
    }
}

/// Finds whole records in what has been read from a connection, and opens them where they lie.
#[derive(Debug)]
pub struct Deframer {
    opener: Opener,
    buffer: BytesMut,
}

impl Deframer {
    /// An empty buffer before `opener`. It takes no memory until something is read into it.
    pub fn new(opener: Opener) -> Self {
        Self {
            opener,
            buffer: BytesMut::new(),
        }
    }

    /// Where to append what the connection gave.
    pub const fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether what came so far ends with a whole record.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How many bytes the record at the front lacks: 0 if it is whole. It is never too much to read that number, nor to make
    /// room for it.
    pub fn missing(&self) -> Result<usize, RecordError> {
        Ok(match self.length()? {
            None => LENGTH_LEN + TYPE_LEN + TAG_LEN - self.buffer.len(),
            Some(length) => (LENGTH_LEN + length).saturating_sub(self.buffer.len()),
        })
    }

    /// The next whole record: its type, and its head and body in the buffer's own memory, not copied. A body
    /// keeps the whole buffer that it came in alive.
    pub fn poll_record(&mut self) -> Result<Option<(RecordType, Bytes)>, RecordError> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let Some(record) = self.buffer.get_mut(LENGTH_LEN..LENGTH_LEN + length) else {
            return Ok(None);
        };
        let (kind, body) = self.opener.open(record)?;
        self.buffer.advance(LENGTH_LEN + body.start);
        // An empty body need not keep the buffer alive.
        let bytes = match body.len() {
            0 => Bytes::new(),
            len => self.buffer.split_to(len).freeze(),
        };
        self.buffer.advance(length - body.end);
        Ok(Some((kind, bytes)))
    }

    /// Gives the buffer's memory back. Nothing happens while part of a record is in it.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The length at the front, checked before anything is made of it.
    fn length(&self) -> Result<Option<usize>, RecordError> {
        let Some(length) = self.buffer.first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length_is_valid(length) {
            Ok(Some(length))
        } else {
            Err(RecordError::BadLength(length))
        }
    }
}

/// One direction's key, its place in the order, and what the next key derives from.
struct Generations {
    suite: Suite,
    secret: Secret,
    key: Key,
    /// The next record's number in its generation.
    number: u64,
    /// Records in a generation.
    limit: u64,
}

impl Generations {
    fn new(suite: Suite, secret: Secret, limit: u64) -> Result<Self, RecordError> {
        Ok(Self {
            suite,
            key: key(suite, &secret)?,
            secret,
            number: 0,
            limit,
        })
    }

    /// The next record's nonce. No two calls return the same one under one key.
    fn advance(&mut self) -> Result<[u8; NONCE_LEN], RecordError> {
        if self.number == self.limit {
            self.secret = expand(&self.secret, b"rekey");
            self.key = key(self.suite, &self.secret)?;
            self.number = 0;
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        Ok(nonce)
    }
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations")
            .field("suite", &self.suite)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

fn key(suite: Suite, secret: &Secret) -> Result<Key, RecordError> {
    Key::new(suite, &expand(secret, b"key"))
}

const fn length_is_valid(length: usize) -> bool {
    LENGTH_MIN <= length && length <= LENGTH_MAX
}

/// Records under one key. RFC 9001, appendix B.1.1, allows 2^35 / l records of l blocks under AES-GCM (an
/// advantage of 2^-57); a full record has 1,026 blocks, so 2^24 is half of that.
const GENERATION: u64 = 1 << 24;

#[cfg(test)]
mod tests;
