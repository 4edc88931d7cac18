//! Redundancy for small datagrams (`docs/protocol.md` §7, REDUNDANCY): what is lost on the path is replaced by what
//! was sent beside it, before a game would notice.
//!
//! A [`Protector`] sits where datagrams leave, a [`Repairer`] where they come in; [`Adaptive`] says when protection is
//! worth its bytes. All of it is a tunnel's, not a flow's: numbers, windows and timers cost nothing for an idle flow,
//! and the datagrams of several players fill a repair's window sooner than those of one.

mod adaptive;
mod dedup;
mod field;
mod protector;
mod repairer;

pub use self::{
    adaptive::{Adaptive, Choice, Sample},
    dedup::{Dedup, WINDOW},
    protector::{Protector, ProtectorSettings},
    repairer::Repairer,
};

/// Largest datagram that is protected, with its head, in bytes: small ones, of which a packet on the path has room for
/// its symbol and a head. Larger ones, and all that are cut into fragments, travel as they are.
pub const PROTECTED_MAX: usize = SYMBOL_MAX - LENGTH;

/// Bundles that a repair covers at most. 16 outlast the loss of five packets in a row (`tests::sim`).
pub const BUNDLES_MAX: usize = 16;

/// Datagrams that the head of a repair can count for one bundle.
pub const BUNDLE_COUNT_MAX: u8 = 15;

/// Bytes of a bundle's symbol: with every head around it, it fits the 1,200 bytes that any path carries.
const SYMBOL_MAX: usize = 1024;

/// Bytes before each datagram of a symbol: its length.
const LENGTH: usize = 2;

/// The factor with which a bundle enters a repair: an entry of a Cauchy matrix, whose every square part can be inverted.
/// Bundles 128 apart share a column, and repairs 128 apart a row: neither meets its like in a window.
const fn coefficient(repair: u8, bundle: u8) -> u8 {
    field::inverse((repair | 0x80) ^ (bundle & 0x7f))
}

#[cfg(test)]
mod tests;
