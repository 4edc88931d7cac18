//! The state file: enrolled clients and tokens, in SQLite.
//!
//! Other processes, also of other users, change it while the relay runs. It stays in rollback-journal mode: a
//! write-ahead log would leave files beside it that belong to whoever came first.

mod api_tokens;
mod audit;
mod bans;
mod instances;
mod sql;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use adit_daemon::file;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior};
use tunnel_core::{
    join::TokenId,
    key::{Psk, PublicKey},
    relay::Denial,
};

use self::sql::{CLIENT_COLUMNS, MIGRATIONS, TOKEN_COLUMNS};
use super::{
    enrolment::{self, AlreadyEnrolled, Claim, ClientRow, Decision, Invitation, Revoked, TokenRow},
    time::UnixTime,
};
use crate::config::ClientName;

/// An open state file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    connection: Connection,
}

/// What tells two versions of the state file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl Store {
    /// Opens the state file, and makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        create(path).map_err(|source| StoreError::Create {
            path: path.to_owned(),
            source,
        })?;
        Self::connect(path)
    }

    /// Opens the state file if there is one.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        if fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Self::connect(path).map(Some)
    }

    fn connect(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |source| StoreError::sqlite(path, source);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        let mut store = Self {
            path: path.to_owned(),
            connection,
        };
        store.migrate()?;
        Ok(store)
    }

    /// Every client, by name.
    pub(crate) fn clients(&self) -> Result<Vec<ClientRow>, StoreError> {
        self.rows(
            &format!("SELECT {CLIENT_COLUMNS} FROM clients ORDER BY name"),
            sql::read_client,
        )
    }

    /// Every token that is remembered, open or not.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.rows(
            &format!("SELECT {TOKEN_COLUMNS} FROM tokens ORDER BY created, id"),
            sql::read_token,
        )
    }

    /// Writes an invitation down. Earlier open ones of that name end; returns how many.
    pub(crate) fn invite(
        &mut self,
        invitation: &Invitation,
        now: UnixTime,
    ) -> Result<usize, InviteError> {
        self.change(|tx| {
            let named = sql::client_by_name(tx, &invitation.name)?;
            let tokens = sql::tokens_of(tx, &invitation.name)?;
            Ok(enrolment::invite(invitation, named.as_ref(), &tokens, now))
        })
    }

    /// Enrols the holder of `key` by a token that it has proved, with `psk` as its lasting secret if it is new.
    /// `is_written` says which names and keys the configuration file has taken.
    pub(crate) fn redeem(
        &mut self,
        token: TokenId,
        key: &PublicKey,
        psk: Psk,
        now: UnixTime,
        is_written: impl FnOnce(&ClientName, &PublicKey) -> bool,
    ) -> Result<ClientRow, RedeemError> {
        self.change(|tx| {
            let token = sql::token_by_id(tx, token)?;
            let name = token.as_ref().map(|token| &token.client);
            let named = match name {
                Some(name) => sql::client_by_name(tx, name)?,
                None => None,
            };
            let keyed = sql::client_by_key(tx, key)?;
            let claim = Claim {
                token: token.as_ref(),
                named: named.as_ref(),
                keyed: keyed.as_ref(),
                key,
                is_written: name.is_some_and(|name| is_written(name, key)),
                now,
            };
            Ok(claim.redeem(psk))
        })
    }

    /// The client has connected with its lasting PSK: its token is used up for good.
    pub(crate) fn mark_seen(&mut self, key: &PublicKey) -> Result<(), StoreError> {
        self.connection
            .execute(
                "UPDATE clients SET seen_with_psk = 1 WHERE public_key = ?1",
                [key.as_bytes()],
            )
            .map(drop)
            .map_err(|source| StoreError::sqlite(&self.path, source))
    }

    /// Ends a client and its open invitations.
    pub(crate) fn revoke(
        &mut self,
        name: &ClientName,
        now: UnixTime,
    ) -> Result<Revoked, StoreError> {
        self.change(|tx| {
            let named = sql::client_by_name(tx, name)?;
            let tokens = sql::tokens_of(tx, name)?;
            let decision = enrolment::revoke(name, named.as_ref(), &tokens, now);
            Ok(Ok::<_, StoreError>(decision))
        })
    }

    /// Forgets tokens that ended long ago.
    pub(crate) fn purge(&mut self, now: UnixTime) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        sql::purge(&tx, now).map_err(failed)?;
        tx.commit().map_err(failed)
    }

    /// A number that changes when another connection has changed the file.
    pub(crate) fn data_version(&self) -> Result<i64, StoreError> {
        self.connection
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|source| StoreError::sqlite(&self.path, source))
    }

    /// Which file stands at the store's path now; `None` while there is none.
    pub(crate) fn file_id(path: &Path) -> Option<FileId> {
        let metadata = fs::metadata(path).ok()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Some(FileId(metadata.dev(), metadata.ino()))
        }
        #[cfg(not(unix))]
        {
            drop(metadata);
            Some(FileId(0, 0))
        }
    }

    /// Reads rows, decides by them, and writes what was decided, all in one transaction.
    fn change<T, D, E: From<D> + From<StoreError>>(
        &mut self,
        decide: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<Decision<T>, D>>,
    ) -> Result<T, E> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        let Decision { outcome, writes } = decide(&tx).map_err(failed)??;
        for write in &writes {
            sql::write(&tx, write).map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
        Ok(outcome)
    }

    /// Does everything, or nothing.
    fn transaction<T>(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        let outcome = write(&tx).map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(outcome)
    }

    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        // Immediate: what is read here must still hold when it is written.
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let failed = |source| StoreError::sqlite(&self.path, source);
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let rows = statement.query_map([], read).map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let version = |connection: &Connection| {
            connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        };
        if version(&self.connection).map_err(failed)? == SCHEMA_VERSION {
            return Ok(());
        }
        let tx = self.begin().map_err(failed)?;
        // Read again: another process may have made the tables since.
        let found = version(&tx).map_err(failed)?;
        if found == SCHEMA_VERSION {
            return Ok(());
        }
        let missing = usize::try_from(found).ok();
        let Some(missing) = missing.and_then(|done| MIGRATIONS.get(done..)) else {
            return Err(StoreError::Newer { path, found });
        };
        let tables: i64 = tx
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        if found == 0 && tables > 0 {
            return Err(StoreError::Foreign { path });
        }
        for migration in missing {
            tx.execute_batch(migration).map_err(failed)?;
        }
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)
            .map_err(failed)?;
        tx.commit().map_err(failed)
    }
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// It could not be made.
    #[error("the state file {} cannot be made: {source}", path.display())]
    Create {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("the state file {} cannot be used: {source}{}", path.display(), what_to_do(source))]
    Sqlite {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A later version of the program has changed the tables.
    #[error("the state file {} is of a newer relay-server (schema {found}): upgrade this one", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its schema version.
        found: i64,
    },
    /// Some other program's database.
    #[error("{} is a database, but not a relay's: choose another state_file", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether there is no room left on the disk.
    pub(crate) fn is_full_disk(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. } if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }

    fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite {
            path: path.to_owned(),
            source,
        }
    }
}

/// Why nobody was invited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InviteError {
    /// The name belongs to a client.
    #[error(transparent)]
    Enrolled(#[from] AlreadyEnrolled),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nobody was enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RedeemError {
    /// The rules of enrolment deny it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What this program makes of a state file.
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
/// Whoever holds the state file's lock is done within milliseconds; after 5 s something is wrong.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes an empty file of mode 0600 where there is none. SQLite gives its journal the same owner and mode.
fn create(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(made) => file::give_to_owner_of(file::directory_of(path), &made),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn what_to_do(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            " (run this as root or as the user that the relay runs as; its directory must be writable too)"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            " (another process holds it for more than 5 s: fuser shows which)"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            " (restore it from a backup, or choose another state_file)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests;
