//! The commands that the relay's other tasks send to its supervisor.

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

/// A command to the supervisor.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client has proved its key, was admitted, and has given a proof of life: it was there after `lived_at`.
    Up {
        tunnel: Arc<RelayTunnel>,
        newcomer: Newcomer,
        lived_at: Instant,
        /// Whether the tunnel is in use now. False if another one came up after `lived_at`: a newer proof of life is needed.
        /// Dropped where the client was told to leave.
        is_in: oneshot::Sender<bool>,
    },
    /// A client wants something done.
    FromClient {
        tunnel: Arc<RelayTunnel>,
        event: RelayEvent,
        /// Completes when that has been dealt with.
        done: oneshot::Sender<()>,
    },
    /// The control conversation of a tunnel has ended.
    Down {
        tunnel: Arc<RelayTunnel>,
        reason: String,
    },
    /// The authority is to be asked again about every client.
    Recheck(oneshot::Sender<()>),
    /// The relay gives out these ports.
    SetPorts(PortSet),
    /// Asks for the clients and their instances.
    Status(oneshot::Sender<RelayStatus>),
    /// The relay is to take no new players, wait for the others for at most `grace`, and end.
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// A client that is to be let in.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) admission: Admission,
    /// The lasting key that it has proved, unless it was a token's secret.
    pub(crate) psk: Option<Psk>,
}
