//! Who is let in, by which door.

use std::{
    fs,
    time::{Duration, Instant},
};

use adit_control::{
    access::{Role, Secret},
    client::{Client, Told},
    listen::Address,
    problem::Kind,
    server::Whoami,
};

use crate::{
    program::PATIENCE,
    support::{Relay, refused, relay_server},
};

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_while_the_relay_runs() {
    let relay = Relay::start("");
    let panel = relay.client_of("panel", Role::Viewer).await;
    let listed = relay
        .command(&["tokens", "list", "--format", "json"])
        .output()
        .unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (listed[0]["name"].as_str(), listed[0]["role"].as_str()),
        (Some("panel"), Some("viewer"))
    );
    let text = fs::read(relay.path("state.db")).unwrap();
    assert!(
        !text.windows(5).any(|window| window == b"adit_"),
        "the state file has a token's text"
    );
    let again = relay
        .command(&["tokens", "create", "panel", "--role", "admin"])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(
        String::from_utf8(again.stderr)
            .unwrap()
            .contains("a token is called panel already")
    );
    let mut events = panel.events("/api/events", None).await.unwrap();
    let revoked = relay
        .command(&["tokens", "revoke", "panel"])
        .status()
        .unwrap();
    assert!(revoked.success());
    // The relay looks at its state file each quarter of a second.
    let end = Instant::now() + PATIENCE;
    while let Ok(whoami) = panel.get::<Whoami>("/api/whoami").await {
        assert!(Instant::now() < end, "{whoami:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(refused(panel.get::<Whoami>("/api/whoami").await).is(Kind::Unauthorized));
    // What it has opened ends with it: at the next event, or the next sign of life.
    relay
        .admin()
        .post::<serde_json::Value>("/api/invites", &serde_json::json!({"name": "node-1"}))
        .await
        .unwrap();
    assert!(events.next().await.is_none());
    let unknown = relay
        .command(&["tokens", "revoke", "panle"])
        .output()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    relay.ends();
}

#[tokio::test]
async fn a_unix_socket_is_a_door_and_is_gone_at_the_end() {
    let mut relay = Relay::prepare("");
    let config = fs::read_to_string(relay.path("relay.toml")).unwrap();
    let api = relay.api.to_string();
    fs::write(
        relay.path("relay.toml"),
        config.replace(&api, "unix:admin.sock"),
    )
    .unwrap();
    relay.api = Address::Unix(relay.path("admin.sock"));
    relay.run();
    let whoami: Whoami = relay.admin().get("/api/whoami").await.unwrap().value;
    assert_eq!(&*whoami.from, "unix");
    let socket = relay.path("admin.sock");
    // A power cut leaves it behind: the next one replaces it.
    relay.killed();
    assert!(socket.exists());
    relay.run();
    relay.admin().get::<Whoami>("/api/whoami").await.unwrap();
    relay.ends();
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_with_its_name() {
    let relay = Relay::prepare("");
    let Address::Tcp(address) = relay.api.clone() else {
        panic!("{}", relay.api);
    };
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let ran = relay.command(&["run"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(
        said.contains("listen in [admin]") && said.contains("is in use"),
        "{said}"
    );
}

#[tokio::test]
async fn an_address_that_is_not_here_keeps_no_player_out() {
    let mut relay = Relay::prepare("");
    let config = fs::read_to_string(relay.path("relay.toml")).unwrap();
    let api = relay.api.to_string();
    fs::write(
        relay.path("relay.toml"),
        config.replace(&api, "192.0.2.1:7001"),
    )
    .unwrap();
    relay.run().says("waiting until this machine has it");
    relay.ends();
}

#[tokio::test]
async fn a_token_in_the_url_is_taken_only_where_it_is_allowed() {
    let relay = Relay::start("");
    let uri = |relay: &Relay| {
        let token = fs::read_to_string(relay.path("admin.token")).unwrap();
        format!("/api/whoami?token={}", token.trim())
    };
    let answer = relay.sends("GET", &uri(&relay), "", b"").await;
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.contains("allow_query_token"),
        "{answer}"
    );
    relay.ends();
    let relay = Relay::start("allow_query_token = true");
    let answer = relay.sends("GET", &uri(&relay), "", b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let ran = relay.ends();
    assert!(
        ran.stderr.contains("a token in a URL stands in histories"),
        "{ran:?}"
    );
    assert!(
        !ran.stderr.contains("adit_"),
        "the log has the token: {ran:?}"
    );
}

#[tokio::test]
async fn tokens_of_files_are_read_again_with_the_configuration() {
    let metrics = Secret::generate().unwrap();
    let mut relay = Relay::prepare("metrics_token_file = \"metrics.token\"");
    relay.secret("metrics.token", &metrics.to_text());
    relay.run();
    let bearer = format!("authorization: Bearer {}\r\n", *metrics.to_text());
    assert!(
        relay
            .sends("GET", "/metrics", &bearer, b"")
            .await
            .contains("adit_tunnels 0")
    );
    assert!(
        relay
            .sends("GET", "/api/ports", &bearer, b"")
            .await
            .starts_with("HTTP/1.1 403 ")
    );
    let next = Secret::generate().unwrap();
    let mut events = relay.admin().events("/api/events", None).await.unwrap();
    let before = relay.admin();
    relay.secret("admin.token", &next.to_text());
    relay.running().signal("-HUP");
    relay.running().says("configuration read again");
    // The stream was the old token's.
    assert!(events.next().await.is_none());
    assert!(refused(before.get::<Whoami>("/api/whoami").await).is(Kind::Unauthorized));
    relay
        .client(&next)
        .get::<Whoami>("/api/whoami")
        .await
        .unwrap();
    relay.ends();
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_remarked_once() {
    let relay = Relay::start("");
    let stranger = Client::new(relay.api.clone()).token(&Secret::generate().unwrap());
    let mut kinds = Vec::new();
    for _ in 0..20 {
        kinds.push(refused(stranger.get::<Whoami>("/api/whoami").await).status);
    }
    assert_eq!(
        (kinds[0], kinds[9], kinds[19]),
        (401, 401, 429),
        "{kinds:?}"
    );
    // Who has the right one is served all the same, from the same address.
    relay.admin().get::<Whoami>("/api/whoami").await.unwrap();
    let ran = relay.ends();
    assert_eq!(
        ran.stderr
            .matches("admin log-in failed from=127.0.0.1")
            .count(),
        1,
        "{ran:?}"
    );
}

#[tokio::test]
async fn without_its_section_there_is_no_api() {
    let relay = Relay::prepare("");
    let config = fs::read_to_string(relay.path("relay.toml")).unwrap();
    let (without, _) = config.split_once("[admin]").unwrap();
    fs::write(relay.path("relay.toml"), without).unwrap();
    let mut relay = relay;
    relay.run();
    let error = relay
        .admin()
        .get::<Whoami>("/api/whoami")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
    relay.ends();
    let missing = relay_server(&["tokens", "list", "--config", "/nowhere/relay.toml"]);
    assert_eq!(missing.status, 2);
}

#[tokio::test]
async fn configuration_and_clients_are_told_as_events() {
    let mut relay = Relay::start("");
    let admin = relay.admin();
    let mut events = admin.events("/api/events", None).await.unwrap();
    relay.running().signal("-HUP");
    let told = events.next().await.unwrap().unwrap();
    assert!(
        matches!(&told, Told::Event(event) if event.kind == "configuration_applied"),
        "{told:?}"
    );
    relay.ends();
    assert!(
        events
            .next()
            .await
            .is_none_or(|told| told.is_err() || matches!(told, Ok(Told::Event(_))))
    );
}
