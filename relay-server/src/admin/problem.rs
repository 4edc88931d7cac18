//! What the use cases' errors are to who asks over HTTP.

use adit_control::problem::{Kind, Problem};

use crate::{
    operate::{clients::RevokeError, invite::InviteError},
    state::StoreError,
};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request to the API cannot use the state file");
        let detail = format!("Nothing was changed: {error}.");
        if error.is_full_disk() {
            return Self::new(Kind::InsufficientStorage, detail);
        }
        Self::unavailable(detail)
    }
}

impl From<InviteError> for Problem {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::NotAdvertised => Self::invalid(
                "/advertise",
                "nobody knows yet where clients find this relay: name it here, or set advertise in [relay]",
            ),
            InviteError::EndlessSingleUse => {
                Self::invalid("/ttl", format!("{error}: set reusable, or a time"))
            }
            InviteError::PortsOutside(_) => Self::invalid("/ports", error.to_string()),
            InviteError::Written { line } => Self::conflict(format!(
                "The name stands in the configuration file (line {line}): choose another, or remove it there and reload the relay."
            )),
            InviteError::Enrolled(name) => Self::conflict(format!(
                "{name} is enrolled already: choose another name, or revoke it first (DELETE /api/clients/{name})."
            )),
            InviteError::Store(error) => error.into(),
            InviteError::Randomness(error) => Self::unavailable(format!("{error}.")),
        }
    }
}

impl From<RevokeError> for Problem {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Written { line } => Self::conflict(format!(
                "It stands in the configuration file (line {line}): remove its [[client]] there, then reload the relay."
            )),
            RevokeError::Store(error) => error.into(),
        }
    }
}
