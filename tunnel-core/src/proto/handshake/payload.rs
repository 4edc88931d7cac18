//! What the two messages say: versions, capabilities, the process, and QUIC's transport parameters.

use std::{fmt, ops::BitOr};

use bytes::{BufMut, BytesMut};

use crate::{
    join::TokenId,
    proto::{
        handshake::{
            error::{HandshakeError, MAX_LANE_PAYLOAD, PayloadError},
            suite::TransportKind,
        },
        wire::{Fields, Reader, Slot, VARINT_MAX, Value, WireError, put_field, put_varint},
    },
};

/// The protocol versions that this build speaks.
pub const SUPPORTED: VersionRange = VersionRange {
    lowest: 1,
    highest: 1,
};

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    lowest: u32,
    highest: u32,
}

impl VersionRange {
    /// The range from `lowest` to `highest`, or nothing if it were empty.
    pub const fn new(lowest: u32, highest: u32) -> Option<Self> {
        if lowest <= highest {
            Some(Self { lowest, highest })
        } else {
            None
        }
    }

    /// The lowest version spoken.
    pub const fn lowest(&self) -> u32 {
        self.lowest
    }

    /// The highest version spoken.
    pub const fn highest(&self) -> u32 {
        self.highest
    }

    /// The version in use between this side and a peer of range `peer`: the highest in both.
    pub fn agreed(&self, peer: &Self) -> Result<u32, VersionMismatch> {
        let highest = self.highest.min(peer.highest);
        if highest >= self.lowest.max(peer.lowest) {
            Ok(highest)
        } else {
            Err(VersionMismatch {
                local: *self,
                peer: *peer,
            })
        }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lowest == self.highest {
            write!(f, "{}", self.lowest)
        } else {
            write!(f, "{} to {}", self.lowest, self.highest)
        }
    }
}

impl Value for VersionRange {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.lowest));
        put_varint(out, u64::from(self.highest));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::new(reader.varint_as()?, reader.varint_as()?).ok_or(WireError::OutOfRange)
    }
}

/// The two sides have no protocol version in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no common protocol version: this side speaks {local}, the peer {peer}; upgrade {}",
    if self.peer_is_behind() { "the peer" } else { "this side" }
)]
pub struct VersionMismatch {
    /// What this side speaks.
    pub local: VersionRange,
    /// What the peer speaks.
    pub peer: VersionRange,
}

impl VersionMismatch {
    /// Whether it is the peer that must be upgraded, rather than this side.
    pub const fn peer_is_behind(&self) -> bool {
        self.peer.highest < self.local.lowest
    }
}

/// What a side can do beyond the protocol's version: a set of bits, of which unknown ones are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// A stream may continue on another channel after its own broke.
    pub const STREAM_RESUMPTION: Self = Self(0x4);
    /// A stream may move to another channel while its own works.
    pub const STREAM_MOVES: Self = Self(0x8);
    /// Datagrams may come as copies and with repairs. (0x1 and 0x2 stood for other forms of that in drafts.)
    pub const REDUNDANCY: Self = Self(0x10);

    /// The health of services is told (HEALTH).
    pub const HEALTH: Self = Self(0x20);

    /// What this build can do.
    pub const SUPPORTED: Self = Self(
        Self::STREAM_RESUMPTION.0 | Self::STREAM_MOVES.0 | Self::REDUNDANCY.0 | Self::HEALTH.0,
    );

    /// The set of these bits; the two highest do not travel.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & VARINT_MAX)
    }

    /// The set as bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both sets have: what two sides may use.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// 16 random bytes, made once per process: tells a client that comes back from another one with its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId([u8; 16]);

impl ProcessId {
    /// The id as 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for ProcessId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessId({:032x})", u128::from_be_bytes(self.0))
    }
}

/// The payload of message 1: what the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol versions it speaks.
    pub versions: VersionRange,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Its process.
    pub process: ProcessId,
    /// The token whose secret is its pre-shared key, in enrolment only.
    pub token: Option<TokenId>,
    /// Its QUIC transport parameters (RFC 9000 §18), on QUIC only.
    pub transport_parameters: Option<Vec<u8>>,
}

impl Hello {
    pub(crate) fn encode(&self, kind: TransportKind) -> Result<Vec<u8>, HandshakeError> {
        encode(kind, |out| {
            put_field(out, VERSIONS, &self.versions);
            put_field(out, CAPABILITIES, &self.capabilities.0);
            put_field(out, PROCESS, &self.process.0);
            put_field(out, TOKEN, &self.token.map(|id| *id.as_bytes()));
            put_field(out, PARAMETERS, &boxed(&self.transport_parameters));
        })
    }

    pub(crate) fn decode(kind: TransportKind, payload: &[u8]) -> Result<Self, PayloadError> {
        let fields = Decoded::read(kind, payload)?;
        Ok(Self {
            versions: fields.versions,
            capabilities: fields.capabilities,
            process: fields.process,
            token: fields.token,
            transport_parameters: fields.transport_parameters,
        })
    }
}

/// The payload of message 2: what the relay says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The protocol versions it speaks.
    pub versions: VersionRange,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Its process.
    pub process: ProcessId,
    /// Its QUIC transport parameters (RFC 9000 §18), on QUIC only.
    pub transport_parameters: Option<Vec<u8>>,
}

impl Answer {
    pub(crate) fn encode(&self, kind: TransportKind) -> Result<Vec<u8>, HandshakeError> {
        encode(kind, |out| {
            put_field(out, VERSIONS, &self.versions);
            put_field(out, CAPABILITIES, &self.capabilities.0);
            put_field(out, PROCESS, &self.process.0);
            put_field(out, PARAMETERS, &boxed(&self.transport_parameters));
        })
    }

    pub(crate) fn decode(kind: TransportKind, payload: &[u8]) -> Result<Self, PayloadError> {
        let fields = Decoded::read(kind, payload)?;
        Ok(Self {
            versions: fields.versions,
            capabilities: fields.capabilities,
            process: fields.process,
            transport_parameters: fields.transport_parameters,
        })
    }
}

/// The fields of both payloads: a hello's token in an answer is an unknown field like any other.
struct Decoded {
    versions: VersionRange,
    capabilities: Capabilities,
    process: ProcessId,
    token: Option<TokenId>,
    transport_parameters: Option<Vec<u8>>,
}

impl Decoded {
    fn read(kind: TransportKind, payload: &[u8]) -> Result<Self, PayloadError> {
        let mut versions = Slot::<VersionRange>::new("versions");
        let mut capabilities = Slot::<Option<u64>>::new("capabilities");
        let mut process = Slot::<[u8; 16]>::new("process");
        let mut token = Slot::<Option<[u8; 16]>>::new("token");
        let mut parameters = Slot::<Option<Box<[u8]>>>::new("transport parameters");
        let mut padding = Slot::<Option<Box<[u8]>>>::new("padding");
        for field in Fields::new(payload) {
            let (tag, value) = field?;
            match tag {
                VERSIONS => versions.read(value)?,
                CAPABILITIES => capabilities.read(value)?,
                PROCESS => process.read(value)?,
                TOKEN => token.read(value)?,
                // A lane has no use for them.
                PARAMETERS if kind == TransportKind::Quic => parameters.read(value)?,
                PADDING => padding.read(value)?,
                _ => {}
            }
        }
        let transport_parameters = parameters.finish()?.map(Vec::from);
        if kind == TransportKind::Quic && transport_parameters.is_none() {
            return Err(PayloadError::NoTransportParameters);
        }
        Ok(Self {
            versions: versions.finish()?,
            capabilities: Capabilities::from_bits(capabilities.finish()?.unwrap_or_default()),
            process: ProcessId(process.finish()?),
            token: token.finish()?.map(TokenId::from),
            transport_parameters,
        })
    }
}

fn encode(
    kind: TransportKind,
    write: impl FnOnce(&mut BytesMut),
) -> Result<Vec<u8>, HandshakeError> {
    let mut out = BytesMut::with_capacity(PADDED);
    write(&mut out);
    if kind == TransportKind::Lane {
        pad(&mut out);
        if out.len() > MAX_LANE_PAYLOAD {
            return Err(HandshakeError::PayloadTooLong(out.len()));
        }
    }
    Ok(out.into())
}

/// Pads to [`PADDED`] bytes with one field; its length takes two bytes, so that every gap from three can be filled.
fn pad(out: &mut BytesMut) {
    let gap = PADDED.saturating_sub(out.len());
    if gap >= 3 {
        put_varint(out, PADDING);
        out.put_u16(0x4000 | (gap - 3) as u16);
        out.put_bytes(0, gap - 3);
    }
}

fn boxed(bytes: &Option<Vec<u8>>) -> Option<Box<[u8]>> {
    bytes.as_deref().map(Box::from)
}

/// Size of a lane's payload: a hello with a token is 64 bytes at most, so every hello and answer is this long.
const PADDED: usize = 256;

const VERSIONS: u64 = 1;
const CAPABILITIES: u64 = 2;
const PROCESS: u64 = 3;
const TOKEN: u64 = 4;
const PARAMETERS: u64 = 5;
const PADDING: u64 = 6;
