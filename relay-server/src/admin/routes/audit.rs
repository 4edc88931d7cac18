//! `/api/audit`.

use adit_control::{
    access::Admin,
    extract::{Json, Query},
    model::{AuditEntry, Page, PageQuery},
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
    params(PageQuery),
    responses((status = 200, body = Page<AuditEntry>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Admin,
    State(shared): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let limit = page
        .limit()
        .map_err(|detail| Problem::invalid_parameter("limit", detail))?;
    let before = page.after.map(|after| after.parse::<i64>()).transpose();
    let before = before
        .map_err(|_| Problem::invalid_parameter("after", "expected next of the page before"))?;
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
