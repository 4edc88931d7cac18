//! `/api/instances`.

use adit_control::{
    access::{Operator, Viewer},
    desired::Standing,
    extract::{IfMatch, Json, Path, Query, Version},
    model::{
        DryRun, InstanceQuery, InstanceRequest, InstanceView, Page, PageQuery, StateRequest,
        text_fault,
    },
    problem::Problem,
    server::Detail,
};
use axum::{
    Extension,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tunnel_core::instance::{HostPort, InstanceId};

use crate::admin::{
    desk::{self, Changed, Condition},
    recipe,
    shared::Shared,
    view,
};

/// All instances, by id: those that operators have made, and those that clients have.
#[utoipa::path(
    get,
    operation_id = "list_instances",
    path = "/api/instances",
    params(InstanceQuery),
    responses((status = 200, body = Page<InstanceView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Viewer,
    State(shared): State<Shared>,
    Query(query): Query<InstanceQuery>,
) -> Result<Json<Page<InstanceView>>, Problem> {
    let (limit, after) = page(query.limit, query.after)?;
    let status = shared.status().await?;
    let said = shared.desk.said().await;
    let views = view::instances(&said.desired, &status).into_iter();
    let rest = views.filter(|view| {
        (query.client.as_ref()).is_none_or(|client| view.client == *client)
            && query.status.is_none_or(|status| view.status == status)
            && (after.as_ref()).is_none_or(|after| view.server_id > *after)
    });
    Ok(Json(Page::of(rest, limit, |view| view.server_id.clone())))
}

/// One instance. The header `ETag` has its version, for `If-Match`.
#[utoipa::path(
    get,
    operation_id = "show_instance",
    path = "/api/instances/{id}",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")),
    responses((status = 200, body = InstanceView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    _: Viewer,
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (view, version) = find(&shared, &parse(&id)?).await?;
    Ok(version.tag(Json(view)))
}

/// Make an instance: reserve its ports for a client, all or none.
#[utoipa::path(
    post,
    operation_id = "create_instance",
    path = "/api/instances",
    params(DryRunQuery),
    request_body = InstanceRequest,
    responses((status = 201, body = InstanceView), (status = 200, body = DryRun, description = "With dry_run"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn create(
    _: Operator,
    State(shared): State<Shared>,
    Query(query): Query<DryRunQuery>,
    Json(request): Json<InstanceRequest>,
) -> Result<Response, Problem> {
    let wanted = request.read(None)?;
    let condition = Condition {
        is_new: true,
        dry_run: query.dry_run,
        ..Condition::default()
    };
    let changed = shared.desk.put(wanted, condition).await?;
    Ok(answer(changed))
}

/// Make or replace an instance. The same again changes nothing; ports that are left open stay what they are.
///
/// What is there is replaced with `If-Match` alone. What its client has bound otherwise is unbound.
#[utoipa::path(
    put,
    operation_id = "replace_instance",
    path = "/api/instances/{id}",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$"), DryRunQuery, ("If-Match" = Option<String>, Header, description = "The version that is replaced, or *")),
    request_body = InstanceRequest,
    responses((status = 200, body = InstanceView), (status = 201, body = InstanceView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn replace(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<DryRunQuery>,
    if_match: Option<IfMatch>,
    Json(request): Json<InstanceRequest>,
) -> Result<Response, Problem> {
    let wanted = request.read(Some(&parse(&id)?))?;
    let condition = Condition {
        if_match,
        is_new: false,
        dry_run: query.dry_run,
    };
    let changed = shared.desk.put(wanted, condition).await?;
    Ok(answer(changed))
}

/// Change which players an instance takes: also one that its client has made.
#[utoipa::path(
    patch,
    operation_id = "change_instance_state",
    path = "/api/instances/{id}",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$"), ("If-Match" = Option<String>, Header, description = "The version that is changed, or *")),
    request_body = StateRequest,
    responses((status = 200, body = InstanceView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn change_state(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<String>,
    if_match: IfMatch,
    Json(request): Json<StateRequest>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    if let Some(fault) = text_fault(request.text.as_deref()) {
        return Err(Problem::invalid("/text", fault));
    }
    let standing = Standing {
        state: request.state,
        text: request.text,
    };
    let desk = &shared.desk;
    let changed = desk.set_standing(id, standing, Some(if_match)).await?;
    Ok(answer(changed))
}

/// Take an instance away: its players end, its ports are free. A client whose own ports allow it may declare it again.
#[utoipa::path(
    delete,
    operation_id = "remove_instance",
    path = "/api/instances/{id}",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$"), ("If-Match" = Option<String>, Header, description = "The version that is removed, or *")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn remove(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<String>,
    if_match: IfMatch,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    let id = parse(&id)?;
    let detail = Detail(format!("instance {id}"));
    shared.desk.remove(id, if_match).await?;
    Ok((StatusCode::NO_CONTENT, Extension(detail)))
}

/// The client's part of an instance, as `client.toml` has it: its services, with their targets on `host_ip`.
#[utoipa::path(
    get,
    operation_id = "show_client_config",
    path = "/api/instances/{id}/client-config",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$"), HostQuery),
    responses((status = 200, body = String, content_type = "application/toml"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn client_config(
    _: Viewer,
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<HostQuery>,
) -> Result<Response, Problem> {
    let host = query.host_ip.as_deref().unwrap_or("127.0.0.1");
    let host =
        recipe::host(host).map_err(|detail| Problem::invalid_parameter("host_ip", detail))?;
    let (view, _) = find(&shared, &parse(&id)?).await?;
    Ok(text(
        recipe::client_config(&view, &host),
        "application/toml",
    ))
}

/// Lines for a zone file, and the addresses by which players join, under the name that the relay is reached by.
#[utoipa::path(
    get,
    operation_id = "show_dns",
    path = "/api/instances/{id}/dns",
    params(("id" = String, Path, description = "The instance's id", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$"), NameQuery),
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn dns(
    _: Viewer,
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<NameQuery>,
) -> Result<Response, Problem> {
    let (view, _) = find(&shared, &parse(&id)?).await?;
    let config = shared.config.load();
    let advertised: Option<&HostPort> = config.advertise.as_ref();
    let Some(relay) = advertised else {
        return Err(Problem::conflict(
            "Nobody knows by which name or address players reach this relay: set advertise in [relay].",
        ));
    };
    let name = query
        .name
        .unwrap_or_else(|| view.server_id.replace('_', "-"));
    let name = recipe::name(&name).map_err(|detail| Problem::invalid_parameter("name", detail))?;
    Ok(text(
        recipe::dns(&view, &relay.host, &name),
        "text/plain; charset=utf-8",
    ))
}

/// Whether the change is only to be planned.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRunQuery {
    /// Do nothing, and say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Where the game servers are, seen from the client.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HostQuery {
    /// A name or an address; 127.0.0.1 unless said otherwise.
    host_ip: Option<String>,
}

/// Under which name players join.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NameQuery {
    /// The record's name; the instance's id, with `-` for `_`, unless said otherwise.
    name: Option<String>,
}

async fn find(shared: &Shared, id: &InstanceId) -> Result<(InstanceView, Version), Problem> {
    let status = shared.status().await?;
    let said = shared.desk.said().await;
    let found = view::instance(&said.desired, &status, id);
    let found = found.ok_or_else(|| view::unknown(id))?;
    let standing = said.desired.standing(id);
    Ok((found, desk::version(&said.desired, id, &standing)))
}

fn answer(changed: Changed) -> Response {
    match changed {
        Changed::Planned(planned) => Json(planned).into_response(),
        Changed::Done {
            view,
            version,
            is_new,
        } => {
            let detail = Detail(format!("instance {}", view.server_id));
            let place = format!("/api/instances/{}", view.server_id);
            let status = if is_new {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let mut response = version.tag((status, Extension(detail), Json(view)));
            if let (true, Ok(place)) = (is_new, HeaderValue::try_from(place)) {
                response.headers_mut().insert(header::LOCATION, place);
            }
            response
        }
    }
}

fn text(text: String, media: &'static str) -> Response {
    let media = HeaderValue::from_static(media);
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

pub(super) fn parse(id: &str) -> Result<InstanceId, Problem> {
    id.parse()
        .map_err(|error| Problem::invalid_parameter("id", format!("{error}")))
}

/// How many of a list are wanted, and after which.
pub(super) fn page(
    limit: Option<u16>,
    after: Option<String>,
) -> Result<(usize, Option<String>), Problem> {
    PageQuery { limit, after }.checked()
}
