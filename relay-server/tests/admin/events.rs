//! Events, followed by who reads them and by who does not.

use adit_control::client::Told;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::Relay;

#[tokio::test]
async fn a_client_that_comes_and_goes_is_told_and_what_was_missed_is_caught_up() {
    let mut relay = Relay::start("");
    let admin = relay.admin();
    let mut events = admin.events("/api/events", None).await.unwrap();
    let mut kinds = Vec::new();
    let invited = admin
        .post::<serde_json::Value>("/api/invites", &json!({"name": "node-1"}))
        .await
        .unwrap();
    let node = relay.node(invited.value["join"].as_str().unwrap()).await;
    while !kinds.contains(&"client_connected".to_owned()) {
        match events.next().await.unwrap().unwrap() {
            Told::Event(event) => kinds.push(event.kind),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kinds[0], "client_invited");
    assert!(kinds.contains(&"client_enrolled".to_owned()), "{kinds:?}");
    let last = events.last().unwrap().to_owned();
    drop(events);
    node.shutdown(std::time::Duration::ZERO).await;
    let mut events = admin.events("/api/events", Some(&last)).await.unwrap();
    loop {
        match events.next().await.unwrap().unwrap() {
            Told::Event(event) if event.kind == "client_disconnected" => {
                assert_eq!(event.data["client"], "node-1");
                break;
            }
            Told::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // Another process knows nothing of what that one has told, and says so.
    relay.killed();
    relay.run();
    let mut events = relay
        .admin()
        .events("/api/events", Some(&last))
        .await
        .unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), Told::Gap(None));
    relay.ends();
}

#[tokio::test]
async fn readers_that_read_nothing_hold_nobody_up() {
    let relay = Relay::start("");
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut stream = relay.connect().await;
        let head = format!(
            "GET /api/events HTTP/1.1\r\nhost: {}\r\n{}\r\n",
            relay.api,
            relay.bearer()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Its answer has begun.
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        deaf.push(stream);
    }
    let admin = relay.admin();
    let mut quick = admin.events("/api/events", None).await.unwrap();
    for number in 0..50 {
        let name = format!("node-{number}");
        admin
            .post::<serde_json::Value>("/api/invites", &json!({"name": name}))
            .await
            .unwrap();
        match quick.next().await.unwrap().unwrap() {
            Told::Event(event) => assert_eq!(event.data["client"], name),
            other => panic!("{other:?}"),
        }
    }
    // Who never reads does not delay the end either.
    relay.ends();
}
