//! Routes become a service: each request has an id, bounds in time and size, and an answer in words whatever happens; each
//! change is written down.

mod audit;
mod connection;
mod guard;
mod patience;
mod probes;
mod session;

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    middleware,
    response::Response,
    routing::get,
};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::{
    Components, InfoBuilder, OpenApi, OpenApiBuilder,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    audit::{Audit, Change, Detail, LogAudit},
    connection::Bounds,
    session::Whoami,
};
use crate::{access::Access, listen::Listener};

/// A service in the making.
pub struct Server {
    title: &'static str,
    access: Arc<Access>,
    audit: Arc<dyn Audit>,
    bounds: Bounds,
    open: Router,
    api: OpenApiRouter,
}

impl Server {
    /// With `/api/whoami`, `/api/session` and `/api/openapi.json` alone. `title` is what the OpenAPI document is called.
    pub fn new(title: &'static str, access: Access, audit: Arc<dyn Audit>) -> Self {
        Self {
            title,
            access: Arc::new(access),
            audit,
            bounds: Bounds::default(),
            open: Router::new(),
            api: OpenApiRouter::default(),
        }
    }

    /// Adds routes that want no token. Their handlers may find a [`Caller`](crate::access::Caller) among the extensions all the
    /// same.
    #[must_use]
    pub fn open(mut self, routes: Router) -> Self {
        self.open = self.open.merge(routes);
        self
    }

    /// Adds routes of the API, which want a token. A handler says which role it takes by its first argument:
    /// [`Viewer`](crate::access::Viewer), [`Operator`](crate::access::Operator) or [`Admin`](crate::access::Admin).
    #[must_use]
    pub fn api(mut self, routes: OpenApiRouter) -> Self {
        self.api = self.api.merge(routes);
        self
    }

    /// Adds `/health/live` and `/health/ready` (and `/health`, which is the same): 204 or 503, without a token and without content.
    #[must_use]
    pub fn health(self, is_ready: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Self {
        self.open(probes::health(is_ready))
    }

    /// Adds `/metrics`: for this machine, and for any token. `text` is what Prometheus reads; `None` says that it failed.
    #[must_use]
    pub fn metrics(
        self,
        text: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
    ) -> Self {
        let access = self.access.clone();
        self.open(probes::metrics(access, text))
    }

    /// Replaces the bounds.
    #[must_use]
    pub const fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// The OpenAPI document of the routes.
    pub fn openapi(&self) -> OpenApi {
        self.documented().split_for_parts().1
    }

    /// Serves until `stop`, and then those who are being served, for a moment.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let bounds = self.bounds;
        let router = self.into_router(listener.tls.is_some());
        connection::serve(listener, router, bounds, stop).await;
    }

    fn documented(&self) -> OpenApiRouter {
        let info = InfoBuilder::new()
            .title(self.title)
            .version(env!("CARGO_PKG_VERSION"));
        let mut components = Components::new();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(BEARER, bearer);
        let document = OpenApiBuilder::new()
            .info(info.build())
            .components(Some(components))
            .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>(
                BEARER,
                [],
            )]))
            .build();
        OpenApiRouter::with_openapi(document)
            .routes(routes!(session::whoami))
            .routes(routes!(session::log_in, session::log_out))
            .merge(self.api.clone())
    }

    /// The whole service. `is_secure`: it is reached over TLS.
    fn into_router(self, is_secure: bool) -> Router {
        let (api, document) = self.documented().split_for_parts();
        // It is made of this program's own types: it always becomes JSON.
        let document = Bytes::from(document.to_json().unwrap_or_default());
        let api = api
            .route("/api/openapi.json", get(async move || json(document)))
            .route_layer(middleware::from_fn(guard::wants_token));
        let guard = Arc::new(guard::Guard::new(
            self.access.clone(),
            self.audit,
            &self.bounds,
        ));
        let desk = session::Desk {
            access: self.access,
            is_secure,
        };
        Router::new()
            .merge(self.open)
            .merge(api)
            .layer(DefaultBodyLimit::max(self.bounds.body))
            .layer(Extension(desk))
            .layer(middleware::from_fn_with_state(guard, guard::serve))
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("title", &self.title)
            .finish_non_exhaustive()
    }
}

fn json(text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    let media = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// What tokens are called in the OpenAPI document.
const BEARER: &str = "bearer";

#[cfg(test)]
mod tests;
