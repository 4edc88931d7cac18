//! Who may connect: the clients of the configuration file and those of the state file, kept in memory for handshakes.

mod authority;
mod enrolment;
mod store;

pub(crate) use authority::StateAuthority;
pub(crate) use store::{Invitation, InviteError, Revoked, Store, StoreError};

use std::{fmt, str::FromStr};

use tunnel_core::instance::{InstanceId, ServiceError};

/// The name of a client; the same characters as an instance's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClientName(Box<str>);

impl ClientName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        text.parse::<InstanceId>()
            .map(|id| Self(id.as_str().into()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
