//! Packets: a length, a number and a body.

use crate::{cursor::Cursor, error::ReadError};

/// A packet of the protocol since 1.7.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) id: u32,
    pub(super) body: Cursor<'a>,
    /// What it takes of the input, head and all.
    pub(super) length: usize,
}

impl<'a> Packet<'a> {
    /// The first packet of the input; `None` until it is whole. `max` is the longest that is read, in bytes.
    pub(super) fn first(
        input: &'a [u8],
        max: usize,
        what: &'static str,
    ) -> Result<Option<Self>, ReadError> {
        let mut cursor = Cursor::new(input, what);
        let Some(length) = varint_if_whole(&mut cursor, what)? else {
            return Ok(None);
        };
        let length = length as usize;
        if length > max {
            return Err(ReadError::TooLong { what, length, max });
        }
        let head = input.len() - cursor.remaining();
        let Ok(packet) = cursor.take(length) else {
            return Ok(None);
        };
        let mut body = Cursor::new(packet, what);
        let id = varint(&mut body, what)?;
        Ok(Some(Self {
            id,
            body,
            length: head + length,
        }))
    }
}

/// Writes a packet.
pub(super) fn packet(id: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    put_varint(&mut out, length_of(body) + 1);
    out.push(id);
    out.extend_from_slice(body);
    out
}

/// A text with its length in bytes before it.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_varint(out, length_of(text.as_bytes()));
    out.extend_from_slice(text.as_bytes());
}

/// A text of at most `max` characters.
pub(super) fn string(
    cursor: &mut Cursor<'_>,
    max: usize,
    what: &'static str,
) -> Result<String, ReadError> {
    let length = varint(cursor, what)? as usize;
    // Clients count UTF-16, whose every unit is three bytes at most.
    if length > 3 * max {
        return Err(ReadError::TooLong {
            what,
            length,
            max: 3 * max,
        });
    }
    Ok(String::from_utf8_lossy(cursor.take(length)?).into_owned())
}

/// A number of 32 bits, seven to a byte, the lowest first.
pub(super) fn varint(cursor: &mut Cursor<'_>, what: &'static str) -> Result<u32, ReadError> {
    varint_if_whole(cursor, what)?.ok_or(ReadError::Truncated(what))
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_if_whole(cursor: &mut Cursor<'_>, what: &'static str) -> Result<Option<u32>, ReadError> {
    let mut value = 0;
    for at in 0..VARINT_MAX {
        let Ok(byte) = cursor.u8() else {
            return Ok(None);
        };
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(ReadError::Unexpected(what))
}

/// What is written here is far shorter than that.
fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Longest form of a number, in bytes.
const VARINT_MAX: u32 = 5;
