//! The routes of the API: one file for each thing that they are about.

mod audit;
mod bans;
mod clients;
mod events;
mod instances;
mod invites;
mod players;
mod ports;
mod tunnels;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::shared::Shared;

/// All routes that want a token.
pub(super) fn all(shared: Shared) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(audit::list))
        .routes(routes!(clients::list))
        .routes(routes!(clients::show, clients::revoke))
        .routes(routes!(clients::kick))
        .routes(routes!(bans::list, bans::ban))
        .routes(routes!(bans::unban))
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(
            instances::show,
            instances::replace,
            instances::change_state,
            instances::remove
        ))
        .routes(routes!(instances::client_config))
        .routes(routes!(instances::dns))
        .routes(routes!(players::streams))
        .routes(routes!(players::end_stream))
        .routes(routes!(players::flows))
        .routes(routes!(players::end_flow))
        .routes(routes!(tunnels::list))
        .routes(routes!(tunnels::maintenance, tunnels::maintain))
        .routes(routes!(events::follow))
        .routes(routes!(invites::invite))
        .routes(routes!(ports::show))
        .with_state(shared)
}
