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
mod symbol;

pub use self::{
    adaptive::{Adaptive, Choice},
    dedup::{Dedup, WINDOW},
    evidence::{KeptEvidence, PathEvidence, Sample},
    probe::{Probe, Prober, Told},
    protector::{Protector, ProtectorSettings},
    repairer::Repairer,
    symbol::{PROTECTED_MAX, protected_room},
};

#[cfg(test)]
mod tests;
