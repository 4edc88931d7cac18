//! What a connection begins with.

use crate::{
    cursor::Cursor,
    error::ReadError,
    incoming::Incoming,
    minecraft::{
        frame::{Packet, string, varint},
        legacy::Legacy,
    },
};

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    /// The client's version of the protocol.
    pub(super) protocol: i32,
    pub(super) next: Next,
    /// What it takes of the input.
    pub(super) length: usize,
}

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Status,
    /// To play, directly or sent here by another server.
    Login,
}

impl Handshake {
    /// The handshake that a connection begins with; `None` until it is whole.
    pub(super) fn read(input: &[u8]) -> Result<Option<Self>, ReadError> {
        check_beginning(input)?;
        let Some(packet) = Packet::first(input, HANDSHAKE_MAX, WHAT)? else {
            return Ok(None);
        };
        if packet.id != 0 {
            return Err(ReadError::Unexpected(WHAT));
        }
        let mut body = packet.body;
        let protocol = varint(&mut body, WHAT)?.cast_signed();
        string(&mut body, ADDRESS_MAX, WHAT)?;
        let _port = body.u16_be()?;
        let next = match varint(&mut body, WHAT)? {
            1 => Next::Status,
            2 | 3 => Next::Login,
            _ => return Err(ReadError::Unexpected(WHAT)),
        };
        Ok(Some(Self {
            protocol,
            next,
            length: packet.length,
        }))
    }
}

/// What a connection is, by all that has come of it so far.
pub fn classify(input: &[u8]) -> Incoming {
    if Legacy::of(input).is_some() {
        return Incoming::Status;
    }
    match Handshake::read(input) {
        Ok(None) => Incoming::Incomplete,
        Ok(Some(handshake)) => match handshake.next {
            Next::Status => Incoming::Status,
            Next::Login => Incoming::Login,
        },
        Err(_) => Incoming::Other,
    }
}

/// What is no handshake is known by its first bytes: a scanner's request is not waited for to the length that it seems to have.
fn check_beginning(input: &[u8]) -> Result<(), ReadError> {
    let mut cursor = Cursor::new(input, WHAT);
    while let Ok(byte) = cursor.u8() {
        if byte < 0x80 {
            let id = cursor.u8();
            return if id.is_ok_and(|id| id != 0) {
                Err(ReadError::Unexpected(WHAT))
            } else {
                Ok(())
            };
        }
    }
    Ok(())
}

const WHAT: &str = "handshake";
/// Longest address, in characters.
const ADDRESS_MAX: usize = 255;
/// Longest handshake, in bytes: what surrounds an address of 255 characters of three bytes.
const HANDSHAKE_MAX: usize = 1 + 5 + 2 + 3 * ADDRESS_MAX + 2 + 5;
