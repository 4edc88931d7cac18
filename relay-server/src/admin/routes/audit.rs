//! `/api/audit`.

use adit_control::{
    access::Admin,
    extract::{Json, Query},
    model::{AuditEntry, AuditQuery, Page},
    problem::Problem,
};
use axum::extract::State;

use crate::{
    admin::shared::Shared,
    state::{AuditRow, Store},
};

/// What was changed through the API, the latest first.
///
/// The latest 10,000 changes are kept, those that were refused among them.
#[utoipa::path(
    get,
    operation_id = "list_changes",
    path = "/api/audit",
    params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Admin,
    State(shared): State<Shared>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let (limit, before) = query.checked()?;
    // One more shows whether there is another page.
    let wanted = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let rows = shared
        .operate(move |config| {
            let Some(store) = Store::open_existing(&config.state_file)? else {
                return Ok(Vec::new());
            };
            store.audit(before, wanted)
        })
        .await?;
    let entries = rows.into_iter().map(|(id, row)| entry(id, row));
    Ok(Json(Page::of(entries, limit, |entry| entry.id.to_string())))
}

fn entry(id: i64, row: AuditRow) -> AuditEntry {
    AuditEntry {
        id,
        time: row.time.rfc3339(),
        request: row.request,
        who: row.who,
        role: row.role,
        from: row.origin,
        method: row.method,
        path: row.path,
        detail: row.detail,
        status: row.status,
    }
}
