//! `/api/ports`.

use std::collections::BTreeSet;

use adit_control::{
    access::Viewer,
    extract::Json,
    model::{PortUse, PortsView},
    problem::Problem,
};
use axum::extract::State;
use tunnel_core::{
    instance::{PortRange, PortSet},
    relay::RelayStatus,
};

use crate::admin::shared::Shared;

/// Public ports: what there are, how many are free, and who has the others.
#[utoipa::path(
    get,
    operation_id = "show_ports",
    path = "/api/ports",
    responses((status = 200, body = PortsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    _: Viewer,
    State(shared): State<Shared>,
) -> Result<Json<PortsView>, Problem> {
    let pool = shared.config.load().ports.clone();
    let status = shared.status().await?;
    Ok(Json(view(&pool, &status)))
}

fn view(pool: &PortSet, status: &RelayStatus) -> PortsView {
    let mut used: Vec<(PortRange, PortUse)> = Vec::new();
    for client in &status.clients {
        for instance in &client.instances {
            for service in instance.services.iter().map(|service| &service.declaration) {
                let port_use = PortUse {
                    ports: service.public.to_string(),
                    protocol: service.protocol.to_string(),
                    client: client.name.clone(),
                    instance: instance.id.to_string(),
                    service: service.name.to_string(),
                };
                used.push((service.public, port_use));
            }
        }
    }
    used.sort_by_key(|(range, port_use)| (range.first(), port_use.protocol.clone()));
    let taken: BTreeSet<u16> = used.iter().flat_map(|(range, _)| range.ports()).collect();
    let total: u32 = pool
        .ranges()
        .iter()
        .map(|range| u32::from(range.count()))
        .sum();
    let held = |range: &PortRange| taken.range(range.first()..=range.last()).count();
    let taken_of_pool: usize = pool.ranges().iter().map(held).sum();
    PortsView {
        pool: pool.to_string(),
        total,
        free: total - u32::try_from(taken_of_pool).unwrap_or(total).min(total),
        used: used.into_iter().map(|(_, port_use)| port_use).collect(),
    }
}
