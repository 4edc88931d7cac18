//! What is written down of each change.

use std::{sync::Arc, time::SystemTime};

use crate::access::{Peer, Role};

/// A request that has changed something, or has tried to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// When it had its answer.
    pub time: SystemTime,
    /// The id of the request, as its answer has it.
    pub request: Arc<str>,
    /// The name of the token.
    pub who: Arc<str>,
    /// Its role.
    pub role: Role,
    /// Where it came from.
    pub from: Peer,
    /// What was done, `POST`.
    pub method: String,
    /// To what: the path and the query, 256 characters at most.
    pub path: String,
    /// What the handler has said about it.
    pub detail: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// Where changes are written down.
pub trait Audit: Send + Sync + 'static {
    /// Writes one down. May block; the answer waits for it. What fails is for the log.
    fn record(&self, change: Change);
}

/// Changes stand in the log alone, which has them in any case.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogAudit;

impl Audit for LogAudit {
    fn record(&self, _change: Change) {}
}

/// What a handler adds to what is written down, as an extension of its answer: `client node-1`.
#[derive(Debug, Clone)]
pub struct Detail(pub String);
