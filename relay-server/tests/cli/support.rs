//! Relays.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tunnel_core::join::JoinString;

use crate::program::Ran;

pub(crate) struct Relay {
    pub(crate) dir: TempDir,
}

impl Relay {
    /// A relay made by `init`, with further arguments of it.
    pub(crate) fn init(arguments: &[&str]) -> Self {
        let relay = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let dir = relay.dir.path().to_str().unwrap();
        let mut all = vec!["init", "--dir", dir];
        all.extend(arguments);
        relay_server(&all).succeeds();
        relay
    }

    pub(crate) fn advertised() -> Self {
        Self::init(&["--advertise", "relay.example.net:4433"])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> String {
        self.path("relay.toml").to_str().unwrap().to_owned()
    }

    pub(crate) fn append(&self, text: &str) {
        let path = self.path("relay.toml");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{before}{text}")).unwrap();
    }

    /// A command of this relay.
    pub(crate) fn run(&self, command: &[&str], arguments: &[&str]) -> Ran {
        let config = self.config();
        let mut all = command.to_vec();
        all.extend(["--config", &config]);
        all.extend(arguments);
        relay_server(&all)
    }

    pub(crate) fn invite(&self, arguments: &[&str]) -> JoinString {
        let ran = self.run(&["invite"], arguments).succeeds();
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
        ran.stdout.parse().unwrap()
    }

    pub(crate) fn list(&self) -> Vec<serde_json::Value> {
        let ran = self.run(&["clients", "list"], &["--format", "json"]);
        serde_json::from_str(&ran.succeeds().stdout).unwrap()
    }
}

pub(crate) fn relay_server(arguments: &[&str]) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_relay-server"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
        .into()
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub(crate) fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
