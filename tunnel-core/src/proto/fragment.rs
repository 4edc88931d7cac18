//! Packets larger than the path (`docs/protocol.md` §7, FRAGMENT): cut here, put together there.
//!
//! Whatever the peer promises, memory grows only with the bytes that came.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use crate::proto::datagram::{FlowId, FragmentHead};

/// Largest UDP payload over IPv4, in bytes: 65,535 less the headers of IP and UDP.
pub const MAX_PACKET: usize = 65_507;

/// How to cut a packet for datagrams that have room for `room` bytes each: 2 to 255 ranges, equal but for the
/// last.
///
/// `None` if the packet fits in one datagram, or if no cut carries it: it is larger than [`MAX_PACKET`], or the
/// room is too small for 255 fragments to hold it.
pub fn split(payload_len: usize, room: usize) -> Option<Fragments> {
    if payload_len <= room || payload_len > MAX_PACKET || room == 0 {
        return None;
    }
    let count = u8::try_from(payload_len.div_ceil(room)).ok()?;
    // As even as possible, so that no tiny last fragment costs a datagram with next to nothing in it.
    let size = payload_len.div_ceil(count.into());
    Some(Fragments {
        size,
        end: payload_len,
        count,
        next: 0,
    })
}

/// How to cut a packet that is only just too large: one range as large as the room, and a short rest, which costs next to
/// nothing to send again.
///
/// `None` if it fits, or if the rest is not short.
pub fn split_rest(payload_len: usize, room: usize) -> Option<Fragments> {
    let rest = payload_len.checked_sub(room).filter(|rest| *rest > 0)?;
    (rest <= payload_len / REST_SHARE && payload_len <= MAX_PACKET).then_some(Fragments {
        size: room,
        end: payload_len,
        count: 2,
        next: 0,
    })
}

/// The ranges of a packet's fragments, in order.
#[derive(Clone, Debug)]
pub struct Fragments {
    size: usize,
    end: usize,
    count: u8,
    next: u8,
}

impl Fragments {
    /// How many fragments the packet has.
    pub const fn parts(&self) -> u8 {
        self.count
    }
}

impl Iterator for Fragments {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.next >= self.count {
            return None;
        }
        let start = usize::from(self.next) * self.size;
        self.next += 1;
        Some(start..self.end.min(start + self.size))
    }
}

/// Puts packets of a tunnel together, several at once.
#[derive(Debug)]
pub struct Reassembler {
    limits: ReassemblyLimits,
    /// By the arrival of their first fragment, which is the order in which they time out.
    packets: VecDeque<Partial>,
    /// What the packets hold, in bytes.
    bytes: usize,
    /// The last packets that became whole: a late copy of a fragment must not begin one anew.
    finished: VecDeque<Key>,
    discarded: Discarded,
}

/// The bounds of a [`Reassembler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Packets at once, in the tunnel. 128: fragments of one packet come back to back, so that only packets that
    /// lost one stay; at 1 % loss and four fragments that is 128 of 3,200 packets/s. They are searched in turn.
    pub packets: usize,
    /// Packets at once, of one flow. 32, so that a flow in trouble takes no more than a quarter of the room: as many lose a
    /// fragment at 3 % within the 150 ms in which a repair may come, at 3,500 packets/s of two.
    pub packets_per_flow: usize,
    /// Bytes at once, in the tunnel. 1 MiB = 16 packets of the largest size. Every fragment counts for
    /// 64 bytes more than it holds, so that tiny ones are not free. A growing buffer may have room for twice
    /// what it holds.
    pub bytes: usize,
    /// How long a packet waits for its fragments. 1 s, of the protocol: later a game does not want it.
    pub timeout: Duration,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            packets: 128,
            packets_per_flow: 32,
            bytes: 1 << 20,
            timeout: Duration::from_secs(1),
        }
    }
}

impl Reassembler {
    /// A reassembler that holds nothing yet.
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            packets: VecDeque::new(),
            bytes: 0,
            finished: VecDeque::new(),
            discarded: Discarded::default(),
        }
    }

    /// Takes a fragment in; yields the packet that it completes.
    ///
    /// A fragment that came before is no fault. An error means that the packet, this fragment and those held of
    /// it, is discarded; it is counted in [`drain_discarded`](Self::drain_discarded) too, like packets of others
    /// that had to make room.
    pub fn handle_fragment(
        &mut self,
        now: Instant,
        flow: FlowId,
        head: FragmentHead,
        payload: Bytes,
    ) -> Result<Option<Bytes>, DropReason> {
        self.handle_timeout(now);
        let key = (flow, head.packet);
        // The packet in the making is almost always one of the last.
        let at = match self.packets.iter().rposition(|packet| packet.key == key) {
            Some(at) => at,
            None if self.finished.contains(&key) => return Ok(None),
            None => self.begin(Partial::new(now, key, head.count)),
        };
        let Some(packet) = self.packets.get_mut(at) else {
            return Ok(None);
        };
        let cost = packet.cost;
        let added = packet.add(head, &payload);
        self.bytes += packet.cost - cost;
        if let Err(reason) = added {
            self.discard(at, reason);
            return Err(reason);
        }
        if packet.is_whole() {
            self.remember(key);
            return Ok(self.take(at).map(|packet| packet.front.freeze()));
        }
        self.make_room(key).map(|()| None)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.packets
            .front()
            .and_then(|packet| packet.since.checked_add(self.limits.timeout))
    }

    /// Discards the packets whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(first) = self.packets.front() {
            if now.saturating_duration_since(first.since) < self.limits.timeout {
                return;
            }
            self.discard(0, DropReason::Timeout);
        }
    }

    /// How many packets were discarded since the last call, and why.
    pub fn drain_discarded(&mut self) -> Discarded {
        std::mem::take(&mut self.discarded)
    }

    /// How many bytes are held, each fragment's 64 included.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many packets are being put together.
    pub fn packets(&self) -> usize {
        self.packets.len()
    }

    /// Adds a packet, where needed in the place of its flow's oldest or of the oldest; yields its position.
    fn begin(&mut self, packet: Partial) -> usize {
        let of_flow = |other: &Partial| other.key.0 == packet.key.0;
        let held = self.packets.iter().filter(|other| of_flow(other)).count();
        if held >= self.limits.packets_per_flow
            && let Some(oldest) = self.packets.iter().position(of_flow)
        {
            self.discard(oldest, DropReason::Evicted);
        }
        if self.packets.len() >= self.limits.packets {
            self.discard(0, DropReason::Evicted);
        }
        self.packets.push_back(packet);
        self.packets.len() - 1
    }

    /// Discards the oldest packets but `key`, which has grown, until the rest is within bounds.
    fn make_room(&mut self, key: Key) -> Result<(), DropReason> {
        while self.bytes > self.limits.bytes {
            let Some(oldest) = self.packets.iter().position(|packet| packet.key != key) else {
                self.discard(0, DropReason::TooLarge);
                return Err(DropReason::TooLarge);
            };
            self.discard(oldest, DropReason::Evicted);
        }
        Ok(())
    }

    fn discard(&mut self, at: usize, reason: DropReason) {
        if self.take(at).is_some() {
            self.discarded.add(reason);
        }
    }

    fn take(&mut self, at: usize) -> Option<Partial> {
        let packet = self.packets.remove(at)?;
        self.bytes -= packet.cost;
        Some(packet)
    }

    fn remember(&mut self, key: Key) {
        if self.finished.len() >= FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back(key);
    }
}

/// Why a packet was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Not all of its fragments came in time.
    Timeout,
    /// It had to make room for newer ones.
    Evicted,
    /// Its fragments do not agree on their number or size, or one is empty.
    Contradictory,
    /// It would be larger than a UDP packet, or than the memory for reassembly.
    TooLarge,
}

/// How many packets were discarded, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// [`DropReason::Timeout`].
    pub timeout: u64,
    /// [`DropReason::Evicted`].
    pub evicted: u64,
    /// [`DropReason::Contradictory`].
    pub contradictory: u64,
    /// [`DropReason::TooLarge`].
    pub too_large: u64,
}

impl Discarded {
    fn add(&mut self, reason: DropReason) {
        let count = match reason {
            DropReason::Timeout => &mut self.timeout,
            DropReason::Evicted => &mut self.evicted,
            DropReason::Contradictory => &mut self.contradictory,
            DropReason::TooLarge => &mut self.too_large,
        };
        *count = count.saturating_add(1);
    }
}

/// A rest is short if it is so small a part of its packet: as much as a packet of 1,472 bytes has beyond the 1,200 that any
/// path carries.
pub const REST_SHARE: usize = 4;

/// Which packet: ids are a flow's own.
type Key = (FlowId, u16);

/// What a fragment costs beside its bytes: its node in the map and the allocator's share, rounded up.
const OVERHEAD: usize = 64;

/// 64 packets that became whole are remembered: copies of a datagram come within a few packets of each other, and
/// a flow's packet id comes again after 65,535 others.
const FINISHED: usize = 64;

/// A packet in the making. Fragments that come in order, as nearly all do, are copied once, to where they belong.
#[derive(Debug)]
struct Partial {
    key: Key,
    since: Instant,
    count: u8,
    /// Length of every fragment but the last, once one of them has come.
    size: Option<usize>,
    /// Length of the last fragment, once it has come.
    last: Option<usize>,
    /// Fragments 0 to `next`, without it.
    front: BytesMut,
    next: u8,
    /// Fragments past `next`, copied: a slice would hold on to the whole buffer it was received in.
    ahead: BTreeMap<u8, Box<[u8]>>,
    cost: usize,
}

impl Partial {
    fn new(now: Instant, key: Key, count: u8) -> Self {
        Self {
            key,
            since: now,
            count,
            size: None,
            last: None,
            front: BytesMut::new(),
            next: 0,
            ahead: BTreeMap::new(),
            cost: 0,
        }
    }

    fn is_whole(&self) -> bool {
        self.next == self.count
    }

    fn add(&mut self, head: FragmentHead, payload: &[u8]) -> Result<(), DropReason> {
        if head.count != self.count || head.count < 2 || head.index >= head.count {
            return Err(DropReason::Contradictory);
        }
        self.agree(head, payload.len())?;
        if head.index < self.next || self.ahead.contains_key(&head.index) {
            return Ok(());
        }
        self.cost += payload.len() + OVERHEAD;
        if head.index > self.next {
            self.ahead.insert(head.index, payload.into());
            return Ok(());
        }
        self.front.extend_from_slice(payload);
        self.next += 1;
        while let Some(fragment) = self.ahead.remove(&self.next) {
            self.front.extend_from_slice(&fragment);
            self.next += 1;
        }
        Ok(())
    }

    /// Whether a fragment of this length fits in with the others.
    fn agree(&mut self, head: FragmentHead, length: usize) -> Result<(), DropReason> {
        let known = if head.index + 1 == head.count {
            &mut self.last
        } else {
            &mut self.size
        };
        if length == 0 || *known.get_or_insert(length) != length {
            return Err(DropReason::Contradictory);
        }
        // What has not come yet is at least one byte long.
        let (size, last) = (self.size.unwrap_or(1), self.last.unwrap_or(1));
        if self.size.is_some() && last > size {
            return Err(DropReason::Contradictory);
        }
        let total = size
            .checked_mul(usize::from(self.count) - 1)
            .and_then(|length| length.checked_add(last));
        match total {
            Some(total) if total <= MAX_PACKET => Ok(()),
            _ => Err(DropReason::TooLarge),
        }
    }
}

#[cfg(test)]
mod tests;
