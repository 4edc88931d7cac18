//! The relay: it owns public ports, accepts players on them, and forwards their traffic to clients.
//!
//! A program starts a [`Relay`] with a secret key and an [`Authority`], which decides which clients may connect and which ports each
//! may bind. A client then opens a tunnel and declares its instances, and the relay binds their public ports.

// The way of a client: `accept` does its handshake, `proven` has its connection then, `establish` makes a tunnel of it, and `session`
// reads its control stream. What it wants goes to the `supervisor`, which handles one event after the other: `clients` decides which
// tunnel is in use, `registry` who owns which port, and `bindings` and `ports` carry that out. Players come in through `ingress`, and
// a TCP connection that outlives its channel goes on over another one by `resume`.

mod accept;
mod address;
mod authority;
mod bindings;
mod client_address;
mod clients;
mod command;
mod declare_error;
mod directory;
mod entrance;
mod establish;
mod further;
mod handle;
mod ingress;
mod lane_streams;
mod lanes;
mod limit;
mod limits;
mod listen;
mod operator;
mod pool;
mod ports;
mod proven;
pub(crate) mod registry;
mod reservations;
mod resume;
mod session;
mod shared;
mod status;
mod supervisor;
mod trusted;
mod tunnel;

pub use authority::{Admission, Authority, Denial, StaticAuthority};
pub use entrance::{Ban, Gate};
pub use handle::{OperateError, Relay, RelayBuilder, RelayEnded, RelayStartError};
pub use ingress::players::PlayerId;
pub use limits::RelayLimits;
pub use operator::OperatorState;
pub use reservations::{
    Reservation, ReservationRequest, ReservedService, WantedPorts, WantedService,
};
pub use status::{ConnectedClient, InstanceStatus, PlayerStatus, RelayStatus, ServiceStatus};
pub use trusted::{TrustedProxy, TrustedProxyError};

pub use crate::proto::message::{ServiceDeclaration, ServiceId};

#[cfg(test)]
mod tests;
