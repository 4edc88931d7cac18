//! What the relay's other tasks tell its supervisor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    instance::PortSet,
    key::Psk,
    proto::session::relay::RelayEvent,
    relay::{authority::Admission, status::RelayStatus, tunnel::RelayTunnel},
};

/// What the supervisor is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client has proved itself, was admitted, and was there after this moment.
    Up {
        tunnel: Arc<RelayTunnel>,
        newcomer: Newcomer,
        lived_at: Instant,
        /// Whether it is let in. If not, another has come since, and the one that lives on may stay. Dropped without a word
        /// where it is told to go.
        is_in: oneshot::Sender<bool>,
    },
    /// A client said something.
    FromClient {
        tunnel: Arc<RelayTunnel>,
        event: RelayEvent,
        /// Dropped when that is dealt with.
        done: oneshot::Sender<()>,
    },
    /// A tunnel is gone.
    Down {
        tunnel: Arc<RelayTunnel>,
        reason: String,
    },
    /// Ask the authority again about everybody.
    Recheck(oneshot::Sender<()>),
    /// What the relay gives out has changed.
    SetPorts(PortSet),
    /// What is there?
    Status(oneshot::Sender<RelayStatus>),
    /// No new players; after the grace, goodbye.
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// A client at the door.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) admission: Admission,
    /// The lasting key that it has proved, unless it was a token's secret.
    pub(crate) psk: Option<Psk>,
}
