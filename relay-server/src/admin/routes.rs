//! The routes of the API: one file for each thing that they are about.

mod audit;
mod clients;
mod events;
mod invites;
mod ports;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::shared::Shared;

/// All routes that want a token.
pub(super) fn all(shared: Shared) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(audit::list))
        .routes(routes!(clients::list))
        .routes(routes!(clients::show, clients::revoke))
        .routes(routes!(clients::kick))
        .routes(routes!(events::follow))
        .routes(routes!(invites::invite))
        .routes(routes!(ports::show))
        .with_state(shared)
}
