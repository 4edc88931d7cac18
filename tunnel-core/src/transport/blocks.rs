//! Blocks of memory that packets are cut from, used again when the last packet is gone: in the steady state a packet
//! costs no allocation, neither of its own nor as a share of a block's.

use std::{cell::RefCell, collections::VecDeque};

use bytes::BytesMut;

/// The blocks of one size that a thread keeps for later.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// What was put away first is free first.
    kept: VecDeque<BytesMut>,
    size: usize,
    most: usize,
}

impl Blocks {
    /// No block yet. At most `most` are kept; further ones go back to the allocator.
    pub(crate) const fn new(size: usize, most: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            size,
            most,
        }
    }

    /// Makes room for `length` bytes in a block that holds none: its own room again, once its packets are gone, else
    /// that of another block.
    pub(crate) fn refill(&mut self, block: &mut BytesMut, length: usize) {
        if !block.try_reclaim(self.size.max(length)) {
            self.put_away(std::mem::take(block));
            *block = self.take(length);
        }
    }

    /// An empty block with room for `length` bytes: one that was put away, or a new one.
    pub(crate) fn take(&mut self, length: usize) -> BytesMut {
        let free = self.kept.iter_mut().position(|it| it.try_reclaim(length));
        let free = free.and_then(|free| self.kept.remove(free));
        free.unwrap_or_else(|| BytesMut::with_capacity(self.size.max(length)))
    }

    /// Keeps a block. Packets that were cut from it may still be under way.
    pub(crate) fn put_away(&mut self, mut block: BytesMut) {
        block.clear();
        if self.kept.len() >= self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(block);
    }
}

/// Sees to it that `scratch` has room for `length` bytes more.
pub(crate) fn make_room(scratch: &mut BytesMut, length: usize) {
    if scratch.capacity() < length {
        BLOCKS.with_borrow_mut(|blocks| blocks.refill(scratch, length));
    }
}

thread_local! {
    /// Blocks that datagrams were cut from. 64 KiB hold 40 packets of 1,500 bytes, and 24 of them 30 ms of 30,000 packets/s;
    /// where more waits, an allocation is the least of it. A thread that never had this much to keep has none.
    static BLOCKS: RefCell<Blocks> = const { RefCell::new(Blocks::new(64 * 1024, 24)) };
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes};

    use super::*;

    fn cut(blocks: &mut Blocks, block: &mut BytesMut, length: usize) -> Bytes {
        if block.capacity() < length {
            blocks.refill(block, length);
        }
        block.put_bytes(7, length);
        block.split().freeze()
    }

    #[test]
    fn blocks_whose_packets_are_gone_are_used_again() {
        let (mut blocks, mut block) = (Blocks::new(1000, 4), BytesMut::new());
        let mut held = VecDeque::new();
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            let packet = cut(&mut blocks, &mut block, 100);
            places.insert(packet.as_ptr());
            held.push_back(packet);
            if held.len() > 15 {
                held.pop_front();
            }
        }
        assert!(places.len() <= 40, "{} places", places.len());
    }

    #[test]
    fn what_is_still_held_is_never_written_over() {
        let (mut blocks, mut block) = (Blocks::new(64, 2), BytesMut::new());
        let mut held = Vec::new();
        for n in 0..100_u8 {
            if block.capacity() < 10 {
                blocks.refill(&mut block, 10);
            }
            block.put_bytes(n, 10);
            let packet = block.split().freeze();
            if n % 3 == 0 {
                held.push((n, packet));
            }
            assert!(blocks.kept.len() <= 2);
        }
        assert!(held.iter().all(|(n, packet)| packet[..] == [*n; 10]));
    }

    #[test]
    fn a_packet_larger_than_a_block_gets_one_of_its_own() {
        let (mut blocks, mut block) = (Blocks::new(100, 4), BytesMut::new());
        blocks.refill(&mut block, 500);
        assert!(block.capacity() >= 500);
        assert!(blocks.take(50).capacity() >= 50);
    }
}
