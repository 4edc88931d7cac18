//! A bad path on one machine: two network namespaces, the outside (players, relay) and home (client, game servers), and
//! between them a link that delays, loses, shapes, reorders and doubles whatever the kernel sends, TCP and UDP alike.
//!
//! Each side has a TUN device; a thread for each direction carries packets from one to the other when their time has
//! come. Order, losses and the bottleneck's clock are computed from when packets come in (`schedule`), so a late thread
//! delays packets but loses no rate.
//!
//! It takes root: [`unavailable`] says why a machine has none.

mod chance;
mod check;
mod flags;
mod lab;
mod schedule;
mod shape;
mod wire;

pub use self::{
    check::Check,
    flags::LinkFlags,
    lab::{Direction, Lab, unavailable},
    shape::{Bottleneck, Jitter, LinkConfig, Loss, Pause, RateStep, Reorder, Shape, Timetable},
    wire::Counts,
};
