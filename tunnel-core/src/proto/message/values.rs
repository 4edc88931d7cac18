//! What the fields of control messages hold.

use std::{fmt, str::FromStr, time::Duration};

use bytes::{BufMut, BytesMut};

use crate::{
    instance::{InstanceId, ServiceName},
    key::Psk,
    proto::{
        stream::frame::StreamId,
        wire::{ListValue, Reader, Value, WireError, codes, varint_newtype},
    },
};

varint_newtype! {
    /// Tells the states of one instance apart; a later one is greater.
    pub struct Revision(u64);
}

impl ListValue for StreamId {
    /// 64, as of every list. Who has lost more says so in several messages.
    const MAX_ITEMS: usize = 64;
}

/// How many lanes the relay wants to stand idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLanes(u16);

impl IdleLanes {
    /// 256: each is a socket and a keep-alive on both sides, for nothing but the next stream's first round trip.
    pub const MAX: u16 = 256;

    /// `count` lanes, [`MAX`](Self::MAX) at most.
    pub fn new(count: u16) -> Self {
        Self(count.min(Self::MAX))
    }

    /// How many.
    pub const fn count(self) -> u16 {
        self.0
    }
}

impl Value for IdleLanes {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u16::decode(reader)?;
        (count <= Self::MAX)
            .then_some(Self(count))
            .ok_or(WireError::OutOfRange)
    }
}

/// A text for people, of at most `MAX` bytes. It holds no control characters, so that a peer cannot drive the
/// terminal that shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Text<const MAX: usize>(Box<str>);

impl<const MAX: usize> Text<MAX> {
    /// As much of a text as fits, with `?` in the place of control characters.
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars() {
            let c = if c.is_control() { '?' } else { c };
            if kept.len() + c.len_utf8() > MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> Value for Text<MAX> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.0.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        if reader.remaining() > MAX {
            return Err(WireError::OutOfRange);
        }
        utf8(reader).map(Self::new)
    }
}

codes! {
    /// Why a peer refuses or ends something: in REJECT, GOODBYE, REFUSED, UNBOUND and QUIC's application close.
    pub enum Code {
        /// No reason given.
        0 => None "no reason given",
        /// The sender shuts down.
        1 => Shutdown "shutting down",
        /// Another process with the same key took the tunnel over.
        2 => Superseded "superseded by another process with the same key",
        /// The client's key was revoked.
        3 => Revoked "the client's key is revoked",
        /// The ranges of protocol versions do not meet.
        4 => Incompatible "no protocol version in common",
        /// The token's time is over.
        5 => TokenExpired "the token has expired",
        /// The token belongs to another key.
        6 => TokenUsed "the token was used already",
        /// The receiver broke the protocol.
        7 => ProtocolError "protocol error",
        /// The client may not have this.
        8 => NotPermitted "not permitted",
        /// Somebody else has the port.
        9 => PortInUse "port in use",
        /// Another client has an instance of this id.
        10 => IdInUse "id in use",
        /// A limit of the sender.
        11 => Limit "limit reached",
        /// The sender's own fault.
        12 => Internal "internal error",
        /// Removed by an operator.
        13 => Removed "removed",
        /// A port below 1,024 that the relay may not open.
        14 => PrivilegedPort "privileged port",
        /// The receiver was silent for too long.
        15 => Timeout "timed out",
    }
}

/// What a HEALTH says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthWord {
    /// It is not checked any more.
    Unchecked,
    /// There is no verdict yet.
    Starting,
    /// It answers.
    Healthy,
    /// It does not; players are led there all the same.
    Unhealthy,
    /// It does not, and new players are to be refused.
    Refusing,
}

impl HealthWord {
    /// All of them, each at its number.
    const ALL: [Self; 5] = [
        Self::Unchecked,
        Self::Starting,
        Self::Healthy,
        Self::Unhealthy,
        Self::Refusing,
    ];
}

impl Value for HealthWord {
    fn encode(&self, out: &mut BytesMut) {
        (*self as u64).encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        // A verdict of a later version is none for this one.
        let number = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        Ok(Self::ALL.get(number).copied().unwrap_or(Self::Starting))
    }
}

impl Value for InstanceId {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_str().as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        name(reader)
    }
}

impl Value for ServiceName {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_str().as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        name(reader)
    }
}

impl Value for Psk {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.array().map(Self::from)
    }
}

/// Milliseconds below 2^32 (49 days), so that adding one to a clock cannot overflow it.
impl Value for Duration {
    fn encode(&self, out: &mut BytesMut) {
        u32::try_from(self.as_millis())
            .unwrap_or(u32::MAX)
            .encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        u32::decode(reader).map(|ms| Self::from_millis(ms.into()))
    }
}

fn name<T: FromStr>(reader: &mut Reader<'_>) -> Result<T, WireError> {
    utf8(reader)?.parse().map_err(|_| WireError::OutOfRange)
}

fn utf8<'a>(reader: &mut Reader<'a>) -> Result<&'a str, WireError> {
    std::str::from_utf8(reader.take_rest()).map_err(|_| WireError::OutOfRange)
}
