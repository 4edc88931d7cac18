//! The relay: it owns public ports, accepts players on them, and forwards their traffic to clients.
//!
//! A client connects to the relay, proves its key ([`accept`], [`proven`]), is admitted ([`establish`]) and gets a tunnel: a QUIC
//! connection, or TCP connections called lanes. On the tunnel's control stream ([`session`]) it declares instances, which are game
//! servers with their public ports. The [`supervisor`] handles one such event after the other: [`clients`] decides which tunnel of
//! a client is in use, [`registry`] who owns which port, and [`bindings`] and [`ports`] open and close the sockets. Players come in
//! through [`ingress`]. A TCP connection that outlives its tunnel or its lane goes on over another one ([`resume`]).

mod accept;
mod address;
mod authority;
mod bindings;
mod client_address;
mod clients;
mod command;
mod directory;
mod establish;
mod further;
mod handle;
mod ingress;
mod lane_streams;
mod lanes;
mod limit;
mod limits;
mod listen;
mod pool;
mod ports;
mod proven;
pub(crate) mod registry;
mod resume;
mod session;
mod shared;
mod status;
mod supervisor;
mod tunnel;

pub use authority::{Admission, Authority, Denial, StaticAuthority};
pub use handle::{Relay, RelayBuilder, RelayEnded, RelayStartError};
pub use limits::RelayLimits;
pub use status::{ClientStatus, InstanceStatus, RelayStatus};

#[cfg(test)]
mod tests;
