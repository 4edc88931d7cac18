//! Symbols: what repairs are computed of.

use crate::proto::{
    datagram::{BUNDLES_MAX, RedundancyHead, Scheme},
    redundancy::field,
};

/// Largest datagram that repairs cover, with its head, in bytes. What is larger is cut into fragments, each of which is covered.
pub const PROTECTED_MAX: usize = SYMBOL_MAX - LENGTH;

/// Bytes that a protected datagram has, with its head but for what this scheme adds, of `room` on the path: a repair is longer than
/// what it covers, and has to fit as well.
pub fn protected_room(scheme: Scheme, room: usize) -> usize {
    let room = match scheme {
        Scheme::Copied => room,
        Scheme::Source | Scheme::Repair(_) => room.saturating_sub(REPAIR_ADDS).min(PROTECTED_MAX),
    };
    room.saturating_sub(RedundancyHead::LEN)
}

/// Bytes of a bundle's symbol: a packet of Ethernet's size holds no more. The path decides how much of it is used
/// ([`protected_room`]).
pub(super) const SYMBOL_MAX: usize = 1472;

/// Bytes before each datagram of a symbol: its length.
pub(super) const LENGTH: usize = 2;

/// Bytes that a repair has more than the longest datagram that it covers: that one's length, and its own head.
const REPAIR_ADDS: usize = LENGTH + 2 + 6 + BUNDLES_MAX / 2;

/// The factor with which a bundle enters a repair: an entry of a Cauchy matrix, whose every square part can be inverted.
/// Bundles 128 apart share a column, and repairs 128 apart a row: neither meets its like in a window.
pub(super) const fn coefficient(repair: u8, bundle: u8) -> u8 {
    field::inverse((repair | 0x80) ^ (bundle & 0x7f))
}
