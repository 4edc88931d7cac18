use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{extract::Request, routing::get};
use hyper::Method;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
};

use super::*;
use crate::{
    access::{Admin, Operator, Peer, Role, Secret, TokenRecord, Viewer},
    client::{Client, ClientError, Told},
    events::Ring,
    extract::Json,
    listen::Address,
    problem::{Kind, Problem},
    tls::Tls,
};

/// What the routes below share with their test.
#[derive(Clone, Default)]
struct Rooms {
    entered: Arc<Notify>,
    leave: Arc<Notify>,
    done: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Written(Mutex<Vec<Change>>, Notify);

impl Audit for Written {
    fn record(&self, change: Change) {
        self.0.lock().unwrap().push(change);
        self.1.notify_one();
    }
}

struct Running {
    address: Address,
    secrets: Vec<(Role, Secret)>,
    written: Arc<Written>,
    rooms: Rooms,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Number {
    value: u32,
}

#[utoipa::path(get, path = "/api/operate", responses((status = 200, body = u32)))]
async fn operate(_: Operator) -> Json<u32> {
    Json(1)
}

#[utoipa::path(post, path = "/api/number", request_body = Number, responses((status = 200, body = u32)))]
async fn number(_: Admin, Json(number): Json<Number>) -> (Extension<Detail>, Json<u32>) {
    (
        Extension(Detail(format!("number {}", number.value))),
        Json(number.value),
    )
}

#[utoipa::path(get, path = "/api/large", responses((status = 200, body = String)))]
async fn large(_: Viewer) -> String {
    "x".repeat(20 << 20)
}

impl Running {
    fn start(bounds: Bounds, tls: Option<Arc<Tls>>) -> Self {
        Self::with(bounds, tls, Router::new())
    }

    fn with(bounds: Bounds, tls: Option<Arc<Tls>>, more: Router) -> Self {
        let rooms = Rooms::default();
        let wait = |rooms: Rooms| {
            async move || {
                rooms.entered.notify_one();
                rooms.leave.notified().await;
                rooms.done.fetch_add(1, Ordering::SeqCst);
                "done"
            }
        };
        let open = Router::new()
            .route("/open", get(async || "open"))
            .route("/panic", get(panics).post(panics))
            .route("/wait", get(wait(rooms.clone())).post(wait(rooms.clone())))
            .merge(more);
        let secrets: Vec<_> = Role::ALL
            .map(|role| (role, Secret::generate().unwrap()))
            .into();
        let tokens: Arc<[TokenRecord]> = secrets
            .iter()
            .map(|(role, secret)| TokenRecord {
                name: role.as_str().into(),
                role: *role,
                digest: secret.digest(),
            })
            .collect();
        let written = Arc::new(Written::default());
        let server = Server::new("Test", Access::new(Arc::new(tokens)), written.clone())
            .bounds(bounds)
            .open(open)
            .health(|| true)
            .metrics(|| Some("adit_x 1\n".into()))
            .api(
                OpenApiRouter::new()
                    .routes(routes!(operate))
                    .routes(routes!(number))
                    .routes(routes!(large)),
            );
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), tls).unwrap();
        let address = listener.address().unwrap();
        let stop = CancellationToken::new();
        Self {
            address,
            secrets,
            written,
            rooms,
            stop: stop.clone(),
            task: tokio::spawn(server.serve(listener, stop)),
        }
    }

    fn client(&self, role: Role) -> Client {
        let (_, secret) = self.secrets.iter().find(|(of, _)| *of == role).unwrap();
        Client::new(self.address.clone()).token(secret)
    }

    fn bearer(&self, role: Role) -> String {
        let (_, secret) = self.secrets.iter().find(|(of, _)| *of == role).unwrap();
        format!("authorization: Bearer {}\r\n", *secret.to_text())
    }

    async fn connect(&self) -> TcpStream {
        let Address::Tcp(address) = &self.address else {
            panic!("{}", self.address);
        };
        TcpStream::connect(address).await.unwrap()
    }

    /// The whole text of an answer.
    async fn asks(&self, method: &str, path: &str, headers: &str) -> String {
        exchange(self.connect().await, method, path, headers).await
    }

    async fn ends(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn panics() -> &'static str {
    panic!("as asked")
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &str,
) -> String {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> Problem {
    match outcome.unwrap_err() {
        ClientError::Problem(problem) => problem,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_error_is_in_words_and_every_answer_can_be_found() {
    let running = Running::start(Bounds::default(), None);
    let bearer = running.bearer(Role::Admin);
    let cases = [
        ("GET", "/nowhere", "", 404),
        ("GET", "/api/nowhere", &*bearer, 404),
        ("PUT", "/api/operate", &*bearer, 405),
        ("GET", "/api/operate", "", 401),
        ("GET", "/api/whoami", "authorization: Bearer x\r\n", 401),
        ("POST", "/api/number", &*bearer, 415),
        ("GET", "/panic", "", 500),
        ("POST", "/panic", "", 500),
    ];
    for (method, path, headers, status) in cases {
        let answer = running.asks(method, path, headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {path}: {answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{answer}"
        );
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, status);
        for header in [
            "x-request-id: ",
            "content-security-policy: ",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(header), "{answer}");
        }
    }
    let answer = running.asks("PUT", "/api/operate", &bearer).await;
    assert!(answer.contains("\r\nallow: GET,HEAD\r\n"), "{answer}");
    let answer = running.asks("HEAD", "/api/nowhere", &bearer).await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert!(running.asks("GET", "/open", "").await.ends_with("open"));
    running.ends().await;
}

#[tokio::test]
async fn each_role_may_do_its_own_and_no_more() {
    let running = Running::start(Bounds::default(), None);
    let status = async |role: Role, method: Method, path: &str| {
        let client = running.client(role);
        let outcome = match method {
            Method::GET => client.get::<serde_json::Value>(path).await,
            _ => client.post(path, &serde_json::json!({"value": 7})).await,
        };
        outcome.map_or_else(|error| refused::<()>(Err(error)).status, |_| 200)
    };
    let expected = [
        (Role::Metrics, [403, 403, 403]),
        (Role::Viewer, [200, 403, 403]),
        (Role::Operator, [200, 200, 403]),
        (Role::Admin, [200, 200, 200]),
    ];
    for (role, [whoami, operate, number]) in expected {
        assert_eq!(
            status(role, Method::GET, "/api/whoami").await,
            whoami,
            "{role}"
        );
        assert_eq!(
            status(role, Method::GET, "/api/operate").await,
            operate,
            "{role}"
        );
        assert_eq!(
            status(role, Method::POST, "/api/number").await,
            number,
            "{role}"
        );
        assert!(
            running
                .asks("GET", "/metrics", &running.bearer(role))
                .await
                .ends_with("adit_x 1\n")
        );
    }
    let whoami: Whoami = running
        .client(Role::Viewer)
        .get("/api/whoami")
        .await
        .unwrap()
        .value;
    let expected = Whoami {
        name: "viewer".into(),
        role: Role::Viewer,
        from: "127.0.0.1".into(),
    };
    assert_eq!(whoami, expected);
    running.ends().await;
}

#[tokio::test]
async fn probes_want_no_token_and_counters_no_foreign_page() {
    let running = Running::start(Bounds::default(), None);
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = running.asks("GET", path, "").await;
        assert!(
            answer.starts_with("HTTP/1.1 204 ") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }
    let counters = running.asks("GET", "/metrics", "").await;
    assert!(
        counters.contains("content-type: text/plain; version=0.0.4"),
        "{counters}"
    );
    let proxied = "x-forwarded-for: 192.0.2.1\r\n";
    let answer = running.asks("GET", "/metrics", proxied).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let mut stream = running.connect().await;
    let text = b"GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    stream.write_all(text).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    running.ends().await;
}

#[tokio::test]
async fn what_is_too_large_or_wrong_is_refused_with_its_place() {
    let running = Running::start(Bounds::default(), None);
    let client = running.client(Role::Admin);
    let huge = "x".repeat(300 << 10);
    let problem = refused(client.post::<u32>("/api/number", &huge).await);
    assert!(problem.is(Kind::TooLarge), "{problem}");
    let problem = refused(
        client
            .post::<u32>("/api/number", &serde_json::json!({"value": -1}))
            .await,
    );
    assert_eq!(problem.errors[0].pointer.as_deref(), Some("/value"));
    let unknown = serde_json::json!({"value": 1, "vlaue": 2});
    assert!(refused(client.post::<u32>("/api/number", &unknown).await).is(Kind::Invalid));
    // What the other side sends is bounded, too.
    let error = client.get::<String>("/api/large").await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge), "{error}");
    let headers: String = (0..100)
        .map(|n| {
            format!(
                "x-{n}: 1
"
            )
        })
        .collect();
    let answer = running.asks("GET", "/open", &headers).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    running.ends().await;
}

#[tokio::test]
async fn each_change_is_written_down_with_who_whence_what_and_outcome() {
    let running = Running::start(Bounds::default(), None);
    let body = serde_json::json!({"value": 7});
    running
        .client(Role::Admin)
        .post::<u32>("/api/number?x=1", &body)
        .await
        .unwrap();
    refused(
        running
            .client(Role::Viewer)
            .post::<u32>("/api/number", &body)
            .await,
    );
    running
        .client(Role::Admin)
        .get::<Whoami>("/api/whoami")
        .await
        .unwrap();
    running.asks("POST", "/api/number", "").await;
    let written = running.written.0.lock().unwrap().clone();
    let shown: Vec<_> = written
        .iter()
        .map(|change| {
            (
                &*change.who,
                &*change.method,
                &*change.path,
                change.detail.as_deref(),
                change.status,
            )
        })
        .collect();
    let expected = [
        ("admin", "POST", "/api/number?x=1", Some("number 7"), 200),
        ("viewer", "POST", "/api/number", None, 403),
    ];
    assert_eq!(shown, expected);
    assert!(matches!(written[0].from, Peer::Tcp(address) if address.ip().is_loopback()));
    running.ends().await;
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_half_done() {
    let running = Running::start(Bounds::default(), None);
    let mut stream = running.connect().await;
    let text = format!(
        "POST /wait HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        running.bearer(Role::Admin)
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    running.rooms.entered.notified().await;
    drop(stream);
    // A second request that is served shows that the first one's connection was looked at meanwhile.
    running.asks("GET", "/open", "").await;
    running.rooms.leave.notify_one();
    running.written.1.notified().await;
    assert_eq!(running.rooms.done.load(Ordering::SeqCst), 1);
    assert_eq!(running.written.0.lock().unwrap()[0].status, 200);
    running.ends().await;
}

#[tokio::test]
async fn requests_beyond_the_bound_are_told_so_and_others_go_on() {
    let bounds = Bounds {
        requests: 1,
        ..Bounds::default()
    };
    let running = Running::start(bounds, None);
    let waiting = running.asks("GET", "/wait", "");
    let others = async {
        running.rooms.entered.notified().await;
        let answer = running.asks("GET", "/open", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "),
            "{answer}"
        );
        running.rooms.leave.notify_one();
    };
    let (waited, ()) = tokio::join!(waiting, others);
    assert!(waited.ends_with("done"), "{waited}");
    assert!(running.asks("GET", "/open", "").await.ends_with("open"));
    running.ends().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_not_waited_for() {
    let bounds = Bounds {
        request_time: Duration::from_millis(50),
        ..Bounds::default()
    };
    let running = Running::start(bounds, None);
    let answer = running.asks("GET", "/wait", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let answer = running
        .asks("POST", "/wait", &running.bearer(Role::Admin))
        .await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // The change goes on all the same, and is written down.
    running.rooms.leave.notify_one();
    running.written.1.notified().await;
    assert_eq!(running.rooms.done.load(Ordering::SeqCst), 1);
    running.ends().await;
}

#[tokio::test]
async fn who_says_nothing_and_who_reads_nothing_make_room_for_the_next() {
    let bounds = Bounds {
        connections: 1,
        head_time: Duration::from_millis(500),
        stall_time: Duration::from_millis(500),
        ..Bounds::default()
    };
    let endless = get(async || {
        let pieces = futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 16]))
        });
        Body::from_stream(pieces)
    });
    let running = Running::with(bounds, None, Router::new().route("/endless", endless));
    let _silent = running.connect().await;
    assert!(running.asks("GET", "/open", "").await.ends_with("open"));
    let mut half = running.connect().await;
    half.write_all(b"GET /open HTTP/1.1\r\nhost: ")
        .await
        .unwrap();
    assert!(running.asks("GET", "/open", "").await.ends_with("open"));
    let mut deaf = running.connect().await;
    deaf.write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(running.asks("GET", "/open", "").await.ends_with("open"));
    running.ends().await;
}

#[tokio::test]
async fn the_end_waits_for_who_is_served_and_not_for_ever() {
    let bounds = Bounds {
        grace: Duration::from_secs(20),
        ..Bounds::default()
    };
    let running = Running::start(bounds, None);
    let waiting = running.asks("GET", "/wait", "");
    let end = async {
        running.rooms.entered.notified().await;
        running.stop.cancel();
        running.rooms.leave.notify_one();
    };
    let (waited, ()) = tokio::join!(waiting, end);
    assert!(waited.ends_with("done"), "{waited}");
    running.task.await.unwrap();
    let bounds = Bounds {
        grace: Duration::from_millis(50),
        ..bounds
    };
    let running = Running::start(bounds, None);
    let mut stuck = running.connect().await;
    stuck
        .write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    running.rooms.entered.notified().await;
    running.ends().await;
}

#[tokio::test]
async fn a_session_of_a_browser_is_opened_used_and_ended() {
    let running = Running::start(Bounds::default(), None);
    let answer = running
        .asks("POST", "/api/session", &running.bearer(Role::Operator))
        .await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let cookie = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    let whoami = running.asks("GET", "/api/whoami", &cookie).await;
    assert!(whoami.contains("\"name\":\"operator\""), "{whoami}");
    let answer = running.asks("DELETE", "/api/session", &cookie).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let own = format!("{cookie}origin: http://localhost\r\n");
    let answer = running.asks("DELETE", "/api/session", &own).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let answer = running.asks("GET", "/api/whoami", &cookie).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    running.ends().await;
}

#[tokio::test]
async fn the_document_has_every_route_of_the_api() {
    let running = Running::start(Bounds::default(), None);
    let document: serde_json::Value = running
        .client(Role::Viewer)
        .get("/api/openapi.json")
        .await
        .unwrap()
        .value;
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        paths,
        [
            "/api/large",
            "/api/number",
            "/api/operate",
            "/api/session",
            "/api/whoami"
        ]
    );
    assert!(document["components"]["schemas"]["Problem"].is_object());
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
    running.ends().await;
}

#[tokio::test]
async fn a_client_follows_events_and_goes_on_where_it_was() {
    let ring = Ring::new("s1");
    let told = ring.clone();
    let events = get(async move |Viewer(caller): Viewer, request: Request| {
        told.respond(request.headers(), caller)
    });
    let running = Running::with(
        Bounds::default(),
        None,
        Router::new().route("/events", events),
    );
    let client = running.client(Role::Viewer);
    let mut stream = client.events("/events", None).await.unwrap();
    ring.publish("a", &1);
    ring.publish("b", &2);
    for kind in ["a", "b"] {
        let told = stream.next().await.unwrap().unwrap();
        assert!(
            matches!(&told, Told::Event(event) if event.kind == kind),
            "{told:?}"
        );
    }
    let last = stream.last().unwrap().to_owned();
    drop(stream);
    ring.publish("c", &3);
    let mut stream = client.events("/events", Some(&last)).await.unwrap();
    let told = stream.next().await.unwrap().unwrap();
    assert!(
        matches!(&told, Told::Event(event) if event.kind == "c" && event.data == 3),
        "{told:?}"
    );
    let mut stream = client.events("/events", Some("other:5")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), Told::Gap(None));
    assert!(refused(client.events("/events", Some("nonsense")).await).is(Kind::Invalid));
    ring.close();
    running.ends().await;
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_come() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
    let make = || {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = make();
    let tls = Tls::load(&certificate, &key).unwrap();
    let bounds = Bounds {
        head_time: Duration::from_secs(2),
        connections: 1,
        ..Bounds::default()
    };
    let running = Running::start(bounds, Some(tls.clone()));
    let asks = async |trusted: &CertificateDer<'static>| {
        let stream = connect_tls(running.connect().await, trusted).await?;
        Ok::<_, std::io::Error>(exchange(stream, "GET", "/open", "").await)
    };
    assert!(asks(&first).await.unwrap().ends_with("open"));
    let second = make();
    tls.reload().unwrap();
    assert!(asks(&first).await.is_err());
    assert!(asks(&second).await.unwrap().ends_with("open"));
    // Who never ends a handshake keeps nobody out.
    let _silent = running.connect().await;
    assert!(asks(&second).await.unwrap().ends_with("open"));
    running.ends().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_serves_whoever_has_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let address = Address::Unix(dir.path().join("admin.sock"));
    let secret = Secret::generate().unwrap();
    let token = TokenRecord {
        name: "local".into(),
        role: Role::Viewer,
        digest: secret.digest(),
    };
    let tokens: Arc<[TokenRecord]> = Arc::new([token]);
    let server = Server::new("Test", Access::new(Arc::new(tokens)), Arc::new(LogAudit));
    let stop = CancellationToken::new();
    let listener = Listener::bind(&address, None).unwrap();
    let task = tokio::spawn(server.serve(listener, stop.clone()));
    let client = Client::new(address.clone());
    let problem = refused(client.get::<Whoami>("/api/whoami").await);
    assert!(problem.is(Kind::Unauthorized), "{problem}");
    let whoami = client
        .token(&secret)
        .get::<Whoami>("/api/whoami")
        .await
        .unwrap()
        .value;
    assert_eq!((&*whoami.name, &*whoami.from), ("local", "unix"));
    stop.cancel();
    task.await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = Client::new(address)
        .get::<Whoami>("/api/whoami")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}

async fn connect_tls(
    stream: TcpStream,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}
