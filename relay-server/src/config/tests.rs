use std::fs;

use adit_control::{access::Secret, listen::Address};
use tempfile::TempDir;

use super::*;

/// A directory with a relay's key and a client's PSK, and `text` as its configuration.
fn load_in(dir: &TempDir, text: &str) -> Result<Loaded<Config>, Vec<String>> {
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    };
    write("relay.key", &SecretKey::from([1; 32]).to_text());
    write(
        "node-1.psk",
        &format!("{}\n", *SecretKey::from([2; 32]).to_text()),
    );
    write("relay.toml", text);
    let prefix = format!("{}/", dir.path().display());
    Config::load(&dir.path().join("relay.toml")).map_err(|invalid| {
        let shown = invalid.problems.iter().map(ToString::to_string);
        shown.map(|problem| problem.replace(&prefix, "")).collect()
    })
}

fn load(text: &str) -> Result<Config, Vec<String>> {
    load_in(&tempfile::tempdir().unwrap(), text).map(|loaded| loaded.value)
}

fn key(byte: u8) -> String {
    PublicKey::from([byte; 32]).to_string()
}

const LEAST: &str = "[relay]\nlisten = '127.0.0.1:4433'\nprivate_key_file = 'relay.key'\n";

#[test]
fn every_key_takes_effect() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
[relay]
listen = "[::1]:4434"
public_bind = "192.0.2.1"
ports = "2000-3000,7777"
trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
private_key_file = "relay.key"
state_file = "sub/clients.db"
advertise = "relay.example.net:4433"
grace = 60

[[client]]
name = "node-1"
public_key = "{}"
psk_file = "node-1.psk"
ports = ["7777", "2000-2010", 2500]

[[client]]
name = "node-2"
public_key = "{}"
psk_file = "node-1.psk"
"#,
        key(7),
        key(8)
    );
    let loaded = load_in(&dir, &text).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.value;
    assert_eq!(config.listen, "[::1]:4434".parse().unwrap());
    assert_eq!(config.public_bind, "192.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!(config.ports.to_string(), "2000-3000,7777");
    let trusted = config.trusted_proxies.iter().map(ToString::to_string);
    assert_eq!(
        trusted.collect::<Vec<_>>(),
        ["10.0.0.0/8", "2001:db8::1/128"]
    );
    assert_eq!(config.key.as_bytes(), &[1; 32]);
    assert_eq!(config.state_file, dir.path().join("sub/clients.db"));
    assert_eq!(
        config.advertise,
        Some("relay.example.net:4433".parse().unwrap())
    );
    assert_eq!(config.grace, Duration::from_secs(60));
    let [one, two] = &config.clients[..] else {
        panic!("two clients");
    };
    assert_eq!(one.name.as_str(), "node-1");
    assert_eq!(one.public_key, PublicKey::from([7; 32]));
    assert_eq!(one.psk, Psk::from([2; 32]));
    assert_eq!(
        one.ports.as_ref().unwrap().to_string(),
        "2000-2010,2500,7777"
    );
    assert_eq!((one.line, two.line), (12, 18));
    assert_eq!(two.ports, None);
}

#[test]
fn what_is_left_out_has_a_default() {
    let dir = tempfile::tempdir().unwrap();
    let config = load_in(&dir, LEAST).unwrap().value;
    assert_eq!(config.public_bind, "0.0.0.0".parse::<IpAddr>().unwrap());
    assert_eq!(config.ports.to_string(), "1024-65535");
    assert_eq!(config.state_file, dir.path().join("state.db"));
    assert_eq!(config.advertise, None);
    assert_eq!(config.grace, Duration::from_secs(5));
    assert!(config.clients.is_empty());
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = load(
        r#"[relay]
listen = "0.0.0.0"
public_bind = 4433
prots = "1024-65535"
ports = "70000"
private_key_file = "missing.key"
advertise = "relay.example.net"
[[client]]
name = "Node"
public_key = "AAAA"
psk_file = 1
[[clients]]
"#,
    )
    .unwrap_err();
    assert_eq!(
        problems,
        [
            "relay.toml:2:10: listen: expected an address and a port, such as 0.0.0.0:4433 or [::]:4433",
            "relay.toml:3:15: public_bind: expected a string in quotes, found a whole number",
            r#"relay.toml:4:1: unknown key "prots": did you mean "ports"?"#,
            r#"relay.toml:5:9: ports: not a port or range: "70000" (expected 7777 or 30000-30009, within 1-65535)"#,
            "relay.toml:6:20: private_key_file: cannot read the key file missing.key: No such file or directory (os error 2)",
            r#"relay.toml:7:13: advertise: "relay.example.net" has no port (expected HOST:PORT, IPv6 in brackets)"#,
            r#"relay.toml:9:8: name: not a valid name: "Node" (1 to 63 of a-z 0-9 _ -, no upper case)"#,
            "relay.toml:10:14: public_key: not a key: 3 bytes long instead of 32",
            "relay.toml:11:12: psk_file: expected a string in quotes, found a whole number",
            r#"relay.toml:12:3: unknown key "clients": did you mean "client"?"#,
        ]
    );
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    assert_eq!(
        load("").unwrap_err(),
        [r#"relay.toml:1:1: the file has no "relay", for example: [relay]"#]
    );
    let problems = load("[relay]\n[[client]]\n").unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert_eq!(
        problems[0],
        r#"relay.toml:1:1: [relay] has no "listen", for example: listen = "0.0.0.0:4433""#
    );
    assert_eq!(
        problems[4],
        r#"relay.toml:2:1: [[client]] has no "psk_file", for example: psk_file = "node-1.psk""#
    );
}

#[test]
fn contradictions_are_problems() {
    let own = SecretKey::from([1; 32]).public_key();
    let client = |name: &str, key: &str, ports: &str| {
        format!(
            "[[client]]\nname='{name}'\npublic_key='{key}'\npsk_file='node-1.psk'\nports='{ports}'\n"
        )
    };
    let text = format!(
        "{LEAST}ports='2000-3000'\n{}{}{}",
        client("a", &key(7), "2000"),
        client("a", &key(7), "2999-3001"),
        client("b", &own.to_string(), "3000"),
    );
    assert_eq!(
        load(&text).unwrap_err(),
        [
            "relay.toml:11:6: name: the client in line 5 is called a too",
            "relay.toml:12:12: public_key: the client in line 5 has the same",
            "relay.toml:14:7: ports: 2999-3001 are not all within the relay's 2000-3000",
            "relay.toml:17:12: public_key: this is the relay's own, not the client's",
        ]
    );
    assert_eq!(
        load(&format!("{LEAST}ports=[]")).unwrap_err(),
        ["relay.toml:4:7: ports: the list has no port"]
    );
    let zero = LEAST.replace("4433", "0");
    assert!(load(&zero).unwrap_err()[0].contains("0 is none"));
}

#[test]
#[cfg(unix)]
fn a_secret_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    load_in(&dir, LEAST).unwrap();
    let key = dir.path().join("relay.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let loaded = Config::load(&dir.path().join("relay.toml")).unwrap();
    let warning = loaded.warnings[0].to_string();
    assert!(
        warning.contains("relay.toml:3:20: private_key_file: "),
        "{warning}"
    );
    assert!(warning.contains("0644"), "{warning}");
}

/// Every key of `[limits]` with a value that is not its default.
fn other_limits() -> String {
    let default = RelayLimits::default();
    let lines = limits::ROWS.iter().map(|row| {
        let value = match (row.shown)(&default) {
            60 => 59,
            default => default + 1,
        };
        format!("{} = {value}\n", row.name)
    });
    lines.collect()
}

#[test]
fn every_key_of_the_admin_api_takes_effect() {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str| {
        let secret = Secret::generate().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, &*secret.to_text()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        secret.digest()
    };
    let (token, metrics) = (secret("admin.token"), secret("metrics.token"));
    let text = format!(
        r#"{LEAST}
[admin]
listen = "192.0.2.1:7001"
token_file = "admin.token"
metrics_token_file = "metrics.token"
allow_query_token = true
tls_certificate_file = "tls.pem"
tls_key_file = "tls.key"
hosts = ["relay.example.net", "localhost.example"]
"#
    );
    let loaded = load_in(&dir, &text).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&*warnings, [only] if only.contains("allow_query_token: ")),
        "{warnings:?}"
    );
    let admin = loaded.value.admin.unwrap();
    assert_eq!(admin.listen.to_string(), "192.0.2.1:7001");
    assert_eq!(admin.token.unwrap().digest(), token);
    assert_eq!(admin.metrics_token.unwrap().digest(), metrics);
    assert!(admin.allow_query_token);
    let files = [dir.path().join("tls.pem"), dir.path().join("tls.key")];
    assert_eq!(admin.tls, Some(files.into()));
    assert_eq!(admin.hosts, ["relay.example.net", "localhost.example"]);
    let text = format!("{LEAST}[admin]\nlisten = 'unix:run/admin.sock'\n");
    let loaded = load_in(&dir, &text).unwrap();
    assert_eq!(loaded.warnings, []);
    let socket = Address::Unix(dir.path().join("run/admin.sock"));
    assert_eq!(loaded.value.admin.unwrap().listen, socket);
}

#[test]
fn an_admin_api_that_cannot_be_is_refused_and_one_in_the_clear_is_remarked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("short.token"), "adit_short").unwrap();
    let wrong = [
        ("", "[admin] has no \"listen\""),
        (
            "listen = 'localhost:7001'",
            "listen: expected an address and a port",
        ),
        (
            "listen = '127.0.0.1:0'",
            "listen: operators need a port that stays",
        ),
        (
            "listen = '127.0.0.1:7001'\ntls_key_file = 'x'",
            "tls_key_file: its certificate is missing",
        ),
        (
            "listen = '127.0.0.1:7001'\ntls_certificate_file = 'x'",
            "tls_certificate_file: its key is missing",
        ),
        (
            "listen = '127.0.0.1:7001'\ntoken_file = 'short.token'",
            "short.token is damaged: no token",
        ),
        (
            "listen = '127.0.0.1:7001'\ntoken_file = 'none.token'",
            "cannot read the key file",
        ),
        (
            "listen = '127.0.0.1:7001'\nallow_query_token = 'yes'",
            "expected true or false",
        ),
        (
            "listen = '127.0.0.1:7001'\nhosts = 'a:80'",
            "hosts: expected a name without a port",
        ),
        (
            "listen = '127.0.0.1:7001'\ntoken_fiel = 'x'",
            "did you mean \"token_file\"?",
        ),
    ];
    for (lines, problem) in wrong {
        let problems = load_in(&dir, &format!("{LEAST}[admin]\n{lines}\n")).unwrap_err();
        assert!(
            problems.iter().any(|told| told.contains(problem)),
            "{lines}: {problems:?}"
        );
    }
    let open = load_in(&dir, &format!("{LEAST}[admin]\nlisten = '0.0.0.0:7001'\n")).unwrap();
    assert!(
        open.warnings[0]
            .to_string()
            .contains("tokens travel in the clear")
    );
}

#[test]
fn every_limit_takes_effect() {
    let config = load(&format!("{LEAST}[limits]\n{}", other_limits())).unwrap();
    let default = RelayLimits::default();
    for row in limits::ROWS {
        let (now, before) = ((row.shown)(&config.limits), (row.shown)(&default));
        assert_eq!(
            now,
            if before == 60 { 59 } else { before + 1 },
            "{}",
            row.name
        );
    }
    // By hand where a unit is converted.
    assert_eq!(config.limits.lease, Duration::from_secs(31));
    assert_eq!(config.limits.handshake_burst, Duration::from_millis(251));
    assert_eq!(config.limits.tunnel_memory, 59 << 20);
    assert_eq!(load(LEAST).unwrap().limits, default);
}

#[test]
fn limits_out_of_bounds_are_problems_with_their_places() {
    let text = format!(
        "{LEAST}[limits]\nstreams = 0\nlease = '30'\ntunnel_memory_mib = 61\nhandshake_cpu_permille = 1001\nstream = 5\n"
    );
    assert_eq!(
        load(&text).unwrap_err(),
        [
            "relay.toml:5:11: streams: 0 is outside 1 to 1048576",
            "relay.toml:6:9: lease: expected a whole number, found a string",
            "relay.toml:7:21: tunnel_memory_mib: 61 is outside 1 to 60",
            "relay.toml:8:26: handshake_cpu_permille: 1001 is outside 1 to 1000",
            "relay.toml:9:1: unknown key \"stream\": did you mean \"streams\"?",
        ]
    );
}

#[test]
fn every_limit_stands_in_the_documentation_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("### `[limits]` of the relay").unwrap();
    let section = section.split_once("\n### ").unwrap().0;
    let default = RelayLimits::default();
    let rows: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"))
        .map(|(name, rest)| (name, rest.split('`').next().unwrap().replace(',', "")))
        .collect();
    let expected: Vec<_> = limits::ROWS
        .iter()
        .map(|row| (row.name, (row.shown)(&default).to_string()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn front_ends_are_networks_and_never_everybody() {
    for (written, problem) in [
        (
            "'10.0.0.1/8'",
            "the address has bits behind its prefix: the network is 10.0.0.0/8",
        ),
        (
            "['0.0.0.0/0']",
            "every player could claim to be any other: name the front ends alone",
        ),
        (
            "['proxy.example']",
            "not an address or a network: \"proxy.example\" (expected 10.0.0.0/8 or 2001:db8::1)",
        ),
    ] {
        let problems = load(&format!("{LEAST}trusted_proxies = {written}\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("relay.toml:4:") && problems[0].ends_with(problem),
            "{problems:?}"
        );
    }
    let many: Vec<_> = (0..1025)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
        .collect();
    let problems = load(&format!("{LEAST}trusted_proxies = {many:?}\n")).unwrap_err();
    assert!(
        problems[0].ends_with("1025 networks are more than 1024"),
        "{problems:?}"
    );
    assert!(load(&format!("{LEAST}trusted_proxies = {:?}\n", &many[1..])).is_ok());
}
