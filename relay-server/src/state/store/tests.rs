use std::fs;

use rusqlite::params;
use tempfile::TempDir;
use tunnel_core::join::Token;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    (dir, store)
}

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from([byte; 32])
}

fn invitation(client: &str) -> Invitation {
    Invitation {
        name: name(client),
        token: Token::generate().unwrap(),
        ports: Some("7777".parse().unwrap()),
        expires: Some(NOW.after(HOUR)),
        reusable: false,
    }
}

fn invite(store: &mut Store, invitation: Invitation) -> TokenId {
    store.invite(&invitation, NOW).unwrap();
    invitation.token.id
}

fn redeem(store: &mut Store, token: TokenId, byte: u8) -> Result<ClientRow, Denial> {
    redeem_at(store, token, byte, NOW)
}

fn redeem_at(
    store: &mut Store,
    token: TokenId,
    byte: u8,
    now: UnixTime,
) -> Result<ClientRow, Denial> {
    redeem_beside(store, token, byte, now, |_, _| false)
}

/// Beside a configuration file that has taken names and keys.
fn redeem_beside(
    store: &mut Store,
    token: TokenId,
    byte: u8,
    now: UnixTime,
    is_written: impl FnOnce(&ClientName, &PublicKey) -> bool,
) -> Result<ClientRow, Denial> {
    let psk = Psk::generate().unwrap();
    match store.redeem(token, &key(byte), psk, now, is_written) {
        Ok(client) => Ok(client),
        Err(RedeemError::Denied(denial)) => Err(denial),
        Err(RedeemError::Store(error)) => panic!("{error}"),
    }
}

#[test]
fn a_token_enrols_the_first_key_that_proves_it() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    let client = redeem(&mut store, token, 1).unwrap();
    assert_eq!(client.name, name("node-1"));
    assert_eq!(client.ports.unwrap().to_string(), "7777");
    assert_eq!(redeem(&mut store, token, 2).unwrap_err(), Denial::TokenUsed);
    let rows = store.clients().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].public_key, key(1));
    assert_eq!(rows[0].created, NOW);
}

#[test]
fn the_same_key_redeems_again_until_its_first_connection() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    let first = redeem(&mut store, token, 1).unwrap();
    let late = NOW.after(HOUR * 48);
    let again = redeem_at(&mut store, token, 1, late).unwrap();
    assert_eq!(first.psk, again.psk);
    store.mark_seen(&key(1)).unwrap();
    assert_eq!(redeem(&mut store, token, 1).unwrap_err(), Denial::TokenUsed);
}

#[test]
fn expired_and_forgotten_tokens_are_told_apart_from_used_ones() {
    let (_dir, mut store) = store();
    let invited = invitation("node-1");
    let token = invite(&mut store, invited.clone());
    let expires = invited.expires.unwrap();
    let denied = redeem_at(&mut store, token, 1, expires);
    assert_eq!(denied.unwrap_err(), Denial::TokenExpired);
    let forgotten = TokenId::from([9; 16]);
    assert_eq!(
        redeem(&mut store, forgotten, 1).unwrap_err(),
        Denial::TokenExpired
    );
    // A clock that jumped back gives more time, and does no harm.
    assert!(redeem_at(&mut store, token, 1, UnixTime(0)).is_ok());
}

#[test]
fn an_enrolled_name_is_not_invited_again() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    redeem(&mut store, token, 1).unwrap();
    let refused = store.invite(&invitation("node-1"), NOW).unwrap_err();
    assert!(matches!(refused, InviteError::Enrolled(_)));
    let reusable = Invitation {
        reusable: true,
        ..invitation("node-1")
    };
    store.invite(&reusable, NOW).unwrap();
}

#[test]
fn a_later_invitation_ends_the_earlier_one() {
    let (_dir, mut store) = store();
    let earlier = invite(&mut store, invitation("node-1"));
    let later = invitation("node-1");
    assert_eq!(store.invite(&later, NOW).unwrap(), 1);
    assert_eq!(
        redeem(&mut store, earlier, 1).unwrap_err(),
        Denial::TokenExpired
    );
    assert!(redeem(&mut store, later.token.id, 1).is_ok());
}

#[test]
fn a_reusable_token_gives_the_name_to_each_new_key() {
    let (_dir, mut store) = store();
    let reusable = Invitation {
        reusable: true,
        expires: None,
        ..invitation("container")
    };
    let token = invite(&mut store, reusable);
    let first = redeem(&mut store, token, 1).unwrap();
    store.mark_seen(&key(1)).unwrap();
    assert_eq!(redeem(&mut store, token, 1).unwrap().psk, first.psk);
    let second = redeem(&mut store, token, 2).unwrap();
    assert_ne!(first.psk, second.psk);
    let rows = store.clients().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].public_key, key(2));
    assert!(redeem(&mut store, token, 1).is_ok());
    store.revoke(&name("container"), NOW).unwrap();
    for byte in [1, 2] {
        assert_eq!(
            redeem(&mut store, token, byte).unwrap_err(),
            Denial::TokenExpired
        );
    }
}

#[test]
fn revoking_ends_a_client_and_its_invitations() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    assert_eq!(
        store.revoke(&name("node-1"), NOW).unwrap(),
        Revoked::Invitation
    );
    assert_eq!(
        redeem(&mut store, token, 1).unwrap_err(),
        Denial::TokenExpired
    );
    let token = invite(&mut store, invitation("node-1"));
    redeem(&mut store, token, 1).unwrap();
    assert_eq!(store.revoke(&name("node-1"), NOW).unwrap(), Revoked::Client);
    assert_eq!(
        store.revoke(&name("node-1"), NOW).unwrap(),
        Revoked::Already
    );
    assert_eq!(
        store.revoke(&name("node-2"), NOW).unwrap(),
        Revoked::Unknown
    );
    assert_eq!(redeem(&mut store, token, 1).unwrap_err(), Denial::Revoked);
    assert_eq!(store.clients().unwrap()[0].revoked, Some(NOW));
}

#[test]
fn inviting_a_revoked_name_revives_it_at_the_redemption() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    redeem(&mut store, token, 1).unwrap();
    store.revoke(&name("node-1"), NOW).unwrap();
    let token = invite(&mut store, invitation("node-1"));
    assert!(store.clients().unwrap()[0].revoked.is_some());
    redeem(&mut store, token, 1).unwrap();
    let rows = store.clients().unwrap();
    assert_eq!((rows.len(), rows[0].revoked), (1, None));
}

#[test]
fn a_key_has_one_name_at_a_time() {
    let (_dir, mut store) = store();
    let one = invite(&mut store, invitation("one"));
    let two = invite(&mut store, invitation("two"));
    redeem(&mut store, one, 1).unwrap();
    let Denial::Unavailable(reason) = redeem(&mut store, two, 1).unwrap_err() else {
        panic!("a key cannot have two names");
    };
    assert!(reason.contains("enrolled as one"), "{reason}");
    store.revoke(&name("one"), NOW).unwrap();
    redeem(&mut store, two, 1).unwrap();
    let rows = store.clients().unwrap();
    assert_eq!((rows.len(), rows[0].name.as_str()), (1, "two"));
}

#[test]
fn what_stands_in_the_file_cannot_be_enrolled() {
    let (_dir, mut store) = store();
    let token = invite(&mut store, invitation("node-1"));
    let denied = redeem_beside(&mut store, token, 1, NOW, |client, _| {
        *client == name("node-1")
    });
    assert!(matches!(denied.unwrap_err(), Denial::Unavailable(_)));
    assert!(redeem(&mut store, token, 1).is_ok());
}

#[test]
fn ended_tokens_are_remembered_for_30_days() {
    let (_dir, mut store) = store();
    let used = invite(&mut store, invitation("used"));
    redeem(&mut store, used, 1).unwrap();
    invite(&mut store, invitation("expired"));
    let forever = Invitation {
        reusable: true,
        expires: None,
        ..invitation("forever")
    };
    invite(&mut store, forever);
    store.purge(NOW.after(HOUR * 24 * 30).before(HOUR)).unwrap();
    assert_eq!(store.tokens().unwrap().len(), 3);
    store.purge(NOW.after(HOUR * 24 * 31)).unwrap();
    assert_eq!(store.tokens().unwrap().len(), 1);
    store.purge(UnixTime(0)).unwrap();
    store.purge(UnixTime(i64::MAX)).unwrap();
}

#[test]
fn at_most_10_000_ended_tokens_are_remembered() {
    let (_dir, mut store) = store();
    let tx = store.begin().unwrap();
    for i in 0..10_010_i64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&i.to_be_bytes());
        tx.execute(
            "INSERT INTO tokens (id, secret, client, created, expires, reusable) VALUES (?1, ?2, 'x', 0, ?3, 0)",
            params![id, [0_u8; 32], NOW.0 - 20_000 + i],
        )
        .unwrap();
    }
    tx.commit().unwrap();
    let open = invite(&mut store, invitation("open"));
    let tokens = store.tokens().unwrap();
    assert_eq!(tokens.len(), 10_001);
    assert!(tokens.iter().any(|row| row.token.id == open));
    let oldest = tokens.iter().filter_map(|row| row.expires).min();
    assert_eq!(oldest, Some(UnixTime(NOW.0 - 20_000 + 10)));
}

#[test]
fn changes_of_another_process_are_seen() {
    let (dir, mut store) = store();
    let before = store.data_version().unwrap();
    invite(&mut store, invitation("own"));
    assert_eq!(store.data_version().unwrap(), before);
    let mut other = Store::open(&dir.path().join("state.db")).unwrap();
    invite(&mut other, invitation("others"));
    assert_ne!(store.data_version().unwrap(), before);
    assert_eq!(store.tokens().unwrap().len(), 2);
}

#[test]
fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    fs::write(
        &path,
        "this is no database, and long enough to be looked at as one".repeat(50),
    )
    .unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("restore it from a backup"), "{error}");
    fs::remove_file(&path).unwrap();
    let foreign = Connection::open(&path).unwrap();
    foreign
        .execute_batch("CREATE TABLE songs (title TEXT)")
        .unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::Foreign { .. })
    ));
    foreign
        .execute_batch("DROP TABLE songs; PRAGMA user_version = 99")
        .unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("upgrade this one"), "{error}");
    let missing = dir.path().join("none").join("state.db");
    assert!(matches!(
        Store::open(&missing),
        Err(StoreError::Create { .. })
    ));
    assert!(Store::open_existing(&missing).unwrap().is_none());
}

#[test]
fn a_state_file_of_an_earlier_version_becomes_one_of_this_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    // As version 1 made it.
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    let mut store = Store {
        path: path.clone(),
        connection: old,
    };
    let token = invite(&mut store, invitation("node-1"));
    redeem(&mut store, token, 1).unwrap();
    drop(store);
    // What fails half-way changes nothing: here, for the table is there already.
    let half = Connection::open(&path).unwrap();
    half.execute_batch("CREATE TABLE audit (id INTEGER)")
        .unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Sqlite { .. })));
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'api_tokens'";
    let made: i64 = half.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(made, 0);
    half.execute_batch("DROP TABLE audit").unwrap();
    drop(half);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.clients().unwrap()[0].name, name("node-1"));
    assert!(store.api_tokens().unwrap().is_empty());
    assert!(store.audit(None, 10).unwrap().is_empty());
    let fresh = Store::open(&dir.path().join("fresh.db")).unwrap();
    let schema = |store: &Store| {
        let sql = "SELECT group_concat(sql) FROM (SELECT sql FROM sqlite_schema ORDER BY name)";
        store
            .connection
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    assert_eq!(schema(&store), schema(&fresh));
}

#[test]
#[cfg(unix)]
fn owner_and_mode_of_the_state_file_are_kept() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let dir = tempfile::tempdir().unwrap();
    let root = fs::metadata(dir.path()).unwrap().uid() == 0;
    if root {
        chown(dir.path(), Some(65_534), Some(65_534)).unwrap();
    }
    let path = dir.path().join("state.db");
    let mut store = Store::open(&path).unwrap();
    let made = fs::metadata(&path).unwrap();
    assert_eq!(made.mode() & 0o777, 0o600);
    assert_eq!(made.uid(), fs::metadata(dir.path()).unwrap().uid());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // While a change is under way, its journal has the same owner and mode.
    let tx = store.begin().unwrap();
    tx.execute("DELETE FROM tokens", []).unwrap();
    let journal = fs::metadata(dir.path().join("state.db-journal")).ok();
    tx.commit().unwrap();
    invite(&mut store, invitation("node-1"));
    drop(store);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode() & 0o777, after.uid()), (0o640, made.uid()));
    if let Some(journal) = journal {
        assert_eq!((journal.mode() & 0o777, journal.uid()), (0o640, made.uid()));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_clock_that_jumps_revives_no_invitation_that_was_ended() {
    let (_dir, mut store) = store();
    let superseded = invite(&mut store, invitation("node-1"));
    let revoked = invite(&mut store, invitation("node-2"));
    let open = invite(&mut store, invitation("node-1"));
    store.revoke(&name("node-2"), NOW).unwrap();
    for earlier in [UnixTime(0), NOW.before(HOUR * 24), NOW.before(HOUR)] {
        for token in [superseded, revoked] {
            let denied = redeem_at(&mut store, token, 1, earlier);
            assert_eq!(denied.unwrap_err(), Denial::TokenExpired, "{earlier:?}");
        }
    }
    // A clock that is ahead takes them for expired, and they end all the same.
    let ahead = NOW.after(HOUR * 48);
    let (superseded, revoked) = (invitation("node-3"), invitation("node-4"));
    let (superseded, revoked) = (invite(&mut store, superseded), invite(&mut store, revoked));
    let later = Invitation {
        expires: Some(ahead.after(HOUR)),
        ..invitation("node-3")
    };
    assert_eq!(store.invite(&later, ahead).unwrap(), 0, "none was open");
    let met = store.revoke(&name("node-4"), ahead).unwrap();
    assert_eq!(met, Revoked::Unknown, "none was open");
    for token in [superseded, revoked] {
        assert_eq!(
            redeem(&mut store, token, 1).unwrap_err(),
            Denial::TokenExpired
        );
    }
    // One that stands does at an earlier time, too; a clock that is ahead only ends it early.
    let denied = redeem_at(&mut store, open, 1, ahead);
    assert_eq!(denied.unwrap_err(), Denial::TokenExpired);
    let earlier = NOW.before(HOUR * 24);
    assert!(redeem_at(&mut store, open, 1, earlier).is_ok());
    // Who is enrolled stays so, at any time.
    store.purge(ahead).unwrap();
    store.purge(UnixTime(0)).unwrap();
    assert_eq!(store.clients().unwrap().len(), 1);
}

#[test]
fn what_has_ended_is_not_ended_anew() {
    let (_dir, mut store) = store();
    invite(&mut store, invitation("node-1"));
    store.revoke(&name("node-1"), NOW).unwrap();
    let ended = |store: &Store| store.tokens().unwrap()[0].expires;
    assert_eq!(ended(&store), Some(NOW));
    // It would be remembered for another 30 days each time.
    store.revoke(&name("node-1"), NOW.after(HOUR)).unwrap();
    assert_eq!(ended(&store), Some(NOW));
}
