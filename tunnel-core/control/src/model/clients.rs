//! Clients, and inviting them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A client, or an open invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClientView {
    /// What it is called.
    #[schema(example = "node-1")]
    pub name: String,
    /// Its public key; none while nobody has taken the invitation up.
    pub public_key: Option<String>,
    /// The public ports that it may use, as in `7777,30000-30009`; all of the relay's where there is none.
    pub ports: Option<String>,
    /// Where it stands.
    pub state: ClientState,
    /// Since when, as RFC 3339 has it; none for a client of the configuration file.
    pub created: Option<String>,
    /// Its tunnel; none while it is not connected and none of its ports are held.
    pub connection: Option<Connection>,
}

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClientState {
    /// Enrolled, may connect.
    Enrolled,
    /// Was enrolled, may not connect any more.
    Revoked,
    /// An invitation is open, nobody has taken it up.
    Invited,
    /// Written down in the configuration file, may connect.
    File,
}

/// What a client has at the relay now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Where it connects from.
    #[schema(example = "203.0.113.7:51820")]
    pub address: Option<String>,
    /// What its tunnel runs on: `quic`, or `lane` where UDP does not get through; none while the tunnel is lost and its ports are held.
    #[schema(example = "quic")]
    pub transport: Option<String>,
    /// Round trip of its QUIC connection, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Packets of its QUIC connection that the relay has sent.
    pub packets_sent: Option<u64>,
    /// Those of them that were lost.
    pub packets_lost: Option<u64>,
    /// For how long its tunnel has been up.
    pub connected_seconds: Option<u64>,
    /// Whether it shuts down, and takes no new players.
    pub draining: bool,
    /// What is bound for it.
    pub instances: Vec<BoundInstance>,
}

/// An instance that is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BoundInstance {
    /// Its id.
    #[schema(example = "srv_user123_abcd1234")]
    pub id: String,
    /// Its services.
    pub services: Vec<BoundService>,
}

/// A service that is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BoundService {
    /// Its name within the instance.
    #[schema(example = "game")]
    pub name: String,
    /// `tcp`, `udp` or `both`.
    #[schema(example = "both")]
    pub protocol: String,
    /// A port or a range of them.
    #[schema(example = "7777")]
    pub public_ports: String,
}

/// Who is to be invited, and to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// What the client will be called: 1 to 63 of `a-z 0-9 _ -`.
    #[schema(
        example = "node-1",
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9_-]+$"
    )]
    pub name: String,
    /// The public ports that it may use; all of the relay's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "7777,30000-30009",
        max_length = 4096,
        pattern = "^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$"
    )]
    pub ports: Option<String>,
    /// How long the join string is valid, as in `30m`, `1h`, `7d`; `never` only where it is reusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1h", max_length = 64, pattern = "^(never|[0-9]+[smhdw])$")]
    pub ttl: Option<String>,
    /// The host and port that the join string names, instead of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "relay.example.net:4433", max_length = 300)]
    pub advertise: Option<String>,
    /// Whether it can be used again and again, each new key replacing the name's old one.
    #[serde(default)]
    pub reusable: bool,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invited {
    /// The join string, for `relay-client join`. A secret, shown this once.
    pub join: String,
    /// How many earlier join strings of the name were valid until now.
    pub ended: usize,
}
