//! The state file's tables, and the statements on them.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use tunnel_core::{
    instance::PortSet,
    join::{Token, TokenId},
    key::PublicKey,
};

use super::super::{
    enrolment::{ClientRow, TokenRow, Write},
    time::UnixTime,
};
use crate::config::ClientName;

/// What makes a state file of the version before into the next: the first makes version 1 of an empty file. What stands here
/// never changes, for it has been done to files.
pub(super) const MIGRATIONS: [&str; 3] = [ENROLMENT, API, INSTANCES];
const ENROLMENT: &str = "
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
const API: &str = "
CREATE TABLE api_tokens (
    name    TEXT PRIMARY KEY,
    digest  BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the secret
    role    TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    time    INTEGER NOT NULL,
    request TEXT NOT NULL,
    who     TEXT NOT NULL,
    role    TEXT NOT NULL,
    origin  TEXT NOT NULL,
    method  TEXT NOT NULL,
    path    TEXT NOT NULL,
    detail  TEXT,
    status  INTEGER NOT NULL
) STRICT;
";

const INSTANCES: &str = "
CREATE TABLE instances (
    id       TEXT PRIMARY KEY,
    client   TEXT NOT NULL,
    services TEXT NOT NULL,  -- JSON: name, protocol, public
    created  INTEGER NOT NULL,
    changed  INTEGER NOT NULL
) STRICT;
CREATE TABLE instance_states (
    id    TEXT PRIMARY KEY,  -- also of instances that their clients have made
    state TEXT NOT NULL,
    text  TEXT
) STRICT;
CREATE TABLE maintenance (
    id   INTEGER PRIMARY KEY CHECK (id = 1),  -- there while all instances are in maintenance
    text TEXT
) STRICT;
CREATE TABLE bans (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    cidr     TEXT NOT NULL,
    instance TEXT,     -- NULL: all
    service  TEXT,     -- NULL: all
    until    INTEGER,  -- NULL: for ever
    reason   TEXT,
    who      TEXT NOT NULL,
    created  INTEGER NOT NULL
) STRICT;
";

pub(super) const CLIENT_COLUMNS: &str =
    "name, public_key, psk, ports, created, revoked, seen_with_psk";
pub(super) const TOKEN_COLUMNS: &str =
    "id, secret, client, ports, created, expires, reusable, redeemed_by";

/// Does what was decided.
pub(super) fn write(tx: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Add(row) => add(tx, row),
        Write::End { token, at } => {
            let end = "UPDATE tokens SET expires = ?2, created = ?2 WHERE id = ?1";
            tx.execute(end, params![token.as_bytes(), at.0]).map(drop)
        }
        Write::Enrol { client, token } => enrol(tx, client, *token),
        Write::Revoke { name, at } => {
            let revoke = "UPDATE clients SET revoked = ?2 WHERE name = ?1";
            tx.execute(revoke, params![name.as_str(), at.0]).map(drop)
        }
    }
}

/// Adds a token, and forgets those that ended long ago.
fn add(tx: &Transaction<'_>, row: &TokenRow) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO tokens (id, secret, client, ports, created, expires, reusable) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            row.token.id.as_bytes(),
            row.token.secret.as_bytes(),
            row.client.as_str(),
            row.ports.as_ref().map(PortSet::to_string),
            row.created.0,
            row.expires.map(|time| time.0),
            row.reusable,
        ],
    )?;
    purge(tx, row.created)
}

fn enrol(tx: &Transaction<'_>, client: &ClientRow, token: TokenId) -> rusqlite::Result<()> {
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
            token.as_bytes(),
            client.public_key.as_bytes(),
            client.created.0
        ],
    )?;
    Ok(())
}

/// Forgets tokens that ended long ago, and of too many the oldest.
pub(super) fn purge(tx: &Transaction<'_>, now: UnixTime) -> rusqlite::Result<()> {
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

pub(super) fn client_by_name(
    tx: &Transaction<'_>,
    name: &ClientName,
) -> rusqlite::Result<Option<ClientRow>> {
    let sql = format!("SELECT {CLIENT_COLUMNS} FROM clients WHERE name = ?1");
    tx.query_row(&sql, [name.as_str()], read_client).optional()
}

pub(super) fn client_by_key(
    tx: &Transaction<'_>,
    key: &PublicKey,
) -> rusqlite::Result<Option<ClientRow>> {
    let sql = format!("SELECT {CLIENT_COLUMNS} FROM clients WHERE public_key = ?1");
    tx.query_row(&sql, [key.as_bytes()], read_client).optional()
}

pub(super) fn tokens_of(
    tx: &Transaction<'_>,
    name: &ClientName,
) -> rusqlite::Result<Vec<TokenRow>> {
    let sql = format!("SELECT {TOKEN_COLUMNS} FROM tokens WHERE client = ?1 ORDER BY created, id");
    let mut statement = tx.prepare(&sql)?;
    let rows = statement.query_map([name.as_str()], read_token)?;
    rows.collect()
}

pub(super) fn token_by_id(tx: &Transaction<'_>, id: TokenId) -> rusqlite::Result<Option<TokenRow>> {
    let sql = format!("SELECT {TOKEN_COLUMNS} FROM tokens WHERE id = ?1");
    tx.query_row(&sql, [id.as_bytes()], read_token).optional()
}

pub(super) fn read_client(row: &Row<'_>) -> rusqlite::Result<ClientRow> {
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

pub(super) fn read_token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
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

pub(super) fn text<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
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

/// How long a used or expired token is remembered, so that its holder can be told so.
const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// 10,000 ended tokens are about 2 MB; past that the oldest are forgotten.
const REMEMBERED: i64 = 10_000;
