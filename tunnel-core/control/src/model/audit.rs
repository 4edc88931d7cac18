//! What was changed, and by whom.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::page::limit;
use crate::{access::Role, problem::Problem};

/// A request that has changed something, or has tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number.
    pub id: i64,
    /// When, as RFC 3339 has it.
    #[schema(example = "2026-01-31T12:00:00Z")]
    pub time: String,
    /// The id of the request, as its answer and the log have it.
    pub request: String,
    /// The name of the token.
    #[schema(example = "panel")]
    pub who: String,
    /// Its role at that time.
    pub role: Role,
    /// Where it came from: an address, or `unix`.
    #[schema(example = "127.0.0.1")]
    pub from: String,
    /// What was done.
    #[schema(example = "POST")]
    pub method: String,
    /// To what.
    #[schema(example = "/api/invites")]
    pub path: String,
    /// What more there is to say, such as the client's name.
    pub detail: Option<String>,
    /// The status of the answer: 2xx if it was done.
    pub status: u16,
}

/// Which changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// How many at most; 100 unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// Those that were made before the one with this number: `next` of the piece before.
    pub after: Option<i64>,
}

impl AuditQuery {
    /// How many are wanted, and before which; a problem where that may not be asked for.
    pub fn checked(self) -> Result<(usize, Option<i64>), Problem> {
        Ok((limit(self.limit)?, self.after))
    }
}
