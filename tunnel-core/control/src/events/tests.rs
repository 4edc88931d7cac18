use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::json;

use super::*;
use crate::access::{Access, Peer, Role, Secret, TokenRecord, Tokens};

#[derive(Clone)]
struct One(Arc<Mutex<Arc<[TokenRecord]>>>);

impl Tokens for One {
    fn tokens(&self) -> Arc<[TokenRecord]> {
        self.0.lock().unwrap().clone()
    }
}

/// Somebody who may read, and the list from which its token can be struck.
struct Somebody {
    tokens: One,
    access: Access,
    secret: Secret,
}

impl Somebody {
    fn new() -> Self {
        let secret = Secret::generate().unwrap();
        let record = TokenRecord {
            name: "reader".into(),
            role: Role::Viewer,
            digest: secret.digest(),
        };
        let tokens = One(Arc::new(Mutex::new(Arc::new([record]))));
        Self {
            access: Access::new(Arc::new(tokens.clone())),
            tokens,
            secret,
        }
    }

    fn caller(&self) -> Caller {
        let bearer = format!("Bearer {}", *self.secret.to_text());
        let request = hyper::Request::builder().header("authorization", bearer);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        self.access
            .identify(&mut parts, Peer::Local)
            .unwrap()
            .unwrap()
    }

    /// The stream of a reader that was at `last`, without its greeting.
    async fn reads(&self, ring: &Ring, last: Option<&str>) -> axum::body::BodyDataStream {
        let mut headers = HeaderMap::new();
        if let Some(last) = last {
            headers.insert(LAST_EVENT_ID, last.parse().unwrap());
        }
        let response = ring.respond(&headers, self.caller()).unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let mut stream = response.into_body().into_data_stream();
        assert_eq!(next(&mut stream).await, "retry: 2000\n\n");
        stream
    }
}

async fn next(stream: &mut axum::body::BodyDataStream) -> String {
    let piece = stream.next().await.unwrap().unwrap();
    String::from_utf8(piece.to_vec()).unwrap()
}

fn ids(text: &str) -> Vec<u64> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str::<Event>(data).unwrap().id)
        .collect()
}

#[tokio::test]
async fn a_reader_gets_what_comes_and_after_a_break_what_came_meanwhile() {
    let (somebody, ring) = (Somebody::new(), Ring::new("s1"));
    ring.publish("early", &());
    let mut stream = somebody.reads(&ring, None).await;
    ring.publish("client_connected", &json!({"client": "a\nb"}));
    let text = next(&mut stream).await;
    assert!(
        text.starts_with("event: client_connected\nid: s1:2\ndata: {"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4, "{text}");
    let event: Event =
        serde_json::from_str(text.lines().nth(2).unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        (event.id, &*event.session, &*event.kind),
        (2, "s1", "client_connected")
    );
    assert_eq!(event.data["client"], "a\nb");
    assert!(
        humantime::parse_rfc3339(&event.time).is_ok(),
        "{}",
        event.time
    );
    drop(stream);
    for _ in 0..3 {
        ring.publish("x", &());
    }
    let mut stream = somebody.reads(&ring, Some("s1:2")).await;
    assert_eq!(ids(&next(&mut stream).await), [3, 4, 5]);
    ring.close();
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn what_the_ring_has_lost_is_told_as_a_gap() {
    let (somebody, ring) = (Somebody::new(), Ring::new("s1"));
    for _ in 0..EVENTS + 10 {
        ring.publish("x", &());
    }
    let mut stream = somebody.reads(&ring, Some("s1:4")).await;
    let gap = next(&mut stream).await;
    assert!(
        gap.starts_with("event: gap\nid: s1:10\n") && gap.contains("\"lost\":6"),
        "{gap}"
    );
    let first = next(&mut stream).await;
    assert_eq!(ids(&first)[0], 11);
    assert!(first.len() <= PIECE);
    // One of another process, and one that claims to be ahead.
    let mut stream = somebody.reads(&ring, Some("s0:99999")).await;
    assert!(next(&mut stream).await.contains("\"lost\":null"));
    let mut stream = somebody.reads(&ring, Some("s1:99999999")).await;
    ring.publish("x", &());
    assert_eq!(ids(&next(&mut stream).await), [EVENTS as u64 + 11]);
}

#[tokio::test]
async fn a_reader_that_never_reads_costs_bounded_memory_and_holds_nobody_up() {
    let (somebody, ring) = (Somebody::new(), Ring::new("s1"));
    let _slow = somebody.reads(&ring, None).await;
    let mut quick = somebody.reads(&ring, None).await;
    let large = "x".repeat(EVENT_SIZE / 2);
    for id in 1..=2000 {
        ring.publish("x", &large);
        assert_eq!(ids(&next(&mut quick).await), [id]);
    }
    assert!(ring.kept().size <= SIZE);
    // One that is too large is told without its data.
    ring.publish("huge", &"x".repeat(EVENT_SIZE));
    let text = next(&mut quick).await;
    assert!(
        text.contains("\"type\":\"huge\"") && text.contains("\"data\":null"),
        "{text}"
    );
}

#[tokio::test]
async fn no_more_than_a_number_read_and_each_until_its_token_ends() {
    let (somebody, ring) = (Somebody::new(), Ring::new("s1"));
    let mut streams = Vec::new();
    for _ in 0..READERS {
        streams.push(somebody.reads(&ring, None).await);
    }
    let refused = ring
        .respond(&HeaderMap::new(), somebody.caller())
        .unwrap_err();
    assert!(refused.is(Kind::Unavailable), "{refused}");
    *somebody.tokens.0.lock().unwrap() = Arc::new([]);
    ring.publish("secret", &());
    for mut stream in streams {
        assert!(stream.next().await.is_none());
    }
    assert_eq!(ring.readers.available_permits(), READERS);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_that_it_lives() {
    let (somebody, ring) = (Somebody::new(), Ring::new("s1"));
    let mut stream = somebody.reads(&ring, None).await;
    assert_eq!(next(&mut stream).await, ": heartbeat\n\n");
}

#[test]
fn a_position_is_a_session_and_a_number() {
    let position: Position = "a-1:7".parse().unwrap();
    assert_eq!(position.to_string(), "a-1:7");
    for bad in [
        "",
        "7",
        ":7",
        "a:",
        "a:-1",
        "a:99999999999999999999",
        "a b:1",
        "a\n:1",
        &format!("{}:1", "a".repeat(65)),
    ] {
        assert_eq!(bad.parse::<Position>(), Err(PositionError), "{bad}");
    }
}
