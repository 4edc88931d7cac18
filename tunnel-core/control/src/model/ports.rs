//! Public ports: what there are, and who has them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The relay's public ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortsView {
    /// What clients may be given at all, as in `1024-9000,30000-30999`.
    #[schema(example = "1024-65535")]
    pub pool: String,
    /// How many ports that are.
    pub total: u32,
    /// How many of them nobody uses, over TCP or UDP.
    pub free: u32,
    /// What is in use, by port.
    pub used: Vec<PortUse>,
}

/// Ports that are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortUse {
    /// A port or a range of them.
    #[schema(example = "7777")]
    pub ports: String,
    /// `tcp`, `udp` or `both`.
    #[schema(example = "both")]
    pub protocol: String,
    /// Whose they are.
    #[schema(example = "node-1")]
    pub client: String,
    /// For which instance.
    pub instance: String,
    /// And service.
    pub service: String,
}
