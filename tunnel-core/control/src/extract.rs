//! What a handler reads of a request. What cannot be read is a [`Problem`] that says where and why.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, OptionalFromRequestParts, Request, rejection::BytesRejection,
    },
    response::{IntoResponse, Response},
};
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH},
    http::request::Parts,
};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::error::Category;

use crate::problem::{Kind, Problem};

/// A body of JSON, an object; and an answer of JSON. Types that are read refuse what they do not know
/// (`#[serde(deny_unknown_fields)]`).
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "Send the body with the header content-type: application/json.";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        let read = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state));
        let body = match read.await {
            Ok(Ok(body)) => body,
            Ok(Err(rejection)) => return Err(unreadable(&rejection)),
            Err(_) => {
                let detail = format!("The body did not come within {} s.", BODY_TIME.as_secs());
                return Err(Problem::new(Kind::Timeout, detail));
            }
        };
        parse(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Parameters of the path.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
        {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::invalid_parameter("path", rejection.body_text())),
        }
    }
}

/// Parameters of the query.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::invalid_parameter("query", rejection.body_text())),
        }
    }
}

/// The version of a resource: what stands in `ETag`, in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// The version of what `shown` says: equal contents have equal versions.
    pub fn of(shown: &impl Serialize) -> Self {
        // What cannot be written as JSON was not shown to anybody.
        let text = serde_json::to_vec(shown).unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        let hex = digest
            .as_ref()
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"));
        Self(format!("\"{}\"", hex.collect::<String>()))
    }

    /// An answer that carries it in its header `ETag`.
    pub fn tag(&self, response: impl IntoResponse) -> Response {
        let mut response = response.into_response();
        if let Ok(value) = HeaderValue::try_from(&self.0) {
            response.headers_mut().insert(ETAG, value);
        }
        response
    }
}

/// The precondition of a change: `If-Match` with the version that was seen, or `*` for any.
#[derive(Debug, Clone)]
pub struct IfMatch(String);

impl IfMatch {
    /// Whether what is there now (`None`: nothing) is what the caller has seen.
    pub fn check(&self, now: Option<&Version>) -> Result<(), Problem> {
        // Weak tags never match (RFC 9110, 13.1.1).
        let mut wanted = self.0.split(',').map(str::trim);
        match now {
            Some(version) if wanted.any(|tag| tag == "*" || tag == version.0) => Ok(()),
            Some(version) => Err(Problem::new(
                Kind::PreconditionFailed,
                format!(
                    "Somebody else has changed it: it is {} now. Read it again, and decide again.",
                    version.0
                ),
            )),
            None => Err(Problem::new(
                Kind::PreconditionFailed,
                "It is not there any more.",
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IF_MATCH) else {
            let detail =
                "Send If-Match with the ETag of the version that you have read, or * for any.";
            return Err(Problem::new(Kind::PreconditionRequired, detail));
        };
        match value.to_str() {
            Ok(text) => Ok(Self(text.to_owned())),
            Err(_) => Err(Problem::new(Kind::Malformed, "If-Match is not text.")),
        }
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        if !parts.headers.contains_key(IF_MATCH) {
            return Ok(None);
        }
        let read = <Self as FromRequestParts<S>>::from_request_parts(parts, state).await;
        read.map(Some)
    }
}

/// How long a body may take to come: 256 KiB over a slow line in seconds, and no longer.
const BODY_TIME: Duration = Duration::from_secs(10);

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn unreadable(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(
            Kind::TooLarge,
            "Send less at a time: a body may have 256 KiB.",
        );
    }
    Problem::new(Kind::Malformed, "The body broke off.")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // A list would be taken for an object whose keys are left out.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => Problem::invalid("", "expected an object"),
            Err(error) => wrong(String::new(), &error),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = pointer(error.path());
        wrong(place, error.inner())
    })?;
    reader.end().map_err(|error| wrong(String::new(), &error))?;
    Ok(value)
}

fn wrong(pointer: String, error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::invalid(pointer, error.to_string()),
        Category::Io | Category::Syntax | Category::Eof => Problem::new(
            Kind::Malformed,
            format!("The body is no JSON that can be read: {error}."),
        ),
    }
}

/// A path as RFC 6901 writes it.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        text.push('/');
        text.push_str(&part);
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        name: String,
        #[serde(default)]
        parts: Vec<Self>,
    }

    async fn read(body: impl Into<Body>, media: &str) -> Result<Thing, Problem> {
        let request = Request::builder()
            .header(CONTENT_TYPE, media)
            .body(body.into())
            .unwrap();
        Json::from_request(request, &()).await.map(|json| json.0)
    }

    #[tokio::test]
    async fn a_body_is_read_or_refused_with_its_place() {
        let media = "application/json; charset=utf-8";
        assert_eq!(read(r#"{"name":"a"}"#, media).await.unwrap().name, "a");
        let wrong = read(r#"{"name":"a","parts":[{"name":"b"},{"name":7}]}"#, media)
            .await
            .unwrap_err();
        assert!(wrong.is(Kind::Invalid), "{wrong}");
        assert_eq!(wrong.errors[0].pointer.as_deref(), Some("/parts/1/name"));
        let unknown = read(r#"{"name":"a","parts":[{"name":"b","nmae":1}]}"#, media)
            .await
            .unwrap_err();
        assert!(unknown.is(Kind::Invalid), "{unknown}");
        assert_eq!(unknown.errors[0].pointer.as_deref(), Some("/parts/0/nmae"));
        for list in [r#"["a"]"#, "7", "null", "\"a\""] {
            let problem = read(list, media).await.unwrap_err();
            assert!(problem.is(Kind::Invalid), "{list}: {problem}");
        }
        for malformed in [
            "",
            "{",
            "nonsense",
            r#"{"name":"a"} trailing"#,
            r#"{"name":"\ud800"}"#,
            "{\"name\":\"\u{0}\"}",
        ] {
            let problem = read(malformed, media).await.unwrap_err();
            assert!(problem.is(Kind::Malformed), "{malformed}: {problem}");
        }
        let problem = read(vec![b'"', 0xff, b'"'], media).await.unwrap_err();
        assert!(
            problem.is(Kind::Malformed) || problem.is(Kind::Invalid),
            "{problem}"
        );
        for media in ["text/plain", "", "application/jsonx"] {
            let problem = read(r#"{"name":"a"}"#, media).await.unwrap_err();
            assert!(problem.is(Kind::UnsupportedMediaType), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_nested_deeply_overflows_nothing() {
        let deep = format!(
            "{}{}",
            r#"{"name":"a","parts":["#.repeat(50_000),
            "]}".repeat(50_000)
        );
        let problem = parse::<Thing>(deep.as_bytes()).unwrap_err();
        assert!(problem.is(Kind::Malformed), "{problem}");
        assert!(problem.detail.contains("recursion limit"), "{problem}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_no_longer_than_it_may() {
        let never =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = read(never, "application/json").await.unwrap_err();
        assert!(problem.is(Kind::Timeout), "{problem}");
    }

    #[test]
    fn a_change_names_the_version_that_it_is_about() {
        let (old, new) = (Version::of(&1), Version::of(&2));
        assert_eq!(old, Version::of(&1));
        let matches = |text: &str, now| IfMatch(text.to_owned()).check(now);
        assert_eq!(matches(&old.0, Some(&old)), Ok(()));
        assert_eq!(matches("*", Some(&new)), Ok(()));
        assert_eq!(matches(&format!("\"x\", {}", new.0), Some(&new)), Ok(()));
        let failed = [
            matches(&old.0, Some(&new)),
            matches("*", None),
            matches(&format!("W/{}", new.0), Some(&new)),
        ];
        for outcome in failed {
            assert!(outcome.unwrap_err().is(Kind::PreconditionFailed));
        }
    }
}
