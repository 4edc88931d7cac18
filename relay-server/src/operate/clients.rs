//! Who may connect, and ending that.

use std::collections::BTreeMap;

use adit_daemon::config::suggestion;
use serde::Serialize;

use crate::{
    config::{ClientName, Config},
    state::{Revoked, Store, StoreError, time::UnixTime},
};

/// A client, or an open invitation.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// `None` while nobody has taken the invitation up.
    pub(crate) public_key: Option<String>,
    /// Ranges; `None`: all of the relay's.
    pub(crate) ports: Option<String>,
    pub(crate) state: State,
    /// RFC 3339; `None` for a client of the configuration file.
    pub(crate) created: Option<String>,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Enrolled, may connect.
    Enrolled,
    /// Was enrolled, may not connect any more.
    Revoked,
    /// An invitation is open, nobody has taken it up.
    Invited,
    /// Written down in the configuration file, may connect.
    File,
}

impl State {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Revoked => "revoked",
            Self::Invited => "invited",
            Self::File => "file",
        }
    }
}

/// Every client and open invitation, by name; the configuration file wins over the state file, as it does in the relay.
pub(crate) fn list(config: &Config, now: UnixTime) -> Result<Vec<Listed>, StoreError> {
    let mut listed = BTreeMap::new();
    if let Some(store) = Store::open_existing(&config.state_file)? {
        for client in store.clients()? {
            let state = match client.revoked {
                Some(_) => State::Revoked,
                None => State::Enrolled,
            };
            let row = Listed {
                name: client.name.to_string(),
                public_key: Some(client.public_key.to_string()),
                ports: client.ports.map(|ports| ports.to_string()),
                state,
                created: Some(client.created.rfc3339()),
            };
            listed.insert(client.name, row);
        }
        for token in store.tokens()? {
            let shown = listed.get(&token.client);
            let enrolled = shown.is_some_and(|row| row.state == State::Enrolled);
            if enrolled || !token.is_open(now) {
                continue;
            }
            let row = Listed {
                name: token.client.to_string(),
                public_key: None,
                ports: token.ports.map(|ports| ports.to_string()),
                state: State::Invited,
                created: Some(token.created.rfc3339()),
            };
            listed.insert(token.client, row);
        }
    }
    for client in &config.clients {
        let row = Listed {
            name: client.name.to_string(),
            public_key: Some(client.public_key.to_string()),
            ports: client.ports.as_ref().map(ToString::to_string),
            state: State::File,
            created: None,
        };
        listed.insert(client.name.clone(), row);
    }
    Ok(listed.into_values().collect())
}

/// Ends a client's right to connect, and its open invitations. A running relay acts on it within a second.
pub(crate) fn revoke(
    config: &Config,
    name: &ClientName,
    now: UnixTime,
) -> Result<Revoked, RevokeError> {
    let revoked = match Store::open_existing(&config.state_file)? {
        Some(mut store) => store.revoke(name, now)?,
        None => Revoked::Unknown,
    };
    // Last: what the state file has under that name must not come back once the lines are gone.
    match config.client(name) {
        Some(written) => Err(RevokeError::Written { line: written.line }),
        None => Ok(revoked),
    }
}

/// The name of the state file that somebody may have meant who wrote `name`.
pub(crate) fn similar(config: &Config, name: &ClientName) -> Result<Option<String>, StoreError> {
    let clients = match Store::open_existing(&config.state_file)? {
        Some(store) => store.clients()?,
        None => Vec::new(),
    };
    let names = clients.iter().map(|client| client.name.as_str());
    Ok(suggestion(name.as_str(), names).map(str::to_owned))
}

/// Why a client can connect all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RevokeError {
    /// The configuration file has a client of that name, which only its editor takes out.
    #[error("the name stands in the configuration file (line {line})")]
    Written {
        /// In which line.
        line: usize,
    },
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
