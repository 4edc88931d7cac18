use std::{fs, path::Path};

use tempfile::TempDir;
use tunnel_core::{join::Token, key::SecretKey};

use super::*;
use crate::{
    config::{ClientName, FileClient},
    state::enrolment::Invitation,
};

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from([byte; 32])
}

fn config(dir: &Path, clients: Vec<FileClient>) -> Config {
    Config {
        pool: tunnel_core::instance::PortSet::all(),
        path: dir.join("relay.toml"),
        listen: crate::config::DEFAULT_LISTEN,
        public_bind: crate::config::DEFAULT_PUBLIC_BIND,
        ports: "1024-9000".parse().unwrap(),
        trusted_proxies: Vec::new(),
        key: SecretKey::from([1; 32]),
        state_file: dir.join("state.db"),
        advertise: None,
        grace: std::time::Duration::ZERO,
        clients,
        limits: tunnel_core::relay::RelayLimits::default(),
        admin: None,
    }
}

fn written(client: &str, byte: u8) -> FileClient {
    FileClient {
        name: name(client),
        public_key: key(byte),
        psk: Psk::from([byte; 32]),
        ports: Some("8000-9999".parse().unwrap()),
        line: 10,
    }
}

fn authority(clients: Vec<FileClient>) -> (TempDir, StateAuthority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = StateAuthority::open(&config(dir.path(), clients)).unwrap();
    (dir, authority)
}

/// As `relay-server invite` does it, in another process.
fn invite(dir: &TempDir, client: &str, reusable: bool) -> Token {
    let invitation = Invitation {
        name: name(client),
        token: Token::generate().unwrap(),
        ports: None,
        expires: None,
        reusable,
    };
    let mut store = Store::open(&dir.path().join("state.db")).unwrap();
    store.invite(&invitation, UnixTime::now()).unwrap();
    invitation.token
}

fn revoke(dir: &TempDir, client: &str) {
    let mut store = Store::open(&dir.path().join("state.db")).unwrap();
    store.revoke(&name(client), UnixTime::now()).unwrap();
}

async fn has_changed(authority: &StateAuthority) -> bool {
    tokio::select! {
        biased;
        () = authority.changed() => true,
        () = std::future::ready(()) => false,
    }
}

#[tokio::test]
async fn a_client_enrols_and_connects() {
    let (dir, authority) = authority(Vec::new());
    let token = invite(&dir, "node-1", false);
    assert_eq!(authority.psk(&key(1), Some(token.id)), None);
    authority.poll().unwrap();
    assert!(has_changed(&authority).await);
    assert_eq!(
        authority.psk(&key(1), Some(token.id)),
        Some(token.secret.clone())
    );
    assert_eq!(authority.psk(&key(1), None), None);
    let enrolled = authority.admit(&key(1), Some(token.id)).unwrap();
    assert_eq!(enrolled.name, "node-1");
    assert_eq!(enrolled.ports.to_string(), "1024-9000");
    assert_eq!(authority.psk(&key(1), None), enrolled.psk);
    // The token's holder is still told that it is used.
    assert!(authority.psk(&key(2), Some(token.id)).is_some());
    assert_eq!(
        authority.admit(&key(2), Some(token.id)),
        Err(Denial::TokenUsed)
    );
    assert_eq!(
        authority.admit(&key(1), Some(token.id)).unwrap().psk,
        enrolled.psk
    );
    // Asking again about live clients is no connection with the lasting key.
    assert!(authority.readmit(&key(1)).is_ok());
    assert!(authority.admit(&key(1), Some(token.id)).is_ok());
    let admission = authority.admit(&key(1), None).unwrap();
    assert_eq!((admission.name.as_str(), admission.psk), ("node-1", None));
    assert_eq!(
        authority.admit(&key(1), Some(token.id)),
        Err(Denial::TokenUsed)
    );
}

#[tokio::test]
async fn a_revoked_client_is_unknown_after_a_poll() {
    let (dir, authority) = authority(Vec::new());
    let token = invite(&dir, "node-1", false);
    authority.admit(&key(1), Some(token.id)).unwrap();
    authority.admit(&key(1), None).unwrap();
    while has_changed(&authority).await {}
    authority.poll().unwrap();
    assert!(!has_changed(&authority).await);
    revoke(&dir, "node-1");
    authority.poll().unwrap();
    assert!(has_changed(&authority).await);
    assert_eq!(authority.psk(&key(1), None), None);
    assert_eq!(authority.readmit(&key(1)), Err(Denial::Revoked));
    assert_eq!(authority.admit(&key(1), None), Err(Denial::Revoked));
}

#[tokio::test]
async fn a_change_that_comes_with_ones_own_is_not_missed() {
    let (dir, authority) = authority(Vec::new());
    let (one, two) = (invite(&dir, "one", false), invite(&dir, "two", false));
    authority.admit(&key(1), Some(one.id)).unwrap();
    authority.admit(&key(2), Some(two.id)).unwrap();
    while has_changed(&authority).await {}
    revoke(&dir, "one");
    // The first connection of another client writes and reads the state file.
    authority.admit(&key(2), None).unwrap();
    assert!(has_changed(&authority).await);
    assert_eq!(authority.admit(&key(1), None), Err(Denial::Revoked));
}

#[tokio::test]
async fn a_reusable_token_ends_the_names_old_key() {
    let (dir, authority) = authority(Vec::new());
    let token = invite(&dir, "container", true);
    authority.admit(&key(1), Some(token.id)).unwrap();
    authority.admit(&key(2), Some(token.id)).unwrap();
    assert!(has_changed(&authority).await);
    assert_eq!(authority.admit(&key(1), None), Err(Denial::Revoked));
    assert!(authority.admit(&key(2), None).is_ok());
}

#[tokio::test]
async fn clients_of_the_file_win_and_are_never_enrolled() {
    let (dir, authority) = authority(Vec::new());
    let token = invite(&dir, "node-1", false);
    authority.admit(&key(1), Some(token.id)).unwrap();
    authority.configure(&config(dir.path(), vec![written("node-1", 5)]));
    assert_eq!(authority.psk(&key(5), None), Some(Psk::from([5; 32])));
    assert_eq!(authority.admit(&key(1), None), Err(Denial::Revoked));
    let admission = authority.admit(&key(5), None).unwrap();
    assert_eq!(admission.ports.to_string(), "8000-9000");
    let token = invite(&dir, "node-2", false);
    assert!(matches!(
        authority.admit(&key(5), Some(token.id)),
        Err(Denial::Unavailable(_))
    ));
    // Taken out of the file, it is gone at once.
    while has_changed(&authority).await {}
    authority.configure(&config(dir.path(), Vec::new()));
    assert!(has_changed(&authority).await);
    assert_eq!(authority.admit(&key(5), None), Err(Denial::Revoked));
    assert_eq!(authority.clients(), 1);
}

/// Holds the state file's lock, as a backup or another process that hangs does.
fn held(dir: &TempDir) -> rusqlite::Connection {
    let holder = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    holder
}

#[tokio::test]
async fn a_token_that_has_ended_and_a_reload_want_nothing_of_the_state_file() {
    let (dir, authority) = authority(Vec::new());
    let (used, ended) = (invite(&dir, "used", false), invite(&dir, "ended", false));
    let first = authority.admit(&key(1), Some(used.id)).unwrap();
    revoke(&dir, "ended");
    authority.poll().unwrap();
    let _holder = held(&dir);
    let started = std::time::Instant::now();
    for (token, denial) in [(&used, Denial::TokenUsed), (&ended, Denial::TokenExpired)] {
        assert_eq!(authority.admit(&key(2), Some(token.id)), Err(denial));
    }
    // So does the key that the token belongs to, whose first answer was lost.
    assert_eq!(authority.admit(&key(1), Some(used.id)), Ok(first));
    while has_changed(&authority).await {}
    authority.configure(&config(dir.path(), vec![written("file", 5)]));
    assert!(has_changed(&authority).await);
    assert!(authority.admit(&key(5), None).is_ok());
    // Whoever waited for the lock would have waited for 5 s.
    assert!(started.elapsed() < std::time::Duration::from_secs(4));
}

#[tokio::test]
async fn a_reload_that_comes_while_somebody_waits_for_the_state_file_takes_effect() {
    let (dir, authority) = authority(Vec::new());
    let authority = Arc::new(authority);
    let token = invite(&dir, "node-1", false);
    authority.poll().unwrap();
    let holder = held(&dir);
    let waiting = [
        std::thread::spawn({
            let authority = authority.clone();
            move || authority.admit(&key(1), Some(token.id)).is_ok()
        }),
        std::thread::spawn({
            let authority = authority.clone();
            move || authority.poll().is_ok()
        }),
    ];
    std::thread::sleep(std::time::Duration::from_millis(100));
    authority.configure(&config(dir.path(), vec![written("file", 5)]));
    assert!(authority.psk(&key(5), None).is_some());
    assert!(waiting.iter().all(|thread| !thread.is_finished()));
    drop(holder);
    // What they come with does not undo it.
    assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
    assert!(authority.psk(&key(5), None).is_some());
    assert!(authority.psk(&key(1), None).is_some());
}

#[tokio::test]
async fn a_state_file_that_was_replaced_is_read_anew() {
    let (dir, authority) = authority(Vec::new());
    let token = invite(&dir, "node-1", false);
    authority.admit(&key(1), Some(token.id)).unwrap();
    let path = dir.path().join("state.db");
    fs::rename(&path, dir.path().join("backup.db")).unwrap();
    authority.poll().unwrap();
    assert!(authority.psk(&key(1), None).is_some(), "gone for a moment");
    drop(Store::open(&path).unwrap());
    authority.poll().unwrap();
    assert_eq!(authority.psk(&key(1), None), None);
    fs::rename(dir.path().join("backup.db"), &path).unwrap();
    authority.poll().unwrap();
    assert!(authority.psk(&key(1), None).is_some());
}
