//! Redundancy for datagrams (`docs/protocol.md` §7, REDUNDANCY): what is lost on the path is replaced by what
//! was sent beside it, before a game would notice.
//!
//! A [`Protector`] sits where datagrams leave, a [`Repairer`] where they come in; [`Adaptive`] says when protection is
//! worth its bytes. All of it is a tunnel's, not a flow's: numbers, windows and timers cost nothing for an idle flow,
//! and the datagrams of several players fill a repair's window sooner than those of one.

mod adaptive;
mod dedup;
mod evidence;
mod field;
mod probe;
mod protector;
mod repairer;

use crate::proto::datagram::{RedundancyHead, Scheme};

pub use self::{
    adaptive::{Adaptive, Choice, Sample},
    dedup::{Dedup, WINDOW},
    evidence::{KeptEvidence, PathEvidence},
    probe::{Probe, Prober, Told},
    protector::{Protector, ProtectorSettings},
    repairer::Repairer,
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

/// Bundles that a repair covers at most. 16 outlast the loss of five packets in a row (`tests::sim`).
pub const BUNDLES_MAX: usize = 16;

/// Datagrams that the head of a repair can count for one bundle.
pub const BUNDLE_COUNT_MAX: u8 = 15;

/// Bytes of a bundle's symbol: a packet of Ethernet's size holds no more. The path decides how much of it is used
/// ([`protected_room`]).
const SYMBOL_MAX: usize = 1472;

/// Bytes before each datagram of a symbol: its length.
const LENGTH: usize = 2;

/// Bytes that a repair has more than the longest datagram that it covers: that one's length, and its own head.
const REPAIR_ADDS: usize = LENGTH + 2 + 6 + BUNDLES_MAX / 2;

/// The factor with which a bundle enters a repair: an entry of a Cauchy matrix, whose every square part can be inverted.
/// Bundles 128 apart share a column, and repairs 128 apart a row: neither meets its like in a window.
const fn coefficient(repair: u8, bundle: u8) -> u8 {
    field::inverse((repair | 0x80) ^ (bundle & 0x7f))
}

#[cfg(test)]
mod tests;
