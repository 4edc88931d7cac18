//! Satisfactory's lightweight query, over UDP; of version 1, which servers have had since 1.0.

use crate::{
    answer::{Answer, cut, plain},
    cursor::Cursor,
    error::ReadError,
    incoming::Incoming,
};

/// A poll, up to the server's state.
#[derive(Debug)]
pub struct Query {
    cookie: u64,
    is_sent: bool,
}

impl Query {
    /// A poll that has not been sent. The server's state repeats `cookie`.
    pub const fn new(cookie: u64) -> Self {
        Self {
            cookie,
            is_sent: false,
        }
    }

    /// The datagram to send next, if any.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.is_sent, true) {
            return None;
        }
        Some([&POLL[..], &self.cookie.to_le_bytes(), &[END]].concat())
    }

    /// A datagram came. `None` if it answers another poll.
    pub fn handle_input(&mut self, datagram: &[u8]) -> Result<Option<Answer>, ReadError> {
        let mut cursor = Cursor::new(datagram, "state");
        cursor.expect(&STATE)?;
        if cursor.u64_le()? != self.cookie {
            return Ok(None);
        }
        let _state = cursor.u8()?;
        let changelist = cursor.u32_le()?;
        let _flags = cursor.u64_le()?;
        let sub_states = usize::from(cursor.u8()?);
        cursor.take(sub_states * SUB_STATE_LENGTH)?;
        let length = cursor.u16_le()?.into();
        let name = plain(&String::from_utf8_lossy(cursor.take(length)?));
        cursor.expect(&[END])?;
        Ok(Some(Answer {
            name,
            version: changelist.to_string(),
            ..Answer::default()
        }))
    }

    /// Nothing came for a while: the poll is sent again.
    pub fn handle_silence(&mut self) {
        self.is_sent = false;
    }
}

/// What a datagram is. A log-in goes over the game's own protocol, which nothing tells apart.
pub fn classify(datagram: &[u8]) -> Incoming {
    if datagram.len() == POLL_LENGTH && datagram.starts_with(&POLL) {
        Incoming::Status
    } else {
        Incoming::Other
    }
}

/// The state in answer to this datagram, if it is a poll: that the server loads, so that its other interface is not there.
/// [`STATE_MAX`] bytes at most; a longer name is cut.
pub fn state(datagram: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    if classify(datagram) != Incoming::Status {
        return None;
    }
    let cookie = datagram.get(POLL.len()..POLL_LENGTH - 1)?;
    let changelist: u32 = answer.version.parse().unwrap_or(0);
    let name = cut(&answer.name, NAME_MAX);
    let mut out = Vec::with_capacity(STATE_MAX);
    out.extend_from_slice(&STATE);
    out.extend_from_slice(cookie);
    out.push(LOADING);
    out.extend_from_slice(&changelist.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.push(0);
    out.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(END);
    Some(out)
}

/// What a poll and a state begin with: the magic, the type, the version.
const POLL: [u8; 4] = [0xd5, 0xf6, 0, 1];
const STATE: [u8; 4] = [0xd5, 0xf6, 1, 1];
/// The last byte of each.
const END: u8 = 1;
/// A poll, in bytes.
const POLL_LENGTH: usize = 13;
/// What a server says while it loads a save.
const LOADING: u8 = 2;
/// One number and one version, in bytes.
const SUB_STATE_LENGTH: usize = 3;
/// Longest state that is sent, in bytes: 4.6 times a poll, as a server's own are.
pub const STATE_MAX: usize = 60;
/// Longest name in it, in bytes.
const NAME_MAX: usize = STATE_MAX - 29;

#[cfg(test)]
mod tests;
