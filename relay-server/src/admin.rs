//! The admin API: what an operator, a panel or Prometheus asks of a relay that runs.

mod events;
mod problem;
mod routes;
mod service;
mod shared;

pub(crate) use service::Admin;
pub(crate) use shared::Shared;
