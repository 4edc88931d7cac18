//! Bytes that came from the tunnel for a socket whose send buffer is full.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in order. What has to stay is copied once, so that it holds its own length and neither the buffer that it
/// came in (256 KiB of a lane) nor an entry for each byte that a peer sends by itself.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// What stays, in blocks of its own.
    settled: VecDeque<Bytes>,
    /// The last of it, with room for more.
    block: BytesMut,
    /// What has just come, by reference: usually the socket takes it at once.
    fresh: VecDeque<Bytes>,
    settled_bytes: usize,
}

impl Backlog {
    /// More came.
    pub(crate) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.fresh.push_back(data);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.block.is_empty() && self.fresh.is_empty()
    }

    /// The first of it, for one write. Returns how many slices there are.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let block = (!self.block.is_empty()).then_some(&self.block[..]);
        let pieces = (self.settled.iter().map(|piece| &piece[..]))
            .chain(block)
            .chain(self.fresh.iter().map(|piece| &piece[..]));
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// The socket took the first `taken` bytes.
    pub(crate) fn take(&mut self, mut taken: usize) {
        self.settled_bytes -= taken.min(self.settled_bytes);
        take_of(&mut self.settled, &mut taken);
        let of_block = taken.min(self.block.len());
        self.block.advance(of_block);
        taken -= of_block;
        take_of(&mut self.fresh, &mut taken);
    }

    /// The socket takes no more for now: what is left stays.
    pub(crate) fn settle(&mut self) {
        for mut piece in self.fresh.drain(..) {
            self.settled_bytes += piece.len();
            while !piece.is_empty() {
                let mut room = self.block.capacity() - self.block.len();
                if room == 0 {
                    if !self.block.is_empty() {
                        self.settled.push_back(self.block.split().freeze());
                    }
                    // As much again as there is, so that at most half stands empty.
                    self.block =
                        BytesMut::with_capacity(self.settled_bytes.clamp(BLOCK_MIN, BLOCK_MAX));
                    room = self.block.capacity();
                }
                let fits = piece.split_to(piece.len().min(room));
                self.block.extend_from_slice(&fits);
            }
        }
        self.fresh = VecDeque::new();
    }
}

/// Takes bytes off the front.
fn take_of(pieces: &mut VecDeque<Bytes>, taken: &mut usize) {
    while *taken > 0 {
        let Some(front) = pieces.front_mut() else {
            return;
        };
        let of_front = front.len().min(*taken);
        front.advance(of_front);
        *taken -= of_front;
        if front.is_empty() {
            pieces.pop_front();
        }
    }
}

/// First block of what stays: 512 bytes.
const BLOCK_MIN: usize = 512;
/// Largest: 64 KiB.
const BLOCK_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::XorShift;

    fn drained(waiting: &mut Backlog, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = waiting.fill(&mut slices);
            let all: Vec<u8> = slices[..count]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            let taken = all.len().min(most);
            out.extend_from_slice(&all[..taken]);
            waiting.take(taken);
        }
        out
    }

    /// Bytes of memory that is kept.
    fn held(waiting: &Backlog) -> usize {
        let blocks: usize = waiting.settled.iter().map(Bytes::len).sum();
        let entries = waiting.settled.capacity() + waiting.fresh.capacity();
        blocks + waiting.block.capacity() + entries * size_of::<Bytes>()
    }

    #[test]
    fn many_single_bytes_of_a_large_buffer_hold_little_more_than_themselves() {
        let mut waiting = Backlog::default();
        let mut sent = Vec::new();
        for number in 0..100_000u32 {
            // Each in a buffer of its own, as a hostile peer can arrange it.
            let buffer = Bytes::from(vec![number as u8; 4_096]);
            waiting.push(buffer.slice(..1));
            sent.push(number as u8);
            waiting.settle();
            assert!(buffer.is_unique(), "the buffer is held");
            assert!(held(&waiting) <= 3 * sent.len() + 1_024, "{}", sent.len());
        }
        assert_eq!(drained(&mut waiting, usize::MAX), sent);
        assert_eq!(waiting.settled_bytes, 0);
    }

    #[test]
    fn nothing_is_lost_or_doubled_however_it_comes_and_goes() {
        let mut random = XorShift::new(3);
        for _ in 0..200 {
            let (mut waiting, mut sent, mut got) = (Backlog::default(), Vec::new(), Vec::new());
            for _ in 0..50 {
                let length = (random.next() % 3_000) as usize;
                let data = random.bytes(length);
                sent.extend_from_slice(&data);
                waiting.push(data.into());
                if random.next().is_multiple_of(2) {
                    waiting.settle();
                }
                let mut slices = [IoSlice::new(&[]); 8];
                let count = waiting.fill(&mut slices);
                let all: Vec<u8> = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                let taken = random.next() as usize % (all.len() + 1);
                got.extend_from_slice(&all[..taken]);
                waiting.take(taken);
            }
            got.extend(drained(&mut waiting, 777));
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn what_is_taken_at_once_is_not_copied() {
        let mut waiting = Backlog::default();
        let data = Bytes::from_static(b"at once");
        waiting.push(data.clone());
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(waiting.fill(&mut slices), 1);
        assert_eq!(slices[0].as_ptr(), data.as_ptr());
    }
}
