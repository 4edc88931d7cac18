//! Clients.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tunnel_core::{
    join::{JoinString, Token},
    key::{Psk, PublicKey, SecretKey},
};

use crate::program::Ran;

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-client"));
    command.args(arguments);
    for name in ["RUST_LOG", "ADIT_JOIN", "ADIT_EXPOSE"] {
        command.env_remove(name);
    }
    command.env("ADIT_STATE_DIR", "/nonexistent");
    command
}

pub(crate) fn relay_client(arguments: &[&str]) -> Ran {
    command(arguments).output().unwrap().into()
}

pub(crate) fn with_stdin(arguments: &[&str], stdin: &[u8]) -> Ran {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have read enough before all is written.
    drop(child.stdin.take().unwrap().write_all(stdin));
    child.wait_with_output().unwrap().into()
}

/// The directory of a client that has joined, with `text` after the identity in its client.toml.
pub(crate) fn joined(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    secret("client.key", SecretKey::from([1; 32]).to_text().to_string());
    secret("client.psk", Psk::from([2; 32]).to_text().to_string());
    let config = dir.path().join("client.toml");
    let key = PublicKey::from([7; 32]);
    let identity = format!(
        "client = {{ relay = '127.0.0.1:9', relay_public_key = '{key}', private_key_file = 'client.key', psk_file = 'client.psk' }}\n"
    );
    fs::write(&config, identity + text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    (dir, config)
}

pub(crate) fn join_string() -> String {
    let join = JoinString {
        relay: "127.0.0.1:9".parse().unwrap(),
        relay_public_key: PublicKey::from([7; 32]),
        token: Token::generate().unwrap(),
    };
    join.to_string()
}
