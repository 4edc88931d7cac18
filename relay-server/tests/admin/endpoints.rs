//! Each endpoint, for each role.

use std::time::{Duration, Instant};

use adit_control::{
    access::Role,
    client::{Client, ClientError, path},
    model::{AuditEntry, ClientState, ClientView, InviteRequest, Invited, Page, PortsView},
    problem::Kind,
    server::Whoami,
};
use serde_json::{Value, json};
use tunnel_core::{
    event::Event,
    instance::{Instance, Protocol, Service},
};

use crate::{
    program::{PATIENCE, free_port},
    support::{Relay, refused},
};

async fn kick(client: &Client, name: &str) -> Result<(), ClientError> {
    let path = path(["api", "clients", name, "kick"]);
    client.post::<()>(&path, &json!({})).await.map(drop)
}

fn invitation(name: &str) -> InviteRequest {
    InviteRequest {
        name: name.into(),
        ..InviteRequest::default()
    }
}

#[tokio::test]
async fn each_endpoint_serves_the_roles_that_it_is_for() {
    let relay = Relay::start("");
    let endpoints: [(&str, &str, Role, u16); 28] = [
        ("GET", "/api/whoami", Role::Viewer, 200),
        ("GET", "/api/openapi.json", Role::Viewer, 200),
        ("GET", "/api/clients", Role::Viewer, 200),
        ("GET", "/api/clients/nobody", Role::Viewer, 404),
        ("GET", "/api/ports", Role::Viewer, 200),
        ("DELETE", "/api/clients/nobody", Role::Admin, 404),
        ("POST", "/api/clients/nobody/kick", Role::Operator, 404),
        ("POST", "/api/invites", Role::Admin, 415),
        ("GET", "/api/audit", Role::Admin, 200),
        ("POST", "/api/session", Role::Viewer, 204),
        ("GET", "/api/instances", Role::Viewer, 200),
        ("POST", "/api/instances", Role::Operator, 415),
        ("GET", "/api/instances/nobody", Role::Viewer, 404),
        ("PUT", "/api/instances/nobody", Role::Operator, 415),
        ("PATCH", "/api/instances/nobody", Role::Operator, 428),
        ("DELETE", "/api/instances/nobody", Role::Operator, 428),
        (
            "GET",
            "/api/instances/nobody/client-config",
            Role::Viewer,
            404,
        ),
        ("GET", "/api/instances/nobody/dns", Role::Viewer, 404),
        ("GET", "/api/tunnels", Role::Viewer, 200),
        ("GET", "/api/maintenance", Role::Viewer, 200),
        ("POST", "/api/maintenance", Role::Operator, 415),
        ("GET", "/api/streams", Role::Viewer, 200),
        ("DELETE", "/api/streams/1", Role::Operator, 404),
        ("GET", "/api/flows", Role::Viewer, 200),
        ("DELETE", "/api/flows/1", Role::Operator, 404),
        ("GET", "/api/bans", Role::Viewer, 200),
        ("POST", "/api/bans", Role::Operator, 415),
        ("DELETE", "/api/bans/1", Role::Operator, 404),
    ];
    for role in Role::ALL {
        let token = relay.token(role.as_str(), role);
        relay.client_of(&format!("wait-{role}"), role).await;
        let bearer = format!("authorization: Bearer {}\r\n", *token.to_text());
        for (method, path, least, status) in endpoints {
            let expected = if role >= least { status } else { 403 };
            let answer = relay.sends(method, path, &bearer, b"").await;
            let head = format!("HTTP/1.1 {expected} ");
            assert!(
                answer.starts_with(&head),
                "{role}: {method} {path}: {answer}"
            );
        }
    }
    for (method, path, _, _) in endpoints {
        let answer = relay.sends(method, path, "", b"").await;
        assert!(
            answer.starts_with("HTTP/1.1 401 "),
            "{method} {path}: {answer}"
        );
        assert!(answer.contains("/problems/unauthorized"), "{answer}");
    }
    relay.ends();
}

#[tokio::test]
async fn a_client_is_invited_seen_and_revoked() {
    let relay = Relay::start("");
    let admin = relay.admin();
    let request = InviteRequest {
        ports: Some("1024-65535".into()),
        ttl: Some("30m".into()),
        ..invitation("node-1")
    };
    let first: Invited = admin.post("/api/invites", &request).await.unwrap().value;
    let second: Invited = admin.post("/api/invites", &request).await.unwrap().value;
    assert_eq!((first.ended, second.ended), (0, 1));
    let view = async || {
        admin
            .get::<ClientView>("/api/clients/node-1")
            .await
            .unwrap()
            .value
    };
    let invited = view().await;
    assert_eq!(
        (invited.state, invited.public_key),
        (ClientState::Invited, None)
    );
    let node = relay.node(&second.join).await;
    let port = free_port();
    let service = Service::new("game", Protocol::Both, "127.0.0.1:9")
        .unwrap()
        .public_port(port)
        .unwrap();
    node.insert(Instance::new("srv", [service]).unwrap())
        .await
        .unwrap()
        .settled()
        .await
        .unwrap();
    let enrolled = view().await;
    assert_eq!(enrolled.state, ClientState::Enrolled);
    let connection = enrolled.connection.unwrap();
    assert!(connection.address.unwrap().starts_with("127.0.0.1:"));
    assert_eq!(connection.transport.as_deref(), Some("quic"));
    assert!(connection.rtt_ms.is_some());
    let bound = &connection.instances[0];
    assert_eq!(
        (
            &*bound.id,
            &*bound.services[0].name,
            &*bound.services[0].protocol
        ),
        ("srv", "game", "both")
    );
    assert_eq!(bound.services[0].public_ports, port.to_string());
    let ports: PortsView = admin.get("/api/ports").await.unwrap().value;
    assert_eq!(
        (ports.total - ports.free, &*ports.used[0].client),
        (1, "node-1")
    );
    // Kicked, it comes back.
    let mut told = node.events();
    kick(&admin, "node-1").await.unwrap();
    loop {
        match told.next().await.unwrap() {
            Ok(Event::TunnelUp { .. }) => break,
            _ => continue,
        }
    }
    let problem = refused(kick(&admin, "node-9").await);
    assert!(problem.is(Kind::NotFound), "{problem}");
    // It holds once it is answered: no player is let in by the next request.
    admin.delete("/api/clients/node-1", None).await.unwrap();
    let revoked = view().await;
    assert_eq!(revoked.state, ClientState::Revoked);
    assert_eq!(revoked.connection, None);
    let end = Instant::now() + PATIENCE;
    while node.status().await.unwrap().transport.is_some() {
        assert!(Instant::now() < end, "its tunnel stands");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    admin.delete("/api/clients/node-1", None).await.unwrap();
    let problem = refused(kick(&admin, "node-1").await);
    assert!(problem.is(Kind::Conflict), "{problem}");
    let problem = refused(admin.delete("/api/clients/node-2", None).await);
    assert!(problem.detail.contains("did you mean node-1?"), "{problem}");
    relay.ends();
}

#[tokio::test]
async fn what_was_changed_is_in_the_audit_log_after_a_power_cut_too() {
    let mut relay = Relay::start("");
    let panel = relay.client_of("panel", Role::Admin).await;
    for number in 1..=3 {
        let name = format!("node-{number}");
        panel
            .post::<Invited>("/api/invites", &invitation(&name))
            .await
            .unwrap();
    }
    refused(panel.delete(&path(["api", "clients", "../x"]), None).await);
    relay.killed();
    relay.run();
    let entries = async |query: &str| {
        let page = relay
            .admin()
            .get::<Page<AuditEntry>>(&format!("/api/audit{query}"))
            .await;
        page.unwrap().value
    };
    let all = entries("").await;
    let shown: Vec<_> = all
        .items
        .iter()
        .map(|entry| {
            (
                &*entry.who,
                &*entry.method,
                &*entry.path,
                entry.detail.as_deref(),
                entry.status,
            )
        })
        .collect();
    let invited = |number| format!("client node-{number}");
    let details = [invited(3), invited(2), invited(1)];
    let mut expected = vec![("panel", "DELETE", "/api/clients/..%2Fx", None, 422)];
    expected.extend(
        details
            .iter()
            .map(|detail| ("panel", "POST", "/api/invites", Some(&**detail), 201)),
    );
    assert_eq!(shown, expected);
    let first = entries("?limit=3").await;
    let rest = entries(&format!("?limit=3&after={}", first.next.unwrap())).await;
    assert_eq!([first.items, rest.items].concat(), all.items);
    assert_eq!(rest.next, None);
    relay.ends();
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let relay = Relay::start("");
    let admin = relay.admin();
    for number in 1..=5 {
        admin
            .post::<Invited>("/api/invites", &invitation(&format!("node-{number}")))
            .await
            .unwrap();
    }
    let mut names = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page: Page<ClientView> = admin
            .get(&format!("/api/clients{query}"))
            .await
            .unwrap()
            .value;
        names.extend(page.items.into_iter().map(|view| view.name));
        match page.next {
            Some(next) => query = format!("?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["node-1", "node-2", "node-3", "node-4", "node-5"]);
    for (query, parameter) in [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=x", "query"),
        ("?x=1", "query"),
    ] {
        let problem = refused(admin.get::<Value>(&format!("/api/clients{query}")).await);
        assert_eq!(
            problem.errors[0].parameter.as_deref(),
            Some(parameter),
            "{query}"
        );
    }
    relay.ends();
}

#[tokio::test]
async fn two_operators_at_once_get_one_outcome_each_and_lose_nothing() {
    let relay = Relay::start("");
    let (one, two) = (
        relay.client_of("one", Role::Admin).await,
        relay.client_of("two", Role::Admin).await,
    );
    let invites = |client: Client, prefix: &'static str| async move {
        for number in 0..10 {
            // The same names from both: each invitation ends the one before it.
            for name in [format!("{prefix}-{number}"), format!("both-{number}")] {
                client
                    .post::<Invited>("/api/invites", &invitation(&name))
                    .await
                    .unwrap();
            }
        }
    };
    tokio::join!(invites(one.clone(), "one"), invites(two, "two"));
    let page: Page<ClientView> = one.get("/api/clients").await.unwrap().value;
    assert_eq!(page.items.len(), 30);
    let audit: Page<AuditEntry> = one.get("/api/audit").await.unwrap().value;
    let by = |who| {
        audit
            .items
            .iter()
            .filter(|entry| entry.who == who && entry.status == 201)
            .count()
    };
    assert_eq!((by("one"), by("two")), (20, 20));
    relay.ends();
}

#[tokio::test]
async fn the_file_is_not_changed_through_the_api() {
    let relay = Relay::prepare("");
    relay.secret(
        "node-1.psk",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
    );
    let key = tunnel_core::key::SecretKey::generate()
        .unwrap()
        .public_key();
    let config = std::fs::read_to_string(relay.path("relay.toml")).unwrap();
    let client =
        format!("[[client]]\nname = 'node-1'\npublic_key = '{key}'\npsk_file = 'node-1.psk'\n");
    std::fs::write(relay.path("relay.toml"), format!("{config}{client}")).unwrap();
    let mut relay = relay;
    relay.run();
    let admin = relay.admin();
    let view: ClientView = admin.get("/api/clients/node-1").await.unwrap().value;
    assert_eq!(view.state, ClientState::File);
    let problem = refused(admin.delete("/api/clients/node-1", None).await);
    assert!(
        problem.is(Kind::Conflict) && problem.detail.contains("line "),
        "{problem}"
    );
    let problem = refused(
        admin
            .post::<Invited>("/api/invites", &invitation("node-1"))
            .await,
    );
    assert!(problem.is(Kind::Conflict), "{problem}");
    relay.ends();
}

#[tokio::test]
async fn health_and_counters_want_no_token_here() {
    let relay = Relay::start("");
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = relay.sends("GET", path, "", b"").await;
        assert!(
            answer.starts_with("HTTP/1.1 204 ") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }
    let counters = relay.sends("GET", "/metrics", "", b"").await;
    assert!(
        counters.contains("content-type: text/plain; version=0.0.4"),
        "{counters}"
    );
    assert!(counters.contains("\nadit_tunnels 0\n"), "{counters}");
    let whoami: Whoami = relay.admin().get("/api/whoami").await.unwrap().value;
    assert_eq!((&*whoami.name, whoami.role), ("(token_file)", Role::Admin));
    relay.ends();
}

#[tokio::test]
async fn counters_move() {
    let relay = Relay::start("");
    let invited: Invited = relay
        .admin()
        .post("/api/invites", &json!({"name": "node-1"}))
        .await
        .unwrap()
        .value;
    let node = relay.node(&invited.join).await;
    let end = Instant::now() + PATIENCE;
    loop {
        let counters = relay.sends("GET", "/metrics", "", b"").await;
        if counters.contains("\nadit_tunnels 1\n") {
            break;
        }
        assert!(Instant::now() < end, "{counters}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(node);
    relay.ends();
}
