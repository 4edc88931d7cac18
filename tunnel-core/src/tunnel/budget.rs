//! What the streams of one tunnel may hold together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::stream::TUNNEL_BUDGET;

/// Bytes held by all streams of a tunnel, sent and not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u64,
    held: AtomicU64,
    /// Bytes that came and wait for their sockets.
    waiting: AtomicU64,
}

impl Budget {
    /// So many bytes, at most what the protocol lets a tunnel hold.
    pub(crate) fn new(most: u64) -> Self {
        Self {
            most: most.min(TUNNEL_BUDGET),
            held: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    /// Whether less than a sixteenth is free: then a reader that takes nothing has to make room.
    pub(crate) fn is_short(&self) -> bool {
        self.free() < self.most / 16
    }

    /// Bytes that may still be held.
    pub(crate) fn free(&self) -> u64 {
        self.most.saturating_sub(self.held.load(Ordering::Relaxed))
    }

    /// Bytes came that their socket does not take yet. Returns whether the peer keeps to what a tunnel may hold.
    pub(crate) fn wait(&self, bytes: u64) -> bool {
        self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= WAITING_MAX
    }

    pub(crate) fn waited(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a peer may make us keep for sockets that do not read: 64 MiB; one that follows the protocol sends 60 at most.
const WAITING_MAX: u64 = 64 * 1024 * 1024;
