//! A change through the admin API, as it is written down.

use adit_control::{access::Role, server::Change};

use super::time::UnixTime;

/// What was changed, by whom, from where, and with which outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub(crate) time: UnixTime,
    /// The id of the request.
    pub(crate) request: String,
    /// The name of the token.
    pub(crate) who: String,
    pub(crate) role: Role,
    /// An address, or `unix`.
    pub(crate) origin: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) detail: Option<String>,
    /// The status of the answer.
    pub(crate) status: u16,
}

impl From<Change> for AuditRow {
    fn from(change: Change) -> Self {
        Self {
            time: change.time.into(),
            request: change.request.to_string(),
            who: change.who.to_string(),
            role: change.role,
            origin: change.from.to_string(),
            method: change.method,
            path: change.path,
            detail: change
                .detail
                .map(|detail| detail.chars().take(DETAIL).collect()),
            status: change.status,
        }
    }
}

/// How much is kept of what a handler says.
const DETAIL: usize = 256;
