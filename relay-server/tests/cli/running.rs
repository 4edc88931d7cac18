//! The relay while it runs.

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::{MetadataExt, chown},
        net::UnixDatagram,
        process::CommandExt,
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tunnel_core::{
    client::{self, Client, ClientEnd, ClientIdentity, EnrolError},
    event::Event,
    instance::{Instance, Protocol, Service},
    join::JoinString,
    key::{Psk, SecretKey},
    proto::message::Code,
};

use crate::{
    program::{PATIENCE, Running, closes, free_port},
    support::{Relay, secret},
};

/// What a relay says once it knows what another process has written.
const STATE_TAKEN_OVER: &str = "another process has changed the state file";

/// A relay on a free port of 127.0.0.1, with further lines in its `[relay]` section, not running yet.
fn relay(more: &str) -> Relay {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let relay = Relay::init(&[
        "--listen",
        &address,
        "--public-bind",
        "127.0.0.1",
        "--advertise",
        &address,
    ]);
    relay.append(more);
    relay
}

fn command(relay: &Relay, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-server"));
    command
        .args(["run", "--config", &relay.config()])
        .args(arguments)
        .env_remove("RUST_LOG");
    command
}

fn run(relay: &Relay) -> Running {
    Running::start(&mut command(relay, &[])).ready()
}

/// Enrols a new key, as `relay-client join` does.
async fn enrol(join: &JoinString) -> ClientIdentity {
    let secret_key = SecretKey::generate().unwrap();
    let enrolled = client::enrol(join, &secret_key).await.unwrap();
    ClientIdentity::new(
        join.relay.clone(),
        join.relay_public_key,
        secret_key,
        enrolled.psk,
    )
}

/// An instance with one TCP service, on a free public port, whose target echoes.
fn echo(id: &str) -> (Instance, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let mut reader = stream;
                drop(std::io::copy(&mut reader, &mut writer));
            });
        }
    });
    let port = free_port();
    let service = Service::new("echo", Protocol::Tcp, target).unwrap();
    let service = service.public_port(port).unwrap();
    (Instance::new(id, [service]).unwrap(), port)
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

/// A client whose one instance is bound.
async fn serving(identity: ClientIdentity, instance: Instance) -> Client {
    let client = Client::builder(identity)
        .instances([instance])
        .start()
        .unwrap();
    bound(&client).await;
    client
}

async fn bound(client: &Client) {
    // What was refused may be permitted by now.
    let end = Instant::now() + PATIENCE;
    while !client.status().await.unwrap().is_bound() {
        assert!(Instant::now() < end, "not bound");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the client's tunnel is gone.
async fn loses_its_tunnel(client: &Client) {
    let end = Instant::now() + PATIENCE;
    while client.status().await.unwrap().transport.is_some() {
        assert!(Instant::now() < end, "the tunnel stands");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn stdout_carries_ready_and_nothing_else() {
    let relay = relay("");
    let mut running = run(&relay);
    running.says("the relay listens");
    running.signal("-TERM");
    let ran = running.ends();
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:?}");
    let running = run(&relay);
    running.signal("-INT");
    assert_eq!(running.ends().status, 0);
}

#[test]
fn systemd_hears_how_it_goes() {
    let relay = relay("");
    let path = relay.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 1024];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let running = Running::start(command(&relay, &[]).env("NOTIFY_SOCKET", &path)).ready();
    let first = heard();
    assert!(
        first.starts_with("READY=1\nSTATUS=0 clients connected"),
        "{first}"
    );
    running.signal("-TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(running.ends().status, 0);
}

#[test]
fn a_systemd_that_hangs_holds_nothing_up_and_hears_later() {
    let relay = relay("");
    let path = relay.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"of another service", &path).is_ok() {}
    let mut running = Running::start(command(&relay, &[]).env("NOTIFY_SOCKET", &path)).ready();
    // It serves: it acts on a signal.
    running.signal("-HUP");
    running.says("configuration read again");
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = String::new();
    while !heard.starts_with("READY=1\nSTATUS=0 clients connected") {
        let mut buffer = [0; 1024];
        let length = systemd.recv(&mut buffer).unwrap();
        heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
    }
    // It hangs again, and the relay ends all the same.
    while other.send_to(b"of another service", &path).is_ok() {}
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
}

#[test]
fn a_taken_port_is_a_failure_that_names_it() {
    let relay = relay("");
    let config = fs::read_to_string(relay.config()).unwrap();
    let listen = config.split('"').nth(1).unwrap();
    let _taken = UdpSocket::bind(listen).unwrap();
    let ran = Running::start(&mut command(&relay, &[])).ends();
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains(listen), "{ran:?}");
}

#[test]
fn a_state_file_that_cannot_be_used_is_a_failure() {
    let relay = relay("");
    fs::write(
        relay.path("state.db"),
        "no database at all, and that for long".repeat(100),
    )
    .unwrap();
    let ran = Running::start(&mut command(&relay, &[])).ends();
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("state.db cannot be used"), "{ran:?}");
}

#[test]
fn logs_are_text_or_json_and_filtered() {
    let relay = relay("");
    let mut running = run(&relay);
    assert!(running.says("the relay listens").contains(" INFO "));
    drop(running);
    let mut running = Running::start(&mut command(&relay, &["--log-format", "json"])).ready();
    let line = running.says("the relay listens");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "INFO");
    drop(running);
    let running = Running::start(command(&relay, &[]).env("RUST_LOG", "error")).ready();
    running.signal("-TERM");
    assert_eq!(running.ends().stderr, "");
}

#[test]
fn what_editors_leave_behind_is_passed_over() {
    const UTF_16: &str = "UTF-16 text: save it as UTF-8";
    let relay = relay("\n[[client]]\nname = \"node-1\"\npsk_file = \"node.psk\"\n");
    let key = SecretKey::generate().unwrap().public_key();
    relay.append(&format!("public_key = \"{key}\"\n"));
    secret(&relay.path("node.psk"), &Psk::generate().unwrap().to_text());
    let files = ["relay.toml", "relay.key", "node.psk"].map(|name| (name, relay.path(name)));
    for (_, path) in &files {
        let text = fs::read_to_string(path).unwrap().replace('\n', "\r\n");
        fs::write(path, format!("\u{feff}{text}")).unwrap();
    }
    let mut running = run(&relay);
    running.signal("-HUP");
    running.says("configuration read again");
    for (name, path) in &files {
        let text = fs::read(path).unwrap();
        let wide = String::from_utf8(text.clone()).unwrap();
        let wide: Vec<u8> = wide.encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(path, &wide).unwrap();
        let is_named = |line: &str| line.contains(name) && line.contains(UTF_16);
        if *name != "relay.key" {
            // The relay that runs keeps the key that it has.
            running.signal("-HUP");
            let said = running.says(UTF_16);
            assert!(is_named(&said), "{said}");
        }
        let ran = Running::start(&mut command(&relay, &[])).ends();
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.lines().any(is_named), "{ran:?}");
        fs::write(path, &text).unwrap();
    }
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    let relay = relay("");
    let before = fs::read_to_string(relay.config()).unwrap();
    let mut running = run(&relay);
    fs::write(relay.config(), "[relay]\nlisten = 1\nlisten2 = 2").unwrap();
    running.signal("-HUP");
    let path = relay.config();
    running.says(&format!("{path}:2:10: listen: expected a string"));
    running.says("unknown key \"listen2\"");
    running.says("everything stays as it was");
    let listen = before.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:");
    fs::write(relay.config(), listen).unwrap();
    running.signal("-HUP");
    running.says("listen has changed: it takes effect at the next start");
    running.says("configuration read again");
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_fails_takes_nothing_of_what_is_valid_in_it() {
    let relay = relay("");
    let join = relay.invite(&["node-1"]);
    let before = fs::read_to_string(relay.config()).unwrap();
    let mut running = run(&relay);
    let (instance, port) = echo("srv_1");
    let client = serving(enrol(&join).await, instance).await;
    let mut player = TcpStream::connect(("127.0.0.1", port)).unwrap();
    echoes(&mut player);
    // The ports are valid, and would end every player.
    let narrow = before.replace("ports = \"1024-65535\"", "ports = \"1024\"");
    assert_ne!(narrow, before);
    fs::write(relay.config(), format!("{narrow}\n[limits]\nnope = 1\n")).unwrap();
    running.signal("-HUP");
    running.says("everything stays as it was");
    echoes(&mut player);
    echoes(&mut TcpStream::connect(("127.0.0.1", port)).unwrap());
    assert!(client.status().await.unwrap().is_bound());
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_and_revocations_take_effect_while_the_relay_runs() {
    let relay = relay("");
    let before = relay.invite(&["before"]);
    let mut running = run(&relay);
    let one = enrol(&before).await;
    let join = relay.invite(&["after", "--ports", "2000-60000"]);
    running.says(STATE_TAKEN_OVER);
    let two = enrol(&join).await;
    let used = client::enrol(&join, &SecretKey::generate().unwrap()).await;
    assert!(
        matches!(
            used,
            Err(EnrolError::Rejected {
                code: Code::TokenUsed,
                ..
            })
        ),
        "{used:?}"
    );
    let states: Vec<_> = relay
        .list()
        .iter()
        .map(|row| row["state"].clone())
        .collect();
    assert_eq!(states, ["enrolled", "enrolled"]);
    let (instance, port) = echo("echo");
    let client = serving(one.clone(), instance).await;
    let other = Client::builder(two).start().unwrap();
    bound(&other).await;
    echoes(&mut TcpStream::connect(("127.0.0.1", port)).unwrap());
    relay.run(&["clients", "revoke"], &["before"]).succeeds();
    loses_its_tunnel(&client).await;
    closes("127.0.0.1", port);
    running.says("tunnel of before is down: the client was revoked");
    assert!(other.status().await.unwrap().transport.is_some());
    assert_eq!(relay.list()[1]["state"], "revoked");
    // A revoked name is revived by an invitation, with a new key.
    let again = relay.invite(&["before"]);
    running.says(STATE_TAKEN_OVER);
    let revived = Client::builder(enrol(&again).await).start().unwrap();
    bound(&revived).await;
    assert!(client.status().await.unwrap().transport.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_join_is_redeemed_again_by_the_same_key_only() {
    let relay = relay("");
    let join = relay.invite(&["node-1"]);
    let _running = run(&relay);
    let key = SecretKey::generate().unwrap();
    let first = client::enrol(&join, &key).await.unwrap();
    let again = client::enrol(&join, &key).await.unwrap();
    assert_eq!(first.psk, again.psk);
    let other = client::enrol(&join, &SecretKey::generate().unwrap()).await;
    assert!(other.is_err());
    let identity = ClientIdentity::new(
        join.relay.clone(),
        join.relay_public_key,
        key.clone(),
        again.psk,
    );
    let client = Client::builder(identity).start().unwrap();
    bound(&client).await;
    let late = client::enrol(&join, &key).await;
    assert!(
        matches!(
            late,
            Err(EnrolError::Rejected {
                code: Code::TokenUsed,
                ..
            })
        ),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reusable_join_string_gives_the_name_to_each_new_key() {
    let relay = relay("");
    let join = relay.invite(&["container", "--reusable"]);
    let _running = run(&relay);
    let (instance, port) = echo("echo");
    let old = serving(enrol(&join).await, instance.clone()).await;
    let new = Client::builder(enrol(&join).await)
        .instances([instance])
        .start()
        .unwrap();
    loses_its_tunnel(&old).await;
    bound(&new).await;
    echoes(&mut TcpStream::connect(("127.0.0.1", port)).unwrap());
    assert_eq!(relay.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_file_comes_and_goes_by_reload() {
    let relay = relay("");
    let without = fs::read_to_string(relay.config()).unwrap();
    let mut running = run(&relay);
    let key = SecretKey::generate().unwrap();
    let psk = Psk::generate().unwrap();
    secret(&relay.path("node-1.psk"), &psk.to_text());
    relay.append(&format!(
        "[[client]]\nname = 'node-1'\npublic_key = '{}'\npsk_file = 'node-1.psk'\n",
        key.public_key()
    ));
    running.signal("-HUP");
    running.says("configuration read again");
    let config = fs::read_to_string(relay.config()).unwrap();
    let relay_key: SecretKey = fs::read_to_string(relay.path("relay.key"))
        .unwrap()
        .parse()
        .unwrap();
    let identity = ClientIdentity::new(
        config.split('"').nth(1).unwrap().parse().unwrap(),
        relay_key.public_key(),
        key,
        psk,
    );
    let (instance, port) = echo("echo");
    let client = serving(identity, instance).await;
    let mut player = TcpStream::connect(("127.0.0.1", port)).unwrap();
    echoes(&mut player);
    // A reload that changes nothing disturbs nobody.
    running.signal("-HUP");
    running.says("configuration read again");
    echoes(&mut player);
    fs::write(relay.config(), without).unwrap();
    running.signal("-HUP");
    loses_its_tunnel(&client).await;
    closes("127.0.0.1", port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_shared_key_that_is_replaced_ends_the_tunnel_of_the_old_one() {
    let relay = relay("");
    let key = SecretKey::generate().unwrap();
    let (old, new) = (Psk::generate().unwrap(), Psk::generate().unwrap());
    secret(&relay.path("node-1.psk"), &old.to_text());
    relay.append(&format!(
        "[[client]]\nname = 'node-1'\npublic_key = '{}'\npsk_file = 'node-1.psk'\n",
        key.public_key()
    ));
    let mut running = run(&relay);
    let config = fs::read_to_string(relay.config()).unwrap();
    let relay_key = fs::read_to_string(relay.path("relay.key")).unwrap();
    let identity = |psk| {
        ClientIdentity::new(
            config.split('"').nth(1).unwrap().parse().unwrap(),
            relay_key.parse::<SecretKey>().unwrap().public_key(),
            key.clone(),
            psk,
        )
    };
    let (instance, port) = echo("echo");
    let leaked = serving(identity(old), instance.clone()).await;
    let mut player = TcpStream::connect(("127.0.0.1", port)).unwrap();
    echoes(&mut player);
    secret(&relay.path("node-1.psk"), &new.to_text());
    running.signal("-HUP");
    loses_its_tunnel(&leaked).await;
    running.says("pre-shared key has become another one");
    assert!(!matches!(player.read(&mut [0]), Ok(1..)));
    let _client = serving(identity(new), instance).await;
    echoes(&mut TcpStream::connect(("127.0.0.1", port)).unwrap());
    assert!(leaked.status().await.unwrap().transport.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_is_locked_delays_no_signal() {
    let relay = relay("grace = 0\n");
    let psk = Psk::generate().unwrap();
    let key = SecretKey::generate().unwrap();
    secret(&relay.path("node-1.psk"), &psk.to_text());
    let without = fs::read_to_string(relay.config()).unwrap();
    relay.append(&format!(
        "[[client]]\nname = 'node-1'\npublic_key = '{}'\npsk_file = 'node-1.psk'\n",
        key.public_key()
    ));
    let invited = relay.invite(&["node-2"]);
    let mut running = run(&relay);
    let identity = ClientIdentity::new(invited.relay.clone(), invited.relay_public_key, key, psk);
    let client = Client::builder(identity).start().unwrap();
    bound(&client).await;
    let holder = rusqlite::Connection::open(relay.path("state.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Somebody enrols and waits for the lock, as each look at the file does.
    let other = SecretKey::generate().unwrap();
    let enrolling = tokio::spawn(async move { client::enrol(&invited, &other).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    // A revocation in the file takes effect, and so does the wish to end.
    fs::write(relay.config(), without).unwrap();
    running.signal("-HUP");
    running.says("configuration read again");
    loses_its_tunnel(&client).await;
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    // Whoever waited for the lock would have waited for the rest of 5 s, each time.
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "{:?}",
        asked.elapsed()
    );
    enrolling.abort();
    drop(holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_public_bind_take_effect() {
    let relay = relay("");
    let config = fs::read_to_string(relay.config()).unwrap();
    let config = config.replace("public_bind = \"127.0.0.1\"", "public_bind = \"127.0.0.2\"");
    fs::write(relay.config(), &config).unwrap();
    let join = relay.invite(&["node-1"]);
    let mut running = run(&relay);
    let (instance, port) = echo("echo");
    let client = serving(enrol(&join).await, instance).await;
    let mut events = client.events();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    echoes(&mut TcpStream::connect(("127.0.0.2", port)).unwrap());
    // Fewer ports: what is bound outside of them is given back.
    let fewer = config.replace("ports = \"1024-65535\"", "ports = \"1024\"");
    assert_ne!(fewer, config);
    fs::write(relay.config(), fewer).unwrap();
    running.signal("-HUP");
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
        if let Some(Ok(Event::Refused { .. })) = event {
            break;
        }
    }
    closes("127.0.0.2", port);
    fs::write(relay.config(), config).unwrap();
    running.signal("-HUP");
    running.says("configuration read again");
    bound(&client).await;
    echoes(&mut TcpStream::connect(("127.0.0.2", port)).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_invites_beside_a_relay_of_another_user() {
    let relay = relay("");
    if fs::metadata(relay.dir.path()).unwrap().uid() != 0 {
        return; // Only root can start a relay of another user.
    }
    for path in [".", "relay.toml", "relay.key"] {
        chown(relay.path(path), Some(65_534), Some(65_534)).unwrap();
    }
    let mut running = Running::start(command(&relay, &[]).uid(65_534).gid(65_534)).ready();
    let join = relay.invite(&["node-1"]);
    running.says(STATE_TAKEN_OVER);
    // The relay writes the file that root has changed.
    let client = Client::builder(enrol(&join).await).start().unwrap();
    bound(&client).await;
    relay.run(&["clients", "revoke"], &["node-1"]).succeeds();
    loses_its_tunnel(&client).await;
    let kept = fs::metadata(relay.path("state.db")).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (65_534, 0o600));
    running.signal("-TERM");
    assert_eq!(running.ends().status, 0);
    let owners: HashSet<_> = fs::read_dir(relay.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().uid())
        .collect();
    assert_eq!(owners, HashSet::from([65_534]), "nothing of root's is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_port_without_the_right_is_refused_and_named() {
    let relay = relay("");
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let is_privileged = first_free.is_ok_and(|first| first.trim().parse::<u16>().unwrap() > 81);
    if fs::metadata(relay.dir.path()).unwrap().uid() != 0 || !is_privileged {
        println!(
            "skipped: only root can start a relay of another user, and port 81 must need a right"
        );
        return;
    }
    let config = fs::read_to_string(relay.config()).unwrap();
    let config = config.replace("ports = \"1024-65535\"", "ports = \"1-65535\"");
    fs::write(relay.config(), config).unwrap();
    for path in [".", "relay.toml", "relay.key"] {
        chown(relay.path(path), Some(65_534), Some(65_534)).unwrap();
    }
    let mut running = Running::start(command(&relay, &[]).uid(65_534).gid(65_534)).ready();
    let join = relay.invite(&["node-1"]);
    running.says(STATE_TAKEN_OVER);
    let (fits, port) = echo("fits");
    let web = Service::new("web", Protocol::Tcp, "127.0.0.1:9").unwrap();
    let web = Instance::new("web", [web.public_port(81).unwrap()]).unwrap();
    let client = Client::builder(enrol(&join).await)
        .instances([web, fits])
        .start()
        .unwrap();
    let mut events = client.events();
    let (code, text) = loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
        if let Some(Ok(Event::Refused { code, text, .. })) = event {
            break (code, text);
        }
    };
    assert_eq!(code, Code::PrivilegedPort);
    assert!(text.contains("TCP port 81"), "{text}");
    running.says("instance web is refused");
    // The other instance is there.
    let mut player = loop {
        if let Ok(player) = TcpStream::connect(("127.0.0.1", port)) {
            break player;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    echoes(&mut player);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_take_effect_at_the_start_and_a_change_is_remarked() {
    let relay = relay("");
    relay.append("[limits]\ninstances_per_client = 1\n");
    let checked = relay.run(&["check"], &[]).succeeds();
    assert!(
        checked
            .stdout
            .contains("limits       instances_per_client 1 (instead of 256)\n"),
        "{checked:?}"
    );
    let join = relay.invite(&["node-1"]);
    let mut running = run(&relay);
    let ((one, _), (two, _)) = (echo("one"), echo("two"));
    let client = Client::builder(enrol(&join).await)
        .instances([one, two])
        .start()
        .unwrap();
    let mut events = client.events();
    let code = loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
        if let Some(Ok(Event::Refused { code, .. })) = event {
            break code;
        }
    };
    assert_eq!(code, Code::Limit);
    relay.append("streams = 5\n");
    running.signal("-HUP");
    running.says("[limits] has changed: it takes effect at the next start");
    running.says("configuration read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let relay = relay("");
    let join = relay.invite(&["node-1"]);
    let mut running = run(&relay);
    let (instance, port) = echo("echo");
    let client = serving(enrol(&join).await, instance).await;
    // A player who stays makes the end wait.
    let mut player = TcpStream::connect(("127.0.0.1", port)).unwrap();
    echoes(&mut player);
    running.signal("-TERM");
    running.says("a second signal ends at once");
    running.signal("-TERM");
    assert_eq!(running.ends().status, 1);
    let end = tokio::time::timeout(Duration::from_millis(100), client.finished()).await;
    assert!(
        end.is_err() || end == Ok(ClientEnd::Stopped),
        "it tries on: {end:?}"
    );
}
