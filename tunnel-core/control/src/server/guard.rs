//! What stands around every handler: who asks, in how much time, among how many; and an answer in words whatever happens.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use hyper::{
    HeaderMap,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};
use tokio::{sync::Semaphore, task::spawn_blocking, time};

use super::{
    audit::{Audit, Change, Detail},
    connection::Bounds,
};
use crate::{
    access::{self, Access, Caller, Peer, Role},
    problem::{self, Problem},
};

/// What all requests share.
pub(super) struct Guard {
    access: Arc<Access>,
    audit: Arc<dyn Audit>,
    /// How many are served at a time.
    requests: Arc<Semaphore>,
    time: Duration,
    /// The ids of requests: those of this process and no other's begin so.
    ids: (u32, AtomicU64),
}

/// An answer without content whatever its status is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bare;

impl Guard {
    pub(super) fn new(access: Arc<Access>, audit: Arc<dyn Audit>, bounds: &Bounds) -> Self {
        // Without randomness ids may be those of another process, too: nothing depends on that.
        let mut bytes = [0; 4];
        let process = aws_lc_rs::rand::fill(&mut bytes).map_or(0, |()| u32::from_be_bytes(bytes));
        Self {
            access,
            audit,
            requests: Arc::new(Semaphore::new(bounds.requests)),
            time: bounds.request_time,
            ids: (process, AtomicU64::new(1)),
        }
    }

    async fn answer(self: Arc<Self>, request: Request, next: Next, id: &Arc<str>) -> Response {
        let Ok(permit) = self.requests.clone().try_acquire_owned() else {
            return Problem::unavailable("Too many requests are served at the moment.")
                .into_response();
        };
        let peer = peer(&request);
        let (mut parts, body) = request.into_parts();
        let caller = match self.access.identify(&mut parts, peer) {
            Ok(caller) => caller,
            Err(problem) => return problem.into_response(),
        };
        if let Some(caller) = &caller {
            parts.extensions.insert(caller.clone());
        }
        let is_change = !access::is_safe(&parts.method);
        let what = (parts.method.to_string(), shown(&parts.uri));
        let request = Request::from_parts(parts, body);
        if !is_change {
            let served = time::timeout(
                self.time,
                AssertUnwindSafe(next.run(request)).catch_unwind(),
            );
            return match served.await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) => panicked(id),
                Err(_) => {
                    Problem::unavailable("The answer took too long: try again.").into_response()
                }
            };
        }
        // In a task of its own: a caller who goes away half-way, or whose time is over, leaves nothing half done.
        let id = id.clone();
        let guard = self.clone();
        let task = tokio::spawn(async move {
            let served = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            let mut response = served.unwrap_or_else(|_| panicked(&id));
            let detail = response.extensions_mut().remove::<Detail>();
            if let Some(caller) = caller {
                let status = response.status().as_u16();
                guard.write_down(caller, id, what, detail, status).await;
            }
            drop(permit);
            response
        });
        match time::timeout(self.time, task).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Problem::internal().into_response(),
            Err(_) => {
                let detail =
                    "It takes longer than this request may: look later whether it has been done.";
                Problem::unavailable(detail).into_response()
            }
        }
    }

    async fn write_down(
        &self,
        caller: Caller,
        request: Arc<str>,
        (method, path): (String, String),
        detail: Option<Detail>,
        status: u16,
    ) {
        let detail = detail.map(|detail| detail.0);
        tracing::info!(
            %request, who = %caller.name, from = %caller.from, %method, %path, detail, status,
            "admin change"
        );
        let change = Change {
            time: SystemTime::now(),
            request,
            who: caller.name,
            role: caller.role,
            from: caller.from,
            method,
            path,
            detail,
            status,
        };
        let audit = self.audit.clone();
        // A disk may be slow, another process may hold a lock.
        if spawn_blocking(move || audit.record(change)).await.is_err() {
            tracing::error!("a change could not be written down: its writer panicked");
        }
    }
}

/// Serves one request.
pub(super) async fn serve(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let number = guard.ids.1.fetch_add(1, Ordering::Relaxed);
    let id: Arc<str> = format!("{:08x}-{number}", guard.ids.0).into();
    let response = guard.answer(request, next, &id).await;
    finish(response, &id)
}

/// Lets those pass who have brought a token, or a session.
pub(super) async fn wants_token(request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return access::no_token().into_response();
    };
    match caller.demand(Role::Viewer) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Where a request comes from.
pub(super) fn peer(request: &Request) -> Peer {
    request.extensions().get().copied().unwrap_or(Peer::Local)
}

/// An error that says nothing becomes a problem; all answers get the headers that all have.
fn finish(response: Response, id: &str) -> Response {
    let mut response = in_words(response);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn in_words(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|media| media == problem::MEDIA_TYPE);
    if !is_error || is_problem || response.extensions().get::<Bare>().is_some() {
        return response;
    }
    let mut in_words = Problem::of_status(status).into_response();
    let kept: HeaderMap = response.headers().clone();
    for (name, value) in &kept {
        if *name != CONTENT_TYPE && *name != CONTENT_LENGTH {
            in_words.headers_mut().insert(name.clone(), value.clone());
        }
    }
    in_words
}

fn panicked(id: &str) -> Response {
    tracing::error!(
        request = id,
        "the handler of a request panicked; nothing else was touched"
    );
    Problem::internal().into_response()
}

/// A path and a query as they are written down.
fn shown(uri: &hyper::Uri) -> String {
    let text = uri.path_and_query().map_or("", |text| text.as_str());
    text.chars().take(SHOWN).collect()
}

/// How much of a path is written down.
const SHOWN: usize = 256;
/// The header by which an answer can be found in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What every answer has unless its handler says otherwise: nothing of it is a page, is kept, or is shown inside of another.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("content-security-policy"),
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("x-frame-options"), "DENY"),
    (HeaderName::from_static("referrer-policy"), "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];
