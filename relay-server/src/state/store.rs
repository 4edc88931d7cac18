//! The state file: enrolled clients and tokens, in SQLite.
//!
//! Other processes, also of other users, change it while the relay runs. It stays in rollback-journal mode: a
//! write-ahead log would leave files beside it that belong to whoever came first.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use adit_daemon::file;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use tunnel_core::{
    instance::PortSet,
    join::{Token, TokenId},
    key::{Psk, PublicKey},
    relay::Denial,
};

use super::{
    ClientName,
    enrolment::{Claim, Verdict},
};
use crate::time::UnixTime;

/// An open state file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    connection: Connection,
}

/// A client as the state file has it.
#[derive(Clone, Debug)]
pub(crate) struct ClientRow {
    pub(crate) name: ClientName,
    pub(crate) public_key: PublicKey,
    pub(crate) psk: Psk,
    /// `None`: all of the relay's.
    pub(crate) ports: Option<PortSet>,
    pub(crate) created: UnixTime,
    pub(crate) revoked: Option<UnixTime>,
    /// Whether it has connected with its lasting PSK, so that its token is used up for good.
    pub(crate) seen: bool,
}

/// A token as the state file has it.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) token: Token,
    pub(crate) client: ClientName,
    pub(crate) ports: Option<PortSet>,
    pub(crate) created: UnixTime,
    /// `None`: never.
    pub(crate) expires: Option<UnixTime>,
    pub(crate) reusable: bool,
    pub(crate) redeemed_by: Option<PublicKey>,
}

impl TokenRow {
    /// Whether a new key may still enrol with it.
    pub(crate) fn is_open(&self, now: UnixTime) -> bool {
        !self.is_expired(now) && (self.reusable || self.redeemed_by.is_none())
    }

    /// Whether its time is over.
    pub(super) fn is_expired(&self, now: UnixTime) -> bool {
        // One that was ended holds at no time, wherever the clock jumps.
        self.expires
            .is_some_and(|expires| expires <= now || expires <= self.created)
    }
}

/// A new token to be written down.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub(crate) name: ClientName,
    pub(crate) token: Token,
    pub(crate) ports: Option<PortSet>,
    pub(crate) expires: Option<UnixTime>,
    pub(crate) reusable: bool,
}

/// What revoking a name met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// A client, now revoked, and its open invitations with it.
    Client,
    /// A client that had been revoked before.
    Already,
    /// Only an invitation that nobody had used yet.
    Invitation,
    /// Nothing of that name.
    Unknown,
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
            read_client,
        )
    }

    /// Every token that is remembered, open or not.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.rows(
            &format!("SELECT {TOKEN_COLUMNS} FROM tokens ORDER BY created, id"),
            read_token,
        )
    }

    /// Writes an invitation down. Earlier open ones of that name end; returns how many.
    pub(crate) fn invite(
        &mut self,
        invitation: &Invitation,
        now: UnixTime,
    ) -> Result<usize, InviteError> {
        let path = self.path.clone();
        let failed = |source| InviteError::Store(StoreError::sqlite(&path, source));
        let tx = self.begin().map_err(failed)?;
        let client = client_by_name(&tx, &invitation.name).map_err(failed)?;
        if client.is_some_and(|client| client.revoked.is_none()) && !invitation.reusable {
            return Err(InviteError::Enrolled(invitation.name.clone()));
        }
        let ended = end_open_tokens(&tx, &invitation.name, now).map_err(failed)?;
        tx.execute(
            "INSERT INTO tokens (id, secret, client, ports, created, expires, reusable) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                invitation.token.id.as_bytes(),
                invitation.token.secret.as_bytes(),
                invitation.name.as_str(),
                invitation.ports.as_ref().map(PortSet::to_string),
                now.0,
                invitation.expires.map(|time| time.0),
                invitation.reusable,
            ],
        )
        .map_err(failed)?;
        purge(&tx, now).map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(ended)
    }

    /// Enrols the holder of `key` by a token that it has proved. `stands_in_file` says which names and keys the
    /// configuration file has taken.
    pub(crate) fn redeem(
        &mut self,
        token: TokenId,
        key: &PublicKey,
        now: UnixTime,
        stands_in_file: impl Fn(&ClientName, &PublicKey) -> bool,
    ) -> Result<ClientRow, Denial> {
        let path = self.path.clone();
        let failed = |source| unavailable(&StoreError::sqlite(&path, source));
        let tx = self.begin().map_err(failed)?;
        // A token that is not remembered any more has ended more than 30 days ago.
        let token = token_by_id(&tx, token)
            .map_err(failed)?
            .ok_or(Denial::TokenExpired)?;
        let named = client_by_name(&tx, &token.client).map_err(failed)?;
        let keyed = client_by_key(&tx, key).map_err(failed)?;
        let claim = Claim {
            token: &token,
            named: named.as_ref(),
            keyed: keyed.as_ref(),
            key,
            now,
        };
        let token = match claim.judge(stands_in_file)? {
            Verdict::Again(client) => return Ok(client.clone()),
            Verdict::New(token) => token,
        };
        let client = ClientRow {
            name: token.client.clone(),
            public_key: *key,
            psk: Psk::generate().map_err(|e| Denial::Unavailable(e.to_string()))?,
            ports: token.ports.clone(),
            created: now,
            revoked: None,
            seen: false,
        };
        enrol(&tx, &client, token, now).map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(client)
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
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        let client = client_by_name(&tx, name).map_err(failed)?;
        let invitations = end_open_tokens(&tx, name, now).map_err(failed)?;
        let met = match client {
            Some(ClientRow { revoked: None, .. }) => {
                tx.execute(
                    "UPDATE clients SET revoked = ?2 WHERE name = ?1",
                    params![name.as_str(), now.0],
                )
                .map_err(failed)?;
                Revoked::Client
            }
            _ if invitations > 0 => Revoked::Invitation,
            Some(_) => Revoked::Already,
            None => Revoked::Unknown,
        };
        tx.commit().map_err(failed)?;
        Ok(met)
    }

    /// Forgets tokens that ended long ago.
    pub(crate) fn purge(&mut self, now: UnixTime) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        purge(&tx, now).map_err(failed)?;
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
        match version(&tx).map_err(failed)? {
            SCHEMA_VERSION => return Ok(()),
            0 => {}
            found => return Err(StoreError::Newer { path, found }),
        }
        let tables: i64 = tx
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        if tables > 0 {
            return Err(StoreError::Foreign { path });
        }
        tx.execute_batch(SCHEMA).map_err(failed)?;
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
    #[error(
        "{0} is enrolled already: revoke it first (relay-server clients revoke {0}), or invite with --reusable so that a new key replaces the old"
    )]
    Enrolled(ClientName),
    /// The state file failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Whoever holds the state file's lock is done within milliseconds; after 5 s something is wrong.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a used or expired token is remembered, so that its holder can be told so.
const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// 10,000 ended tokens are about 2 MB; past that the oldest are forgotten.
const REMEMBERED: i64 = 10_000;

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE clients (
    name          TEXT PRIMARY KEY,
    public_key    BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    psk           BLOB NOT NULL CHECK (length(psk) = 32),
    ports         TEXT,              -- NULL: all of the relay's
    created       INTEGER NOT NULL,  -- times are seconds since 1970
    revoked       INTEGER,
    seen_with_psk INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE tokens (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    secret      BLOB NOT NULL CHECK (length(secret) = 32),
    client      TEXT NOT NULL,
    ports       TEXT,
    created     INTEGER NOT NULL,
    expires     INTEGER,             -- NULL: never
    reusable    INTEGER NOT NULL,
    redeemed_by BLOB CHECK (length(redeemed_by) = 32),
    redeemed    INTEGER
) STRICT;
CREATE INDEX tokens_by_client ON tokens (client);
";

const CLIENT_COLUMNS: &str = "name, public_key, psk, ports, created, revoked, seen_with_psk";
const TOKEN_COLUMNS: &str = "id, secret, client, ports, created, expires, reusable, redeemed_by";

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

fn enrol(
    tx: &Transaction<'_>,
    client: &ClientRow,
    token: &TokenRow,
    now: UnixTime,
) -> rusqlite::Result<()> {
    // Replaces the name's old key, and takes the key away from a revoked name.
    tx.execute(
        "INSERT OR REPLACE INTO clients (name, public_key, psk, ports, created) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            client.name.as_str(),
            client.public_key.as_bytes(),
            client.psk.as_bytes(),
            client.ports.as_ref().map(PortSet::to_string),
            client.created.0,
        ],
    )?;
    tx.execute(
        "UPDATE tokens SET redeemed_by = ?2, redeemed = ?3 WHERE id = ?1",
        params![
            token.token.id.as_bytes(),
            client.public_key.as_bytes(),
            now.0
        ],
    )?;
    Ok(())
}

fn end_open_tokens(
    tx: &Transaction<'_>,
    name: &ClientName,
    now: UnixTime,
) -> rusqlite::Result<usize> {
    // What has expired ends, too: a clock that is ahead says so of what holds again once it is right.
    let unended =
        "client = ?1 AND (reusable OR redeemed IS NULL) AND (expires IS NULL OR expires > created)";
    let count = format!(
        "SELECT count(*) FROM tokens WHERE {unended} AND (expires IS NULL OR expires > ?2)"
    );
    let open = tx.query_row(&count, params![name.as_str(), now.0], |row| {
        row.get::<_, i64>(0)
    })?;
    // Each ends at its own beginning, so that no clock that jumps back revives it.
    let end = format!("UPDATE tokens SET expires = ?2, created = ?2 WHERE {unended}");
    tx.execute(&end, params![name.as_str(), now.0])?;
    Ok(usize::try_from(open).unwrap_or_default())
}

fn purge(tx: &Transaction<'_>, now: UnixTime) -> rusqlite::Result<()> {
    const ENDED: &str =
        "CASE WHEN redeemed IS NOT NULL AND NOT reusable THEN redeemed ELSE expires END";
    tx.execute(
        &format!("DELETE FROM tokens WHERE {ENDED} <= ?1"),
        [now.before(REMEMBERED_FOR).0],
    )?;
    tx.execute(
        &format!(
            "DELETE FROM tokens WHERE id IN
             (SELECT id FROM tokens WHERE {ENDED} <= ?1 ORDER BY {ENDED} DESC LIMIT -1 OFFSET ?2)"
        ),
        [now.0, REMEMBERED],
    )?;
    Ok(())
}

fn client_by_name(tx: &Transaction<'_>, name: &ClientName) -> rusqlite::Result<Option<ClientRow>> {
    let sql = format!("SELECT {CLIENT_COLUMNS} FROM clients WHERE name = ?1");
    tx.query_row(&sql, [name.as_str()], read_client).optional()
}

fn client_by_key(tx: &Transaction<'_>, key: &PublicKey) -> rusqlite::Result<Option<ClientRow>> {
    let sql = format!("SELECT {CLIENT_COLUMNS} FROM clients WHERE public_key = ?1");
    tx.query_row(&sql, [key.as_bytes()], read_client).optional()
}

fn token_by_id(tx: &Transaction<'_>, id: TokenId) -> rusqlite::Result<Option<TokenRow>> {
    let sql = format!("SELECT {TOKEN_COLUMNS} FROM tokens WHERE id = ?1");
    tx.query_row(&sql, [id.as_bytes()], read_token).optional()
}

fn read_client(row: &Row<'_>) -> rusqlite::Result<ClientRow> {
    Ok(ClientRow {
        name: text(row, 0)?,
        public_key: row.get::<_, [u8; 32]>(1)?.into(),
        psk: row.get::<_, [u8; 32]>(2)?.into(),
        ports: ports(row, 3)?,
        created: UnixTime(row.get(4)?),
        revoked: row.get::<_, Option<i64>>(5)?.map(UnixTime),
        seen: row.get(6)?,
    })
}

fn read_token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        token: Token {
            id: row.get::<_, [u8; 16]>(0)?.into(),
            secret: row.get::<_, [u8; 32]>(1)?.into(),
        },
        client: text(row, 2)?,
        ports: ports(row, 3)?,
        created: UnixTime(row.get(4)?),
        expires: row.get::<_, Option<i64>>(5)?.map(UnixTime),
        reusable: row.get(6)?,
        redeemed_by: row.get::<_, Option<[u8; 32]>>(7)?.map(PublicKey::from),
    })
}

fn ports(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<PortSet>> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(_) => text(row, column).map(Some),
    }
}

fn text<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

/// What a client is told that cannot enrol for the state file's sake; the operator is told why.
pub(super) fn unavailable(error: &StoreError) -> Denial {
    tracing::error!(%error, "nobody can enrol");
    // The reason is the operator's, not the client's.
    Denial::Unavailable("the relay cannot use its state file, its log says why".into())
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
