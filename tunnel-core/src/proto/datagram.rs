//! The head of a flow's datagram (`docs/protocol.md` §7). Nothing here allocates.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::proto::{
    message::ServiceId,
    wire::{Reader, WireError, put_address, put_varint, varint_len, varint_newtype},
};

/// Longest head that this version writes, in bytes: what a datagram's room must exceed.
pub const MAX_HEAD: usize = 1 + 8 + (1 + 8 + 4 + 1 + 18) + 4 + (1 + 11);

varint_newtype! {
    /// A flow of a tunnel: chosen by the relay, rises, never repeats.
    pub struct FlowId(u64);
}

/// What stands before a datagram's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramHead {
    /// Which flow.
    pub flow: FlowId,
    /// What the datagram is.
    pub kind: Kind,
    /// What the flow is; on the relay's datagrams until one comes back.
    pub open: Option<FlowOpen>,
    /// The payload is a part of a larger packet.
    pub fragment: Option<FragmentHead>,
    /// The datagram may come more than once, or repairs others.
    pub redundancy: Option<RedundancyHead>,
}

impl DatagramHead {
    /// The head of a whole packet of a flow that the peer knows.
    pub const fn data(flow: FlowId) -> Self {
        Self {
            flow,
            kind: Kind::Data,
            open: None,
            fragment: None,
            redundancy: None,
        }
    }

    /// How many bytes [`encode`](Self::encode) appends, at most [`MAX_HEAD`].
    pub fn encoded_len(&self) -> usize {
        let open = self.open.map_or(0, |open| 1 + open.body_len());
        let fragment = self.fragment.map_or(0, |_| 4);
        let redundancy = self.redundancy.map_or(0, |it| 1 + it.body_len());
        1 + varint_len(self.flow.0) + open + fragment + redundancy
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut BytesMut) {
        let flag = |set, bit| if set { bit } else { 0 };
        out.put_u8(
            flag(self.open.is_some(), OPEN)
                | flag(self.fragment.is_some(), FRAGMENT)
                | flag(self.redundancy.is_some(), REDUNDANCY)
                | self.kind as u8,
        );
        put_varint(out, self.flow.0);
        if let Some(open) = self.open {
            open.encode(out);
        }
        if let Some(fragment) = self.fragment {
            out.put_u16(fragment.packet);
            out.put_u8(fragment.index);
            out.put_u8(fragment.count);
        }
        if let Some(redundancy) = self.redundancy {
            redundancy.encode(out);
        }
    }

    /// Takes a datagram apart. The payload is a slice of it, not a copy.
    pub fn decode(mut datagram: Bytes) -> Result<(Self, Bytes), DatagramError> {
        let mut reader = Reader::new(&datagram);
        let first = reader.u8()?;
        let kind = match first & KIND {
            0 => Kind::Data,
            1 => Kind::Close,
            2 => Kind::Probe,
            other => return Err(DatagramError::UnknownKind(other)),
        };
        let head = Self {
            flow: FlowId(reader.varint()?),
            kind,
            open: part(first & OPEN, || FlowOpen::decode(&mut reader))?,
            fragment: part(first & FRAGMENT, || FragmentHead::decode(&mut reader))?,
            redundancy: part(first & REDUNDANCY, || RedundancyHead::decode(&mut reader))?,
        };
        let length = datagram.len() - reader.remaining();
        datagram.advance(length);
        Ok((head, datagram))
    }
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A packet of the flow, or a part of one.
    Data = 0,
    /// The sender has forgotten the flow.
    Close = 1,
    /// Measures the path; no player sees it.
    Probe = 2,
}

/// What the relay says of a flow that the client may not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowOpen {
    /// The service whose port the player sent to.
    pub service: ServiceId,
    /// Which port of the service's range, from 0.
    pub port_index: u16,
    /// The player.
    pub player: SocketAddr,
}

impl FlowOpen {
    fn body_len(&self) -> usize {
        let ip = match self.player.ip().to_canonical() {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 16,
        };
        varint_len(self.service.0.into()) + varint_len(self.port_index.into()) + 1 + ip + 2
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.body_len() as u8);
        put_varint(out, self.service.0.into());
        put_varint(out, self.port_index.into());
        out.put_u8(if self.player.ip().to_canonical().is_ipv4() {
            4
        } else {
            16
        });
        put_address(out, self.player);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let mut body = extensible(reader)?;
        Ok(Self {
            service: ServiceId(body.varint_as()?),
            port_index: body.varint_as()?,
            player: match body.u8()? {
                4 => body.address_v4()?,
                16 => body.address_v6()?,
                _ => return Err(WireError::OutOfRange.into()),
            },
        })
    }
}

/// Which part of a larger packet a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHead {
    /// Which packet of the flow; wraps around.
    pub packet: u16,
    /// Which part, from 0.
    pub index: u8,
    /// How many parts, 2 to 255.
    pub count: u8,
}

impl FragmentHead {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let head = Self {
            packet: reader.u16()?,
            index: reader.u8()?,
            count: reader.u8()?,
        };
        if head.count < 2 || head.index >= head.count {
            return Err(DatagramError::NoSuchFragment {
                index: head.index,
                count: head.count,
            });
        }
        Ok(head)
    }
}

/// How a datagram takes part in redundancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedundancyHead {
    /// Rises by one with each datagram of the flow, a fragment counting as one, and wraps around; copies share it.
    pub sequence: u32,
    /// By what scheme.
    pub scheme: Scheme,
}

impl RedundancyHead {
    const fn body_len(&self) -> usize {
        match self.scheme {
            Scheme::Duplicate => 5,
            Scheme::FecSource(_) | Scheme::FecRepair(_) => 11,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.body_len() as u8);
        let (number, fec) = match self.scheme {
            Scheme::Duplicate => (DUPLICATE, None),
            Scheme::FecSource(fec) => (FEC_SOURCE, Some(fec)),
            Scheme::FecRepair(fec) => (FEC_REPAIR, Some(fec)),
        };
        out.put_u8(number);
        out.put_u32(self.sequence);
        if let Some(fec) = fec {
            out.put_u32(fec.group);
            out.put_u8(fec.sources);
            out.put_u8(fec.index);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let mut body = extensible(reader)?;
        let number = body.u8()?;
        let sequence = body.u32()?;
        let scheme = match number {
            DUPLICATE => Scheme::Duplicate,
            FEC_SOURCE => Scheme::FecSource(FecHead::decode(&mut body)?),
            FEC_REPAIR => Scheme::FecRepair(FecHead::decode(&mut body)?),
            other => return Err(DatagramError::UnknownScheme(other)),
        };
        Ok(Self { sequence, scheme })
    }
}

/// A scheme of redundancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The datagram may come more than once.
    Duplicate,
    /// A packet that others repair.
    FecSource(FecHead),
    /// Repairs packets of its group.
    FecRepair(FecHead),
}

/// A place in a group of forward error correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FecHead {
    /// Which group of the flow.
    pub group: u32,
    /// How many source packets the group has.
    pub sources: u8,
    /// Which packet of the group.
    pub index: u8,
}

impl FecHead {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            group: reader.u32()?,
            sources: reader.u8()?,
            index: reader.u8()?,
        })
    }
}

/// Why a datagram is dropped. It ends nothing: drop it and count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The head is cut off, or a number in it is out of its range.
    #[error("datagram head: {0}")]
    Malformed(#[from] WireError),
    /// A kind that this version does not have.
    #[error("datagram of unknown kind {0}")]
    UnknownKind(u8),
    /// A scheme of redundancy that this version does not have.
    #[error("datagram with unknown redundancy scheme {0}")]
    UnknownScheme(u8),
    /// Fewer than two fragments, or an index past them.
    #[error("datagram is fragment {index} of {count}")]
    NoSuchFragment {
        /// Which one it says it is.
        index: u8,
        /// Of how many.
        count: u8,
    },
}

const OPEN: u8 = 0x80;
const FRAGMENT: u8 = 0x40;
const REDUNDANCY: u8 = 0x20;
const KIND: u8 = 0x1f;

const DUPLICATE: u8 = 1;
const FEC_SOURCE: u8 = 2;
const FEC_REPAIR: u8 = 3;

/// A part of the head that its flag announces.
fn part<T>(
    flag: u8,
    decode: impl FnOnce() -> Result<T, DatagramError>,
) -> Result<Option<T>, DatagramError> {
    (flag != 0).then(decode).transpose()
}

/// The body behind a one-byte length; what a later version adds at its end is left unread.
fn extensible<'a>(reader: &mut Reader<'a>) -> Result<Reader<'a>, WireError> {
    let length = reader.u8()?;
    reader.bytes(length.into()).map(Reader::new)
}

#[cfg(test)]
mod tests;
