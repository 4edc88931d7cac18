//! Instances through the API: made, bound by their client, changed, taken away.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use adit_control::{
    client::{Client as Api, Method},
    model::{
        BanRequest, BanView, DryRun, InstanceRequest, InstanceState, InstanceView, InviteRequest,
        Invited, MaintenanceRequest, MaintenanceView, Page, PlayerView, PortSpec, PortsView,
        ProtocolName, ServiceRequest, Source, StateRequest, TunnelState, TunnelView,
    },
    problem::Kind,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use tunnel_core::{
    client::Client,
    health::{HealthCheck, OnUnhealthy, TcpProbe},
    instance::{Instance, Protocol, Service},
};

use crate::{
    program::{PATIENCE, free_port},
    support::{Relay, refused},
};

/// A game server that echoes, over both protocols.
async fn echo() -> SocketAddr {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let address = tcp.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut player, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = player.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            drop(udp.send_to(&buffer[..length], from).await);
        }
    });
    address
}

/// A player, who is answered over both protocols, or over neither.
struct Player {
    tcp: TcpStream,
    udp: UdpSocket,
}

impl Player {
    async fn at(port: u16) -> Self {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        udp.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        Self {
            tcp: TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap(),
            udp,
        }
    }

    async fn plays(&mut self) {
        let mut heard = [0; 5];
        self.tcp.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, self.tcp.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        self.udp.send(b"hello").await.unwrap();
        timeout(PATIENCE, self.udp.recv(&mut heard))
            .await
            .unwrap()
            .unwrap();
    }

    /// Its connection ends with a reset.
    async fn is_ended(&mut self) {
        let end = timeout(PATIENCE, reset(&mut self.tcp)).await.unwrap();
        assert!(end.is_err(), "a clean end");
    }
}

/// Whoever comes to the port is reset. That may be known as soon as it is connected.
async fn turns_away(ip: [u8; 4], port: u16) {
    let turned_away = timeout(PATIENCE, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((ip, 0).into())?;
        let mut player = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
        reset(&mut player).await
    });
    let error = turned_away.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Reads to the end. Nothing is written: a reset is told once, to whoever comes first.
async fn reset(player: &mut TcpStream) -> io::Result<()> {
    let mut heard = [0; 64];
    while player.read(&mut heard).await? > 0 {}
    Ok(())
}

const LOCAL: [u8; 4] = [127, 0, 0, 1];

fn request(id: &str, port: u16) -> InstanceRequest {
    InstanceRequest {
        server_id: Some(id.into()),
        client: "node-1".into(),
        game_port: Some(port),
        ..InstanceRequest::default()
    }
}

async fn invite(api: &Api) -> Invited {
    let request = InviteRequest {
        name: "node-1".into(),
        // No port of its own: what an operator reserves is a permission by itself.
        ports: Some("65535".into()),
        reusable: true,
        ..InviteRequest::default()
    };
    api.post("/api/invites", &request).await.unwrap().value
}

async fn show(api: &Api, id: &str) -> (InstanceView, String) {
    let path = format!("/api/instances/{id}");
    let answer = api.get::<InstanceView>(&path).await.unwrap();
    (answer.value, answer.version.unwrap())
}

async fn until_status(api: &Api, id: &str, status: TunnelState) {
    let end = Instant::now() + PATIENCE;
    while show(api, id).await.0.status != status {
        assert!(Instant::now() < end, "not {status:?} in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has the node serve an instance as its client's part says, with the echo as its target.
async fn serve(api: &Api, node: &Client, id: &str, target: SocketAddr) {
    let (view, _) = show(api, id).await;
    let service = &view.services[0];
    let protocol = match service.protocol {
        ProtocolName::Tcp => Protocol::Tcp,
        ProtocolName::Udp => Protocol::Udp,
        ProtocolName::Both => Protocol::Both,
    };
    let port: u16 = service.public_port.parse().unwrap();
    let service = Service::new(&*service.name, protocol, target).unwrap();
    let service = service.public_port(port).unwrap();
    let receipt = node.insert(Instance::new(id, [service]).unwrap()).await;
    receipt.unwrap().settled().await.unwrap();
}

/// The instance srv_1 on a port, served by its client.
async fn served(relay: &Relay, api: &Api) -> (Client, u16) {
    let (invited, port) = (invite(api).await, free_port());
    let wanted = request("srv_1", port);
    let made = api.post::<InstanceView>("/api/instances", &wanted).await;
    made.unwrap();
    let node = relay.node(&invited.join).await;
    serve(api, &node, "srv_1", echo().await).await;
    (node, port)
}

#[tokio::test]
async fn an_instance_is_made_served_changed_and_taken_away() {
    let relay = Relay::start("");
    let api = relay.admin();
    let invited = invite(&api).await;
    let port = free_port();
    let wanted = request("srv_1", port);
    let made = api.post::<InstanceView>("/api/instances", &wanted).await;
    let made = made.unwrap();
    assert_eq!(
        (made.value.source, made.value.status),
        (Source::Api, TunnelState::WaitingForClient)
    );
    assert!(made.version.is_some());
    let node = relay.node(&invited.join).await;
    serve(&api, &node, "srv_1", echo().await).await;
    until_status(&api, "srv_1", TunnelState::Active).await;
    let mut player = Player::at(port).await;
    player.plays().await;

    let tunnels: Page<TunnelView> = api.get("/api/tunnels").await.unwrap().value;
    let tunnel = &tunnels.items[0];
    assert_eq!(
        (&*tunnel.instance, &*tunnel.service, &*tunnel.client),
        ("srv_1", "game", "node-1")
    );
    assert_eq!((tunnel.streams, tunnel.flows), (1, 1));
    assert_eq!((tunnel.received_bytes, tunnel.sent_bytes), (10, 10));

    // Each state, with the version that was read before.
    let path = "/api/instances/srv_1";
    let set = async |state| {
        let (_, version) = show(&api, "srv_1").await;
        let request = StateRequest { state, text: None };
        let changed = api.change::<InstanceView>(Method::PATCH, path, &request, Some(&version));
        changed.await.unwrap().value
    };
    let drained = set(InstanceState::Draining).await;
    assert_eq!(
        (drained.state, drained.status),
        (InstanceState::Draining, TunnelState::Draining)
    );
    player.plays().await;
    turns_away(LOCAL, port).await;
    set(InstanceState::Suspended).await;
    player.is_ended().await;
    set(InstanceState::Active).await;
    let mut player = Player::at(port).await;
    player.plays().await;

    // Other ports: the client's are unbound, and it is told.
    let (_, version) = show(&api, "srv_1").await;
    let other = free_port();
    let moved = request("srv_1", other);
    let changed = api.change::<InstanceView>(Method::PUT, path, &moved, Some(&version));
    assert_eq!(
        changed.await.unwrap().value.services[0].public_port,
        other.to_string()
    );
    player.is_ended().await;
    until_status(&api, "srv_1", TunnelState::WaitingForClient).await;
    serve(&api, &node, "srv_1", echo().await).await;
    Player::at(other).await.plays().await;

    let (_, version) = show(&api, "srv_1").await;
    api.delete(path, Some(&version)).await.unwrap();
    assert!(refused(api.get::<Value>(path).await).is(Kind::NotFound));
    assert!(refused(api.delete(path, Some("*")).await).is(Kind::NotFound));
    let ports: PortsView = api.get("/api/ports").await.unwrap().value;
    assert_eq!(ports.used, []);
    relay.ends();
}

#[tokio::test]
async fn of_two_operators_the_second_is_told() {
    let relay = Relay::start("");
    let api = relay.admin();
    invite(&api).await;
    let port = free_port();
    let path = "/api/instances/srv_1";
    let made = api
        .post::<InstanceView>("/api/instances", &request("srv_1", port))
        .await
        .unwrap();
    let version = made.version.unwrap();
    let twice = api
        .post::<InstanceView>("/api/instances", &request("srv_1", port))
        .await;
    assert!(refused(twice).is(Kind::Conflict));
    // The same again is the same, whether the port is named or left open.
    for again in [request("srv_1", port), request("srv_1", 0)] {
        let same = api.change::<InstanceView>(Method::PUT, path, &again, Some(&version));
        let same = same.await.unwrap();
        assert_eq!(
            (same.version.as_deref(), &same.value),
            (Some(&*version), &made.value)
        );
    }
    let first = StateRequest {
        state: InstanceState::Draining,
        text: None,
    };
    api.change::<InstanceView>(Method::PATCH, path, &first, Some(&version))
        .await
        .unwrap();
    let second = StateRequest {
        state: InstanceState::Suspended,
        text: None,
    };
    let late = api
        .change::<InstanceView>(Method::PATCH, path, &second, Some(&version))
        .await;
    assert!(refused(late).is(Kind::PreconditionFailed));
    assert!(refused(api.delete(path, Some(&version)).await).is(Kind::PreconditionFailed));
    let blind = api
        .change::<InstanceView>(Method::PATCH, path, &second, None)
        .await;
    assert!(refused(blind).is(Kind::PreconditionRequired));
    let blind = api
        .change::<InstanceView>(Method::PUT, path, &request("srv_1", 0), None)
        .await;
    assert!(refused(blind).is(Kind::PreconditionRequired));
    assert_eq!(show(&api, "srv_1").await.0.state, InstanceState::Draining);
    relay.ends();
}

#[tokio::test]
async fn a_dry_run_says_what_would_differ_and_does_nothing() {
    let relay = Relay::start("");
    let api = relay.admin();
    invite(&api).await;
    let (port, other) = (free_port(), free_port());
    let plan = "/api/instances?dry_run=true";
    let dry: DryRun = api.post(plan, &request("srv_1", port)).await.unwrap().value;
    assert_eq!(
        (&dry.before, &*dry.differences),
        (&None, &[String::new()][..])
    );
    assert!(refused(api.get::<Value>("/api/instances/srv_1").await).is(Kind::NotFound));
    api.post::<InstanceView>("/api/instances", &request("srv_1", port))
        .await
        .unwrap();
    let change = InstanceRequest {
        state: Some(InstanceState::Maintenance),
        text: Some("back at noon".into()),
        ..request("srv_1", other)
    };
    let path = "/api/instances/srv_1?dry_run=true";
    let dry = api
        .change::<DryRun>(Method::PUT, path, &change, Some("*"))
        .await
        .unwrap()
        .value;
    assert_eq!(
        dry.differences,
        ["/services/0/public_port", "/state", "/status", "/text"]
    );
    assert_eq!(dry.after.services[0].public_port, other.to_string());
    assert_eq!(show(&api, "srv_1").await.0, dry.before.unwrap());
    // What would be refused is refused.
    let taken = api.post::<DryRun>(plan, &request("srv_2", port)).await;
    assert!(refused(taken).is(Kind::Conflict));
    relay.ends();
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_place_and_nothing_is_done() {
    let relay = Relay::start("");
    let api = relay.admin();
    invite(&api).await;
    let port = free_port();
    let foreign = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let foreign_port = foreign.local_addr().unwrap().port();
    api.post::<InstanceView>("/api/instances", &request("there", port))
        .await
        .unwrap();
    let service = |name: &str, public_port: u16| ServiceRequest {
        name: name.into(),
        protocol: ProtocolName::Udp,
        public_port: PortSpec::Number(public_port),
        count: None,
    };
    let full = |services| InstanceRequest {
        services: Some(services),
        game_port: None,
        ..request("new", 0)
    };
    let unknown = InstanceRequest {
        client: "nobody".into(),
        ..request("new", 0)
    };
    let huge = ServiceRequest {
        count: Some(1024),
        ..service("c", 0)
    };
    for (request, kind, pointer) in [
        (
            request("new", port),
            Kind::Conflict,
            Some("/services/0/public_port"),
        ),
        (
            full(vec![service("a", 0), service("b", port)]),
            Kind::Conflict,
            Some("/services/1/public_port"),
        ),
        (
            full(vec![service("a", foreign_port)]),
            Kind::Conflict,
            Some("/services/0/public_port"),
        ),
        (
            request("new", 80),
            Kind::Invalid,
            Some("/services/0/public_port"),
        ),
        (unknown, Kind::Invalid, Some("/client")),
        (
            full(vec![service("a", 0), service("a", 0)]),
            Kind::Invalid,
            Some("/services/1/name"),
        ),
        // The pool has 2,000 ports.
        (
            full(vec![
                huge.clone(),
                ServiceRequest {
                    name: "d".into(),
                    ..huge
                },
            ]),
            Kind::Invalid,
            Some("/services/0/public_port"),
        ),
        (request("../new", 0), Kind::Invalid, Some("/server_id")),
    ] {
        let problem = refused(api.post::<InstanceView>("/api/instances", &request).await);
        assert!(problem.is(kind), "{request:?}: {problem}");
        let place = problem.errors.first().and_then(|it| it.pointer.as_deref());
        assert_eq!(place, pointer, "{request:?}: {problem}");
    }
    let all: Page<InstanceView> = api.get("/api/instances").await.unwrap().value;
    assert_eq!(all.items.len(), 1);
    for body in [
        json!({"server_id": "new", "client": "node-1", "game_port": 65536}),
        json!({"server_id": "new", "client": "node-1", "game_port": 0, "nmae": 1}),
        json!({"server_id": "new", "client": "node-1", "services": [{"name": "a"}]}),
        json!([]),
    ] {
        let problem = refused(api.post::<Value>("/api/instances", &body).await);
        assert!(problem.is(Kind::Invalid), "{problem}");
    }
    drop(foreign);
    relay.ends();
}

#[tokio::test]
async fn a_client_is_given_its_part_and_a_zone_its_lines() {
    let relay = Relay::start("");
    let api = relay.admin();
    invite(&api).await;
    let made = InstanceRequest {
        beacon_port: Some(0),
        ..request("srv_1", 0)
    };
    let made = api
        .post::<InstanceView>("/api/instances", &made)
        .await
        .unwrap()
        .value;
    let ports: Vec<u16> = made
        .services
        .iter()
        .map(|it| it.public_port.parse().unwrap())
        .collect();
    assert!(
        ports.iter().all(|port| (30_000..32_000).contains(port)),
        "{ports:?}"
    );
    let text = async |path: &str| relay.sends("GET", path, &relay.bearer(), b"").await;
    let toml = text("/api/instances/srv_1/client-config?host_ip=10.1.2.3").await;
    assert!(toml.contains("content-type: application/toml"), "{toml}");
    let toml = toml.split_once("\r\n\r\n").unwrap().1;
    let target = format!("target = \"10.1.2.3:{}\"", ports[0]);
    assert!(
        toml.contains(&target) && toml.contains("id = \"srv_1\""),
        "{toml}"
    );
    let dns = text("/api/instances/srv_1/dns?name=play.example.net").await;
    let srv = format!(
        "_minecraft._tcp.play.example.net 300 IN SRV 0 5 {}",
        ports[0]
    );
    assert!(
        dns.contains("play.example.net 300 IN A 127.0.0.1") && dns.contains(&srv),
        "{dns}"
    );
    for path in [
        "client-config?host_ip=a%22b",
        "client-config?other=1",
        "dns?name=a%0Ab",
    ] {
        let answer = text(&format!("/api/instances/srv_1/{path}")).await;
        assert!(answer.starts_with("HTTP/1.1 422"), "{path}: {answer}");
    }
    relay.ends();
}

#[tokio::test]
async fn players_are_seen_banned_and_let_in_again() {
    let relay = Relay::start("");
    let api = relay.admin();
    let (_node, port) = served(&relay, &api).await;
    let mut player = Player::at(port).await;
    player.plays().await;
    let streams: Page<PlayerView> = api.get("/api/streams?instance=srv_1").await.unwrap().value;
    let flows: Page<PlayerView> = api.get("/api/flows?address=127.0.0.1").await.unwrap().value;
    let [stream, flow] = [&streams.items[..], &flows.items[..]].map(|it| match it {
        [one] => one.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(stream.address, player.tcp.local_addr().unwrap().to_string());
    assert_eq!(flow.address, player.udp.local_addr().unwrap().to_string());
    for one in [&stream, &flow] {
        assert_eq!((one.received_bytes, one.sent_bytes), (5, 5));
        assert_eq!(one.public_address, format!("127.0.0.1:{port}"));
    }
    api.delete(&format!("/api/streams/{}", stream.id), None)
        .await
        .unwrap();
    player.is_ended().await;
    let gone = api
        .delete(&format!("/api/streams/{}", stream.id), None)
        .await;
    assert!(refused(gone).is(Kind::NotFound));
    api.delete(&format!("/api/flows/{}", flow.id), None)
        .await
        .unwrap();

    let mut player = Player::at(port).await;
    player.plays().await;
    let ban = BanRequest {
        address: Some("127.0.0.1".into()),
        instance: Some("srv_1".into()),
        reason: Some("floods".into()),
        ..BanRequest::default()
    };
    let made: BanView = api.post("/api/bans", &ban).await.unwrap().value;
    assert_eq!(
        (&*made.cidr, made.reason.as_deref()),
        ("127.0.0.1/32", Some("floods"))
    );
    player.is_ended().await;
    turns_away(LOCAL, port).await;
    let listed: Page<BanView> = api.get("/api/bans").await.unwrap().value;
    assert_eq!(listed.items, std::slice::from_ref(&made));
    let path = format!("/api/bans/{}", made.id);
    api.delete(&path, None).await.unwrap();
    assert!(refused(api.delete(&path, None).await).is(Kind::NotFound));
    Player::at(port).await.plays().await;

    // One that ends by itself.
    let until = std::time::SystemTime::now() + Duration::from_secs(2);
    let ban = BanRequest {
        until: Some(humantime::format_rfc3339_millis(until).to_string()),
        cidr: Some("127.0.0.0/8".into()),
        ..BanRequest::default()
    };
    api.post::<BanView>("/api/bans", &ban).await.unwrap();
    turns_away(LOCAL, port).await;
    let end = Instant::now() + PATIENCE;
    while !api
        .get::<Page<BanView>>("/api/bans")
        .await
        .unwrap()
        .value
        .items
        .is_empty()
    {
        assert!(Instant::now() < end, "the ban does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Player::at(port).await.plays().await;
    for (ban, pointer) in [
        (json!({}), "/address"),
        (json!({"address": "1.2.3.4", "cidr": "1.2.3.0/24"}), "/cidr"),
        (json!({"address": "1.2.3"}), "/address"),
        (json!({"cidr": "1.2.3.4/33"}), "/cidr"),
        (
            json!({"address": "1.2.3.4", "until": "2001-01-01T00:00:00Z"}),
            "/until",
        ),
        (
            json!({"address": "1.2.3.4", "instance": "A B"}),
            "/instance",
        ),
    ] {
        let problem = refused(api.post::<BanView>("/api/bans", &ban).await);
        assert_eq!(problem.errors[0].pointer.as_deref(), Some(pointer), "{ban}");
    }
    relay.ends();
}

#[tokio::test]
async fn maintenance_of_all_keeps_new_players_out_of_each_instance() {
    let relay = Relay::start("");
    let api = relay.admin();
    let (_node, port) = served(&relay, &api).await;
    let mut player = Player::at(port).await;
    player.plays().await;
    let maintain = async |enter, which: &str| {
        let request = MaintenanceRequest {
            enter,
            which: which.into(),
            text: Some("back at noon".into()),
        };
        api.post::<MaintenanceView>("/api/maintenance", &request)
            .await
            .map(|it| it.value)
    };
    assert!(maintain(true, "ALL").await.unwrap().all);
    assert_eq!(show(&api, "srv_1").await.0.status, TunnelState::Maintenance);
    player.plays().await;
    turns_away(LOCAL, port).await;
    assert!(!maintain(false, "ALL").await.unwrap().all);
    maintain(true, "srv_1").await.unwrap();
    let (view, _) = show(&api, "srv_1").await;
    assert_eq!(
        (view.state, view.text.as_deref()),
        (InstanceState::Maintenance, Some("back at noon"))
    );
    turns_away(LOCAL, port).await;
    maintain(false, "srv_1").await.unwrap();
    Player::at(port).await.plays().await;
    assert!(refused(maintain(true, "nobody").await).is(Kind::NotFound));
    assert!(refused(maintain(true, "all").await).is(Kind::NotFound));
    relay.ends();
}

#[tokio::test]
async fn what_operators_have_said_holds_after_a_power_cut() {
    let mut relay = Relay::start("");
    let api = relay.admin();
    let invited = invite(&api).await;
    let (port, other) = (free_port(), free_port());
    let suspended = InstanceRequest {
        state: Some(InstanceState::Suspended),
        ..request("b", other)
    };
    api.post::<InstanceView>("/api/instances", &request("a", port))
        .await
        .unwrap();
    api.post::<InstanceView>("/api/instances", &suspended)
        .await
        .unwrap();
    let ban = BanRequest {
        address: Some("127.0.0.2".into()),
        ..BanRequest::default()
    };
    api.post::<BanView>("/api/bans", &ban).await.unwrap();
    let before = [show(&api, "a").await, show(&api, "b").await];
    relay.killed();
    relay.run();
    let after = [show(&api, "a").await, show(&api, "b").await];
    assert_eq!(after, before);
    let node = relay.node(&invited.join).await;
    let target = echo().await;
    serve(&api, &node, "a", target).await;
    serve(&api, &node, "b", target).await;
    Player::at(port).await.plays().await;
    turns_away(LOCAL, other).await;
    turns_away([127, 0, 0, 2], port).await;
    relay.ends();
}

#[tokio::test]
async fn an_instance_of_a_client_is_shown_and_gated_but_not_removed() {
    let relay = Relay::start("");
    let api = relay.admin();
    let request = InviteRequest {
        name: "node-1".into(),
        ..InviteRequest::default()
    };
    let invited: Invited = api.post("/api/invites", &request).await.unwrap().value;
    let node = relay.node(&invited.join).await;
    let port = free_port();
    let service = Service::new("game", Protocol::Both, echo().await).unwrap();
    let service = service.public_port(port).unwrap();
    let receipt = node.insert(Instance::new("own", [service]).unwrap()).await;
    receipt.unwrap().settled().await.unwrap();
    let (view, version) = show(&api, "own").await;
    assert_eq!(
        (view.source, view.status, &*view.client),
        (Source::Client, TunnelState::Active, "node-1")
    );
    let path = "/api/instances/own";
    let suspend = StateRequest {
        state: InstanceState::Suspended,
        text: None,
    };
    api.change::<InstanceView>(Method::PATCH, path, &suspend, Some(&version))
        .await
        .unwrap();
    turns_away(LOCAL, port).await;
    assert!(refused(api.delete(path, Some("*")).await).is(Kind::Conflict));
    // A client that is kicked comes back, and finds the gate as it was.
    api.post::<()>("/api/clients/node-1/kick", &())
        .await
        .unwrap();
    until_status(&api, "own", TunnelState::Suspended).await;
    relay.ends();
}

#[tokio::test]
async fn a_game_server_that_is_gone_is_unhealthy_and_found_again() {
    let relay = Relay::start("");
    let api = relay.admin();
    let invited = invite(&api).await;
    let (port, target) = (free_port(), free_port());
    let wanted = request("srv_1", port);
    let made = api.post::<InstanceView>("/api/instances", &wanted).await;
    made.unwrap();
    let second = Duration::from_secs(1);
    let check = HealthCheck::new(TcpProbe).with_interval(second).unwrap();
    let check = check.with_thresholds(1, 1).unwrap();
    let service = Service::new("game", Protocol::Both, SocketAddr::from((LOCAL, target))).unwrap();
    let service = service.public_port(port).unwrap();
    let check = check.on_unhealthy(OnUnhealthy::Refuse);
    let service = service.with_health(check).unwrap();
    let node = relay.node(&invited.join).await;
    let receipt = node
        .insert(Instance::new("srv_1", [service]).unwrap())
        .await;
    receipt.unwrap().settled().await.unwrap();
    until_status(&api, "srv_1", TunnelState::Unhealthy).await;
    let health = async || {
        let tunnels = api.get::<Page<TunnelView>>("/api/tunnels").await;
        tunnels.unwrap().value.items[0].health.clone().unwrap()
    };
    let gone = health().await;
    assert_eq!((&*gone.state, gone.refuses), ("unhealthy", true));
    assert!(!gone.reason.is_empty());
    turns_away(LOCAL, port).await;
    let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, target))
        .await
        .unwrap();
    until_status(&api, "srv_1", TunnelState::Active).await;
    assert_eq!(health().await.state, "healthy");
    relay.ends();
}
