//! How much memory the streams of one tunnel may hold together, and those of all tunnels.
//!
//! A stream holds two kinds of bytes: sent and not yet acknowledged, and received and not yet delivered to its socket.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::proto::stream::{GRANT_MIN, TUNNEL_BUDGET};

/// Bytes held by the streams of all tunnels: sent and not yet acknowledged, or come and waiting for their sockets.
#[derive(Debug)]
pub(crate) struct Memory {
    most: u64,
    held: AtomicU64,
}

impl Memory {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: AtomicU64::new(0),
        })
    }

    /// What a tunnel that holds so much may hold: a share of what is free, so that however many tunnels hold all they can, something
    /// is left for the next.
    fn share(&self, own: u64) -> u64 {
        let free = (self.most).saturating_sub(self.held.load(Ordering::Relaxed));
        free.saturating_add(own) / SHARE
    }

    fn take(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes held by the streams of a client, sent and not yet acknowledged. Its tunnels follow one another and share it.
#[derive(Debug)]
pub(crate) struct Budget {
    memory: Arc<Memory>,
    most: u64,
    held: AtomicU64,
    /// Bytes that came and wait for their sockets.
    waiting: AtomicU64,
}

/// Why what came cannot wait for its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// It is more than the peer may have a tunnel hold.
    Tunnel,
    /// All tunnels hold too much, and this one most.
    All,
}

impl Budget {
    /// `most` bytes, at most what the protocol lets a tunnel hold, and a share of what all may.
    pub(crate) fn new(memory: Arc<Memory>, most: u64) -> Self {
        Self {
            memory,
            most: most.min(TUNNEL_BUDGET),
            held: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    /// Whether less than a sixteenth is free: then a reader that takes nothing has to make room.
    pub(crate) fn is_short(&self) -> bool {
        self.free() < self.most() / 16
    }

    /// Bytes that may still be held.
    pub(crate) fn free(&self) -> u64 {
        (self.most()).saturating_sub(self.held.load(Ordering::Relaxed))
    }

    fn most(&self) -> u64 {
        let held = self.held.load(Ordering::Relaxed);
        self.most.min(self.memory.share(held).max(HELD_MIN))
    }

    /// Bytes came that their socket does not take yet, of a stream of which `own` bytes wait with them; they wait in any case, until
    /// [`release_undelivered`](Self::release_undelivered). Where all hold too much, who reads what comes is not the one to go.
    pub(crate) fn reserve_undelivered(&self, bytes: u64, own: u64) -> Result<(), Full> {
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.memory.take(bytes);
        if waiting > WAITING_MAX {
            Err(Full::Tunnel)
        } else if own > READER_MOST && waiting > self.memory.share(waiting).max(WAITING_MIN) {
            Err(Full::All)
        } else {
            Ok(())
        }
    }

    /// Their socket took bytes that waited.
    pub(crate) fn release_undelivered(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give_back(bytes);
    }

    /// Bytes were sent, and are kept until they are acknowledged.
    pub(crate) fn reserve_unacked(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.take(bytes);
    }

    /// Bytes that were kept are acknowledged.
    pub(crate) fn release_unacked(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give_back(bytes);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        // Streams give back what they hold; whatever one did not goes with its tunnel.
        let left = *self.held.get_mut() + *self.waiting.get_mut();
        self.memory.give_back(left);
    }
}

/// What a peer may make us keep for sockets that do not read: 64 MiB; one that follows the protocol sends 60 at most.
const WAITING_MAX: u64 = 64 * 1024 * 1024;
/// What may wait on a tunnel however much the others hold: 1 MiB, a game's players with a dozen slow connections.
const WAITING_MIN: u64 = 1 << 20;
/// What a stream whose reader keeps up may have waiting: a few chunks.
const READER_MOST: u64 = 64 * 1024;
/// What may be held however much the others hold: 256 KiB, sixteen streams' smallest share.
const HELD_MIN: u64 = 16 * GRANT_MIN;
/// A tunnel may hold a quarter of what is free: its whole 60 MiB while 300 of 512 are held, and 5 MiB each where a hundred hold all
/// they can.
const SHARE: u64 = 4;
/// What the streams of all tunnels may hold: 512 MiB, half of what a small VPS has.
pub(crate) const MEMORY: u64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn one_tunnel_may_hold_all_that_the_protocol_allows() {
        let budget = Budget::new(Memory::new(MEMORY), u64::MAX);
        assert_eq!(budget.free(), TUNNEL_BUDGET);
        budget.reserve_unacked(TUNNEL_BUDGET);
        assert!(budget.free() == 0 && budget.is_short());
        assert_eq!(budget.reserve_undelivered(WAITING_MAX, MIB), Ok(()));
        assert_eq!(budget.reserve_undelivered(1, MIB), Err(Full::Tunnel));
    }

    #[test]
    fn however_many_tunnels_hold_all_they_can_something_is_left_for_the_next() {
        let memory = Memory::new(MEMORY);
        let held = || memory.held.load(Ordering::Relaxed);
        let tunnels: Vec<_> = (0..1_000)
            .map(|_| {
                let budget = Budget::new(memory.clone(), TUNNEL_BUDGET);
                assert!(budget.free() >= HELD_MIN);
                // As streams do it, a little at a time, in both directions.
                while budget.free() > 0 {
                    budget.reserve_unacked(budget.free().min(64 * 1024));
                }
                while budget.reserve_undelivered(64 * 1024, MIB).is_ok() {}
                budget
            })
            .collect();
        let beyond = tunnels.len() as u64 * (HELD_MIN + WAITING_MIN + 64 * 1024);
        assert!(held() <= MEMORY + beyond, "{} MiB", held() / MIB);
        // The greediest goes, and leaves nothing behind.
        drop(tunnels);
        assert_eq!(held(), 0);
    }

    #[test]
    fn who_holds_little_has_room_beside_who_holds_much() {
        let memory = Memory::new(8 * MIB);
        let (greedy, modest) = [(); 2]
            .map(|()| Budget::new(memory.clone(), TUNNEL_BUDGET))
            .into();
        while greedy.reserve_undelivered(64 * 1024, MIB).is_ok() {}
        assert_eq!(greedy.reserve_undelivered(1, MIB), Err(Full::All));
        assert_eq!(modest.reserve_undelivered(MIB, MIB), Ok(()));
        assert!(modest.free() >= MIB);
    }
    #[test]
    fn who_reads_what_comes_does_not_go_for_who_does_not() {
        let budget = Budget::new(Memory::new(0), TUNNEL_BUDGET);
        assert_eq!(budget.reserve_undelivered(WAITING_MIN, WAITING_MIN), Ok(()));
        assert_eq!(budget.reserve_undelivered(1_000, READER_MOST), Ok(()));
        assert_eq!(
            budget.reserve_undelivered(1_000, READER_MOST + 1),
            Err(Full::All)
        );
    }
}
