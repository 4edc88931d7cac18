//! Instances: what an operator asks for, and how each stands.

use serde::{Deserialize, Serialize};
use tunnel_core::{
    instance::{InstanceId, MAX_RANGE, MAX_SERVICES, PortRange, Protocol, ServiceName},
    relay::{WantedPorts, WantedService},
};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// An instance to be made or replaced: its ports are reserved at the relay for one client, all or none.
///
/// Either `services` in full, or `game_port` (TCP and UDP) and `beacon_port` (UDP) for servers that have these two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceRequest {
    /// What the game server is called: 1 to 63 of `a-z 0-9 _ -`. With `PUT` the path has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "srv_user123_abcd1234")]
    pub server_id: Option<String>,
    /// The name of the client that serves it.
    #[schema(example = "node-1")]
    pub client: String,
    /// The public port of the service `game`, over TCP and UDP; 0 leaves it to the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 30000)]
    pub game_port: Option<u16>,
    /// The public port of the service `beacon`, over UDP; 0 leaves it to the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 30001)]
    pub beacon_port: Option<u16>,
    /// Its services in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<ServiceRequest>>,
    /// Which players it takes; `active` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<InstanceState>,
    /// What players are told in maintenance, where the game's protocol has a place for it: 200 characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A service of an instance to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRequest {
    /// 1 to 63 of `a-z 0-9 _ -`, unique in the instance.
    #[schema(example = "game")]
    pub name: String,
    /// What the public port accepts.
    pub protocol: ProtocolName,
    /// A port, a range of them, or 0: then the relay chooses out of its pool.
    pub public_port: PortSpec,
    /// How many ports in a row the relay chooses; 1 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub count: Option<u16>,
}

/// A port as a number, or a range as a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PortSpec {
    /// `30000`, or 0.
    Number(u16),
    /// `"30000"` or `"30000-30009"`.
    Text(String),
}

/// What a public port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// TCP connections.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// Both.
    Both,
}

/// Which players an instance takes, by its operator's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Everybody.
    #[default]
    Active,
    /// Nobody new; who is there stays.
    Draining,
    /// The same, and who asks is told why where the game's protocol has a place for it.
    Maintenance,
    /// Nobody: who was there is ended. The ports stay reserved.
    Suspended,
}

impl InstanceState {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Suspended => "suspended",
        }
    }
}

/// Another state for an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateRequest {
    /// Which players it takes from now on.
    pub state: InstanceState,
    /// What players are told in maintenance: 200 characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// All instances at once into maintenance, or out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRequest {
    /// Whether maintenance begins.
    pub enter: bool,
    /// `ALL`, or the id of one instance.
    #[schema(example = "ALL")]
    pub which: String,
    /// What players are told: 200 characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Whether all instances are in maintenance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintenanceView {
    /// Whether they are.
    pub all: bool,
    /// What players are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Who has made an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An operator, through the API.
    Api,
    /// Its client, within the ports that it may have. The API changes its state alone.
    Client,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// What it is called.
    pub server_id: String,
    /// The client that serves it.
    pub client: String,
    /// Who has made it.
    pub source: Source,
    /// Which players it takes, by its operator's word.
    pub state: InstanceState,
    /// What players are told in maintenance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its services, with their public ports.
    pub services: Vec<ServiceView>,
    /// How it stands.
    pub status: TunnelState,
}

/// A service of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its name within the instance.
    pub name: String,
    /// What its public ports accept.
    pub protocol: ProtocolName,
    /// A port or a range.
    #[schema(example = "30000")]
    pub public_port: String,
}

/// How an instance or a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TunnelState {
    /// Its ports are reserved, and its client has not declared it.
    WaitingForClient,
    /// Its client has lost its tunnel; the ports are held for it.
    Disconnected,
    /// It takes players.
    Active,
    /// Its game server does not answer its client's check, and new players are refused for it.
    Unhealthy,
    /// It takes no new players, by the operator's word, the client's or the relay's.
    Draining,
    /// It takes no new players, and tells them why.
    Maintenance,
    /// It takes nobody.
    Suspended,
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// What is there now; none where it would be made.
    pub before: Option<InstanceView>,
    /// What would be there. Ports that are left open may be others when it is done.
    pub after: InstanceView,
    /// Where the two differ, as JSON pointers.
    pub differences: Vec<String>,
}

/// Which instances are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InstanceQuery {
    /// Those of this client alone.
    pub client: Option<String>,
    /// Those that stand so alone.
    pub status: Option<TunnelState>,
    /// How many at most; 100 unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// Those that come after this one: `next` of the piece before.
    #[param(max_length = 128)]
    pub after: Option<String>,
}

/// A request that has been read: typed, and valid by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which instance.
    pub id: InstanceId,
    /// Whose it is.
    pub client: String,
    /// Its services.
    pub services: Vec<WantedService>,
    /// Which players it takes.
    pub state: InstanceState,
    /// What players are told in maintenance.
    pub text: Option<String>,
}

impl InstanceRequest {
    /// Reads it as a whole, or says everything that is wrong with it. `path` is the id that the path has.
    pub fn read(&self, path: Option<&InstanceId>) -> Result<Wanted, Problem> {
        let mut faults = Faults::default();
        let id = match (&self.server_id, path) {
            (Some(id), path) => faults.parse::<InstanceId>("/server_id", id).filter(|id| {
                let agrees = path.is_none_or(|path| path == id);
                if !agrees {
                    faults.add("/server_id", "the path names another instance");
                }
                agrees
            }),
            (None, Some(path)) => Some(path.clone()),
            (None, None) => {
                faults.add("/server_id", "missing: what the game server is called");
                None
            }
        };
        if self.client.is_empty() || self.client.len() > 63 {
            faults.add(
                "/client",
                "expected the name of a client, 1 to 63 characters",
            );
        }
        if let Some(fault) = text_fault(self.text.as_deref()) {
            faults.add("/text", fault);
        }
        let services = self.services(&mut faults);
        match (id, faults.problem) {
            (Some(id), None) => Ok(Wanted {
                id,
                client: self.client.clone(),
                services,
                state: self.state.unwrap_or_default(),
                text: self.text.clone(),
            }),
            (_, problem) => Err(problem.unwrap_or_else(Problem::internal)),
        }
    }

    fn services(&self, faults: &mut Faults) -> Vec<WantedService> {
        let short = [
            ("game", "/game_port", Protocol::Both, self.game_port),
            ("beacon", "/beacon_port", Protocol::Udp, self.beacon_port),
        ];
        let mut services: Vec<WantedService> = Vec::new();
        for (name, pointer, protocol, port) in short {
            let Some(port) = port else { continue };
            if self.services.is_some() {
                faults.add(pointer, "services are given in full: leave this out");
            }
            if let Some(name) = faults.parse::<ServiceName>(pointer, name) {
                services.push(WantedService::new(name, protocol, ports(port, 1)));
            }
        }
        let Some(full) = &self.services else {
            if services.is_empty() {
                faults.add("/services", "missing: at least one, or a game_port");
            }
            return services;
        };
        if full.is_empty() || full.len() > MAX_SERVICES {
            faults.add(
                "/services",
                &format!("expected 1 to {MAX_SERVICES} services"),
            );
            return services;
        }
        for (at, service) in full.iter().enumerate() {
            let Some(read) = service.read(at, faults) else {
                continue;
            };
            if services.iter().any(|other| other.name == read.name) {
                let place = format!("/services/{at}/name");
                faults.add(&place, "another service of the instance has this name");
            }
            services.push(read);
        }
        services
    }
}

impl ServiceRequest {
    fn read(&self, at: usize, faults: &mut Faults) -> Option<WantedService> {
        let place = |field: &str| format!("/services/{at}/{field}");
        let name = faults.parse::<ServiceName>(&place("name"), &self.name);
        let count = self.count.unwrap_or(1);
        if count == 0 || count > MAX_RANGE {
            faults.add(&place("count"), &format!("expected 1 to {MAX_RANGE}"));
            return None;
        }
        let public = match &self.public_port {
            PortSpec::Number(port) => ports(*port, count),
            PortSpec::Text(text) if text == "0" => WantedPorts::Any(count),
            PortSpec::Text(text) => {
                WantedPorts::These(faults.parse::<PortRange>(&place("public_port"), text)?)
            }
        };
        if let WantedPorts::These(range) = public {
            if self.count.is_some_and(|count| count != range.count()) {
                faults.add(&place("count"), "the public port says how many there are");
            }
            if range.count() > MAX_RANGE {
                let text = format!("a service has {MAX_RANGE} ports at most");
                faults.add(&place("public_port"), &text);
            }
        }
        Some(WantedService::new(name?, self.protocol.into(), public))
    }
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Both => Self::Both,
        }
    }
}

impl From<Protocol> for ProtocolName {
    fn from(protocol: Protocol) -> Self {
        match (protocol.tcp(), protocol.udp()) {
            (true, true) => Self::Both,
            (true, false) => Self::Tcp,
            _ => Self::Udp,
        }
    }
}

/// What is wrong with what players would be told.
pub fn text_fault(text: Option<&str>) -> Option<&'static str> {
    let text = text?;
    let is_bad = text.chars().count() > TEXT || text.chars().any(char::is_control);
    is_bad.then_some("expected 200 characters at most, on one line")
}

/// What players are told has room in every game's answer.
const TEXT: usize = 200;

fn ports(port: u16, count: u16) -> WantedPorts {
    match PortRange::new(port, port) {
        Some(port) => WantedPorts::These(port),
        None => WantedPorts::Any(count),
    }
}

/// Everything that is wrong with a request.
#[derive(Debug, Default)]
struct Faults {
    problem: Option<Problem>,
}

impl Faults {
    fn add(&mut self, pointer: &str, detail: &str) {
        self.problem = Some(match self.problem.take() {
            None => Problem::invalid(pointer, detail),
            Some(problem) => problem.with_field(pointer, detail),
        });
    }

    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        pointer: &str,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(pointer, &error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, path: Option<&str>) -> Result<Wanted, Vec<(String, String)>> {
        let request: InstanceRequest = serde_json::from_str(json).unwrap();
        let path = path.map(|path| path.parse().unwrap());
        request.read(path.as_ref()).map_err(|problem| {
            let faults = problem.errors.into_iter();
            faults
                .map(|fault| (fault.pointer.unwrap(), fault.detail))
                .collect()
        })
    }

    #[test]
    fn the_short_form_and_the_full_one_are_the_same_instance() {
        let short = read(
            r#"{"server_id": "srv", "client": "n", "game_port": 30000, "beacon_port": 0}"#,
            None,
        );
        let full = read(
            r#"{"client": "n", "services": [
                {"name": "game", "protocol": "both", "public_port": "30000"},
                {"name": "beacon", "protocol": "udp", "public_port": 0}]}"#,
            Some("srv"),
        );
        assert_eq!(short, full);
        let ports: Vec<_> = short.unwrap().services.iter().map(|it| it.public).collect();
        let game = WantedPorts::These("30000".parse().unwrap());
        assert_eq!(ports, [game, WantedPorts::Any(1)]);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_and_where() {
        let faults = read(
            r#"{"server_id": "../etc", "client": "", "game_port": 1, "text": "a\nb", "services": [
                {"name": "Game", "protocol": "tcp", "public_port": "7x"},
                {"name": "a", "protocol": "tcp", "public_port": "70-71", "count": 3},
                {"name": "a", "protocol": "udp", "public_port": 0, "count": 1025},
                {"name": "b", "protocol": "udp", "public_port": "1-65535"},
                {"name": "a", "protocol": "udp", "public_port": 9}]}"#,
            None,
        );
        let places: Vec<String> = faults.unwrap_err().into_iter().map(|it| it.0).collect();
        let expected = [
            "/server_id",
            "/client",
            "/text",
            "/game_port",
            "/services/0/name",
            "/services/0/public_port",
            "/services/1/count",
            "/services/2/count",
            "/services/3/public_port",
            "/services/4/name",
        ];
        assert_eq!(places, expected);
        for (json, path, place) in [
            (r#"{"client": "n", "game_port": 1}"#, None, "/server_id"),
            (r#"{"client": "n"}"#, Some("a"), "/services"),
            (r#"{"client": "n", "services": []}"#, Some("a"), "/services"),
            (
                r#"{"server_id": "b", "client": "n", "game_port": 1}"#,
                Some("a"),
                "/server_id",
            ),
        ] {
            let faults = read(json, path).unwrap_err();
            assert_eq!(faults[0].0, place, "{json}");
        }
    }
}
