//! How Adit's client is started.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What Adit's client is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientOptions {
    /// Where the relay listens.
    pub relay: SocketAddr,
    /// The public port, of TCP and UDP.
    pub public_port: u16,
    /// The game server.
    pub target: SocketAddr,
    /// How the service is made.
    pub service: ServiceOptions,
}

/// Options of a service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServiceOptions {
    /// `latency`, `throughput` or `auto`.
    pub optimize: String,
    /// `off`, `duplicate`, `fec` or `adaptive`; the default where there is none.
    pub redundancy: Option<String>,
    /// Whether the client may use UDP; without, all goes over lanes.
    pub udp: bool,
}
