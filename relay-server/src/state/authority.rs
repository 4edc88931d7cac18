//! The engine's view of who may connect: a snapshot in memory for handshakes, the state file behind it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use adit_control::{
    access::{TokenRecord, Tokens},
    server::{Audit, Change},
};
use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};
use tunnel_core::{
    join::TokenId,
    key::{Psk, PublicKey},
    relay::{Admission, Authority, Denial},
};

use super::{
    enrolment::Verdict,
    snapshot::{Snapshot, Stored, Written},
    store::{FileId, RedeemError, Store, StoreError},
    time::UnixTime,
};
use crate::config::Config;

/// Answers for the clients of the configuration file and of the state file. On an equal name or key the file wins.
///
/// Whatever needs no change of the state file is answered from memory, so that a state file that somebody has locked
/// stops new clients only.
pub(crate) struct StateAuthority {
    state_file: PathBuf,
    snapshot: ArcSwap<Snapshot>,
    /// Held while the snapshot changes, and for nothing that blocks.
    changing: Mutex<()>,
    /// The state file as it is read. Only for threads that may block.
    reader: Mutex<Reader>,
    /// Who may wait for the state file's lock.
    writers: Semaphore,
    changed: Notify,
}

/// An open state file, and which version of it the snapshot is of.
struct Reader {
    store: Store,
    file: Option<FileId>,
    version: i64,
}

impl StateAuthority {
    /// Opens the state file that the configuration names, and makes it where there is none.
    pub(crate) fn open(config: &Config) -> Result<Self, StoreError> {
        let mut store = Store::open(&config.state_file)?;
        if let Err(error) = store.purge(UnixTime::now()) {
            tracing::warn!(%error, "who is enrolled can connect, and nobody can enrol");
        }
        let authority = Self {
            state_file: config.state_file.clone(),
            snapshot: ArcSwap::default(),
            changing: Mutex::new(()),
            reader: Mutex::new(Reader {
                store,
                file: Store::file_id(&config.state_file),
                version: STALE,
            }),
            writers: Semaphore::new(WRITERS),
            changed: Notify::new(),
        };
        authority.configure(config);
        authority.refresh(Writer::Own)?;
        Ok(authority)
    }

    /// Takes over what the configuration file says now.
    pub(crate) fn configure(&self, config: &Config) {
        // Another state file takes effect at the next start.
        self.change(|snapshot| {
            Snapshot::merge(Written::from(config).into(), snapshot.stored.clone())
        });
    }

    /// Looks whether another process has changed the state file, and takes the change over. May block.
    pub(crate) fn poll(&self) -> Result<(), StoreError> {
        self.refresh(Writer::Another)
    }

    /// Takes over what this process has written through a connection of its own. May block.
    pub(crate) fn reload(&self) -> Result<(), StoreError> {
        self.refresh(Writer::Own)
    }

    /// Waits until the answers may have changed: then the relay asks again about its live clients.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many clients may connect.
    pub(crate) fn clients(&self) -> usize {
        self.snapshot.load().clients.len()
    }

    fn refresh(&self, writer: Writer) -> Result<(), StoreError> {
        // Held to the end: what was read first must not be taken over last.
        let mut reader = lock(&self.reader);
        let file = Store::file_id(&self.state_file);
        // While it is gone, it may be on its way back: a restored backup.
        if file.is_some() && file != reader.file {
            let Some(store) = Store::open_existing(&self.state_file)? else {
                return Ok(());
            };
            tracing::info!(file = %self.state_file.display(), "the state file was replaced");
            *reader = Reader {
                store,
                file,
                version: STALE,
            };
        }
        // Before the rows: a change in between is then seen by the next look.
        let version = reader.store.data_version()?;
        if version == reader.version {
            return Ok(());
        }
        let stored = Arc::new(Stored::read(&reader.store)?);
        let before = std::mem::replace(&mut reader.version, version);
        if self.snapshot.load().stored == stored {
            // What is written about the API changes nobody's rights.
            return Ok(());
        }
        if before != STALE && writer == Writer::Another {
            tracing::info!("another process has changed the state file");
        }
        self.change(|snapshot| Snapshot::merge(snapshot.written.clone(), stored));
        Ok(())
    }

    fn change(&self, next: impl FnOnce(&Snapshot) -> Snapshot) {
        let changing = lock(&self.changing);
        let before = self.snapshot.load();
        let next = next(&before);
        if next.clashes != before.clashes {
            for clash in &next.clashes {
                tracing::warn!("{clash}");
            }
        }
        self.snapshot.store(Arc::new(next));
        drop(changing);
        self.changed.notify_one();
    }

    fn enrol(&self, key: &PublicKey, token: TokenId) -> Result<Admission, Denial> {
        let now = UnixTime::now();
        let snapshot = self.snapshot.load();
        // Who holds a token that has ended learns it without a look at the state file.
        if let Some(row) = snapshot.stored.tokens.get(&token)
            && let Verdict::Again(client) = snapshot.judge(row, key, now)?
        {
            return Ok(snapshot.enrolled(client));
        }
        let Ok(_turn) = self.writers.try_acquire() else {
            return Err(Denial::Unavailable("too many enrol at once".into()));
        };
        let Some(mut store) = self.store().map_err(|error| unavailable(&error))? else {
            return Err(Denial::Unavailable("the relay's state file is gone".into()));
        };
        let psk = Psk::generate().map_err(|error| Denial::Unavailable(error.to_string()))?;
        let is_written =
            |name: &_, key: &_| self.snapshot.load().written.clash(name, key).is_some();
        let client =
            store
                .redeem(token, key, psk, now, is_written)
                .map_err(|error| match error {
                    RedeemError::Denied(denial) => denial,
                    RedeemError::Store(error) => unavailable(&error),
                })?;
        tracing::info!(client = %client.name, key = %client.public_key, "enrolled");
        // The name's old key, if it had one, ends with this.
        if let Err(error) = self.refresh(Writer::Own) {
            tracing::error!(%error, "the new client is not known to handshakes yet");
        }
        Ok(self.snapshot.load().enrolled(&client))
    }

    fn mark_seen(&self, key: &PublicKey) {
        let marked = || {
            if let (Ok(_turn), Some(mut store)) = (self.writers.try_acquire(), self.store()?) {
                store.mark_seen(key)?;
                self.refresh(Writer::Own)?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = marked() {
            // Harmless: until it works, the client's token can be redeemed again, by this client only.
            tracing::warn!(%error, "a client's first connection was not written down");
        }
    }

    /// The state file to write, where it stands now. It is another connection than the reader's, which waits for nobody
    /// who waits for the lock.
    fn store(&self) -> Result<Option<Store>, StoreError> {
        Store::open_existing(&self.state_file)
    }
}

impl Authority for StateAuthority {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        let snapshot = self.snapshot.load();
        match token {
            Some(token) => (snapshot.stored.tokens.get(&token)).map(|row| row.token.secret.clone()),
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

impl Tokens for StateAuthority {
    fn tokens(&self) -> Arc<[TokenRecord]> {
        self.snapshot.load().access.clone()
    }
}

impl Audit for StateAuthority {
    fn record(&self, change: Change) {
        let written = || {
            // While the state file is gone the log alone has what is changed.
            if let Some(mut store) = self.store()? {
                store.append_audit(&change.into())?;
                self.reload()?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = written() {
            tracing::error!(%error, "a change through the API is written down in this log alone");
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

/// Who has changed the state file, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Own,
    Another,
}

/// A version that no state file has: the next look reads it again.
const STALE: i64 = -1;
/// How many may wait for the state file's lock at a time: 16, each for some milliseconds. The others try again.
const WRITERS: usize = 16;

/// What a client is told that cannot enrol for the state file's sake; the operator is told why.
fn unavailable(error: &StoreError) -> Denial {
    tracing::error!(%error, "nobody can enrol");
    // The reason is the operator's, not the client's.
    Denial::Unavailable("the relay cannot use its state file, its log says why".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is consistent at every step: a panic leaves an older snapshot at worst.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
