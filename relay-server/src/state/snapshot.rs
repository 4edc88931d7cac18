//! Who may connect, in memory: what the configuration file and the state file say together.

use std::{collections::HashMap, sync::Arc};

use adit_control::access::{Role, TokenRecord};
use tunnel_core::{
    instance::PortSet,
    join::TokenId,
    key::{Psk, PublicKey},
    relay::{Admission, Denial},
};

use super::{
    api_token::ApiToken,
    enrolment::{Claim, ClientRow, TokenRow, Verdict},
    store::{Store, StoreError},
    time::UnixTime,
};
use crate::config::{ClientName, Config, FileClient};

/// Everything that a handshake asks for.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) written: Arc<Written>,
    pub(super) stored: Arc<Stored>,
    pub(super) clients: HashMap<PublicKey, Known>,
    /// Whose tokens the admin API takes.
    pub(super) access: Arc<[TokenRecord]>,
    /// Clients that both files have.
    pub(super) clashes: Vec<String>,
}

/// What the configuration file says.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) clients: Vec<FileClient>,
    ports: PortSet,
    access: Vec<TokenRecord>,
}

/// What the state file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    clients: Vec<ClientRow>,
    pub(super) tokens: HashMap<TokenId, TokenRow>,
    api_tokens: Vec<ApiToken>,
}

#[derive(Debug)]
pub(super) struct Known {
    name: ClientName,
    pub(super) psk: Psk,
    ports: PortSet,
    /// A client of the state file that has not been seen with its lasting PSK yet.
    pub(super) unseen: bool,
}

impl Known {
    pub(super) fn admission(&self) -> Admission {
        Admission {
            name: self.name.to_string(),
            ports: self.ports.clone(),
            psk: None,
        }
    }
}

impl From<&Config> for Written {
    fn from(config: &Config) -> Self {
        Self {
            clients: config.clients.clone(),
            ports: config.ports.clone(),
            access: written_access(config),
        }
    }
}

impl Written {
    pub(super) fn clash(&self, name: &ClientName, key: &PublicKey) -> Option<&FileClient> {
        let mut clients = self.clients.iter();
        clients.find(|written| written.name == *name || written.public_key == *key)
    }
}

impl Stored {
    pub(super) fn read(store: &Store) -> Result<Self, StoreError> {
        let tokens = store.tokens()?.into_iter();
        Ok(Self {
            clients: store.clients()?,
            tokens: tokens.map(|row| (row.token.id, row)).collect(),
            api_tokens: store.api_tokens()?,
        })
    }
}

impl Snapshot {
    pub(super) fn merge(written: Arc<Written>, stored: Arc<Stored>) -> Self {
        let mut clients = HashMap::new();
        let mut clashes = Vec::new();
        for client in &stored.clients {
            if client.revoked.is_some() {
                continue;
            }
            if let Some(wins) = written.clash(&client.name, &client.public_key) {
                clashes.push(format!(
                    "client {} of the configuration file (line {}) takes the place of {} of the state file: revoke that one, or remove the lines",
                    wins.name, wins.line, client.name
                ));
                continue;
            }
            let known = Known {
                name: client.name.clone(),
                psk: client.psk.clone(),
                ports: permitted(client.ports.as_ref(), &written.ports),
                unseen: !client.seen,
            };
            clients.insert(client.public_key, known);
        }
        for client in &written.clients {
            let known = Known {
                name: client.name.clone(),
                psk: client.psk.clone(),
                ports: permitted(client.ports.as_ref(), &written.ports),
                unseen: false,
            };
            clients.insert(client.public_key, known);
        }
        let kept = stored.api_tokens.iter().map(TokenRecord::from);
        let access = written.access.iter().cloned().chain(kept).collect();
        Self {
            written,
            stored,
            clients,
            access,
            clashes,
        }
    }

    /// What a claim comes to, as far as is known here: a denial that is no more true a moment later is a temporary one.
    pub(super) fn judge<'s>(
        &'s self,
        token: &'s TokenRow,
        key: &'s PublicKey,
        now: UnixTime,
    ) -> Result<Verdict<'s>, Denial> {
        let find = |is: &dyn Fn(&ClientRow) -> bool| self.stored.clients.iter().find(|c| is(c));
        let claim = Claim {
            token: Some(token),
            named: find(&|client| client.name == token.client),
            keyed: find(&|client| client.public_key == *key),
            key,
            is_written: self.written.clash(&token.client, key).is_some(),
            now,
        };
        claim.judge()
    }

    /// What a client gets that has enrolled.
    pub(super) fn enrolled(&self, client: &ClientRow) -> Admission {
        Admission {
            name: client.name.to_string(),
            ports: permitted(client.ports.as_ref(), &self.written.ports),
            psk: Some(client.psk.clone()),
        }
    }
}

/// A client's ports, never more than the relay gives at all.
fn permitted(own: Option<&PortSet>, relay: &PortSet) -> PortSet {
    own.map_or_else(|| relay.clone(), |own| own.intersection(relay))
}

/// The tokens of the files that the configuration names. Their names have signs that no other token's may have.
fn written_access(config: &Config) -> Vec<TokenRecord> {
    let Some(admin) = &config.admin else {
        return Vec::new();
    };
    let files = [
        ("(token_file)", Role::Admin, &admin.token),
        ("(metrics_token_file)", Role::Metrics, &admin.metrics_token),
    ];
    let records = files.into_iter().filter_map(|(name, role, secret)| {
        let digest = secret.as_ref()?.digest();
        Some(TokenRecord {
            name: name.into(),
            role,
            digest,
        })
    });
    records.collect()
}
