//! The head of a flow's datagram (`docs/protocol.md` §7). Nothing here allocates.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::proto::{
    message::ServiceId,
    wire::{Reader, WireError, put_address, put_varint, varint_len, varint_newtype},
};

/// Longest head that this version writes, in bytes: what a datagram's room must exceed.
pub const MAX_HEAD: usize = 1 + 8 + (1 + 8 + 4 + 2 * (1 + 18)) + 4 + (6 + BUNDLES_MAX / 2);

/// Bundles that a repair covers at most. 16 outlast the loss of five packets in a row (`redundancy::tests::sim`).
pub const BUNDLES_MAX: usize = 16;

/// Datagrams that the head of a repair can count for one bundle.
pub const BUNDLE_COUNT_MAX: u8 = 15;

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
        let fragment = self.fragment.map_or(0, |_| FragmentHead::LEN);
        let redundancy = self.redundancy.map_or(0, |it| it.encoded_len());
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
    /// What the player sent to, for services that ask for it.
    pub local: Option<SocketAddr>,
}

impl FlowOpen {
    fn body_len(&self) -> usize {
        let length = |address: SocketAddr| 1 + usize::from(ip_len(address)) + 2;
        varint_len(self.service.0.into())
            + varint_len(self.port_index.into())
            + length(self.player)
            + self.local.map_or(0, length)
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.body_len() as u8);
        put_varint(out, self.service.0.into());
        put_varint(out, self.port_index.into());
        for address in [self.player].into_iter().chain(self.local) {
            out.put_u8(ip_len(address));
            put_address(out, address);
        }
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
            local: match body.u8() {
                Ok(4) => Some(body.address_v4()?),
                Ok(16) => Some(body.address_v6()?),
                // Nothing, or what a later version says there.
                _ => None,
            },
        })
    }
}

/// How many bytes its IP address takes.
const fn ip_len(address: SocketAddr) -> u8 {
    match address.ip().to_canonical() {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 16,
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
    /// Bytes that it adds to a datagram's head.
    pub const LEN: usize = 4;

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
    /// Rises by one with each datagram of the tunnel that has this scheme, and wraps around; copies share it. A repair
    /// says the number of the first datagram that it covers.
    pub sequence: u16,
    /// By what scheme.
    pub scheme: Scheme,
}

impl RedundancyHead {
    /// Bytes that protection adds to a datagram's head.
    pub const LEN: usize = 3;

    fn encoded_len(&self) -> usize {
        match self.scheme {
            Scheme::Copied | Scheme::Source => Self::LEN,
            Scheme::Repair(repair) => 6 + repair.bundles().div_ceil(2),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self.scheme {
            Scheme::Copied => COPIED,
            Scheme::Source => SOURCE,
            Scheme::Repair(_) => REPAIR,
        });
        out.put_u16(self.sequence);
        if let Scheme::Repair(repair) = self.scheme {
            repair.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let number = reader.u8()?;
        let sequence = reader.u16()?;
        let scheme = match number {
            COPIED => Scheme::Copied,
            SOURCE => Scheme::Source,
            REPAIR => Scheme::Repair(RepairHead::decode(reader)?),
            other => return Err(DatagramError::UnknownScheme(other)),
        };
        Ok(Self { sequence, scheme })
    }
}

/// A scheme of redundancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The datagram may come more than once.
    Copied,
    /// A datagram that repairs cover.
    Source,
    /// Repairs others; its payload is their symbol. It is of no flow.
    Repair(RepairHead),
}

/// What a repair covers: bundles of datagrams, which follow on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairHead {
    /// Number of the repair; wraps around.
    pub number: u8,
    /// Number of the first bundle; wraps around.
    pub bundle: u8,
    /// How many datagrams each bundle holds, 1 to 15; 0 behind the last.
    pub counts: [u8; BUNDLES_MAX],
}

impl RepairHead {
    fn bundles(&self) -> usize {
        self.counts.iter().take_while(|count| **count > 0).count()
    }

    fn encode(&self, out: &mut BytesMut) {
        let bundles = self.bundles();
        out.put_u8(self.number);
        out.put_u8(self.bundle);
        out.put_u8(bundles as u8);
        for pair in self.counts.chunks(2).take(bundles.div_ceil(2)) {
            let [high, low] = [0, 1].map(|at| pair.get(at).copied().unwrap_or_default());
            out.put_u8(high.min(BUNDLE_COUNT_MAX) << 4 | low.min(BUNDLE_COUNT_MAX));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (number, bundle) = (reader.u8()?, reader.u8()?);
        let bundles = usize::from(reader.u8()?);
        let mut counts = [0; BUNDLES_MAX];
        let used = counts.get_mut(..bundles).ok_or(WireError::OutOfRange)?;
        for pair in used.chunks_mut(2) {
            let both = reader.u8()?;
            for (count, half) in pair.iter_mut().zip([both >> 4, both & 0xf]) {
                *count = half;
            }
        }
        if used.is_empty() || used.contains(&0) {
            return Err(WireError::OutOfRange);
        }
        Ok(Self {
            number,
            bundle,
            counts,
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

/// 1 to 3 stood in drafts of the protocol, and mean nothing.
const COPIED: u8 = 4;
const SOURCE: u8 = 5;
const REPAIR: u8 = 6;

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
