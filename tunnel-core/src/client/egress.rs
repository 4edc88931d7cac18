//! From the tunnel to the targets: players' connections, and the sockets of their flows.

mod reason;
pub(crate) mod tcp;
pub(crate) mod udp;
