//! Asks for INFO.

use crate::{
    a2s::{
        info::read_answer,
        split::Pieces,
        wire::{
            ANSWER, CHALLENGE, CHALLENGE_LENGTH, GOLDSRC_ANSWER, INFO, INFO_ANSWER, INFO_TEXT,
            PIECE, SINGLE,
        },
    },
    answer::Answer,
    error::ReadError,
};

/// A query for INFO, up to its answer. At most 64 KiB of it are kept.
#[derive(Debug, Default)]
pub struct Query {
    challenge: Option<[u8; CHALLENGE_LENGTH]>,
    challenges: u8,
    is_sent: bool,
    pieces: Pieces,
}

impl Query {
    /// A query that has not been sent.
    pub fn new() -> Self {
        Self::default()
    }

    /// The datagram to send next, if any.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.is_sent, true) {
            return None;
        }
        let mut out = Vec::with_capacity(29);
        out.extend_from_slice(&SINGLE);
        out.push(INFO);
        out.extend_from_slice(INFO_TEXT);
        out.extend_from_slice(self.challenge.as_ref().map_or(&[][..], |bytes| bytes));
        Some(out)
    }

    /// A datagram came. `None` until the answer is there.
    pub fn handle_input(&mut self, datagram: &[u8]) -> Result<Option<Answer>, ReadError> {
        if datagram.starts_with(&PIECE) {
            let whole = self.pieces.handle(datagram)?;
            return whole.map(|whole| read_answer(&whole)).transpose();
        }
        let Some([kind, body @ ..]) = datagram.strip_prefix(&SINGLE) else {
            return Err(ReadError::Unexpected(ANSWER));
        };
        match *kind {
            INFO_ANSWER | GOLDSRC_ANSWER => read_answer(datagram).map(Some),
            CHALLENGE => {
                let challenge = body.first_chunk().ok_or(ReadError::Truncated(ANSWER))?;
                self.challenge = Some(*challenge);
                self.challenges += 1;
                if self.challenges > CHALLENGES_MAX {
                    return Err(ReadError::Challenges(self.challenges));
                }
                self.is_sent = false;
                Ok(None)
            }
            // It answers another question.
            _ => Ok(None),
        }
    }

    /// Nothing came for a while: the last datagram is sent again.
    pub fn handle_silence(&mut self) {
        self.is_sent = false;
    }
}

/// Most challenges that are followed: one is usual, and a server that changes its secret sends a second.
const CHALLENGES_MAX: u8 = 3;
