//! What is asked without a token: whether the program lives, and, from this machine, its counters.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::guard::{Bare, peer};
use crate::{
    access::{self, Access, Caller},
    problem::Problem,
    prometheus,
};

pub(super) fn health(is_ready: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Router {
    let ready = get(async move || bare(is_ready()));
    Router::new()
        .route("/health", ready.clone())
        .route("/health/ready", ready)
        .route("/health/live", get(async || bare(true)))
}

pub(super) fn metrics(
    access: Arc<Access>,
    text: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
) -> Router {
    let handler = async move |request: Request| counters(&access, &request, text);
    Router::new().route("/metrics", get(handler))
}

fn bare(is_well: bool) -> Response {
    let status = if is_well {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = status.into_response();
    response.extensions_mut().insert(Bare);
    response
}

fn counters(access: &Access, request: &Request, text: impl Fn() -> Option<String>) -> Response {
    let caller = request.extensions().get::<Caller>();
    if !access::may_read_metrics(caller, peer(request), request.headers()) {
        return access::no_token().into_response();
    }
    // A page of another site must not read them through the browser of somebody on this machine.
    if caller.is_none()
        && let Err(problem) = access.check_host(request.headers())
    {
        return problem.into_response();
    }
    let Some(text) = text() else {
        return Problem::internal().into_response();
    };
    let mut response = Response::new(Body::from(text));
    let media = HeaderValue::from_static(prometheus::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}
