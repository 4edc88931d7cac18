//! Commands that do one thing and end.

use std::{
    fs,
    process::{Command, Stdio},
};

use tunnel_core::key::{Psk, PublicKey, SecretKey};

use crate::support::{Relay, mode, relay_server, secret};

#[test]
fn init_prints_the_public_key_alone_and_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("etc/adit");
    let ran = relay_server(&["init", "--dir", sub.to_str().unwrap()]).succeeds();
    let printed: PublicKey = ran.stdout.parse().unwrap();
    let key: SecretKey = fs::read_to_string(sub.join("relay.key"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(printed, key.public_key());
    assert_eq!(mode(&sub.join("relay.key")), 0o600);
    assert!(ran.stderr.contains("relay-server run --config"), "{ran:?}");
    assert!(ran.stderr.contains("--advertise HOST:PORT"), "{ran:?}");
    let mut names: Vec<_> = fs::read_dir(&sub)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["relay.key", "relay.toml"]);
}

#[test]
fn init_writes_what_it_was_told() {
    let relay = Relay::init(&[
        "--listen",
        "[::1]:5000",
        "--public-bind",
        "::",
        "--ports",
        "7777,30000-30999",
        "--advertise",
        "[2001:db8::1]:5000",
    ]);
    let ran = relay.run(&["check"], &[]).succeeds();
    assert_eq!(ran.stderr, "");
    let expected = [
        "ok\n",
        "listen       [::1]:5000 ",
        "public ports 7777,30000-30999 on ::\n",
        "advertise    [2001:db8::1]:5000\n",
        "clients      0 in the file, 0 in ",
    ];
    for part in expected {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(!relay.path("state.db").exists(), "check makes nothing");
}

#[test]
fn init_never_overwrites() {
    let relay = Relay::init(&[]);
    let before = fs::read(relay.path("relay.key")).unwrap();
    let dir = relay.dir.path().to_str().unwrap().to_owned();
    let said = relay_server(&["init", "--dir", &dir]).fails(1);
    assert!(said.contains("relay.toml is there already"), "{said}");
    assert!(said.contains("choose another --dir"), "{said}");
    fs::remove_file(relay.path("relay.toml")).unwrap();
    let said = relay_server(&["init", "--dir", &dir]).fails(1);
    assert!(said.contains("relay.key is there already"), "{said}");
    assert_eq!(fs::read(relay.path("relay.key")).unwrap(), before);
    assert!(!relay.path("relay.toml").exists());
}

#[test]
fn bad_usage_ends_with_2() {
    let relay = Relay::advertised();
    for wrong in [
        &[][..],
        &["frobnicate"],
        &["init"],
        &["init", "--dir", "x", "--listen", "nonsense"],
        &["init", "--dir", "x", "--listen", "0.0.0.0:0"],
        &["init", "--dir", "x", "--ports", "0"],
        &["init", "--dir", "x", "--advertise", "relay.example.net"],
        &["run"],
        &["clients", "list"],
        &["check", "--config", "/nonexistent/relay.toml"],
        &["run", "--config", "/nonexistent/relay.toml"],
        &["--log-format", "xml", "check", "--config", "x"],
    ] {
        let said = relay_server(wrong).fails(2);
        assert!(!said.is_empty(), "{wrong:?}");
    }
    for wrong in [
        &["Upper"][..],
        &["node-1", "--ttl", "soon"],
        &["node-1", "--ttl", "never"],
        &["node-1", "--ports", "80"],
        &["node-1", "--ports", "x"],
        &["node-1", "--advertise", "nowhere"],
    ] {
        relay.run(&["invite"], wrong).fails(2);
    }
}

#[test]
fn help_shows_examples_and_version_the_version() {
    for command in [
        &["--help"][..],
        &["init", "--help"],
        &["run", "--help"],
        &["check", "--help"],
        &["invite", "--help"],
        &["clients", "--help"],
        &["clients", "list", "--help"],
        &["clients", "revoke", "--help"],
        &["completions", "--help"],
    ] {
        let ran = relay_server(command).succeeds();
        assert!(
            ran.stdout.contains("Example"),
            "{command:?}: {}",
            ran.stdout
        );
    }
    let version = relay_server(&["--version"]).succeeds().stdout;
    assert_eq!(
        version,
        concat!("relay-server ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = relay_server(&["completions", shell]).succeeds().stdout;
        assert!(script.contains("invite"), "{shell}");
    }
}

#[test]
fn check_reports_all_problems_with_their_places() {
    let relay = Relay::init(&[]);
    let config = relay.path("relay.toml");
    fs::write(
        &config,
        "[relay]\nprots = '1'\nlisten = 4433\nprivate_key_file = 'relay.key'\n",
    )
    .unwrap();
    let config = config.display();
    for command in ["check", "run", "invite"] {
        let arguments: &[&str] = if command == "invite" {
            &["node-1"]
        } else {
            &[]
        };
        assert_eq!(
            relay.run(&[command], arguments).fails(2),
            format!(
                "{config}:2:1: unknown key \"prots\": did you mean \"ports\"?\n\
                 {config}:3:10: listen: expected a string in quotes, found a whole number\n"
            )
        );
    }
}

#[test]
fn check_warns_about_readable_keys() {
    use std::os::unix::fs::PermissionsExt;
    let relay = Relay::init(&[]);
    let key = relay.path("relay.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = relay.run(&["check"], &[]).succeeds();
    assert!(ran.stdout.starts_with("ok\n"));
    assert!(ran.stderr.starts_with("warning: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("chmod 600"), "{}", ran.stderr);
}

#[test]
fn invite_prints_one_join_string_alone() {
    let relay = Relay::advertised();
    let key: SecretKey = fs::read_to_string(relay.path("relay.key"))
        .unwrap()
        .parse()
        .unwrap();
    let join = relay.invite(&["node-1"]);
    assert_eq!(join.relay.to_string(), "relay.example.net:4433");
    assert_eq!(join.relay_public_key, key.public_key());
    let other = relay.invite(&[
        "node-2",
        "--advertise",
        "192.0.2.1:5",
        "--ports",
        "7777",
        "--ttl",
        "1m",
    ]);
    assert_eq!(other.relay.to_string(), "192.0.2.1:5");
    assert_ne!(join.token.id, other.token.id);
    assert_eq!(mode(&relay.path("state.db")), 0o600);
    let listed = relay.list();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["name"], "node-1");
    assert_eq!(listed[0]["state"], "invited");
    assert_eq!(listed[0]["ports"], serde_json::Value::Null);
    assert_eq!(listed[1]["ports"], "7777");
    let table = relay.run(&["clients", "list"], &[]).succeeds().stdout;
    assert!(
        table.starts_with("NAME    KEY  PORTS  STATE    CREATED\nnode-1  -    all    invited  20"),
        "{table}"
    );
}

#[test]
fn an_invitation_ends_with_its_time_or_the_next_one() {
    let relay = Relay::advertised();
    relay.invite(&["node-1"]);
    let again = relay
        .run(&["invite"], &["node-1", "--ttl", "1s"])
        .succeeds();
    assert!(again.stderr.contains("does not hold any more"), "{again:?}");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(relay.list().len(), 0);
    relay.invite(&["container", "--reusable"]);
    relay.invite(&["container-2", "--reusable", "--ttl", "never"]);
    assert_eq!(relay.list().len(), 2);
}

#[test]
fn inviting_needs_to_know_where_the_relay_is() {
    let relay = Relay::init(&[]);
    let said = relay.run(&["invite"], &["node-1"]).fails(2);
    assert!(said.contains("--advertise HOST:4433"), "{said}");
    assert!(!relay.path("state.db").exists());
    relay.invite(&["node-1", "--advertise", "relay.example.net:4433"]);
}

#[test]
fn revoking_says_what_it_did() {
    let relay = Relay::advertised();
    let said = relay.run(&["clients", "revoke"], &["node-1"]).fails(1);
    assert!(said.contains("no client is called node-1"), "{said}");
    relay.invite(&["node-1"]);
    let ran = relay.run(&["clients", "revoke"], &["node-1"]).succeeds();
    assert!(ran.stderr.contains("Ended the open invitation"), "{ran:?}");
    assert_eq!(relay.list().len(), 0);
}

#[test]
fn a_client_of_the_file_is_listed_and_revoked_by_an_edit() {
    let relay = Relay::advertised();
    secret(&relay.path("node-1.psk"), &Psk::from([1; 32]).to_text());
    let key = PublicKey::from([2; 32]);
    relay.append(&format!(
        "[[client]]\nname = 'node-1'\npublic_key = '{key}'\npsk_file = 'node-1.psk'\nports = '7777'\n"
    ));
    let listed = relay.list();
    assert_eq!(listed[0]["state"], "file");
    assert_eq!(listed[0]["public_key"], key.to_string());
    let said = relay.run(&["clients", "revoke"], &["node-1"]).fails(2);
    assert!(said.contains("remove its [[client]] there"), "{said}");
    assert!(said.contains("relay.toml (line "), "{said}");
    let said = relay.run(&["invite"], &["node-1"]).fails(2);
    assert!(said.contains("needs no invitation"), "{said}");
}

#[test]
fn what_root_makes_the_relays_user_can_use() {
    use std::os::unix::fs::{MetadataExt, chown};
    let relay = Relay::advertised();
    if fs::metadata(relay.dir.path()).unwrap().uid() != 0 {
        return; // Only root can give files away.
    }
    chown(relay.dir.path(), Some(65_534), Some(65_534)).unwrap();
    relay.invite(&["node-1"]);
    let made = fs::metadata(relay.path("state.db")).unwrap();
    assert_eq!((made.uid(), made.gid()), (65_534, 65_534));
    relay.invite(&["node-2"]);
    let kept = fs::metadata(relay.path("state.db")).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (65_534, 0o600));
}

#[test]
fn nobody_reading_stdout_is_a_failure_without_a_panic() {
    let relay = Relay::advertised();
    let config = relay.config();
    for command in [
        &["clients", "list", "--config", &config][..],
        &["check", "--config", &config],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_relay-server"))
            .args(command)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "", "{command:?}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{command:?}");
    }
}
