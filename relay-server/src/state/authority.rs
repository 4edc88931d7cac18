//! The engine's view of who may connect: a snapshot in memory for handshakes, the state file behind it.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tunnel_core::{
    instance::PortSet,
    join::TokenId,
    key::{Psk, PublicKey},
    relay::{Admission, Authority, Denial},
};

use super::{ClientName, Store, StoreError, store::FileId};
use crate::{
    config::{Config, FileClient},
    time::UnixTime,
};

/// Answers for the clients of the configuration file and of the state file. On an equal name or key the file wins.
pub(crate) struct StateAuthority {
    snapshot: ArcSwap<Snapshot>,
    /// Only for threads that may block.
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    store: Store,
    seen: Seen,
    written: Written,
    /// What was last said about clients that both files have, so that it is said once.
    clashes: Vec<String>,
}

/// The state file's version that the snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    file: Option<FileId>,
    version: i64,
}

/// What the configuration file says.
#[derive(Debug)]
struct Written {
    state_file: PathBuf,
    clients: Vec<FileClient>,
    ports: PortSet,
}

/// Everything that a handshake asks for.
#[derive(Debug, Default)]
struct Snapshot {
    clients: HashMap<PublicKey, Known>,
    tokens: HashMap<TokenId, Psk>,
}

#[derive(Debug)]
struct Known {
    name: ClientName,
    psk: Psk,
    ports: PortSet,
    /// A client of the state file that has not been seen with its lasting PSK yet.
    unseen: bool,
}

impl StateAuthority {
    /// Opens the state file that the configuration names, and makes it where there is none.
    pub(crate) fn open(config: &Config) -> Result<Self, StoreError> {
        let mut store = Store::open(&config.state_file)?;
        store.purge(UnixTime::now())?;
        let authority = Self {
            snapshot: ArcSwap::default(),
            inner: Mutex::new(Inner {
                seen: Seen::of(&store, config)?,
                store,
                written: Written::from(config),
                clashes: Vec::new(),
            }),
            changed: Notify::new(),
        };
        authority.load(&mut authority.inner())?;
        Ok(authority)
    }

    /// Takes over what the configuration file says now. May block.
    pub(crate) fn configure(&self, config: &Config) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let state_file = inner.written.state_file.clone();
        inner.written = Written {
            // Another state file takes effect at the next start.
            state_file,
            ..Written::from(config)
        };
        self.load(&mut inner)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Looks whether another process has changed the state file, and takes the change over. May block.
    pub(crate) fn poll(&self) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let path = inner.written.state_file.clone();
        let file = Store::file_id(&path);
        // While it is gone, it may be on its way back: a restored backup.
        if file.is_some() && file != inner.seen.file {
            tracing::info!(file = %path.display(), "the state file was replaced");
            inner.store = Store::open(&path)?;
            inner.seen = Seen {
                file,
                version: STALE,
            };
        } else if inner.store.data_version()? == inner.seen.version {
            return Ok(());
        }
        self.load(&mut inner)
    }

    /// Waits until the answers may have changed: then the relay asks again about its live clients.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many clients may connect.
    pub(crate) fn clients(&self) -> usize {
        self.snapshot.load().clients.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What it guards holds at every step: a panic leaves an older snapshot at worst.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, inner: &mut Inner) -> Result<(), StoreError> {
        // Before the rows: a change in between is then seen by the next poll.
        let version = inner.store.data_version()?;
        let (snapshot, clashes) = Snapshot::merge(&inner.written, &inner.store)?;
        if clashes != inner.clashes {
            for clash in &clashes {
                tracing::warn!("{clash}");
            }
            inner.clashes = clashes;
        }
        self.snapshot.store(Arc::new(snapshot));
        // Only now: had the rows not been read, the next poll would have to read them.
        let before = std::mem::replace(&mut inner.seen.version, version);
        if version != before {
            if before != STALE {
                tracing::info!("another process has changed the state file");
            }
            self.changed.notify_one();
        }
        Ok(())
    }

    fn enrol(&self, key: &PublicKey, token: TokenId) -> Result<Admission, Denial> {
        let mut inner = self.inner();
        let Inner { store, written, .. } = &mut *inner;
        let client = store.redeem(token, key, UnixTime::now(), |name, key| {
            written.clash(name, key).is_some()
        })?;
        tracing::info!(client = %client.name, key = %client.public_key, "enrolled");
        let admission = Admission {
            name: client.name.to_string(),
            ports: permitted(client.ports.as_ref(), &written.ports),
            psk: Some(client.psk),
        };
        if let Err(error) = self.load(&mut inner) {
            tracing::error!(%error, "the new client is not known to handshakes yet");
            inner.seen.version = STALE;
        }
        // The name's old key, if it had one, has ended.
        self.changed.notify_one();
        Ok(admission)
    }

    fn mark_seen(&self, key: &PublicKey) {
        let mut inner = self.inner();
        let marked = inner.store.mark_seen(key);
        if let Err(error) = marked.and_then(|()| self.load(&mut inner)) {
            // Harmless: until it works, the client's token can be redeemed again, by this client only.
            tracing::warn!(%error, "a client's first connection was not written down");
        }
    }
}

impl Authority for StateAuthority {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        let snapshot = self.snapshot.load();
        match token {
            Some(token) => snapshot.tokens.get(&token).cloned(),
            None => snapshot.clients.get(client).map(|known| known.psk.clone()),
        }
    }

    fn admit(&self, client: &PublicKey, token: Option<TokenId>) -> Result<Admission, Denial> {
        if let Some(token) = token {
            return self.enrol(client, token);
        }
        let snapshot = self.snapshot.load();
        let known = snapshot.clients.get(client).ok_or(Denial::Revoked)?;
        if known.unseen {
            self.mark_seen(client);
        }
        Ok(known.admission())
    }

    /// Unlike [`admit`](Authority::admit), this does not use a token up: whoever is enrolling has not shown yet that
    /// it has its lasting PSK.
    fn readmit(&self, client: &PublicKey) -> Result<Admission, Denial> {
        let snapshot = self.snapshot.load();
        let known = snapshot.clients.get(client).ok_or(Denial::Revoked)?;
        Ok(known.admission())
    }
}

impl Known {
    fn admission(&self) -> Admission {
        Admission {
            name: self.name.to_string(),
            ports: self.ports.clone(),
            psk: None,
        }
    }
}

impl fmt::Debug for StateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateAuthority")
            .field("clients", &self.clients())
            .finish_non_exhaustive()
    }
}

impl Seen {
    fn of(store: &Store, config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            file: Store::file_id(&config.state_file),
            version: store.data_version()?,
        })
    }
}

impl From<&Config> for Written {
    fn from(config: &Config) -> Self {
        Self {
            state_file: config.state_file.clone(),
            clients: config.clients.clone(),
            ports: config.ports.clone(),
        }
    }
}

impl Written {
    fn clash(&self, name: &ClientName, key: &PublicKey) -> Option<&FileClient> {
        let mut clients = self.clients.iter();
        clients.find(|written| written.name == *name || written.public_key == *key)
    }
}

impl Snapshot {
    fn merge(written: &Written, store: &Store) -> Result<(Self, Vec<String>), StoreError> {
        let mut snapshot = Self::default();
        let mut clashes = Vec::new();
        for client in store.clients()? {
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
                name: client.name,
                psk: client.psk,
                ports: permitted(client.ports.as_ref(), &written.ports),
                unseen: !client.seen,
            };
            snapshot.clients.insert(client.public_key, known);
        }
        for client in &written.clients {
            let known = Known {
                name: client.name.clone(),
                psk: client.psk.clone(),
                ports: permitted(client.ports.as_ref(), &written.ports),
                unseen: false,
            };
            snapshot.clients.insert(client.public_key, known);
        }
        let tokens = store.tokens()?.into_iter();
        snapshot.tokens = tokens.map(|row| (row.token.id, row.token.secret)).collect();
        Ok((snapshot, clashes))
    }
}

/// A version that no state file has: the next poll reads it again.
const STALE: i64 = -1;

/// A client's ports, never more than the relay gives at all.
fn permitted(own: Option<&PortSet>, relay: &PortSet) -> PortSet {
    own.map_or_else(|| relay.clone(), |own| own.intersection(relay))
}

#[cfg(test)]
mod tests;
