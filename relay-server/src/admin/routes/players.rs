//! `/api/streams` and `/api/flows`: who plays.

use std::net::IpAddr;

use adit_control::{
    access::{Operator, Viewer},
    extract::{Json, Path, Query},
    model::{Page, PlayerQuery, PlayerView},
    problem::Problem,
    server::Detail,
};
use axum::{Extension, extract::State, http::StatusCode};
use tunnel_core::relay::PlayerId;

use super::instances::page;
use crate::admin::{shared::Shared, view};

/// Players' TCP connections, by number.
#[utoipa::path(
    get,
    operation_id = "list_streams",
    path = "/api/streams",
    params(PlayerQuery),
    responses((status = 200, body = Page<PlayerView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn streams(
    _: Viewer,
    State(shared): State<Shared>,
    Query(query): Query<PlayerQuery>,
) -> Result<Json<Page<PlayerView>>, Problem> {
    list(&shared, &query, |id| matches!(id, PlayerId::Stream(_))).await
}

/// Players' UDP conversations, by number.
#[utoipa::path(
    get,
    operation_id = "list_flows",
    path = "/api/flows",
    params(PlayerQuery),
    responses((status = 200, body = Page<PlayerView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn flows(
    _: Viewer,
    State(shared): State<Shared>,
    Query(query): Query<PlayerQuery>,
) -> Result<Json<Page<PlayerView>>, Problem> {
    list(&shared, &query, |id| matches!(id, PlayerId::Flow(_))).await
}

/// End a player's TCP connection with a reset. The player may come back, unless it is banned.
#[utoipa::path(
    delete,
    operation_id = "end_stream",
    path = "/api/streams/{id}",
    params(("id" = u64, Path, description = "The stream's number")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn end_stream(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<u64>,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    end(&shared, PlayerId::Stream(id)).await
}

/// Forget a player's UDP conversation. The next datagram begins another one, unless the player is banned.
#[utoipa::path(
    delete,
    operation_id = "end_flow",
    path = "/api/flows/{id}",
    params(("id" = u64, Path, description = "The flow's number")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn end_flow(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<u64>,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    end(&shared, PlayerId::Flow(id)).await
}

async fn list(
    shared: &Shared,
    query: &PlayerQuery,
    is_wanted: fn(PlayerId) -> bool,
) -> Result<Json<Page<PlayerView>>, Problem> {
    let (limit, _) = page(query.limit, None)?;
    let after = query.after.and_then(|after| u64::try_from(after).ok());
    let address = query.address.as_ref().map(|it| it.parse::<IpAddr>());
    let address = address.transpose().map_err(|_| {
        Problem::invalid_parameter("address", "expected an address, such as 203.0.113.7")
    })?;
    let mut players = shared.players().await?;
    players.retain(|player| {
        is_wanted(player.id)
            && (query.instance.as_ref()).is_none_or(|it| player.instance.as_str() == it)
            && address.is_none_or(|it| player.player.ip().to_canonical() == it.to_canonical())
            && after.is_none_or(|after| view::number(player.id) > after)
    });
    players.sort_unstable_by_key(|player| player.id);
    let rest = players.iter().map(view::player);
    Ok(Json(Page::of(rest, limit, |view| view.id.to_string())))
}

async fn end(
    shared: &Shared,
    player: PlayerId,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    if !shared.desk.end_player(player).await? {
        return Err(Problem::not_found("It has ended already, or never was."));
    }
    let detail = Detail(format!("{player:?}"));
    Ok((StatusCode::NO_CONTENT, Extension(detail)))
}
