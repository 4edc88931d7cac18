//! The commands that the relay's other tasks send to its supervisor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    instance::{InstanceId, PortSet},
    key::Psk,
    proto::session::relay::RelayEvent,
    relay::{
        authority::Admission,
        declare_error::DeclareError,
        entrance::{Ban, Gate},
        ingress::players::PlayerId,
        reservations::{Reservation, ReservationRequest},
        status::{PlayerStatus, RelayStatus},
        tunnel::RelayTunnel,
    },
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
    /// Asks who plays.
    Players(oneshot::Sender<Vec<PlayerStatus>>),
    /// An operator wants something done.
    Operate(Operation),
    /// The relay is to take no new players, wait for the others for at most `grace`, and end.
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// What an operator wants done, and who is to be told the outcome.
#[derive(Debug)]
pub(crate) enum Operation {
    /// An instance is to be reserved.
    Reserve(
        ReservationRequest,
        oneshot::Sender<Result<Reservation, DeclareError>>,
    ),
    /// The same is to be planned alone.
    Plan(
        ReservationRequest,
        oneshot::Sender<Result<Reservation, DeclareError>>,
    ),
    /// A reservation is to be given back. The answer is whether there was one.
    Release(InstanceId, oneshot::Sender<bool>),
    /// An instance takes these players from now on; `None` means all instances together.
    SetGate(Option<InstanceId>, Gate, oneshot::Sender<()>),
    /// These may not play, and nobody else is banned.
    SetBans(Vec<Ban>, oneshot::Sender<()>),
    /// A stream or flow is to be ended. The answer is whether there was one.
    EndPlayer(PlayerId, oneshot::Sender<bool>),
    /// The tunnel of a client is to be ended, by the client's name. It may come back. The answer is whether there was one.
    Disconnect(String, oneshot::Sender<bool>),
}

/// A client that is to be let in.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) admission: Admission,
    /// The lasting key that it has proved, unless it was a token's secret.
    pub(crate) psk: Option<Psk>,
}
