use hyper::Request;

use super::*;
use crate::access::token::TokenRecord;

struct Changing(Mutex<Arc<[TokenRecord]>>);

impl Tokens for Changing {
    fn tokens(&self) -> Arc<[TokenRecord]> {
        self.0.lock().unwrap().clone()
    }
}

struct Desk {
    access: Access,
    tokens: Arc<Changing>,
    secret: Secret,
}

impl Desk {
    fn new() -> Self {
        let secret = Secret::generate().unwrap();
        let record = TokenRecord {
            name: "ops".into(),
            role: Role::Operator,
            digest: secret.digest(),
        };
        let tokens = Arc::new(Changing(Mutex::new(Arc::new([record]))));
        Self {
            access: Access::new(tokens.clone()).hosts(["relay.example.net"]),
            tokens,
            secret,
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", *self.secret.to_text())
    }

    fn asks(&self, uri: &str, headers: &[(&str, &str)]) -> Result<Option<Caller>, Problem> {
        self.identify(Method::GET, uri, headers).1
    }

    fn identify(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> (Parts, Result<Option<Caller>, Problem>) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let peer = Peer::Tcp("192.0.2.1:1000".parse().unwrap());
        let outcome = self.access.identify(&mut parts, peer);
        (parts, outcome)
    }

    /// The cookie of a session of the token.
    fn cookie(&self) -> String {
        let caller = self
            .asks("/", &[("authorization", &self.bearer())])
            .unwrap()
            .unwrap();
        let header = self.access.open_session(&caller, true).unwrap();
        let header = header.to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
            assert!(header.contains(part), "{header}");
        }
        header.split(';').next().unwrap().to_owned()
    }
}

#[test]
fn a_token_tells_who_asks_until_it_is_revoked() {
    let desk = Desk::new();
    let caller = desk
        .asks("/", &[("authorization", &desk.bearer())])
        .unwrap()
        .unwrap();
    assert_eq!((&*caller.name, caller.role), ("ops", Role::Operator));
    assert!(caller.is_current());
    assert!(caller.demand(Role::Operator).is_ok());
    assert!(caller.demand(Role::Admin).unwrap_err().is(Kind::Forbidden));
    assert!(desk.asks("/", &[]).unwrap().is_none());
    let wrong = format!("Bearer {}", *Secret::generate().unwrap().to_text());
    for wrong in [&*wrong, "Bearer", "Bearer x", "Basic YTpi", ""] {
        let problem = desk.asks("/", &[("authorization", wrong)]).unwrap_err();
        assert!(problem.is(Kind::Unauthorized), "{problem}");
    }
    *desk.tokens.0.lock().unwrap() = Arc::new([]);
    assert!(!caller.is_current());
    assert!(
        desk.asks("/", &[("authorization", &desk.bearer())])
            .is_err()
    );
}

#[test]
fn a_token_in_the_query_is_taken_only_where_it_is_allowed_and_stays_in_no_uri() {
    let mut desk = Desk::new();
    let text = desk.secret.to_text();
    let uri = format!("/api/clients?after=a&token={}&limit=3", *text);
    let (parts, refused) = desk.identify(Method::GET, &uri, &[]);
    assert!(refused.unwrap_err().detail.contains("allow_query_token"));
    assert_eq!(parts.uri, "/api/clients?after=a&limit=3");
    desk.access = Access::new(desk.tokens.clone()).allow_query_token(true);
    let (parts, caller) = desk.identify(Method::GET, &format!("/x?token={}", *text), &[]);
    assert_eq!(&*caller.unwrap().unwrap().name, "ops");
    assert_eq!(parts.uri, "/x");
    assert!(desk.asks("/x?token=&token", &[]).is_err());
}

#[test]
fn wrong_tokens_are_slowed_down_and_keep_out_nobody_who_has_a_right_one() {
    let desk = Desk::new();
    let tries: Vec<_> = (0..30)
        .map(|_| {
            desk.asks("/", &[("authorization", "Bearer wrong")])
                .unwrap_err()
        })
        .collect();
    let refused = tries
        .iter()
        .filter(|problem| problem.is(Kind::Unauthorized))
        .count();
    assert!((10..13).contains(&refused), "{refused}");
    let last = tries.last().unwrap();
    assert!(
        last.is(Kind::TooManyRequests) && last.retry_after.is_some(),
        "{last}"
    );
    assert!(
        desk.asks("/", &[("authorization", &desk.bearer())])
            .unwrap()
            .is_some()
    );
}

#[test]
fn each_token_and_each_address_has_its_own_allowance() {
    let allowance = Allowance {
        per_token: NonZeroU32::new(5).unwrap(),
        per_address: NonZeroU32::new(5).unwrap(),
    };
    let mut desk = Desk::new();
    desk.access = Access::new(desk.tokens.clone()).allowance(allowance);
    let bearer = desk.bearer();
    let served =
        |headers: &[(&str, &str)]| (0..200).filter(|_| desk.asks("/", headers).is_ok()).count();
    let by_address = served(&[]);
    assert!((20..40).contains(&by_address), "{by_address}");
    let by_token = served(&[("authorization", &bearer)]);
    assert!((20..40).contains(&by_token), "{by_token}");
}

#[test]
fn a_session_serves_this_services_own_pages_only() {
    let desk = Desk::new();
    let cookie = desk.cookie();
    let cookie = ("cookie", &*cookie);
    let own = ("host", "relay.example.net:7001");
    let who = |headers: &[(&str, &str)], method: Method| desk.identify(method, "/", headers).1;
    assert!(who(&[cookie, own], Method::GET).unwrap().is_some());
    for host in [
        "127.0.0.1:7001",
        "[::1]:7001",
        "localhost",
        "RELAY.example.net",
    ] {
        assert!(
            who(&[cookie, ("host", host)], Method::GET)
                .unwrap()
                .is_some(),
            "{host}"
        );
    }
    for host in ["evil.example", "127.0.0.1.evil.example:7001", "", "a b"] {
        let problem = who(&[cookie, ("host", host)], Method::GET).unwrap_err();
        assert!(problem.is(Kind::Misdirected), "{host}: {problem}");
    }
    let origin = ("origin", "http://relay.example.net:7001");
    assert!(who(&[cookie, own, origin], Method::POST).unwrap().is_some());
    let foreign: [&[(&str, &str)]; 5] = [
        &[cookie, own],
        &[cookie, own, ("origin", "null")],
        &[cookie, own, ("origin", "http://evil.example")],
        &[cookie, own, ("origin", "http://relay.example.net:80")],
        &[cookie, own, origin, ("sec-fetch-site", "cross-site")],
    ];
    for headers in foreign {
        let problem = who(headers, Method::POST).unwrap_err();
        assert!(problem.is(Kind::Forbidden), "{headers:?}: {problem}");
    }
}

#[test]
fn a_session_ends_with_its_token_and_by_request() {
    let desk = Desk::new();
    let cookie = desk.cookie();
    let headers = [("cookie", &*cookie), ("host", "localhost")];
    let (parts, caller) = desk.identify(Method::GET, "/", &headers);
    assert!(caller.unwrap().is_some());
    let gone = desk.access.close_session(&parts.headers, false);
    assert!(gone.to_str().unwrap().starts_with("adit_session=; "));
    assert!(gone.to_str().unwrap().contains("Max-Age=0"));
    assert!(desk.asks("/", &headers).unwrap().is_none());
    let cookie = desk.cookie();
    *desk.tokens.0.lock().unwrap() = Arc::new([]);
    assert!(
        desk.asks("/", &[("cookie", &cookie), ("host", "localhost")])
            .unwrap()
            .is_none()
    );
}
