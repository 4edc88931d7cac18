//! `/api/clients`.

use std::collections::HashMap;

use adit_control::{
    access::{Admin, Operator, Viewer},
    extract::{Json, Path, Query},
    model::{BoundInstance, BoundService, ClientState, ClientView, Connection, Page, PageQuery},
    problem::Problem,
    server::Detail,
};
use axum::{Extension, extract::State, http::StatusCode};
use serde_json::json;
use tunnel_core::relay::{ConnectedClient, InstanceStatus};

use crate::{
    admin::shared::Shared,
    config::ClientName,
    operate::clients::{self as operate, Listed},
    state::{Revoked, time::UnixTime},
};

/// Clients and open invitations, by name, with what each has at the relay now.
#[utoipa::path(
    get,
    operation_id = "list_clients",
    path = "/api/clients",
    params(PageQuery),
    responses((status = 200, body = Page<ClientView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    _: Viewer,
    State(shared): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ClientView>>, Problem> {
    let (limit, after) = page.checked()?;
    let views = views(&shared).await?;
    let rest = views
        .into_iter()
        .filter(|view| after.as_ref().is_none_or(|after| view.name > *after));
    Ok(Json(Page::of(rest, limit, |view| view.name.clone())))
}

/// One client.
#[utoipa::path(
    get,
    operation_id = "show_client",
    path = "/api/clients/{name}",
    params(("name" = String, Path, description = "The client's name", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")),
    responses((status = 200, body = ClientView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    _: Viewer,
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<ClientView>, Problem> {
    let name = parse(&name)?;
    let views = views(&shared).await?;
    let found = views.into_iter().find(|view| view.name == name.as_str());
    match found {
        Some(view) => Ok(Json(view)),
        None => Err(unknown(&shared, &name).await),
    }
}

/// Revoke a client: end its right to connect, its open invitations, and its tunnel.
///
/// Its players' connections end with the tunnel. A client that was revoked before stays so.
#[utoipa::path(
    delete,
    operation_id = "revoke_client",
    path = "/api/clients/{name}",
    params(("name" = String, Path, description = "The client's name", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn revoke(
    _: Admin,
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Extension<Detail>), Problem> {
    let name = parse(&name)?;
    let revoked = name.clone();
    let outcome = shared
        .change(move |config| operate::revoke(config, &revoked, UnixTime::now()))
        .await?;
    let detail = match outcome {
        Revoked::Client => "revoked",
        Revoked::Invitation => "its open invitation was ended",
        Revoked::Already => "was revoked before",
        Revoked::Unknown => return Err(unknown(&shared, &name).await),
    };
    if outcome != Revoked::Already {
        shared
            .events
            .publish("client_revoked", &json!({"client": name.as_str()}));
    }
    Ok((StatusCode::NO_CONTENT, Extension(Detail(detail.into()))))
}

/// End a client's tunnel. It may come back at once, and its players' streams go on then.
#[utoipa::path(
    post,
    operation_id = "kick_client",
    path = "/api/clients/{name}/kick",
    params(("name" = String, Path, description = "The client's name", min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn kick(
    _: Operator,
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let name = parse(&name)?;
    let ended = shared.relay.disconnect(name.as_str()).await;
    if ended.map_err(|_| Problem::unavailable("The relay has ended."))? {
        shared
            .events
            .publish("client_kicked", &json!({"client": name.as_str()}));
        return Ok(StatusCode::NO_CONTENT);
    }
    let views = views(&shared).await?;
    if views.iter().any(|view| view.name == name.as_str()) {
        return Err(Problem::conflict(format!(
            "{name} has no tunnel that could be ended."
        )));
    }
    Err(unknown(&shared, &name).await)
}

fn parse(name: &str) -> Result<ClientName, Problem> {
    name.parse()
        .map_err(|error| Problem::invalid_parameter("name", format!("{error}")))
}

async fn unknown(shared: &Shared, name: &ClientName) -> Problem {
    let wanted = name.clone();
    let similar = shared
        .operate(move |config| operate::similar(config, &wanted))
        .await;
    Problem::not_found(match similar {
        Ok(Some(close)) => format!("No client is called {name}: did you mean {close}?"),
        _ => format!("No client is called {name}: GET /api/clients lists all."),
    })
}

async fn views(shared: &Shared) -> Result<Vec<ClientView>, Problem> {
    let listed = shared
        .operate(|config| operate::list(config, UnixTime::now()))
        .await?;
    let status = shared.status().await?;
    let mut connected: HashMap<_, _> = status
        .clients
        .into_iter()
        .map(|client| (client.key.to_string(), client))
        .collect();
    Ok(listed
        .into_iter()
        .map(|listed| {
            let connected = listed
                .public_key
                .as_ref()
                .and_then(|key| connected.remove(key));
            view(listed, connected)
        })
        .collect())
}

fn view(listed: Listed, connected: Option<ConnectedClient>) -> ClientView {
    ClientView {
        name: listed.name,
        public_key: listed.public_key,
        ports: listed.ports,
        state: match listed.state {
            operate::State::Enrolled => ClientState::Enrolled,
            operate::State::Revoked => ClientState::Revoked,
            operate::State::Invited => ClientState::Invited,
            operate::State::File => ClientState::File,
        },
        created: listed.created,
        connection: connected.map(connection),
    }
}

fn connection(client: ConnectedClient) -> Connection {
    Connection {
        address: client.peer.map(|peer| peer.to_string()),
        transport: client.transport.map(|transport| transport.to_string()),
        rtt_ms: client.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        packets_sent: client.sent_packets,
        packets_lost: client.lost_packets,
        connected_seconds: client.connected.map(|connected| connected.as_secs()),
        draining: client.is_draining,
        instances: client.instances.into_iter().map(instance).collect(),
    }
}

fn instance(instance: InstanceStatus) -> BoundInstance {
    let services = instance.services.into_iter().map(|service| BoundService {
        name: service.declaration.name.to_string(),
        protocol: service.declaration.protocol.to_string(),
        public_ports: service.declaration.public.to_string(),
    });
    BoundInstance {
        id: instance.id.to_string(),
        services: services.collect(),
    }
}
