//! What should not be sent, and what the disk should not be: each a clear error, nothing half done.

use std::fs;

use adit_control::{
    access::Role,
    client::path,
    model::{ClientView, Invited, Page},
    problem::{Kind, Problem},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Relay, refused};

async fn clients(relay: &Relay) -> usize {
    let page: Page<ClientView> = relay.admin().get("/api/clients").await.unwrap().value;
    page.items.len()
}

#[tokio::test]
async fn bodies_that_cannot_be_are_refused_with_their_place() {
    let relay = Relay::start("");
    let bearer = format!("{}content-type: application/json\r\n", relay.bearer());
    let post = async |body: &[u8]| {
        let answer = relay.sends("POST", "/api/invites", &bearer, body).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Problem>(body).unwrap()
    };
    let deep = format!(
        "{{\"name\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let nested = deep.replacen("name", "names", 1);
    let malformed: [&[u8]; 5] = [
        b"",
        b"{",
        b"nonsense",
        b"{\"name\":\"node-1\"} x",
        b"\xff\xfe",
    ];
    for body in malformed {
        let problem = post(body).await;
        assert!(problem.is(Kind::Malformed), "{problem}");
    }
    for body in [deep, nested] {
        let problem = post(body.as_bytes()).await;
        assert!(
            problem.is(Kind::Invalid) || problem.is(Kind::Malformed),
            "{problem}"
        );
    }
    let invalid = [
        (json!({"name": "node-1", "prots": "7777"}), "/prots"),
        (json!({"name": "Node 1"}), "/name"),
        (json!({"name": "../../etc"}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "x".repeat(64)}), "/name"),
        (json!({"name": 7}), "/name"),
        (json!({}), ""),
        (json!([]), ""),
        (json!(["node-1"]), ""),
        (json!({"name": "node-1", "ports": "0"}), "/ports"),
        (json!({"name": "node-1", "ports": "80"}), "/ports"),
        (json!({"name": "node-1", "ttl": "never"}), "/ttl"),
        (json!({"name": "node-1", "ttl": "-1h"}), "/ttl"),
        (
            json!({"name": "node-1", "advertise": "nowhere"}),
            "/advertise",
        ),
        (json!({"name": "node-1", "reusable": "yes"}), "/reusable"),
    ];
    for (body, place) in invalid {
        let problem = post(body.to_string().as_bytes()).await;
        assert!(problem.is(Kind::Invalid), "{body}: {problem}");
        assert_eq!(
            problem.errors[0].pointer.as_deref(),
            Some(place),
            "{body}: {problem}"
        );
    }
    let problem = post(&vec![b' '; 300 << 10]).await;
    assert!(problem.is(Kind::TooLarge), "{problem}");
    assert_eq!(clients(&relay).await, 0);
    relay.ends();
}

#[tokio::test]
async fn names_with_path_characters_lead_nowhere() {
    let relay = Relay::start("");
    let admin = relay.admin();
    for name in [
        "../clients",
        "a/b",
        "%",
        "\u{0}",
        "..",
        "\u{e4}",
        &"x".repeat(5000),
    ] {
        let path = path(["api", "clients", name]);
        for problem in [
            refused(admin.get::<Value>(&path).await),
            refused(admin.delete(&path, None).await),
        ] {
            assert!(problem.is(Kind::Invalid), "{name:?}: {problem}");
        }
    }
    for raw in [
        "/api/clients/%ff",
        "/api/../api/clients",
        "//api/clients",
        "/api/clients/",
        "/API/clients",
    ] {
        let answer = relay.sends("GET", raw, &relay.bearer(), b"").await;
        let status: u16 = answer[9..12].parse().unwrap();
        assert!((400..500).contains(&status), "{raw}: {answer}");
        assert!(
            answer.contains("application/problem+json"),
            "{raw}: {answer}"
        );
    }
    relay.ends();
}

#[tokio::test]
async fn a_state_file_that_is_locked_or_damaged_changes_nothing_and_is_named() {
    let mut relay = Relay::start("");
    let admin = relay.admin();
    admin
        .post::<Invited>("/api/invites", &json!({"name": "node-1"}))
        .await
        .unwrap();
    let holder = rusqlite::Connection::open(relay.path("state.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Who reads waits for nobody, while who writes waits.
    let second = json!({"name": "node-2"});
    let writing = admin.post::<Invited>("/api/invites", &second);
    let reading = async {
        assert_eq!(clients(&relay).await, 1);
        let ports: Value = relay.admin().get("/api/ports").await.unwrap().value;
        assert_eq!(ports["used"], json!([]));
    };
    let (written, ()) = tokio::join!(writing, reading);
    let problem = refused(written);
    assert!(problem.is(Kind::Unavailable), "{problem}");
    assert!(
        problem.detail.contains("Nothing was changed")
            && problem.detail.contains("another process holds it"),
        "{problem}"
    );
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(clients(&relay).await, 1);
    // A store of a newer version, and one that is no store.
    let version: i64 = holder
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    holder.execute_batch("PRAGMA user_version = 99").unwrap();
    let problem = refused(
        admin
            .post::<Invited>("/api/invites", &json!({"name": "node-2"}))
            .await,
    );
    assert!(
        problem.is(Kind::Unavailable) && problem.detail.contains("upgrade this one"),
        "{problem}"
    );
    let restore = format!("PRAGMA user_version = {version}");
    holder.execute_batch(&restore).unwrap();
    drop(holder);
    let whole = fs::read(relay.path("state.db")).unwrap();
    fs::write(relay.path("state.db"), vec![b'x'; 8192]).unwrap();
    for problem in [
        refused(
            admin
                .post::<Invited>("/api/invites", &json!({"name": "node-2"}))
                .await,
        ),
        refused(admin.get::<Value>("/api/clients").await),
        refused(admin.get::<Value>("/api/audit").await),
    ] {
        assert!(
            problem.is(Kind::Unavailable) && problem.detail.contains("restore it from a backup"),
            "{problem}"
        );
    }
    // The relay goes on: what needs no state file is served.
    admin.get::<Value>("/api/ports").await.unwrap();
    relay.killed();
    fs::write(relay.path("state.db"), whole).unwrap();
    relay.run();
    assert_eq!(clients(&relay).await, 1);
    relay.ends();
}

#[tokio::test]
async fn a_flood_is_refused_in_words_and_leaves_the_next_answer_to_others() {
    const REQUESTS: usize = 2000;
    let relay = Relay::start("");
    let other = relay.client_of("other", Role::Viewer).await;
    let request = |last: &str| {
        let (api, bearer) = (&relay.api, relay.bearer());
        format!("GET /api/whoami HTTP/1.1\r\nhost: {api}\r\n{bearer}{last}\r\n")
    };
    // One behind the other without waiting: more than 100 come in a second on any machine.
    let sent = request("").repeat(REQUESTS - 1) + &request("connection: close\r\n");
    let (mut reader, mut writer) = relay.connect().await.into_split();
    let flood = async {
        let mut answers = String::new();
        let (written, read) = tokio::join!(
            writer.write_all(sent.as_bytes()),
            reader.read_to_string(&mut answers)
        );
        written.unwrap();
        read.unwrap();
        answers
    };
    let others = async {
        for _ in 0..10 {
            other.get::<Value>("/api/whoami").await.unwrap();
        }
    };
    let (answers, ()) = tokio::join!(flood, others);
    let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status} ")).count();
    let (served, refused) = (count("200"), count("429"));
    assert!(
        served >= 400 && refused > 0,
        "{served} served, {refused} refused"
    );
    assert_eq!(served + refused, REQUESTS);
    assert_eq!(answers.matches("retry-after: ").count(), refused);
    relay.ends();
}
