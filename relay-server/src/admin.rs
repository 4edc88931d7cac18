//! The admin API: what an operator, a panel or Prometheus asks of a relay that runs.

mod desk;
mod events;
mod problem;
mod recipe;
mod routes;
mod service;
mod shared;
mod view;

pub(crate) use desk::{Desk, Said};
pub(crate) use service::Admin;
pub(crate) use shared::Shared;
