//! The tokens of the admin API in the state file.

use adit_control::access::TokenDigest;
use rusqlite::{Row, params};

use super::{
    super::{
        api_token::{Added, ApiToken, MOST_TOKENS, TokenName},
        time::UnixTime,
    },
    Store, StoreError,
    sql::text,
};

impl Store {
    /// Every token of the admin API, by name.
    pub(crate) fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError> {
        self.rows(
            "SELECT name, role, digest, created FROM api_tokens ORDER BY name",
            read,
        )
    }

    /// Adds a token.
    pub(crate) fn add_api_token(&mut self, token: &ApiToken) -> Result<Added, StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        let count = "SELECT count(*), count(*) FILTER (WHERE name = ?1) FROM api_tokens";
        let counts = tx.query_row(count, [token.name.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        match counts.map_err(failed)? {
            (_, 1..) => return Ok(Added::Taken),
            (MOST_TOKENS.., _) => return Ok(Added::Full),
            _ => {}
        }
        tx.execute(
            "INSERT INTO api_tokens (name, role, digest, created) VALUES (?1, ?2, ?3, ?4)",
            params![
                token.name.as_str(),
                token.role.as_str(),
                token.digest.as_bytes(),
                token.created.0,
            ],
        )
        .map_err(failed)?;
        tx.commit().map_err(failed)?;
        Ok(Added::Done)
    }

    /// Ends a token; whether there was one of that name.
    pub(crate) fn remove_api_token(&mut self, name: &TokenName) -> Result<bool, StoreError> {
        self.connection
            .execute("DELETE FROM api_tokens WHERE name = ?1", [name.as_str()])
            .map(|removed| removed > 0)
            .map_err(|source| StoreError::sqlite(&self.path, source))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<ApiToken> {
    Ok(ApiToken {
        name: text(row, 0)?,
        role: text(row, 1)?,
        digest: TokenDigest::from(row.get::<_, [u8; 32]>(2)?),
        created: UnixTime(row.get(3)?),
    })
}

#[cfg(test)]
mod tests {
    use adit_control::access::{Role, Secret};

    use super::*;

    fn token(name: &str) -> ApiToken {
        ApiToken {
            name: name.parse().unwrap(),
            role: Role::Operator,
            digest: Secret::generate().unwrap().digest(),
            created: UnixTime(1_800_000_000),
        }
    }

    #[test]
    fn a_token_is_kept_as_its_digest_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut store = Store::open(&path).unwrap();
        let (panel, other) = (token("panel"), token("other"));
        assert_eq!(store.add_api_token(&panel).unwrap(), Added::Done);
        assert_eq!(store.add_api_token(&other).unwrap(), Added::Done);
        assert_eq!(store.add_api_token(&token("panel")).unwrap(), Added::Taken);
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.api_tokens().unwrap(), [other.clone(), panel.clone()]);
        assert!(store.remove_api_token(&panel.name).unwrap());
        assert!(!store.remove_api_token(&panel.name).unwrap());
        assert_eq!(store.api_tokens().unwrap(), [other]);
    }

    #[test]
    fn there_are_no_more_tokens_than_each_request_can_be_held_against() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        let series = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             INSERT INTO api_tokens SELECT 't-' || i, randomblob(32), 'viewer', 0 FROM n",
            MOST_TOKENS - 1
        );
        store.connection.execute_batch(&series).unwrap();
        assert_eq!(store.add_api_token(&token("last")).unwrap(), Added::Done);
        assert_eq!(store.add_api_token(&token("beyond")).unwrap(), Added::Full);
        assert_eq!(store.add_api_token(&token("last")).unwrap(), Added::Taken);
    }
}
