//! The handshake: Noise `IKpsk2` as a typestate, the two payloads and the key schedule (docs/protocol.md §2).
//!
//! ```text
//! Initiator ── message 1 ──► Responder          learns who, and what they say: Identified
//! Initiator ◄── message 2 ── Identified         only now needs the pre-shared key
//!    Secrets                    Secrets          equal, if both used the same pre-shared key
//! ```
//!
//! The responder's secrets alone prove nothing: a client is who it says once something sealed with them arrives.

mod error;
pub(crate) mod keys;
mod noise;
mod payload;
mod states;
mod suite;

pub use self::{
    error::{HandshakeError, MAX_LANE_PAYLOAD, MAX_MESSAGE, PayloadError},
    keys::{ExportTooLong, Secret, Secrets},
    payload::{Answer, Capabilities, Hello, ProcessId, SUPPORTED, VersionMismatch, VersionRange},
    states::{Identified, Initiator, Responder},
    suite::{Suite, TransportKind},
};

#[cfg(test)]
mod tests;
