//! Minecraft, Bedrock edition: RakNet's unconnected ping and pong, over UDP.

use crate::{
    answer::{Answer, cut, plain_minecraft},
    cursor::Cursor,
    error::ReadError,
    incoming::Incoming,
};

/// A ping, up to its pong.
#[derive(Debug)]
pub struct Query {
    nonce: u64,
    is_sent: bool,
}

impl Query {
    /// A ping that has not been sent. The server's pong repeats `nonce`.
    pub const fn new(nonce: u64) -> Self {
        Self {
            nonce,
            is_sent: false,
        }
    }

    /// The datagram to send next, if any.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.is_sent, true) {
            return None;
        }
        let mut out = Vec::with_capacity(PING_LENGTH);
        out.push(PING);
        out.extend_from_slice(&self.nonce.to_be_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.nonce.to_be_bytes());
        Some(out)
    }

    /// A datagram came. `None` if it is the pong to another ping.
    pub fn handle_input(&mut self, datagram: &[u8]) -> Result<Option<Answer>, ReadError> {
        let mut cursor = Cursor::new(datagram, "pong");
        cursor.expect(&[PONG])?;
        let time: [u8; 8] = cursor.array()?;
        let _guid: [u8; 8] = cursor.array()?;
        cursor.expect(&MAGIC)?;
        if time != self.nonce.to_be_bytes() {
            return Ok(None);
        }
        let length = cursor.u16_be()?.into();
        let text = String::from_utf8_lossy(cursor.take(length)?);
        read_text(&text).map(Some)
    }

    /// Nothing came for a while: the ping is sent again.
    pub fn handle_silence(&mut self) {
        self.is_sent = false;
    }
}

/// What a datagram is.
pub fn classify(datagram: &[u8]) -> Incoming {
    let is_offline = |at: usize| {
        datagram
            .get(at..)
            .is_some_and(|rest| rest.starts_with(&MAGIC))
    };
    match datagram.first() {
        Some(&(PING | PING_OPEN)) if is_offline(9) => Incoming::Status,
        Some(&(OPEN_1 | OPEN_2)) if is_offline(1) => Incoming::Login,
        _ => Incoming::Other,
    }
}

/// The pong to this datagram, if it is a ping: [`PONG_MAX`] bytes at most. What does not fit is cut: the level first, then the
/// name.
pub fn pong(datagram: &[u8], guid: u64, answer: &Answer) -> Option<Vec<u8>> {
    let is_whole = datagram.len() >= PING_LENGTH;
    if !is_whole || classify(datagram) != Incoming::Status {
        return None;
    }
    let text = write_text(guid, answer);
    let mut out = Vec::with_capacity(PONG_MAX);
    out.push(PONG);
    out.extend_from_slice(datagram.get(1..9)?);
    out.extend_from_slice(&guid.to_be_bytes());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(out)
}

/// `MCPE;motd;protocol;version;online;max;guid;level;mode;…`; what is missing at the end was not there in older versions.
fn read_text(text: &str) -> Result<Answer, ReadError> {
    let mut fields = text.split(';');
    let edition = fields.next().unwrap_or_default();
    if !matches!(edition, "MCPE" | "MCEE") {
        return Err(ReadError::Unexpected("pong of Minecraft"));
    }
    let mut field = || fields.next().unwrap_or_default();
    let name = plain_minecraft(field());
    let protocol = field().parse().ok();
    let version = plain_minecraft(field());
    let (players, max) = (field().parse().ok(), field().parse().ok());
    let _guid = field();
    Ok(Answer {
        name,
        players,
        max,
        version,
        map: plain_minecraft(field()),
        protocol,
    })
}

fn write_text(guid: u64, answer: &Answer) -> String {
    let protocol = answer.protocol.unwrap_or(0);
    let (players, max) = (answer.players.unwrap_or(0), answer.max.unwrap_or(0));
    let version = field(&answer.version, VERSION_MAX);
    let counts = format!("{protocol};{version};{players};{max};{guid}");
    let fixed = "MCPE;;;;Survival;1;".len() + counts.len();
    let mut room = TEXT_LENGTH.saturating_sub(fixed);
    let name = field(&answer.name, room);
    room -= name.len();
    let map = field(&answer.map, room);
    format!("MCPE;{name};{counts};{map};Survival;1;")
}

/// A text as a field: a semicolon would end it.
fn field(text: &str, max: usize) -> String {
    cut(text, max).replace(';', ",")
}

const PING: u8 = 0x01;
/// A ping that a server answers only if it has room.
const PING_OPEN: u8 = 0x02;
const PONG: u8 = 0x1c;
/// The two steps of a client that connects.
const OPEN_1: u8 = 0x05;
const OPEN_2: u8 = 0x07;
/// What tells RakNet's packets of the unconnected apart from others.
const MAGIC: [u8; 16] = [
    0x00, 0xff, 0xff, 0x00, 0xfe, 0xfe, 0xfe, 0xfe, 0xfd, 0xfd, 0xfd, 0xfd, 0x12, 0x34, 0x56, 0x78,
];
/// A ping, in bytes: type, time, magic, guid.
const PING_LENGTH: usize = 33;
/// Longest pong that is sent, in bytes: five times the shortest ping, as a server's own are.
pub const PONG_MAX: usize = 5 * PING_LENGTH;
/// What its text has of it.
const TEXT_LENGTH: usize = PONG_MAX - 35;
/// Longest version in it, in bytes.
const VERSION_MAX: usize = 16;

#[cfg(test)]
mod tests;
