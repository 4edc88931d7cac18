//! Lanes: TCP connections of a tunnel, protected record by record (docs/protocol.md §4).
//!
//! ```text
//! client                            relay
//! connect_first ──── message 1 ───► read_opening, answer  who asks, and with which pre-shared key?
//!               ◄─── message 2 ──── prove
//!               ──── record ──────►                       the proof
//!
//! connect_further ── 57 bytes ────► read_opening, open    a MAC with the tunnel's secret, a number used once
//!                 ◄─ READY ────────
//! ```
//!
//! Then each end has [`LaneHalves`], for two tasks or one. What the records mean is the tunnel's business, and so
//! are time and number: nothing here has a timeout, nothing counts connections.
mod conn;
mod error;
mod further;
mod halves;
mod opening;
mod reader;
mod tune;
mod window;
mod writer;

pub(crate) use self::{
    conn::Io,
    error::{LaneError, PeerMisbehaved},
    further::{LaneRegistry, LaneSecretHandle, TunnelId},
    halves::LaneHalves,
    opening::{
        FirstLane, FirstMessage, FurtherLane, LaneOpening, RelaySide, connect_first,
        connect_further, read_opening,
    },
    reader::LaneReader,
    tune::{LaneTuning, keep_segments_short, tune},
    window::LaneWindow,
    writer::LaneWriter,
};
#[cfg(test)]
mod tests;
