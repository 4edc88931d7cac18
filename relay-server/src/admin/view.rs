//! What operators are shown of instances and players. Pure.

use std::{collections::BTreeMap, time::SystemTime};

use adit_control::{
    desired::{Desired, Standing},
    model::{
        BanView, DryRun, HealthView, InstanceState, InstanceView, PlayerView, ServiceView, Source,
        TunnelState, TunnelView,
    },
    problem::{Kind, Problem},
};
use tunnel_core::{
    health::Health,
    instance::{InstanceId, PortRange, Protocol, ServiceName},
    proto::message::Code,
    relay::{
        ConnectedClient, InstanceStatus, OperateError, PlayerId, PlayerStatus, RelayStatus,
        Reservation, ServiceStatus, WantedPorts, WantedService,
    },
};

use crate::state::BanRow;

/// An instance as it is bound, and its client.
type Bound<'a> = (&'a ConnectedClient, &'a InstanceStatus);

/// One instance; `None` if nobody has said anything of it.
pub(super) fn instance(
    desired: &Desired,
    status: &RelayStatus,
    id: &InstanceId,
) -> Option<InstanceView> {
    let bound = bound(status).find(|(_, instance)| instance.id == *id);
    view(desired, id, desired.reservations.get(id), bound)
}

/// All instances, by id: those that are reserved, and those that are bound.
pub(super) fn instances(desired: &Desired, status: &RelayStatus) -> Vec<InstanceView> {
    let views = all(desired, status).into_iter();
    views
        .filter_map(|(id, (reserved, bound))| view(desired, id, reserved, bound))
        .collect()
}

/// All services of all instances, by id of the instance.
pub(super) fn tunnels(desired: &Desired, status: &RelayStatus) -> Vec<TunnelView> {
    let mut tunnels = Vec::new();
    for (id, (reserved, bound)) in all(desired, status) {
        let Some(client) = client(reserved, bound) else {
            continue;
        };
        let stands = stands(desired, id, bound);
        let open = bound.map_or(&[][..], |(_, instance)| &instance.services);
        let tunnel = |name: &ServiceName, protocol, public, open| {
            tunnel((id, client, stands), (name, protocol, public), open)
        };
        for service in open {
            let declared = &service.declaration;
            let (protocol, public) = (declared.protocol, declared.public);
            tunnels.push(tunnel(&declared.name, protocol, public, Some(service)));
        }
        for service in reserved.map_or(&[][..], |it| &it.services) {
            if !open.iter().any(|it| it.declaration.name == service.name) {
                let (protocol, public) = (service.protocol, service.public);
                tunnels.push(tunnel(&service.name, protocol, public, None));
            }
        }
    }
    tunnels
}

fn tunnel(
    (id, client, stands): (&InstanceId, &str, TunnelState),
    (name, protocol, public): (&ServiceName, Protocol, PortRange),
    open: Option<&ServiceStatus>,
) -> TunnelView {
    let waits = open.is_none() && stands == TunnelState::Active;
    TunnelView {
        instance: id.to_string(),
        service: name.to_string(),
        client: client.to_owned(),
        status: if waits {
            TunnelState::WaitingForClient
        } else {
            stands
        },
        protocol: protocol.into(),
        public_port: public.to_string(),
        since: open.map(|open| ago(open.bound)),
        streams: open.map_or(0, |open| open.streams),
        flows: open.map_or(0, |open| open.flows),
        received_bytes: open.map_or(0, |open| open.received),
        sent_bytes: open.map_or(0, |open| open.sent),
        health: open.and_then(|open| open.health.as_ref()).map(health),
    }
}

fn health(health: &Health) -> HealthView {
    let report = health.report.clone();
    HealthView {
        state: health.state.to_string(),
        since: ago(health.since.elapsed()),
        refuses: health.refuses,
        reason: health.reason.clone(),
        name: report.name,
        version: report.version,
        map: report.map,
        players: report.players,
        max_players: report.max,
    }
}

fn bound(status: &RelayStatus) -> impl Iterator<Item = Bound<'_>> {
    let clients = status.clients.iter();
    clients.flat_map(|client| client.instances.iter().map(move |it| (client, it)))
}

fn all<'a>(
    desired: &'a Desired,
    status: &'a RelayStatus,
) -> BTreeMap<&'a InstanceId, (Option<&'a Reservation>, Option<Bound<'a>>)> {
    let reserved = desired.reservations.iter();
    let mut all: BTreeMap<_, _> = reserved
        .map(|(id, reserved)| (id, (Some(reserved), None)))
        .collect();
    for bound in bound(status) {
        all.entry(&bound.1.id).or_insert((None, None)).1 = Some(bound);
    }
    all
}

fn client<'a>(reserved: Option<&'a Reservation>, bound: Option<Bound<'a>>) -> Option<&'a str> {
    let reserved = reserved.map(|it| it.client.as_str());
    reserved.or(bound.map(|(client, _)| client.name.as_str()))
}

fn view(
    desired: &Desired,
    id: &InstanceId,
    reserved: Option<&Reservation>,
    bound: Option<Bound<'_>>,
) -> Option<InstanceView> {
    let client = client(reserved, bound)?.to_owned();
    let Standing { state, text } = desired.standing(id);
    let services = match (reserved, bound) {
        (Some(reserved), _) => {
            let services = reserved.services.iter();
            let one = services.map(|it| service(&it.name, it.protocol, it.public));
            one.collect()
        }
        (None, Some((_, instance))) => {
            let services = instance.services.iter().map(|it| &it.declaration);
            let one = services.map(|it| service(&it.name, it.protocol, it.public));
            one.collect()
        }
        (None, None) => Vec::new(),
    };
    Some(InstanceView {
        server_id: id.to_string(),
        client,
        source: if reserved.is_some() {
            Source::Api
        } else {
            Source::Client
        },
        state,
        text,
        services,
        status: stands(desired, id, bound),
    })
}

fn service(name: &ServiceName, protocol: Protocol, public: PortRange) -> ServiceView {
    ServiceView {
        name: name.to_string(),
        protocol: protocol.into(),
        public_port: public.to_string(),
    }
}

/// How an instance stands: what its operator says comes first, then what its client does.
fn stands(desired: &Desired, id: &InstanceId, bound: Option<Bound<'_>>) -> TunnelState {
    match (desired.standing(id).state, bound) {
        (InstanceState::Suspended, _) => TunnelState::Suspended,
        (InstanceState::Maintenance, _) => TunnelState::Maintenance,
        (InstanceState::Draining, _) => TunnelState::Draining,
        _ if desired.maintenance.is_some() => TunnelState::Maintenance,
        (_, None) => TunnelState::WaitingForClient,
        (_, Some((client, _))) if client.transport.is_none() => TunnelState::Disconnected,
        (_, Some((client, _))) if client.is_draining => TunnelState::Draining,
        (_, Some((_, instance))) if instance.services.iter().any(refuses) => TunnelState::Unhealthy,
        (_, Some(_)) => TunnelState::Active,
    }
}

fn refuses(service: &ServiceStatus) -> bool {
    (service.health.as_ref()).is_some_and(|health| health.refuses)
}

/// Where two views of an instance differ.
pub(super) fn difference(before: Option<InstanceView>, after: InstanceView) -> DryRun {
    let mut differences = Vec::new();
    match &before {
        None => differences.push(String::new()),
        Some(before) => {
            let json = |view: &InstanceView| serde_json::to_value(view).unwrap_or_default();
            differ(
                &json(before),
                &json(&after),
                String::new(),
                &mut differences,
            );
        }
    }
    DryRun {
        before,
        after,
        differences,
    }
}

fn differ(
    before: &serde_json::Value,
    after: &serde_json::Value,
    at: String,
    differences: &mut Vec<String>,
) {
    use serde_json::Value;
    match (before, after) {
        _ if before == after => {}
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
                differ(&a, &b, format!("{at}/{key}"), differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, format!("{at}/{n}"), differences);
            }
        }
        _ => differences.push(at),
    }
}

/// A player.
pub(super) fn player(player: &PlayerStatus) -> PlayerView {
    PlayerView {
        id: number(player.id),
        address: player.player.to_string(),
        public_address: player.public.to_string(),
        instance: player.instance.to_string(),
        service: player.service.as_ref().map(ToString::to_string),
        since: ago(player.age),
        received_bytes: player.received,
        sent_bytes: player.sent,
    }
}

/// A player's number, of either kind.
pub(super) const fn number(player: PlayerId) -> u64 {
    match player {
        PlayerId::Stream(id) | PlayerId::Flow(id) => id,
        _ => 0,
    }
}

/// A ban.
pub(super) fn ban(id: i64, ban: &BanRow) -> BanView {
    BanView {
        id,
        cidr: ban.addresses.to_string(),
        instance: ban.instance.as_ref().map(ToString::to_string),
        service: ban.service.as_ref().map(ToString::to_string),
        until: ban.until.map(|time| time.rfc3339()),
        reason: ban.reason.clone(),
        who: ban.who.clone(),
        created: ban.created.rfc3339(),
    }
}

/// The time so long ago, as RFC 3339 has it.
fn ago(age: std::time::Duration) -> String {
    let then = SystemTime::now().checked_sub(age);
    let then = then.unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(then).to_string()
}

/// What the relay has refused, by the place of the request that it is about.
pub(super) fn refusal(error: OperateError, services: &[WantedService]) -> Problem {
    let OperateError::Refused { code, text, port } = error else {
        return ended();
    };
    let is_about = |service: &WantedService| match service.public {
        WantedPorts::These(ports) => port.is_some_and(|port| ports.contains(port)),
        _ => code == Code::Limit && port.is_none(),
    };
    let kind = match code {
        Code::PortInUse | Code::IdInUse => Kind::Conflict,
        Code::Internal => return Problem::internal(),
        _ => Kind::Invalid,
    };
    let problem = Problem::new(kind, format!("Nothing was changed: {text}."));
    match services.iter().position(is_about) {
        Some(at) => problem.with_field(format!("/services/{at}/public_port"), text),
        None => problem,
    }
}

pub(super) fn ended() -> Problem {
    Problem::unavailable("The relay has ended.")
}

pub(super) fn unknown(id: &InstanceId) -> Problem {
    Problem::not_found(format!(
        "There is no instance {id}: GET /api/instances lists all."
    ))
}

/// A change of what is there says which version it is about.
pub(super) fn precondition_wanted() -> Problem {
    let detail = "It is there already: send If-Match with the ETag of the version that you have read, or * for any.";
    Problem::new(Kind::PreconditionRequired, detail)
}
