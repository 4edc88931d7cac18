//! Commands that do one thing and end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tunnel_core::key::{PublicKey, SecretKey};

use crate::{
    program::{Ran, Running},
    support::{command, join_string, joined, relay_client, with_stdin},
};

const INSTANCE: &str = r#"
[[instance]]
id = "srv_123"
[[instance.service]]
name = "game"
protocol = "both"
target = "127.0.0.1:7777"
"#;

fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

#[test]
fn bad_usage_ends_with_2() {
    let (_dir, config) = joined("");
    for wrong in [
        &[][..],
        &["frobnicate"],
        &["join"],
        &["join", "adit://x"],
        &["join", "nonsense", "--dir", "/nonexistent"],
        &["run"],
        &["check"],
        &["run", "--config", "/nonexistent/client.toml"],
        &["run", "--config", &config, "--expose", "nonsense"],
        &[
            "run", "--config", &config, "--expose", "udp:1", "--expose", "udp:1",
        ],
        &["check", "--config", &config, "--expose", "tcp:1=h:2-3"],
        &["--log-format", "xml", "check", "--config", &config],
    ] {
        let said = relay_client(wrong).fails(2);
        assert!(!said.is_empty(), "{wrong:?}");
    }
    let said = relay_client(&["run"]).fails(2);
    assert!(
        said.contains("relay-client join --dir /nonexistent"),
        "{said}"
    );
    let ran = command(&["run"])
        .env("ADIT_JOIN", "adit://x")
        .output()
        .unwrap();
    assert!(Ran::from(ran).fails(2).contains("ADIT_JOIN"));
    let ran = command(&["run", "--config", &config])
        .env("ADIT_EXPOSE", "x")
        .output()
        .unwrap();
    assert!(
        Ran::from(ran)
            .fails(2)
            .contains("ADIT_EXPOSE x: expected PROTO")
    );
}

#[test]
fn help_shows_examples_and_version_the_version() {
    for command in [
        &["--help"][..],
        &["join", "--help"],
        &["run", "--help"],
        &["run", "-h"],
        &["check", "--help"],
        &["completions", "--help"],
    ] {
        let ran = relay_client(command).succeeds();
        assert!(
            ran.stdout.contains("Example"),
            "{command:?}: {}",
            ran.stdout
        );
    }
    let help = relay_client(&["run", "--help"]).succeeds().stdout;
    for variable in ["ADIT_JOIN", "ADIT_EXPOSE", "ADIT_STATE_DIR", "RUST_LOG"] {
        assert!(help.contains(variable), "{variable}");
    }
    let version = relay_client(&["--version"]).succeeds().stdout;
    assert_eq!(
        version,
        concat!("relay-client ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = relay_client(&["completions", shell]).succeeds().stdout;
        assert!(script.contains("join"), "{shell}");
    }
}

#[test]
fn check_says_what_would_be_exposed() {
    let (dir, config) = joined(INSTANCE);
    let ran = relay_client(&[
        "check",
        "--config",
        &config,
        "--expose",
        "udp:15000=srv_1:15001,name=beacon",
    ])
    .succeeds();
    assert_eq!(ran.stderr, "");
    let key = PublicKey::from([7; 32]);
    let own = SecretKey::from([1; 32]).public_key();
    assert_eq!(
        ran.stdout,
        format!(
            "ok\nrelay        127.0.0.1:9\nrelay's key  {key}\npublic key   {own}\n\
             limits       as they are by default\n\
             srv_123/game   both  7777   -> 127.0.0.1:7777  auto\n\
             beacon/beacon  udp   15000  -> srv_1:15001     auto\n"
        )
    );
    // The state directory and ADIT_EXPOSE do the same without options.
    let ran = command(&["check"])
        .env("ADIT_STATE_DIR", dir.path())
        .env("ADIT_EXPOSE", "udp:15000=srv_1:15001,name=game")
        .env("ADIT_JOIN", "not looked at")
        .output()
        .unwrap();
    let ran = Ran::from(ran).succeeds();
    assert!(
        ran.stdout
            .contains("game/game     udp   15000  -> srv_1:15001"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stderr
            .starts_with("warning: ADIT_EXPOSE udp:15000=srv_1:15001,name=game: service game maps"),
        "{}",
        ran.stderr
    );
}

#[test]
fn check_reports_all_problems_with_their_places() {
    let (_dir, config) = joined(&INSTANCE.replace("protocol", "protokol"));
    let said = relay_client(&["check", "--config", &config, "--expose", "x"]).fails(2);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines[..2],
        [
            format!(
                "{config}:5:1: [[instance.service]] has no \"protocol\", for example: protocol = \"udp\" (or \"tcp\", \"both\")"
            ),
            format!("{config}:7:1: unknown key \"protokol\": did you mean \"protocol\"?"),
        ]
    );
    assert!(lines[2].starts_with("--expose x: expected PROTO"), "{said}");
    assert_eq!(lines.len(), 3, "{said}");
}

#[test]
fn a_join_that_fails_keeps_the_key_for_the_next_try() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let node = path(&dir, "node");
    let arguments = ["join", &join_string(), "--dir", node.to_str().unwrap()];
    let said = relay_client(&arguments).fails(1);
    assert!(said.contains("127.0.0.1:9 cannot be joined"), "{said}");
    let key = node.join("client.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!node.join("client.toml").exists());
    let before = fs::read(&key).unwrap();
    // The next one is killed while it waits for the relay.
    let again = Running::start(&mut command(&arguments));
    thread::sleep(Duration::from_millis(500));
    drop(again);
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_join_never_overwrites_an_identity() {
    let (dir, config) = joined("");
    let before = fs::read(&config).unwrap();
    let said = relay_client(&[
        "join",
        &join_string(),
        "--dir",
        dir.path().to_str().unwrap(),
    ])
    .fails(1);
    assert!(said.contains("client.toml is there already"), "{said}");
    assert_eq!(fs::read(&config).unwrap(), before);
}

#[test]
fn a_join_string_from_stdin_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().to_str().unwrap();
    let arguments = ["join", "-", "--dir", node];
    with_stdin(&arguments, b"").fails(2);
    with_stdin(&arguments, b"adit://relay").fails(2);
    let said = with_stdin(&arguments, &vec![b'x'; 1 << 20]).fails(1);
    assert!(said.contains("larger than 1024 bytes"), "{said}");
    let half = &join_string()[..100];
    assert!(
        !with_stdin(&arguments, half.as_bytes())
            .fails(2)
            .contains(&half[60..])
    );
}

#[test]
fn nobody_reading_stdout_is_a_failure_without_a_panic() {
    let (_dir, config) = joined(INSTANCE);
    for arguments in [
        &["check", "--config", &config][..],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}");
    }
}

#[test]
fn a_directory_is_no_configuration() {
    let said = relay_client(&["check", "--config", Path::new("/tmp").to_str().unwrap()]).fails(2);
    assert!(said.starts_with("error: /tmp: cannot be read"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_says_what_makes_one() {
    for command in ["check", "run"] {
        let said = relay_client(&[command, "--config", "/nowhere/client.toml"]).fails(2);
        assert!(said.starts_with("error: /nowhere/client.toml: "), "{said}");
        assert!(said.contains("relay-client join makes one"), "{said}");
    }
}
