//! Errors as RFC 9457 has them: `application/problem+json`, with words that say what to do.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $status:literal $slug:literal $title:literal,)+) => {
        /// What went wrong, as far as a program wants to tell one from another.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Kind {
            /// The status of its answers.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => match StatusCode::from_u16($status) {
                        Ok(status) => status,
                        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                    },)+
                }
            }

            /// Its `type`, a relative URI that stays.
            pub const fn uri(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("/problems/", $slug),)+
                }
            }

            /// Its `title`: what kind of problem it is, in words.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)+
                }
            }

            /// The kind for a status that came without a problem.
            fn of_status(status: StatusCode) -> Self {
                match status.as_u16() {
                    $($status => Self::$variant,)+
                    _ if status.is_client_error() => Self::Malformed,
                    _ => Self::Internal,
                }
            }
        }
    };
}

kinds! {
    /// It cannot be read at all.
    Malformed = 400 "malformed" "The request cannot be read",
    /// No token, or none that is valid.
    Unauthorized = 401 "unauthorized" "A valid token is wanted",
    /// The caller may not do this.
    Forbidden = 403 "forbidden" "Not allowed",
    /// There is no such thing.
    NotFound = 404 "not-found" "There is no such thing",
    /// The path has other methods.
    MethodNotAllowed = 405 "method-not-allowed" "The path has no such method",
    /// The body did not come in time.
    Timeout = 408 "timeout" "The request did not come in time",
    /// It contradicts what is there.
    Conflict = 409 "conflict" "It contradicts what is there",
    /// `If-Match` names an older version.
    PreconditionFailed = 412 "precondition-failed" "It has changed meanwhile",
    /// The body is larger than bodies may be.
    TooLarge = 413 "too-large" "The body is too large",
    /// The body is no JSON by its own word.
    UnsupportedMediaType = 415 "unsupported-media-type" "The body is of another type",
    /// The browser came by a name that is not this service's.
    Misdirected = 421 "misdirected" "The request is for another host",
    /// It can be read, and asks for what cannot be.
    Invalid = 422 "invalid" "The request is not valid",
    /// A change without `If-Match`, where one is wanted.
    PreconditionRequired = 428 "precondition-required" "If-Match is wanted",
    /// Asked too often.
    TooManyRequests = 429 "too-many-requests" "Too many requests",
    /// A fault of the program.
    Internal = 500 "internal" "The service has failed",
    /// Not now.
    Unavailable = 503 "unavailable" "Not possible at the moment",
    /// The disk is full.
    InsufficientStorage = 507 "insufficient-storage" "There is no room left on the disk",
}

/// An answer that says what went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Problem {
    /// What kind of problem it is: a URI reference for programs, such as `/problems/not-found`.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub uri: String,
    /// The same in words.
    pub title: String,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// What is wrong with which part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// When it makes sense to try again.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// What is wrong with one part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct FieldError {
    /// Where in the body: a JSON pointer (RFC 6901), empty for the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/services/0/public_port")]
    pub pointer: Option<String>,
    /// Which parameter of the path or the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong.
    pub detail: String,
}

impl Problem {
    /// A problem of a kind; `detail` is a sentence that says what to do.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            uri: kind.uri().to_owned(),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// For an answer with an error status that says nothing itself.
    pub fn of_status(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::NOT_FOUND => "No route has this path: /api/openapi.json has them all.",
            StatusCode::METHOD_NOT_ALLOWED => "The header Allow says which methods this path has.",
            _ => "The request was refused.",
        };
        Self {
            status: status.as_u16(),
            ..Self::new(Kind::of_status(status), detail)
        }
    }

    /// There is no such thing: `detail` says what was looked for, and where all are.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// It contradicts what is there.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    /// The place `pointer` (RFC 6901) of the body asks for what cannot be.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(
            Kind::Invalid,
            "The body has values that are not valid: see errors.",
        )
        .with_field(pointer, detail)
    }

    /// A parameter of the path or the query is not valid.
    pub fn invalid_parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(Kind::Invalid, "A parameter is not valid: see errors.");
        problem.errors.push(FieldError {
            pointer: None,
            parameter: Some(name.into()),
            detail: detail.into(),
        });
        problem
    }

    /// A fault of the program itself. What it was is for the log, not for the caller.
    pub fn internal() -> Self {
        let detail =
            "This is a fault of the service: its log has more under this answer's x-request-id.";
        Self::new(Kind::Internal, detail)
    }

    /// It cannot be done now, and may be in a while.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after(Duration::from_secs(1))
    }

    /// Adds what is wrong with the place `pointer` of the body.
    #[must_use]
    pub fn with_field(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError {
            pointer: Some(pointer.into()),
            parameter: None,
            detail: detail.into(),
        });
        self
    }

    /// Says when to try again.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.uri == kind.uri()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.status, self.detail)?;
        for error in &self.errors {
            let place = error.pointer.as_ref().or(error.parameter.as_ref());
            write!(f, "; {}: {}", place.map_or("", |place| place), error.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and numbers: they always become JSON.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            // Rounded up: who comes at that time is not early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The media type of problems.
pub const MEDIA_TYPE: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_says_what_is_wrong_where_and_when_to_come_again() {
        let problem = Problem::invalid("/ports", "0 is no port")
            .with_field("/name", "too long")
            .retry_after(Duration::from_millis(1500));
        let text = problem.to_string();
        assert!(
            text.ends_with("; /ports: 0 is no port; /name: too long"),
            "{text}"
        );
        let response = problem.clone().into_response();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["type"], "/problems/invalid");
        assert_eq!(json["status"], 422);
        assert_eq!(json["errors"][0]["pointer"], "/ports");
        assert_eq!(json["errors"][1]["detail"], "too long");
        let read: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            Problem {
                retry_after: problem.retry_after,
                ..read
            },
            problem
        );
    }

    #[test]
    fn a_status_without_words_gets_some() {
        let of = |status| Problem::of_status(StatusCode::from_u16(status).unwrap());
        assert!(of(404).is(Kind::NotFound));
        assert!(of(405).is(Kind::MethodNotAllowed));
        assert_eq!((of(418).status, of(418).is(Kind::Malformed)), (418, true));
        assert_eq!((of(501).status, of(501).is(Kind::Internal)), (501, true));
        let unauthorized = Problem::new(Kind::Unauthorized, "").into_response();
        assert_eq!(unauthorized.headers()[WWW_AUTHENTICATE], "Bearer");
    }
}
