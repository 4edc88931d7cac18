//! Answers in pieces.

use crate::{
    a2s::wire::{ANSWER, PIECE, SINGLE},
    error::ReadError,
};

/// The pieces of one answer, in whichever order they come.
///
/// Three forms are in use, which differ in the head before the payload, and nothing says which one it is but the first
/// piece's payload: it begins with `FF FF FF FF`.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    id: u32,
    held: Vec<Vec<u8>>,
    bytes: usize,
}

/// What stands before a piece's payload.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Number and total in a byte, 4 bits each.
    GoldSrc,
    /// Total, number.
    OldSource,
    /// Total, number, size of a whole piece.
    Source,
}

impl Pieces {
    /// Takes a piece, whole as it came. Returns the answer when it is complete.
    pub(super) fn handle(&mut self, datagram: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let (Some(id), true) = (id_of(datagram), datagram.starts_with(&PIECE)) else {
            return Err(ReadError::Truncated(ANSWER));
        };
        if id & COMPRESSED != 0 {
            return Err(ReadError::Compressed);
        }
        if id != self.id {
            *self = Self {
                id,
                ..Self::default()
            };
        }
        if self.held.iter().any(|held| held == datagram) {
            return Ok(None);
        }
        self.bytes += datagram.len();
        if self.bytes > ANSWER_MAX || self.held.len() == PIECES_MAX {
            return Err(ReadError::TooLong {
                what: ANSWER,
                length: self.bytes,
                max: ANSWER_MAX,
            });
        }
        self.held.push(datagram.to_vec());
        Ok(self.join())
    }

    fn join(&self) -> Option<Vec<u8>> {
        let forms = [Form::Source, Form::OldSource, Form::GoldSrc];
        let form = forms.into_iter().find(|form| {
            let mut held = self.held.iter();
            held.any(|piece| {
                form.number(piece) == Some(0) && form.payload(piece).starts_with(&SINGLE)
            })
        })?;
        let total = form.total(self.held.first()?)?;
        let mut joined = Vec::with_capacity(self.bytes);
        for number in 0..total {
            let piece = self
                .held
                .iter()
                .find(|piece| form.number(piece) == Some(number))?;
            joined.extend_from_slice(form.payload(piece));
        }
        Some(joined)
    }
}

impl Form {
    fn number(self, piece: &[u8]) -> Option<u8> {
        match self {
            Self::GoldSrc => Some(piece.get(HEAD)? >> 4),
            Self::OldSource | Self::Source => piece.get(HEAD + 1).copied(),
        }
    }

    fn total(self, piece: &[u8]) -> Option<u8> {
        let byte = piece.get(HEAD)?;
        Some(match self {
            Self::GoldSrc => byte & 0x0f,
            Self::OldSource | Self::Source => *byte,
        })
    }

    fn payload(self, piece: &[u8]) -> &[u8] {
        let head = HEAD
            + match self {
                Self::GoldSrc => 1,
                Self::OldSource => 2,
                Self::Source => 4,
            };
        piece.get(head..).unwrap_or_default()
    }
}

fn id_of(datagram: &[u8]) -> Option<u32> {
    let id = datagram.get(PIECE.len()..HEAD)?;
    Some(u32::from_le_bytes(id.try_into().ok()?))
}

/// What the mark and the id take.
const HEAD: usize = 8;
/// The bit of the id that says that the whole is compressed.
const COMPRESSED: u32 = 1 << 31;
/// Longest answer that is put together, in bytes: what one datagram could bring, too, and some servers do.
const ANSWER_MAX: usize = 65_536;
/// Most pieces of one: 64 of 1 KiB.
const PIECES_MAX: usize = 64;
