//! What is declared to a connection's controller.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Makes a [`Level`](super::Level) for each path of a connection, with settings of its own.
#[derive(Debug)]
pub struct LevelConfig {
    /// Bytes per second of datagrams, [`UNDECLARED`] until the tunnel says.
    pub(super) game_rate: AtomicU64,
    /// Somebody would feel a queue.
    pub(super) is_felt: AtomicBool,
    /// Where [`Level`](super::Level) gets the time from; virtual in tests.
    pub(super) clock: fn() -> Instant,
    /// Nothing may leave.
    #[cfg(test)]
    pub(super) is_choked: AtomicBool,
}

impl LevelConfig {
    /// Declares how many bytes of datagrams the connection sends each second, headers included.
    ///
    /// From then on the floor follows the game instead of standing at 12.5 Mbit/s: lower on an
    /// uplink that is narrower than that, and high enough when strangers fill the bottleneck's
    /// queue. Takes effect within a round trip.
    pub fn set_game_rate(&self, bytes_per_second: u64) {
        // Half of the range is no limit and leaves room for the half more that a floor adds.
        let rate = bytes_per_second.min(UNDECLARED / 2);
        self.game_rate.store(rate, Ordering::Relaxed);
    }

    /// Declares whether somebody would feel a queue: a game's datagrams or a player's talk. Without them bulk may keep a queue as
    /// other controllers do.
    pub fn set_felt(&self, is_felt: bool) {
        self.is_felt.store(is_felt, Ordering::Relaxed);
    }

    pub(super) fn is_felt(&self) -> bool {
        self.is_felt.load(Ordering::Relaxed)
    }

    /// The declared rate, in bytes per second.
    pub(super) fn game_rate(&self) -> Option<u64> {
        let rate = self.game_rate.load(Ordering::Relaxed);
        (rate != UNDECLARED).then_some(rate)
    }
}

impl Default for LevelConfig {
    fn default() -> Self {
        Self {
            game_rate: AtomicU64::new(UNDECLARED),
            is_felt: true.into(),
            clock: Instant::now,
            #[cfg(test)]
            is_choked: false.into(),
        }
    }
}

/// [`LevelConfig::game_rate`] before anything is declared.
pub(super) const UNDECLARED: u64 = u64::MAX;
