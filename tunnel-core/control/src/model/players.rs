//! Who plays, and who may not.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A player's TCP connection or UDP conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlayerView {
    /// What the relay calls it.
    pub id: u64,
    /// Where the player is.
    #[schema(example = "203.0.113.7:51234")]
    pub address: String,
    /// The public address that it plays at.
    #[schema(example = "198.51.100.1:30000")]
    pub public_address: String,
    /// The instance.
    pub instance: String,
    /// The service, while its client has a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Since when, as RFC 3339 has it.
    pub since: String,
    /// Bytes from the player.
    pub received_bytes: u64,
    /// Bytes to the player.
    pub sent_bytes: u64,
}

/// Which players are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlayerQuery {
    /// Those of this instance alone.
    pub instance: Option<String>,
    /// Those from this address alone.
    pub address: Option<String>,
    /// How many at most; 100 unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// Those that come after this one: `next` of the piece before.
    pub after: Option<i64>,
}

/// A ban to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// One address. Either this or `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "203.0.113.7")]
    pub address: Option<String>,
    /// A network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2001:db8:1::/48")]
    pub cidr: Option<String>,
    /// At which instance; all of them unless said otherwise, or with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// At services of this name; all of them unless said otherwise, or with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// When it ends, as RFC 3339 has it; never unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2027-01-31T12:00:00Z")]
    pub until: Option<String>,
    /// Why, for operators: 200 characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BanView {
    /// Its number, which is never used again.
    pub id: i64,
    /// Whom it bans: a network.
    #[schema(example = "203.0.113.7/32")]
    pub cidr: String,
    /// At which instance; all of them if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// At services of this name; all of them if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose token has made it.
    pub who: String,
    /// When it was made.
    pub created: String,
}

/// Which bans are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BanQuery {
    /// How many at most; 100 unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// Those that come after this one: `next` of the piece before.
    pub after: Option<i64>,
}
