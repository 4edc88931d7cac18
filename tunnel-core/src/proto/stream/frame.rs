//! The frames of a stream (`docs/protocol.md` §6) on both kinds of channel.
//!
//! On a QUIC stream a frame is `type || length || body`: [`Frame::encode`], [`DataHead`] and [`FrameDecoder`].
//! On a lane it is a record: [`Frame::kind`] and [`Frame::encode_body`], [`Frame::decode_body`]; there a record
//! of type [`DATA`] is all payload.

use std::{net::SocketAddr, ops::Deref};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::proto::{
    message::ServiceId,
    wire::{
        Fields, Reader, Slot, Value, WireError, codes, put_field, put_prefixed, varint_len,
        varint_newtype,
    },
};

/// Type of a frame that carries a stream's bytes. It is not a [`Frame`]: its body is never copied.
pub const DATA: u8 = 0x12;

/// Longest body of a DATA frame, in bytes.
pub const MAX_DATA: usize = 65_536;

/// Longest body of any other frame, in bytes. OPEN, the longest, takes 75; the rest is for fields to come.
pub const MAX_BODY: usize = 1024;

varint_newtype! {
    /// A stream of a tunnel: rises, is never used again.
    pub struct StreamId(u64);
}

/// What the relay says of a stream as it opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The new stream.
    pub stream: StreamId,
    /// The service whose port the player connected to.
    pub service: ServiceId,
    /// Which port of the service's range, from 0.
    pub port_index: u16,
    /// The player.
    pub player: SocketAddr,
    /// What the player connected to.
    pub local: SocketAddr,
}

/// A frame without payload. Those that carry payload are of type [`DATA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The stream begins.
    Open(StreamHeader),
    /// The stream goes on, on this channel; each side sends it first.
    Attach {
        /// Which stream.
        stream: StreamId,
        /// The sender has every byte below this offset; the other resends from there.
        received: u64,
    },
    /// Every byte below the offset has been handed to the socket.
    Ack {
        /// The first byte that has not.
        offset: u64,
    },
    /// Half-close.
    Fin {
        /// How many bytes there were.
        offset: u64,
    },
    /// Both directions end.
    Reset {
        /// Why.
        code: ResetCode,
    },
    /// What follows comes on the channel that stands beside.
    Move {
        /// The first byte that comes there.
        offset: u64,
    },
    /// The channel, a lane, carries this stream no more.
    Idle,
    /// The channel stands beside the stream's own, for what follows on MOVE there; each side sends it first.
    Join {
        /// Which stream.
        stream: StreamId,
    },
}

impl Frame {
    /// The frame's type: of its record on a lane.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Open(_) => OPEN,
            Self::Attach { .. } => ATTACH,
            Self::Ack { .. } => ACK,
            Self::Fin { .. } => FIN,
            Self::Reset { .. } => RESET,
            Self::Move { .. } => MOVE,
            Self::Idle => IDLE,
            Self::Join { .. } => JOIN,
        }
    }

    /// Appends type, length and body: the frame on a QUIC stream.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        put_prefixed(out, |out| self.encode_body(out));
    }

    /// Appends the body: the frame's record on a lane.
    pub fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Self::Open(header) => {
                put_field(out, 1, &header.stream);
                put_field(out, 2, &header.service);
                put_field(out, 3, &header.port_index);
                put_field(out, 4, &header.player);
                put_field(out, 5, &header.local);
            }
            Self::Attach { stream, received } => {
                put_field(out, 1, stream);
                put_field(out, 2, received);
            }
            Self::Ack { offset } | Self::Fin { offset } | Self::Move { offset } => {
                offset.encode(out);
            }
            Self::Reset { code } => code.encode(out),
            Self::Idle => {}
            Self::Join { stream } => put_field(out, 1, stream),
        }
    }

    /// Reads the body of a frame of any type but [`DATA`].
    pub fn decode_body(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        if body.len() > MAX_BODY {
            return Err(too_long(kind, body.len() as u64));
        }
        let decoded = match kind {
            OPEN => open(body),
            ATTACH => attach(body),
            ACK => whole(body).map(|offset| Self::Ack { offset }),
            FIN => whole(body).map(|offset| Self::Fin { offset }),
            RESET => whole(body).map(|code| Self::Reset { code }),
            MOVE => whole(body).map(|offset| Self::Move { offset }),
            IDLE => Reader::new(body).finish().map(|()| Self::Idle),
            JOIN => join(body),
            kind => return Err(FrameError::UnknownType(kind)),
        };
        decoded.map_err(|error| FrameError::Malformed { kind, error })
    }
}

/// What stands before the payload of a DATA frame on a QUIC stream. Dereferences to its bytes, 2 to 5.
#[derive(Clone, Copy, Debug)]
pub struct DataHead {
    bytes: [u8; 5],
    len: u8,
}

impl DataHead {
    /// The head of `payload` bytes; `None` for more than [`MAX_DATA`].
    pub fn new(payload: usize) -> Option<Self> {
        if payload > MAX_DATA {
            return None;
        }
        let mut bytes = [DATA, 0, 0, 0, 0];
        match varint_len(payload as u64) {
            1 => bytes[1] = payload as u8,
            2 => bytes[1..3].copy_from_slice(&(0x4000 | payload as u16).to_be_bytes()),
            _ => bytes[1..5].copy_from_slice(&(0x8000_0000 | payload as u32).to_be_bytes()),
        }
        let len = 1 + varint_len(payload as u64) as u8;
        Some(Self { bytes, len })
    }
}

impl Deref for DataHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What a [`FrameDecoder`] found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame.
    Frame(Frame),
    /// The stream's next bytes, at least one: a slice of the input, not a copy. One DATA frame may come in
    /// several of them.
    Data(Bytes),
}

/// Makes frames of a QUIC stream's bytes, however they are cut. Payload passes through by reference; of other
/// frames at most [`MAX_BODY`] bytes are kept.
///
/// After [`handle_input`](Self::handle_input) call [`poll`](Self::poll) until it yields `None`.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    input: Bytes,
    /// What of the current DATA frame's payload is still to come.
    payload: usize,
    /// The beginning of a frame that the input before ended in: head and, unless it is DATA, body.
    partial: BytesMut,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the start of a channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. If those before have not been polled to the end, both are copied into one.
    pub fn handle_input(&mut self, input: Bytes) {
        if self.failed.is_some() {
            return;
        }
        self.input = if self.input.is_empty() {
            input
        } else {
            [&self.input[..], &input[..]].concat().into()
        };
    }

    /// The next frame or bytes, or `None` until more input came. An error is final.
    pub fn poll(&mut self) -> Result<Option<Decoded>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.next().inspect_err(|error| {
            self.failed = Some(*error);
            self.input = Bytes::new();
            self.partial = BytesMut::new();
        })
    }

    /// Whether the channel may end here: not inside a frame.
    pub fn is_between_frames(&self) -> bool {
        self.payload == 0 && self.partial.is_empty() && self.input.is_empty()
    }

    fn next(&mut self) -> Result<Option<Decoded>, FrameError> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            if self.payload > 0 {
                let run = self.payload.min(self.input.len());
                self.payload -= run;
                return Ok(Some(Decoded::Data(self.input.split_to(run))));
            }
            if !self.partial.is_empty() {
                if let Some(frame) = self.continue_partial()? {
                    return Ok(Some(Decoded::Frame(frame)));
                }
                continue;
            }
            match Head::read(&self.input)? {
                Some(head) if head.kind == DATA => {
                    self.input.advance(head.len);
                    self.payload = head.body;
                }
                Some(head) if head.len + head.body <= self.input.len() => {
                    self.input.advance(head.len);
                    let body = self.input.split_to(head.body);
                    return Frame::decode_body(head.kind, &body).map(|f| Some(Decoded::Frame(f)));
                }
                _ => {
                    self.partial.extend_from_slice(&self.input);
                    self.input = Bytes::new();
                }
            }
        }
    }

    /// Adds to a frame that began in earlier input no more than belongs to it. `None` if it is not whole, or if
    /// it turns out to be DATA, whose payload then follows.
    fn continue_partial(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let head = Head::read(&self.partial)?;
            let missing = match head {
                None => 1,
                Some(head) if head.kind == DATA => {
                    self.payload = head.body;
                    self.partial.clear();
                    return Ok(None);
                }
                Some(head) => head.len + head.body - self.partial.len(),
            };
            if let (Some(head), 0) = (head, missing) {
                let body = self.partial.get(head.len..).unwrap_or_default();
                let frame = Frame::decode_body(head.kind, body);
                self.partial.clear();
                return frame.map(Some);
            }
            if self.input.is_empty() {
                return Ok(None);
            }
            let step = missing.min(self.input.len());
            self.partial.extend_from_slice(&self.input.split_to(step));
        }
    }
}

/// Type and length of a frame on a QUIC stream.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    /// Length of the head itself.
    len: usize,
    /// Length of the body, within its bounds.
    body: usize,
}

impl Head {
    /// `None` if the head is not whole.
    fn read(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let mut reader = Reader::new(input);
        let Ok(kind) = reader.u8() else {
            return Ok(None);
        };
        let max = match kind {
            DATA => MAX_DATA,
            OPEN..=JOIN => MAX_BODY,
            kind => return Err(FrameError::UnknownType(kind)),
        };
        let Ok(length) = reader.varint() else {
            return Ok(None);
        };
        if length > max as u64 {
            return Err(too_long(kind, length));
        }
        Ok(Some(Self {
            kind,
            len: input.len() - reader.remaining(),
            body: length as usize,
        }))
    }
}

/// Why a channel cannot go on. The peer is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A type that no frame of this version has (or DATA, where its payload was asked for as a frame).
    #[error("unknown stream frame type {0:#04x}")]
    UnknownType(u8),
    /// A body longer than its type may have.
    #[error(
        "a stream frame of type {kind:#04x} with {length} bytes where at most {max} are allowed"
    )]
    TooLong {
        /// The frame's type.
        kind: u8,
        /// What the peer promised.
        length: u64,
        /// What is allowed.
        max: usize,
    },
    /// A body that is not valid.
    #[error("a stream frame of type {kind:#04x}: {error}")]
    Malformed {
        /// The frame's type.
        kind: u8,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
}

codes! {
    /// Why a stream ends in both directions at once.
    pub enum ResetCode {
        /// The player's or the target's own reset.
        0 => Socket "reset by its socket",
        /// The target refused the connection.
        1 => Refused "target refused the connection",
        /// The target cannot be reached.
        2 => Unreachable "target unreachable",
        /// The target's name does not resolve.
        3 => Unresolved "target's name does not resolve",
        /// The client has no such service.
        4 => NoService "no such service",
        /// A limit of the sender.
        5 => Limit "limit reached",
        /// The sender shuts down.
        6 => Shutdown "shutting down",
        /// The receiver broke the protocol.
        7 => ProtocolError "protocol error",
        /// It took too long.
        8 => Timeout "timed out",
    }
}

const OPEN: u8 = 0x10;
const ATTACH: u8 = 0x11;
const ACK: u8 = 0x13;
const FIN: u8 = 0x14;
const RESET: u8 = 0x15;
const MOVE: u8 = 0x16;
const IDLE: u8 = 0x17;
const JOIN: u8 = 0x18;

fn open(body: &[u8]) -> Result<Frame, WireError> {
    let mut stream = Slot::new("stream id");
    let mut service = Slot::new("service id");
    let mut port_index = Slot::new("port's index");
    let mut player = Slot::new("player's address");
    let mut local = Slot::new("local address");
    for field in Fields::new(body) {
        let (tag, value) = field?;
        match tag {
            1 => stream.read(value)?,
            2 => service.read(value)?,
            3 => port_index.read(value)?,
            4 => player.read(value)?,
            5 => local.read(value)?,
            _ => {}
        }
    }
    Ok(Frame::Open(StreamHeader {
        stream: stream.finish()?,
        service: service.finish()?,
        port_index: port_index.finish()?,
        player: player.finish()?,
        local: local.finish()?,
    }))
}

fn attach(body: &[u8]) -> Result<Frame, WireError> {
    let mut stream = Slot::new("stream id");
    let mut received = Slot::new("received offset");
    for field in Fields::new(body) {
        let (tag, value) = field?;
        match tag {
            1 => stream.read(value)?,
            2 => received.read(value)?,
            _ => {}
        }
    }
    Ok(Frame::Attach {
        stream: stream.finish()?,
        received: received.finish()?,
    })
}

fn join(body: &[u8]) -> Result<Frame, WireError> {
    let mut stream = Slot::new("stream id");
    for field in Fields::new(body) {
        let (tag, value) = field?;
        if tag == 1 {
            stream.read(value)?;
        }
    }
    Ok(Frame::Join {
        stream: stream.finish()?,
    })
}

fn whole<T: Value>(body: &[u8]) -> Result<T, WireError> {
    let mut reader = Reader::new(body);
    let value = T::decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

fn too_long(kind: u8, length: u64) -> FrameError {
    let max = if kind == DATA { MAX_DATA } else { MAX_BODY };
    FrameError::TooLong { kind, length, max }
}

#[cfg(test)]
mod tests;
