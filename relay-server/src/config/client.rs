//! Clients that the configuration file writes down, and what clients are called.

use std::{fmt, str::FromStr};

use tunnel_core::{
    instance::{InstanceId, NameError, PortSet},
    key::{Psk, PublicKey},
};

/// A client of the configuration file.
#[derive(Clone, Debug)]
pub(crate) struct FileClient {
    pub(crate) name: ClientName,
    pub(crate) public_key: PublicKey,
    pub(crate) psk: Psk,
    /// `None`: all of the relay's.
    pub(crate) ports: Option<PortSet>,
    /// Where it stands in the file.
    pub(crate) line: usize,
}

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
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse::<InstanceId>()
            .map(|id| Self(id.as_str().into()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
