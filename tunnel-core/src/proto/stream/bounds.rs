//! How much a stream may hold, and for how long.

use std::time::Duration;

/// Smallest window: 256 KiB, one bulk write of a lane, and 50 Mbit/s at 40 ms before the first measurement.
pub const WINDOW_MIN: u64 = 256 * 1024;
/// Largest window: 16 MiB carries 1 Gbit/s at 130 ms.
pub const WINDOW_MAX: u64 = 16 * 1024 * 1024;
/// All that the streams of one tunnel may hold: 60 MiB, with framing within the 64 MiB that QUIC's own window grants.
pub const TUNNEL_BUDGET: u64 = 60 * 1024 * 1024;
/// Bytes after which an acknowledgement is sent at the latest: a quarter of the smallest window.
pub const ACK_EVERY: u64 = 64 * 1024;
/// An acknowledgement is sent after so long at the latest.
pub const ACK_DELAY: Duration = Duration::from_millis(100);
/// What every stream gets while anything is free: 16 KiB, so that talk goes on beside 500 stalled downloads.
pub const GRANT_MIN: u64 = 16 * 1024;
/// A reader that takes nothing for a minute while the budget is short has to make room: players do not pause that long.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);
