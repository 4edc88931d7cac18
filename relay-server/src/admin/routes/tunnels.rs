//! `/api/tunnels` and `/api/maintenance`.

use adit_control::{
    access::{Operator, Viewer},
    desired::{Maintenance, Standing},
    extract::{Json, Query},
    model::{
        InstanceState, MaintenanceRequest, MaintenanceView, Page, PageQuery, TunnelView, text_fault,
    },
    problem::Problem,
    server::Detail,
};
use axum::{Extension, extract::State};

use super::instances::parse;
use crate::admin::{shared::Shared, view};

/// Every service of every instance, and who plays there; by instance and service.
#[utoipa::path(
    get,
    operation_id = "list_tunnels",
    path = "/api/tunnels",
    params(PageQuery),
    responses((status = 200, body = Page<TunnelView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Viewer,
    State(shared): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<TunnelView>>, Problem> {
    let (limit, after) = page.checked()?;
    let status = shared.status().await?;
    let said = shared.desk.said().await;
    let mut views = view::tunnels(&said.desired, &status);
    let key = |view: &TunnelView| format!("{}/{}", view.instance, view.service);
    views.sort_by_key(key);
    let rest = views.into_iter();
    let rest = rest.filter(|view| (after.as_ref()).is_none_or(|after| key(view) > *after));
    Ok(Json(Page::of(rest, limit, key)))
}

/// Whether all instances are in maintenance.
#[utoipa::path(
    get,
    operation_id = "show_maintenance",
    path = "/api/maintenance",
    responses((status = 200, body = MaintenanceView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn maintenance(
    _: Viewer,
    State(shared): State<Shared>,
) -> Result<Json<MaintenanceView>, Problem> {
    let said = shared.desk.said().await;
    Ok(Json(shown(said.desired.maintenance.clone())))
}

/// Put all instances, or one, into maintenance, or take them out of it: they take no new players meanwhile.
#[utoipa::path(
    post,
    operation_id = "maintain",
    path = "/api/maintenance",
    request_body = MaintenanceRequest,
    responses((status = 200, body = MaintenanceView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn maintain(
    _: Operator,
    State(shared): State<Shared>,
    Json(request): Json<MaintenanceRequest>,
) -> Result<(Extension<Detail>, Json<MaintenanceView>), Problem> {
    if let Some(fault) = text_fault(request.text.as_deref()) {
        return Err(Problem::invalid("/text", fault));
    }
    let word = if request.enter { "entered" } else { "left" };
    let detail = Extension(Detail(format!("{} {word}", request.which)));
    let desk = &shared.desk;
    if request.which == "ALL" {
        let text = request.text;
        let maintenance = request.enter.then_some(Maintenance { text });
        desk.maintain(maintenance).await?;
    } else {
        let id = parse(&request.which)
            .map_err(|_| Problem::invalid("/which", "expected ALL, or the id of an instance"))?;
        let standing = match request.enter {
            true => Standing {
                state: InstanceState::Maintenance,
                text: request.text,
            },
            false => Standing::default(),
        };
        desk.set_standing(id, standing, None).await?;
    }
    let said = shared.desk.said().await;
    Ok((detail, Json(shown(said.desired.maintenance.clone()))))
}

fn shown(maintenance: Option<Maintenance>) -> MaintenanceView {
    MaintenanceView {
        all: maintenance.is_some(),
        text: maintenance.and_then(|it| it.text),
    }
}
