//! What share of the packets is lost.

use std::time::Instant;

/// Counts what arrives and what does not.
#[derive(Debug, Clone, Default)]
pub(super) struct Loss {
    acked: u64,
    lost: u64,
    /// Losses of packets sent before this belong to a window that has already been corrected.
    since: Option<Instant>,
}

impl Loss {
    pub(super) fn handle_ack(&mut self, bytes: u64) {
        self.acked += bytes;
    }

    /// `bytes` are lost; the newest of them was sent at `sent`.
    pub(super) fn handle_loss(&mut self, sent: Instant, bytes: u64) {
        if self.since.is_none_or(|since| sent >= since) {
            self.lost += bytes;
        }
    }

    /// The share lost since the last time, once enough packets of `mtu` were sent.
    pub(super) fn judge(&mut self, mtu: u64) -> Option<f64> {
        let sent = self.acked + self.lost;
        if sent < LOSS_SAMPLE * mtu {
            return None;
        }
        let share = self.lost as f64 / sent as f64;
        self.restart();
        Some(share)
    }

    /// Forgets what has been counted.
    pub(super) fn restart(&mut self) {
        self.acked = 0;
        self.lost = 0;
    }
}

/// Full packets' worth of bytes before losses are judged.
const LOSS_SAMPLE: u64 = 250;
