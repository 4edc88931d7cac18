//! Services at work.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ProtocolName, TunnelState};

/// A service, whether its ports are open or only reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TunnelView {
    /// The instance.
    pub instance: String,
    /// The service within it.
    pub service: String,
    /// The client that serves it.
    pub client: String,
    /// How it stands.
    pub status: TunnelState,
    /// What its public ports accept.
    pub protocol: ProtocolName,
    /// A port or a range.
    #[schema(example = "30000")]
    pub public_port: String,
    /// Since when its ports are open, as RFC 3339 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Players' TCP connections.
    pub streams: usize,
    /// Players' UDP conversations.
    pub flows: usize,
    /// Bytes from players since its ports were opened.
    pub received_bytes: u64,
    /// Bytes to players since then.
    pub sent_bytes: u64,
}
