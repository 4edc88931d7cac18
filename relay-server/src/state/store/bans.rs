//! Who may not play, in the state file.

use rusqlite::{Row, params};

use super::{
    super::{ban::BanRow, time::UnixTime},
    Store, StoreError,
    sql::text,
};

impl Store {
    /// Every ban with its number, the earliest first.
    pub(crate) fn bans(&self) -> Result<Vec<(i64, BanRow)>, StoreError> {
        self.rows(
            "SELECT id, cidr, instance, service, until, reason, who, created FROM bans ORDER BY id",
            read,
        )
    }

    /// Adds a ban. Returns its number.
    pub(crate) fn add_ban(&mut self, ban: &BanRow) -> Result<i64, StoreError> {
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO bans (cidr, instance, service, until, reason, who, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    ban.addresses.to_string(),
                    ban.instance.as_ref().map(ToString::to_string),
                    ban.service.as_ref().map(ToString::to_string),
                    ban.until.map(|time| time.0),
                    ban.reason,
                    ban.who,
                    ban.created.0,
                ],
            )?;
            Ok(tx.last_insert_rowid())
        })
    }

    /// Ends a ban.
    pub(crate) fn remove_ban(&mut self, id: i64) -> Result<(), StoreError> {
        self.transaction(|tx| tx.execute("DELETE FROM bans WHERE id = ?1", [id]).map(drop))
    }

    /// Forgets the bans that have ended.
    pub(crate) fn purge_bans(&mut self, now: UnixTime) -> Result<(), StoreError> {
        let delete = "DELETE FROM bans WHERE until <= ?1";
        self.transaction(|tx| tx.execute(delete, [now.0]).map(drop))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, BanRow)> {
    let optional = |at: usize| match row.get::<_, Option<String>>(at)? {
        Some(_) => Ok(Some(at)),
        None => Ok::<_, rusqlite::Error>(None),
    };
    let ban = BanRow {
        addresses: text(row, 1)?,
        instance: optional(2)?.map(|at| text(row, at)).transpose()?,
        service: optional(3)?.map(|at| text(row, at)).transpose()?,
        until: row.get::<_, Option<i64>>(4)?.map(UnixTime),
        reason: row.get(5)?,
        who: row.get(6)?,
        created: UnixTime(row.get(7)?),
    };
    Ok((row.get(0)?, ban))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(cidr: &str, until: Option<i64>) -> BanRow {
        BanRow {
            addresses: cidr.parse().unwrap(),
            instance: Some("srv".parse().unwrap()),
            service: None,
            until: until.map(UnixTime),
            reason: Some("floods".into()),
            who: "ops".into(),
            created: UnixTime(1),
        }
    }

    #[test]
    fn bans_are_kept_until_they_end_and_no_number_is_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut store = Store::open(&path).unwrap();
        let (a, b) = (ban("192.0.2.0/24", Some(100)), ban("2001:db8::/64", None));
        assert_eq!(store.add_ban(&a).unwrap(), 1);
        assert_eq!(store.add_ban(&b).unwrap(), 2);
        let all = [(1, a.clone()), (2, b.clone())];
        assert_eq!(Store::open(&path).unwrap().bans().unwrap(), all);
        store.purge_bans(UnixTime(99)).unwrap();
        assert_eq!(store.bans().unwrap(), all);
        store.purge_bans(UnixTime(100)).unwrap();
        assert_eq!(store.bans().unwrap(), [(2, b)]);
        store.remove_ban(2).unwrap();
        assert_eq!(store.add_ban(&a).unwrap(), 3);
    }
}
