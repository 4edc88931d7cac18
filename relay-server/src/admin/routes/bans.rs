//! `/api/bans`.

use std::{net::IpAddr, str::FromStr};

use adit_control::{
    access::{Operator, Viewer},
    extract::{Json, Path, Query},
    model::{BanQuery, BanRequest, BanView, Page, text_fault},
    problem::Problem,
    server::Detail,
};
use axum::{Extension, extract::State, http::StatusCode};
use tunnel_core::addresses::IpNet;

use crate::{
    admin::{shared::Shared, view},
    state::{BanRow, time::UnixTime},
};

/// Who may not play, the earliest ban first.
#[utoipa::path(
    get,
    operation_id = "list_bans",
    path = "/api/bans",
    params(BanQuery),
    responses((status = 200, body = Page<BanView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Viewer,
    State(shared): State<Shared>,
    Query(query): Query<BanQuery>,
) -> Result<Json<Page<BanView>>, Problem> {
    let (limit, _) = super::instances::page(query.limit, None)?;
    let said = shared.desk.said().await;
    let rest = said.bans.iter();
    let rest = rest.filter(|(id, _)| query.after.is_none_or(|after| **id > after));
    let views = rest.map(|(id, ban)| view::ban(*id, ban));
    Ok(Json(Page::of(views, limit, |view| view.id.to_string())))
}

/// Ban an address or a network: its players end at once, and stay out.
#[utoipa::path(
    post,
    operation_id = "ban",
    path = "/api/bans",
    request_body = BanRequest,
    responses((status = 201, body = BanView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn ban(
    Operator(caller): Operator,
    State(shared): State<Shared>,
    Json(request): Json<BanRequest>,
) -> Result<(StatusCode, Extension<Detail>, Json<BanView>), Problem> {
    let ban = read(&request, caller.name.to_string())?;
    let id = shared.desk.ban(ban.clone()).await?;
    let detail = Detail(format!("ban {id} of {}", ban.addresses));
    let view = view::ban(id, &ban);
    Ok((StatusCode::CREATED, Extension(detail), Json(view)))
}

/// End a ban.
#[utoipa::path(
    delete,
    operation_id = "unban",
    path = "/api/bans/{id}",
    params(("id" = i64, Path, description = "The ban's number")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn unban(
    _: Operator,
    State(shared): State<Shared>,
    Path(id): Path<i64>,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    shared.desk.unban(id).await?;
    Ok((
        StatusCode::NO_CONTENT,
        Extension(Detail(format!("ban {id}"))),
    ))
}

fn read(request: &BanRequest, who: String) -> Result<BanRow, Problem> {
    let addresses = match (&request.address, &request.cidr) {
        (Some(address), None) => {
            let address: IpAddr = field("/address", address)?;
            IpNet::from(address.to_canonical())
        }
        (None, Some(cidr)) => field::<IpNet>("/cidr", cidr)?.trunc(),
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "/cidr",
                "address is given: leave this out",
            ));
        }
        (None, None) => {
            return Err(Problem::invalid("/address", "missing: this or a cidr"));
        }
    };
    if let Some(fault) = text_fault(request.reason.as_deref()) {
        return Err(Problem::invalid("/reason", fault));
    }
    let until = request.until.as_ref().map(|text| {
        let time = humantime::parse_rfc3339_weak(text);
        time.map(UnixTime::from).map_err(|_| {
            Problem::invalid(
                "/until",
                "expected a time in UTC, such as 2027-01-31T12:00:00Z",
            )
        })
    });
    let until = until.transpose()?;
    let now = UnixTime::now();
    if until.is_some_and(|until| until <= now) {
        return Err(Problem::invalid("/until", "that time is over"));
    }
    Ok(BanRow {
        addresses,
        instance: scope("/instance", request.instance.as_deref())?,
        service: scope("/service", request.service.as_deref())?,
        until,
        reason: request.reason.clone(),
        who,
        created: now,
    })
}

/// One of them, or all.
fn scope<T: FromStr<Err: std::fmt::Display>>(
    pointer: &str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    match text {
        None | Some("*") => Ok(None),
        Some(text) => field(pointer, text).map(Some),
    }
}

fn field<T: FromStr<Err: std::fmt::Display>>(pointer: &str, text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: T::Err| Problem::invalid(pointer, error.to_string()))
}
