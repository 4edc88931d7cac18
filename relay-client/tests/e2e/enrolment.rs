//! Who may connect, and with which ports.

use std::{fs, io::ErrorKind, net::TcpStream, os::unix::fs::PermissionsExt};

use crate::harness::{
    eventually,
    players::reaches,
    ports,
    process::Process,
    programs::local_address,
    site::{Service, Site, container, instance, join},
};

#[test]
fn a_revoked_client_loses_its_tunnel_and_its_ports() {
    let site = Site::start();
    let port = ports::one();
    let target = local_address();
    let client = site.expose(&[Service::tcp(port, target)]);
    assert!(reaches(site.public(port), target));
    site.administer(&["clients", "revoke", "node-1"]).success();
    eventually("the end of the service", || {
        let error = TcpStream::connect(site.public(port)).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    client.wait_for_line("the reason", |line| line.to_lowercase().contains("revoked"));
}

#[test]
fn a_client_is_invited_while_the_relay_does_not_run() {
    let mut site = Site::start();
    site.relay.kill();
    let join_string = site.invite("node-1", &[]);
    site.restart_relay();
    join(&join_string, &site.path("node-1")).success();
}

#[test]
fn a_join_string_serves_one_client_once() {
    let site = Site::start();
    let join_string = site.invite("node-1", &[]);
    join(&join_string, &site.path("first")).success();
    let first = fs::read(site.path("first/client.key")).unwrap();
    // Another key with the same token is told so.
    let refusal = join(&join_string, &site.path("second")).failure(1);
    assert!(refusal.contains("used"), "{refusal}");
    assert!(!site.path("second/client.toml").exists());
    // The same directory is not overwritten.
    assert!(!join(&join_string, &site.path("first")).status.success());
    assert_eq!(fs::read(site.path("first/client.key")).unwrap(), first);
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let site = Site::start();
    let _node = site.node("node-1");
    for file in ["relay/relay.key", "node-1/client.key", "node-1/client.psk"] {
        let mode = fs::metadata(site.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn programs_that_run_hold_no_text_of_a_secret() {
    let mut site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let join_string = site.invite("node-1", &[]);
    let (_, token) = join_string.split_once('#').unwrap();
    let expose = format!("tcp:{port}={target}");
    let joined = container(&site.path("node"), &join_string, &expose);
    joined.wait_until_ready();
    let text = |name| {
        fs::read_to_string(site.path(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    let [key, psk, relay_key] = ["node/client.key", "node/client.psk", "relay/relay.key"].map(text);
    // The environment is the system's to keep, and stands on the first thread's stack.
    holds_none(&joined, &[("key", &key), ("psk", &psk)]);
    holds_none(
        &site.relay,
        &[("relay key", &relay_key), ("psk", &psk), ("token", token)],
    );
    joined.terminate().success();
    let again = container(&site.path("node"), "", &expose);
    again.wait_until_ready();
    holds_none(&again, &[("key", &key), ("psk", &psk), ("token", token)]);
    site.restart_relay();
    holds_none(
        &site.relay,
        &[("relay key", &relay_key), ("psk", &psk), ("token", token)],
    );
}

fn holds_none(process: &Process, secrets: &[(&str, &str)]) {
    process.memory_of(|place, bytes| {
        for (name, secret) in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "the text of the {name} is in {place}");
        }
    });
}

#[test]
fn a_client_binds_no_port_beyond_its_permission() {
    let site = Site::start();
    let (allowed, forbidden) = (ports::one(), ports::one());
    let node = site.node_with("node-1", &["--ports", &allowed.to_string()]);
    let target = local_address();
    node.configure(
        &(instance("forbidden", &[Service::tcp(forbidden, target)])
            + &instance("allowed", &[Service::tcp(allowed, target)])),
    );
    let client = node.start();
    let port = forbidden.to_string();
    client.wait_for_line("the refusal", |line| line.contains(&port));
    eventually("the service", || {
        reaches(site.public(allowed), target).then_some(())
    });
    let refused = TcpStream::connect(site.public(forbidden)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(client.stdout(), "");
}

#[test]
fn no_client_binds_a_port_that_the_relay_does_not_give() {
    let (given, kept) = (ports::one(), ports::one());
    let site = Site::with_options([127, 0, 0, 1].into(), &given.to_string());
    let node = site.node("node-1");
    let target = local_address();
    node.configure(
        &(instance("kept", &[Service::tcp(kept, target)])
            + &instance("given", &[Service::tcp(given, target)])),
    );
    let client = node.start();
    let port = kept.to_string();
    client.wait_for_line("the refusal", |line| line.contains(&port));
    eventually("the service", || {
        reaches(site.public(given), target).then_some(())
    });
}

#[test]
fn two_clients_cannot_share_a_port_or_an_id() {
    let site = Site::start();
    let (port, other_port) = (ports::one(), ports::one());
    let target = local_address();
    let _first = site.expose(&[Service::tcp(port, target)]);
    let node = site.node("node-2");
    node.configure(
        &(instance("same-port", &[Service::tcp(port, target)])
            + &instance("game-1", &[Service::tcp(other_port, target)])),
    );
    let second = node.start();
    for id in ["same-port", "game-1"] {
        second.wait_for_line("the refusal", |line| line.contains(id));
    }
    assert_eq!(second.stdout(), "");
    assert!(reaches(site.public(port), target));
}

#[test]
fn a_client_may_be_written_down_by_hand() {
    let mut site = Site::start();
    let node = site.node("node-1");
    let port = ports::one();
    let target = local_address();
    node.configure(&instance("game-1", &[Service::tcp(port, target)]));
    site.move_to_file(&node);
    site.restart_relay();
    let client = node.start();
    client.wait_until_ready();
    assert!(reaches(site.public(port), target));
}

#[test]
fn a_container_needs_no_file_and_survives_a_restart() {
    let site = Site::start();
    let join_string = site.invite("node-1", &[]);
    let targets = [local_address(), local_address()];
    let public = [ports::one(), ports::one()];
    let expose = format!(
        "tcp:{}={} both:{}={},name=second,optimize=latency",
        public[0], targets[0], public[1], targets[1]
    );
    let state = site.path("state");
    fs::create_dir(&state).unwrap();
    // The second run finds an identity, so the join string, used by now, does not matter.
    for _ in 0..2 {
        let client = container(&state, &join_string, &expose);
        client.wait_until_ready();
        for (port, target) in public.into_iter().zip(targets) {
            assert!(reaches(site.public(port), target));
        }
        client.terminate().success();
    }
}

#[test]
fn a_reusable_invitation_serves_containers_without_a_volume() {
    let site = Site::start();
    let join_string = site.invite("node-1", &["--reusable"]);
    let port = ports::one();
    let target = local_address();
    for name in ["first", "second"] {
        let state = site.path(name);
        fs::create_dir(&state).unwrap();
        let client = container(&state, &join_string, &format!("tcp:{port}={target}"));
        client.wait_until_ready();
        assert!(reaches(site.public(port), target));
        client.terminate().success();
    }
}
