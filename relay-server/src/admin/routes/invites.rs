//! `/api/invites`.

use std::{fmt::Display, str::FromStr};

use adit_control::{
    access::Admin,
    extract::Json,
    model::{InviteRequest, Invited},
    problem::Problem,
    server::Detail,
};
use axum::{Extension, extract::State, http::StatusCode};
use serde_json::json;

use crate::{
    admin::shared::Shared,
    operate::invite::{self as operate, Request},
    state::time::UnixTime,
};

/// Invite a client: a join string for `relay-client join`.
///
/// Earlier invitations of the name end. The join string is a secret, and is shown this once.
#[utoipa::path(
    post,
    operation_id = "invite_client",
    path = "/api/invites",
    request_body = InviteRequest,
    responses((status = 201, body = Invited), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn invite(
    _: Admin,
    State(shared): State<Shared>,
    Json(request): Json<InviteRequest>,
) -> Result<(StatusCode, Extension<Detail>, Json<Invited>), Problem> {
    let request = Request {
        name: field("/name", &request.name)?,
        ports: optional("/ports", request.ports.as_deref())?,
        lifetime: optional("/ttl", request.ttl.as_deref())?,
        advertise: optional("/advertise", request.advertise.as_deref())?,
        reusable: request.reusable,
    };
    let name = request.name.to_string();
    let invited = shared
        .change(move |config| operate::invite(config, request, UnixTime::now()))
        .await?;
    shared
        .events
        .publish("client_invited", &json!({"client": name}));
    let detail = Detail(format!("client {name}"));
    let answer = Invited {
        join: invited.join.to_string(),
        ended: invited.ended,
    };
    Ok((StatusCode::CREATED, Extension(detail), Json(answer)))
}

fn optional<T>(pointer: &str, text: Option<&str>) -> Result<Option<T>, Problem>
where
    T: FromStr,
    T::Err: Display,
{
    text.map(|text| field(pointer, text)).transpose()
}

fn field<T>(pointer: &str, text: &str) -> Result<T, Problem>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse()
        .map_err(|error: T::Err| Problem::invalid(pointer, error.to_string()))
}
