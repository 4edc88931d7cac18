//! The client while it runs, against a relay in the test's own process.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tunnel_core::{
    instance::PortSet,
    join::{JoinString, Token, TokenId},
    key::{Psk, PublicKey, SecretKey},
    relay::{Admission, Authority, Denial, Relay},
};

use crate::{
    program::{PATIENCE, Running, closes, free_port},
    support::{command, relay_client, with_stdin},
};

/// Lets every client in that has enrolled by one of its tokens.
#[derive(Debug, Default)]
struct Tokens {
    tokens: HashMap<TokenId, (Psk, Option<Denial>)>,
    clients: Mutex<HashMap<PublicKey, Psk>>,
}

impl Tokens {
    fn of(token: &Token, denial: Option<Denial>) -> Arc<Self> {
        let tokens = HashMap::from([(token.id, (token.secret.clone(), denial))]);
        Arc::new(Self {
            tokens,
            clients: Mutex::default(),
        })
    }
}

impl Authority for Tokens {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        match token {
            Some(token) => self.tokens.get(&token).map(|(secret, _)| secret.clone()),
            None => self.clients.lock().unwrap().get(client).cloned(),
        }
    }

    fn admit(&self, client: &PublicKey, token: Option<TokenId>) -> Result<Admission, Denial> {
        let mut psk = None;
        if let Some((_, denial)) = token.and_then(|token| self.tokens.get(&token)) {
            if let Some(denial) = denial {
                return Err(denial.clone());
            }
            psk = Some(Psk::generate().unwrap());
            self.clients
                .lock()
                .unwrap()
                .insert(*client, psk.clone().unwrap());
        }
        Ok(Admission {
            name: "node-1".into(),
            ports: PortSet::all(),
            psk,
        })
    }
}

/// Where a relay is, or will be.
struct Site {
    address: SocketAddr,
    key: SecretKey,
    token: Token,
}

impl Site {
    fn new() -> Self {
        Self {
            address: ([127, 0, 0, 1], free_port()).into(),
            key: SecretKey::generate().unwrap(),
            token: Token::generate().unwrap(),
        }
    }

    fn join(&self) -> String {
        let join = JoinString {
            relay: self.address.into(),
            relay_public_key: self.key.public_key(),
            token: self.token.clone(),
        };
        join.to_string()
    }

    async fn open(&self) -> Relay {
        self.open_with(Tokens::of(&self.token, None)).await
    }

    async fn open_with(&self, authority: Arc<Tokens>) -> Relay {
        Relay::builder(self.key.clone(), authority)
            .listen(self.address)
            .public_bind([127, 0, 0, 1].into())
            .start()
            .await
            .unwrap()
    }

    /// A directory whose client has joined this relay, which runs.
    fn joined(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let ran =
            relay_client(&["join", &self.join(), "--dir", dir.path().to_str().unwrap()]).succeeds();
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("as node-1"), "{ran:?}");
        dir
    }
}

fn config(dir: &TempDir) -> String {
    dir.path().join("client.toml").to_str().unwrap().to_owned()
}

/// As a container runs it: no file, everything from the environment.
fn container(dir: &Path, join: &str, expose: &str) -> Command {
    let mut command = command(&["run"]);
    command
        .env("ADIT_STATE_DIR", dir)
        .env("ADIT_JOIN", join)
        .env("ADIT_EXPOSE", expose);
    command
}

/// A target that answers `name` to whoever connects, and then echoes.
fn target(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                drop(stream.write_all(name.as_bytes()));
                let mut reader = stream.try_clone().unwrap();
                drop(std::io::copy(&mut reader, &mut stream));
            });
        }
    });
    port
}

/// A player who has heard `name` on a public port.
fn player(port: u16, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    hears(&mut stream, name);
    stream
}

fn hears(stream: &mut TcpStream, text: &str) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, text.as_bytes());
}

fn instance(id: &str, public: u16, target: u16) -> String {
    format!(
        "[[instance]]\nid='{id}'\n[[instance.service]]\nname='a'\nprotocol='tcp'\npublic_port={public}\ntarget='127.0.0.1:{target}'\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_joins_and_exposes() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = site.joined();
    let (a, b) = (target("a"), target("b"));
    let (port_a, port_b) = (free_port(), free_port());
    let path = config(&dir);
    let identity = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{identity}{}", instance("a", port_a, a))).unwrap();
    let spec = format!("tcp:{port_b}=127.0.0.1:{b},optimize=throughput");
    let running =
        Running::start(&mut command(&["run", "--config", &path, "--expose", &spec])).ready();
    drop(player(port_a, "a"));
    drop(player(port_b, "b"));
    running.signal("-TERM");
    let ran = running.ends();
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:?}");
    closes("127.0.0.1", port_a);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_take_effect_at_the_start_and_a_change_is_remarked() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = site.joined();
    let (target, port) = (target("a"), free_port());
    let path = config(&dir);
    let identity = fs::read_to_string(&path).unwrap();
    let text = format!(
        "{identity}{}[limits]\nstreams = 1\n",
        instance("a", port, target)
    );
    fs::write(&path, &text).unwrap();
    let checked = relay_client(&["check", "--config", &path]).succeeds();
    assert!(
        checked
            .stdout
            .contains("limits       streams 1 (instead of 16384)\n"),
        "{checked:?}"
    );
    let mut running = Running::start(&mut command(&["run", "--config", &path])).ready();
    let first = player(port, "a");
    let mut second = TcpStream::connect(("127.0.0.1", port)).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = second.read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    drop(first);
    fs::write(&path, format!("{text}flows = 5\n")).unwrap();
    running.signal("-HUP");
    running.says("[limits] has changed: it takes effect at the next start");
}

#[test]
fn logs_are_text_or_json_and_filtered() {
    let (_dir, config) = crate::support::joined("");
    let run = |arguments: &[&str]| {
        let mut command = command(&["run", "--config", &config]);
        command.args(arguments).env_remove("RUST_LOG");
        command
    };
    let mut running = Running::start(&mut run(&[]));
    assert!(running.says("the client runs").contains(" INFO "));
    drop(running);
    let mut running = Running::start(&mut run(&["--log-format", "json"]));
    let line = running.says("the client runs");
    assert!(
        line.starts_with('{') && line.contains("\"level\":\"INFO\""),
        "{line}"
    );
    drop(running);
    let mut running = Running::start(run(&[]).env("RUST_LOG", "warn"));
    // The first line is of a higher level.
    assert!(running.says("next try in").contains(" WARN "));
    running.signal("-TERM");
    assert!(!running.ends().stderr.contains(" INFO "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_string_can_come_from_stdin() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["join", "-", "--dir", dir.path().to_str().unwrap()];
    with_stdin(&arguments, format!("{}\n", site.join()).as_bytes()).succeeds();
    let ran = relay_client(&["check", "--config", &config(&dir)]).succeeds();
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.contains("nothing is exposed yet"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_needs_no_file_and_can_start_again() {
    let site = Site::new();
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let expose = format!("tcp:{port}=127.0.0.1:{} udp:{}", target("a"), free_port());
    // It starts before the relay does.
    let mut running = Running::start(&mut container(dir.path(), &site.join(), &expose));
    running.says("cannot be joined");
    let relay = site.open().await;
    running.says("joined");
    let running = running.ready();
    drop(player(port, "a"));
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    // The identity that it has wins over a join string that was used.
    let running = Running::start(&mut container(dir.path(), &site.join(), &expose)).ready();
    drop(player(port, "a"));
    drop(running);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_env_files_and_editors_leave_behind_is_passed_over() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (free_port(), free_port());
    let (target_a, target_b) = (target("a"), target("b"));
    let expose =
        format!("\"tcp:{a}=127.0.0.1:{target_a},name=a, tcp:{b}=127.0.0.1:{target_b},\"\r");
    let quoted = |text: &str| format!("\"{text}\"\r");
    let state_dir = quoted(dir.path().to_str().unwrap());
    let start = || {
        let mut container = container(Path::new(&state_dir), &quoted(&site.join()), &expose);
        container
            .env("RUST_LOG", quoted("info"))
            .env("ADIT_THREADS", quoted("1"));
        Running::start(&mut container)
    };
    let mut running = start();
    assert!(running.says("joined").contains("INFO"));
    let running = running.ready();
    drop((player(a, "a"), player(b, "b")));
    running.signal("-TERM");
    assert!(!running.ends().stderr.contains("RUST_LOG"));
    // An editor on Windows has been over the files.
    for name in ["client.toml", "client.key", "client.psk"] {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap().replace('\n', "\r\n");
        fs::write(&path, format!("\u{feff}{text}")).unwrap();
    }
    let running = start().ready();
    drop((player(a, "a"), player(b, "b")));
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    let key = dir.path().join("client.key");
    let text = fs::read_to_string(&key).unwrap();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&key, &wide).unwrap();
    let ran = start().ends();
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(
        ran.stderr
            .contains("client.key: UTF-16 text: save it as UTF-8"),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_string_that_another_system_pipes_is_read_or_named() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let arguments = ["join", "-", "--dir", node.to_str().unwrap()];
    let text = format!("\u{feff}{}\r\n", site.join());
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let said = with_stdin(&arguments, &wide).fails(1);
    assert!(said.contains("UTF-16 text: save it as UTF-8"), "{said}");
    let (start, end) = text.split_at(80);
    let said = with_stdin(&arguments, format!("{start}\r\n{end}").as_bytes()).fails(2);
    assert!(said.contains("no white space in it"), "{said}");
    with_stdin(&arguments, text.as_bytes()).succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_string_that_has_ended_is_a_failure_that_says_so() {
    for (denial, text) in [
        (Denial::TokenExpired, "expired"),
        (Denial::TokenUsed, "used by another client"),
    ] {
        let site = Site::new();
        let _relay = site.open_with(Tokens::of(&site.token, Some(denial))).await;
        let dir = tempfile::tempdir().unwrap();
        let ran = Running::start(&mut container(dir.path(), &site.join(), "udp:1")).ends();
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains(text), "{ran:?}");
        let arguments = ["join", &site.join(), "--dir", dir.path().to_str().unwrap()];
        let said = relay_client(&arguments).fails(1);
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_touches_only_what_differs() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = site.joined();
    let path = config(&dir);
    let identity = fs::read_to_string(&path).unwrap();
    let (a, b, c) = (target("a"), target("b"), target("c"));
    let (port_a, port_b, port_c) = (free_port(), free_port(), free_port());
    let write =
        |parts: &[String]| fs::write(&path, format!("{identity}{}", parts.concat())).unwrap();
    write(&[instance("a", port_a, a), instance("b", port_b, b)]);
    let mut running = Running::start(&mut command(&["run", "--config", &path])).ready();
    let mut stays = player(port_a, "a");
    drop(player(port_b, "b"));
    write(&[
        instance("a", port_a, a),
        instance("c", port_c, c),
        "x = 1".into(),
    ]);
    running.signal("-HUP");
    running.says("unknown key \"x\"");
    running.says("everything stays as it was");
    drop(player(port_b, "b"));
    write(&[instance("a", port_a, a), instance("c", port_c, c)]);
    running.signal("-HUP");
    running.says("instance c is bound");
    drop(player(port_c, "c"));
    closes("127.0.0.1", port_b);
    stays.write_all(b"still here").unwrap();
    hears(&mut stays, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_key_the_first_stays_away() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = site.joined();
    let path = config(&dir);
    let port = free_port();
    let spec = format!("tcp:{port}=127.0.0.1:{}", target("a"));
    let arguments = ["run", "--config", &path, "--expose", &spec];
    let first = Running::start(&mut command(&arguments)).ready();
    let _second = Running::start(&mut command(&arguments)).ready();
    let ran = first.ends();
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(
        ran.stderr
            .contains("another process with this client's key"),
        "{ran:?}"
    );
    drop(player(port, "a"));
}

#[test]
fn a_dead_network_kills_no_node() {
    let site = Site::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 1024];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // Neither while it joins, nor once it has joined.
    let mut joining = container(&dir.path().join("new"), &site.join(), "udp:1");
    let running = Running::start(joining.env("NOTIFY_SOCKET", &path));
    assert_eq!(heard(), format!("READY=1\nSTATUS=joining {}", site.address));
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    let (_dir, config) = crate::support::joined("");
    let mut alone = command(&["run", "--config", &config, "--expose", "udp:1"]);
    let mut running = Running::start(alone.env("NOTIFY_SOCKET", &path));
    let first = heard();
    assert_eq!(
        first,
        "READY=1\nSTATUS=not connected, 0 of 1 instances bound"
    );
    running.says("next try in");
    running.signal("-TERM");
    while heard() != "STOPPING=1" {}
    let ran = running.ends();
    assert_eq!(
        (ran.status, ran.stdout.as_str()),
        (0, ""),
        "never ready: {ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_stops_no_other_instance() {
    let site = Site::new();
    let _relay = site.open().await;
    let dir = site.joined();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let port = free_port();
    let specs = [
        format!("tcp:{taken_port}=127.0.0.1:1,name=taken"),
        format!("tcp:{port}=127.0.0.1:{},name=free", target("a")),
    ];
    let path = config(&dir);
    let arguments = [
        "run", "--config", &path, "--expose", &specs[0], "--expose", &specs[1],
    ];
    let mut running = Running::start(&mut command(&arguments));
    running.says("instance taken is refused");
    drop(player(port, "a"));
    drop(taken);
    // Retried, and then all of it is bound.
    let running = running.ready();
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    thread::sleep(Duration::from_millis(100));
    closes("127.0.0.1", taken_port);
}
