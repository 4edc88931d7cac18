//! `/api/events`.

use adit_control::{access::Viewer, events::Event, problem::Problem};
use axum::{extract::State, http::HeaderMap, response::Response};

use crate::admin::shared::Shared;

/// What happens, as server-sent events.
///
/// Each has an id; who comes back with the header `Last-Event-ID` gets what came since. What is lost meanwhile is told as an event
/// `gap` with the number of what was lost. A comment each 15 s shows that the connection stands. The stream ends when the token is
/// revoked.
#[utoipa::path(
    get,
    operation_id = "follow_events",
    path = "/api/events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received")),
    responses(
        (status = 200, body = Event, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn follow(
    Viewer(caller): Viewer,
    State(shared): State<Shared>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    shared.events.respond(&headers, caller)
}
