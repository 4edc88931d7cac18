//! How records look, and what can be wrong with one.

/// Longest body of a record, in bytes. 16 KiB stays in a first-level cache between copy and cipher, and its 19
/// bytes of framing are a thousandth.
pub const RECORD_BODY_MAX: usize = 16 * 1024;

/// Longest head of a record, in bytes: the largest number that a frame puts before its bytes, and some room.
pub const RECORD_HEAD_MAX: usize = 15;

/// What a record adds to its head and body, in bytes: length, type and tag.
pub const RECORD_OVERHEAD: usize = LENGTH_LEN + TYPE_LEN + TAG_LEN;

/// Longest record on the wire, in bytes, its length included.
pub const RECORD_MAX: usize = RECORD_OVERHEAD + RECORD_HEAD_MAX + RECORD_BODY_MAX;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Relay to client: the opening of a further lane is accepted.
    Ready,
    /// A piece of the control stream, on a tunnel's first lane only.
    Control,
    /// One datagram of a flow.
    Datagram,
    /// 8 bytes that the peer sends back.
    Ping,
    /// The bytes of a PING.
    Pong,
    /// A frame of the stream that has taken the lane.
    Frame(FrameType),
}

impl RecordType {
    /// Bytes that follow on the last ones of a stream.
    pub const DATA: Self = Self::Frame(FrameType(0x12));

    /// The type's number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ready => 0x01,
            Self::Control => 0x02,
            Self::Datagram => 0x03,
            Self::Ping => 0x04,
            Self::Pong => 0x05,
            Self::Frame(frame) => frame.0,
        }
    }

    /// The type with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x01 => Some(Self::Ready),
            0x02 => Some(Self::Control),
            0x03 => Some(Self::Datagram),
            0x04 => Some(Self::Ping),
            0x05 => Some(Self::Pong),
            0x10..=0x1f => Some(Self::Frame(FrameType(number))),
            _ => None,
        }
    }
}

/// The type of a stream's frame: 0x10 to 0x1f. What each means is the stream's business (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameType(u8);

impl FrameType {
    /// The type's number on the wire.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The type with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x10..=0x1f => Some(Self(number)),
            _ => None,
        }
    }
}

/// Why a record could not be made or opened. Whatever the peer did, the lane is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The peer announced a record that cannot be.
    #[error("the peer sent a record of {0} bytes; it has {LENGTH_MIN} to {LENGTH_MAX}")]
    BadLength(usize),
    /// The peer's record was not made with this direction's key for this place in the order.
    #[error("the peer's record is damaged, out of order, or not the peer's")]
    NotAuthentic,
    /// The peer's record is genuine, of a type that this version does not know.
    #[error("the peer sent a record of the unknown type {0:#04x}")]
    UnknownType(u8),
    /// An earlier record did not open, so the order is lost.
    #[error("an earlier record did not open")]
    Broken,
    /// Our own head or body is longer than a record's.
    #[error(
        "a record of {0} + {1} bytes is too long to send (at most {RECORD_HEAD_MAX} + {RECORD_BODY_MAX})"
    )]
    TooLongToSend(usize, usize),
    /// The cryptographic library refused.
    #[error("the cryptographic library failed")]
    Crypto,
}

pub(super) const LENGTH_LEN: usize = 2;
pub(super) const TYPE_LEN: usize = 1;
pub(super) const TAG_LEN: usize = 16;
/// What the length field may say.
pub(super) const LENGTH_MIN: usize = TYPE_LEN + TAG_LEN;
pub(super) const LENGTH_MAX: usize = RECORD_MAX - LENGTH_LEN;
