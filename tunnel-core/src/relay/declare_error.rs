//! Why what a client or an operator wants is not done.

use crate::{proto::message::Code, relay::registry::Refusal};

/// Why a declaration is not carried out, as the client is told.
#[derive(Debug)]
pub(crate) struct DeclareError {
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) port: Option<u16>,
}

impl DeclareError {
    /// What a client is told of our own failures.
    pub(crate) fn internal() -> Self {
        Self {
            code: Code::Internal,
            text: "the relay failed".into(),
            port: None,
        }
    }
}

impl From<Refusal> for DeclareError {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code(),
            text: refusal.to_string(),
            port: refusal.port(),
        }
    }
}
