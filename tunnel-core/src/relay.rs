//! The public side: accepts players, owns public ports, and sends everything through its clients' tunnels.

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
pub use handle::{Relay, RelayBuilder, RelayStartError};
pub use limits::RelayLimits;
pub use status::{ClientStatus, InstanceStatus, RelayStatus};

#[cfg(test)]
mod tests;
