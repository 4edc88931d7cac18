//! What was changed through the admin API, by whom: the latest of it, in the state file.

use rusqlite::{Row, params};

use super::{
    super::{audit::AuditRow, time::UnixTime},
    Store, StoreError,
    sql::text,
};

impl Store {
    /// Writes a change down, and forgets the oldest beyond those that are kept.
    pub(crate) fn append_audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::sqlite(&path, source);
        let tx = self.begin().map_err(failed)?;
        tx.execute(
            "INSERT INTO audit (time, request, who, role, origin, method, path, detail, status)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                row.time.0,
                row.request,
                row.who,
                row.role.as_str(),
                row.origin,
                row.method,
                row.path,
                row.detail,
                row.status,
            ],
        )
        .map_err(failed)?;
        let kept = tx.last_insert_rowid().saturating_sub(KEPT);
        tx.execute("DELETE FROM audit WHERE id <= ?1", [kept])
            .map_err(failed)?;
        tx.commit().map_err(failed)
    }

    /// The latest changes before the one with this id, `limit` at most; the latest first.
    pub(crate) fn audit(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, AuditRow)>, StoreError> {
        let failed = |source| StoreError::sqlite(&self.path, source);
        let mut statement = self
            .connection
            .prepare(
                "SELECT id, time, request, who, role, origin, method, path, detail, status
                 FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map(params![before.unwrap_or(i64::MAX), limit], read)
            .map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, AuditRow)> {
    let change = AuditRow {
        time: UnixTime(row.get(1)?),
        request: row.get(2)?,
        who: row.get(3)?,
        role: text(row, 4)?,
        origin: row.get(5)?,
        method: row.get(6)?,
        path: row.get(7)?,
        detail: row.get(8)?,
        status: row.get(9)?,
    };
    Ok((row.get(0)?, change))
}

/// 10,000 changes: some 2 MB, and months of people's work.
const KEPT: i64 = 10_000;

#[cfg(test)]
mod tests {
    use adit_control::access::Role;

    use super::*;

    fn change(path: &str) -> AuditRow {
        AuditRow {
            time: UnixTime(1_800_000_000),
            request: "1-1".into(),
            who: "ops".into(),
            role: Role::Admin,
            origin: "192.0.2.1".into(),
            method: "POST".into(),
            path: path.into(),
            detail: None,
            status: 201,
        }
    }

    #[test]
    fn the_latest_changes_are_kept_and_read_from_the_latest_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        for path in ["/1", "/2", "/3"] {
            store.append_audit(&change(path)).unwrap();
        }
        let read = store.audit(None, 2).unwrap();
        assert_eq!(read, [(3, change("/3")), (2, change("/2"))]);
        assert_eq!(store.audit(Some(2), 2).unwrap(), [(1, change("/1"))]);
        // As after so many changes.
        let set = format!(
            "UPDATE sqlite_sequence SET seq = {} WHERE name = 'audit'",
            KEPT + 1
        );
        store.connection.execute_batch(&set).unwrap();
        store.append_audit(&change("/last")).unwrap();
        let ids: Vec<_> = store
            .audit(None, 10)
            .unwrap()
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(ids, [KEPT + 2, 3]);
    }
}
