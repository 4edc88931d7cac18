//! Whether what stands behind a service works: what is asked, what is answered, and what follows from it.
//!
//! Nothing here has a socket or a clock. A [`Probe`] says how a target is asked; its [`Exchange`] is one question, which the client
//! carries over a socket of its own. [`TcpProbe`], [`HttpProbe`] and [`UdpProbe`] are brought along; embedders bring others. A
//! [`HealthCheck`] says how often and how patiently, and what becomes of an unhealthy service.

mod builtin;
mod check;
mod monitor;
mod probe;
mod state;

pub use self::{
    builtin::{HttpProbe, TcpProbe, UdpProbe},
    check::{CheckError, HealthCheck, OnUnhealthy},
    monitor::Monitor,
    probe::{Asked, Exchange, Over, Probe},
    state::{Health, HealthState, REASON_MAX, REPORT_TEXT_MAX, Report},
};

#[cfg(feature = "net")]
pub(crate) use self::state::plain;

#[cfg(test)]
mod tests;
