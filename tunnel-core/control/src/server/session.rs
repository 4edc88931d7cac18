//! Who one is, and the sessions of browsers.

use std::sync::Arc;

use axum::{
    Extension,
    response::{IntoResponse, Response},
};
use hyper::{HeaderMap, StatusCode, header::SET_COOKIE};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access::{Access, Role, Viewer},
    extract::Json,
    problem::Problem,
};

/// What opens and ends sessions.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) access: Arc<Access>,
    /// The service is reached over TLS.
    pub(super) is_secure: bool,
}

/// Whose token a request has brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Whoami {
    /// The token's name.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// Where the request came from: an address, or `unix`.
    pub from: String,
}

/// Whose token this is.
#[utoipa::path(
    get,
    path = "/api/whoami",
    responses((status = 200, body = Whoami), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn whoami(Viewer(caller): Viewer) -> Json<Whoami> {
    Json(Whoami {
        name: caller.name.to_string(),
        role: caller.role,
        from: caller.from.to_string(),
    })
}

/// Open a session for a browser: a cookie stands for the token.
///
/// The cookie is `HttpOnly` and `SameSite=Strict`. It serves requests that this service's own pages send, for 12 hours, an hour
/// after its last use at most, and as long as the token is valid.
#[utoipa::path(
    post,
    path = "/api/session",
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn log_in(
    Viewer(caller): Viewer,
    Extension(desk): Extension<Desk>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    desk.access.check_host(&headers)?;
    let cookie = desk.access.open_session(&caller, desk.is_secure);
    let cookie = cookie.map_err(|error| Problem::unavailable(format!("{error}.")))?;
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

/// End the session whose cookie is sent.
#[utoipa::path(
    delete,
    path = "/api/session",
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn log_out(
    _: Viewer,
    Extension(desk): Extension<Desk>,
    headers: HeaderMap,
) -> Response {
    let cookie = desk.access.close_session(&headers, desk.is_secure);
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}
