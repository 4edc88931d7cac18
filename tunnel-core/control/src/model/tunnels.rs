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
    /// What its client's check has found, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthView>,
}

/// What a check of a game server has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `starting`, `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    pub state: String,
    /// Since when, as RFC 3339 has it.
    pub since: String,
    /// Whether new players are refused for it.
    pub refuses: bool,
    /// Why it is unhealthy, or the last check has failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the server calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Version of the game.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Map, level or world.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub map: String,
    /// Players who are there, by the server's own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub players: Option<u32>,
    /// Players who may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_players: Option<u32>,
}
