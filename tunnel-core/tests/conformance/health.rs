//! What a service's health is to its players and its operators: who is asked, who is told, and who is refused.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tunnel_core::{
    client::Client,
    event::Event,
    health::{Health, HealthCheck, HealthState, HttpProbe, OnUnhealthy, Probe, TcpProbe, UdpProbe},
};

use tunnel_core::instance::{ProxyDatagrams, ProxyProtocol};

use crate::{
    drain::is_reset,
    lifecycle::{Crashing, next},
    support::{
        Lab, Via, instance,
        servers::{Server, tcp_echo, udp_echo},
        service, until, waited,
    },
};

on_every_transport!(
    an_unhealthy_service_refuses_new_players_and_takes_them_again,
    an_unhealthy_service_that_is_kept_is_shown_and_takes_players,
    a_restarted_relay_and_another_process_know_what_they_are_told,
);

on_transport!(
    mem_only,
    Mem,
    a_target_that_hangs_makes_nobody_unhealthy_but_itself,
    checks_follow_the_configuration,
    a_check_says_that_it_is_nobodys_where_players_are_named,
);

/// A check as fast as may be, with one result for a verdict.
fn check(probe: impl Probe + 'static) -> HealthCheck {
    let second = Duration::from_secs(1);
    let check = HealthCheck::new(probe).with_interval(second).unwrap();
    let check = check.with_timeout(second).unwrap();
    check.with_thresholds(1, 1).unwrap()
}

fn ping() -> UdpProbe {
    UdpProbe::new(b"ping", b"ping").unwrap()
}

/// What the relay knows of the health of a client's only instance, by the names of its services.
async fn known(lab: &Lab) -> Vec<(String, Health)> {
    let status = lab.relay().status().await.unwrap();
    let instances = status
        .clients
        .into_iter()
        .flat_map(|client| client.instances);
    let services = instances.flat_map(|instance| instance.services);
    services
        .filter_map(|it| Some((it.declaration.name.to_string(), it.health?)))
        .collect()
}

/// Waits until the relay knows this of a service.
async fn until_known(lab: &Lab, name: &str, state: HealthState) -> Health {
    waited("the relay's word", async || {
        let known = known(lab).await;
        let found = known.into_iter().find(|(it, _)| it == name)?.1;
        (found.state == state).then_some(found)
    })
    .await
}

async fn client_knows(client: &Client, name: &str) -> Option<HealthState> {
    let status = client.status().await.unwrap();
    let mut health = status.health.iter();
    let found = health.find(|(_, service, _)| service.as_str() == name)?;
    Some(found.2.state)
}

async fn an_unhealthy_service_refuses_new_players_and_takes_them_again(via: Via) {
    let lab = Lab::new(via).await;
    let tcp = Server::tcp(lab.ip).await;
    let udp = Server::udp_at(tcp.address()).await;
    let game = service("game", "both", lab.port, tcp.address());
    let game = game.with_health(check(ping()).on_unhealthy(OnUnhealthy::Refuse));
    let client = lab.client([instance("a", [game.unwrap()])]).await;
    let (mut here, mut there) = (client.events(), lab.relay().events());
    until_known(&lab, "game", HealthState::Healthy).await;
    let (mut early, early_udp) = (lab.tcp(lab.port).await, lab.udp(lab.port).await);
    tcp_echo(&mut early, b"before").await;
    udp_echo(&early_udp, b"before").await;

    // The game dies. Who connects over TCP alone would not notice.
    drop(udp);
    let is_sick = |event: &Event| {
        matches!(event, Event::HealthChanged { state: HealthState::Unhealthy, refuses: true, reason, .. }
            if reason.contains("nothing listens at"))
    };
    let told = next(&mut there, is_sick).await;
    assert_eq!(next(&mut here, is_sick).await, told);
    assert!(
        told.to_string()
            .contains("instance a, service game is unhealthy")
    );
    let metrics = || lab.relay().metrics();
    assert_eq!(metrics().services_unhealthy, 1);
    assert_eq!(client.metrics().services_unhealthy, 1);
    assert!(client.metrics().health_checks_failed > 0);
    is_reset(&lab).await;
    assert_eq!(metrics().stream_unhealthy, 1);
    let newcomer = lab.udp(lab.port).await;
    newcomer.send(b"let me in").await.unwrap();
    until("the count", || metrics().drop_unhealthy == 1).await;
    tcp_echo(&mut early, b"during").await;
    assert_eq!((metrics().flows_opened, metrics().streams_opened), (1, 1));
    assert!(
        until_known(&lab, "game", HealthState::Unhealthy)
            .await
            .refuses
    );

    let _udp = Server::udp_at(tcp.address()).await;
    udp_echo(&early_udp, b"still there").await;
    next(&mut there, |event| {
        matches!(
            event,
            Event::HealthChanged {
                state: HealthState::Healthy,
                refuses: false,
                ..
            }
        )
    })
    .await;
    let mut newcomer = lab.tcp(lab.port).await;
    tcp_echo(&mut newcomer, b"after").await;
    udp_echo(&lab.udp(lab.port).await, b"after").await;
    assert_eq!(metrics().services_unhealthy, 0);
}

async fn an_unhealthy_service_that_is_kept_is_shown_and_takes_players(via: Via) {
    let lab = Lab::new(via).await;
    let tcp = Server::tcp(lab.ip).await;
    let game = service("game", "both", lab.port, tcp.address());
    let game = game.with_health(check(ping())).unwrap();
    let _client = lab.client([instance("a", [game])]).await;
    let health = until_known(&lab, "game", HealthState::Unhealthy).await;
    assert!(!health.refuses);
    assert!(
        health.reason.contains("nothing listens"),
        "{}",
        health.reason
    );
    tcp_echo(&mut lab.tcp(lab.port).await, b"all the same").await;
}

async fn a_restarted_relay_and_another_process_know_what_they_are_told(via: Via) {
    let mut lab = Lab::new(via).await;
    let tcp = Server::tcp(lab.ip).await;
    let plain = service("game", "both", lab.port, tcp.address());
    let refusing = check(ping()).on_unhealthy(OnUnhealthy::Refuse);
    let game = plain.clone().with_health(refusing).unwrap();
    let identity = lab.identity();
    let client = Crashing::start(&lab, identity.clone(), instance("a", [game])).await;
    until_known(&lab, "game", HealthState::Unhealthy).await;
    // A relay that knows nothing hears it from the client that comes back, as soon as the instance is bound.
    lab.stop_relay().await;
    lab.start_relay().await;
    let health = until_known(&lab, "game", HealthState::Unhealthy).await;
    assert!(health.refuses);

    // What the next process does not check is not known, and refuses nobody.
    client.crash().await;
    let _next = lab.start(identity, [instance("a", [plain])]);
    waited("the newcomer's echo", async || {
        // Who is refused may be reset before the system has told it that it is connected.
        let mut newcomer = TcpStream::connect(lab.at(lab.port)).await.ok()?;
        newcomer.write_all(b"x").await.ok()?;
        (newcomer.read_u8().await.ok()? == b'x').then_some(())
    })
    .await;
    assert!(known(&lab).await.is_empty());
    assert_eq!(lab.relay().metrics().services_unhealthy, 0);
}

/// Answers HTTP with a status; 0 takes the connection and says nothing.
async fn http(lab: &Lab, status: u16) -> std::net::SocketAddr {
    let listener = TcpListener::bind((lab.ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            if status > 0 {
                let mut request = [0; 1024];
                let length = socket.read(&mut request).await.unwrap_or_default();
                assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                drop(socket.write_all(answer.as_bytes()).await);
            }
            held.push(socket);
        }
    });
    address
}

async fn a_target_that_hangs_makes_nobody_unhealthy_but_itself(via: Via) {
    let lab = Lab::new(via).await;
    let echo = Server::both(lab.ip).await;
    let path = || HttpProbe::new("/health", 200..=399).unwrap();
    let (good, bad, hangs) = (
        http(&lab, 204).await,
        http(&lab, 503).await,
        http(&lab, 0).await,
    );
    let silent = tokio::net::UdpSocket::bind((lab.ip, 0)).await.unwrap();
    let checked = [
        ("tcp", "tcp", echo.address(), check(TcpProbe)),
        ("udp", "udp", echo.address(), check(ping())),
        ("good", "tcp", good, check(path())),
        ("bad", "tcp", bad, check(path())),
        ("hangs", "tcp", hangs, check(path())),
        ("silent", "udp", silent.local_addr().unwrap(), check(ping())),
    ];
    let services =
        checked
            .into_iter()
            .zip(lab.port..)
            .map(|((name, protocol, target, check), port)| {
                service(name, protocol, port, target)
                    .with_health(check)
                    .unwrap()
            });
    let client = lab.client([instance("a", services)]).await;
    for (name, state, why) in [
        ("tcp", HealthState::Healthy, ""),
        ("udp", HealthState::Healthy, ""),
        ("good", HealthState::Healthy, ""),
        ("bad", HealthState::Unhealthy, "the answer's status is 503"),
        (
            "hangs",
            HealthState::Unhealthy,
            "has not answered within 1 s",
        ),
        (
            "silent",
            HealthState::Unhealthy,
            "has not answered within 1 s",
        ),
    ] {
        let health = until_known(&lab, name, state).await;
        assert!(health.reason.ends_with(why), "{name}: {}", health.reason);
        assert_eq!(client_knows(&client, name).await, Some(state), "{name}");
    }
    // More rounds change nothing.
    let before = client.metrics().health_checks_answered;
    until("three more rounds", || {
        client.metrics().health_checks_answered >= before + 9
    })
    .await;
    for (name, health) in known(&lab).await {
        let works = matches!(&*name, "tcp" | "udp" | "good");
        assert_eq!(health.state == HealthState::Healthy, works, "{name}");
    }
    // No player came of it.
    assert_eq!(
        client.metrics().streams_opened + client.metrics().flows_opened,
        0
    );
}

async fn checks_follow_the_configuration(via: Via) {
    let lab = Lab::new(via).await;
    let tcp = Server::tcp(lab.ip).await;
    let plain = service("game", "both", lab.port, tcp.address());
    let with = |check| instance("a", [plain.clone().with_health(check).unwrap()]);
    let client = lab.client([with(check(ping()))]).await;
    until_known(&lab, "game", HealthState::Unhealthy).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    // Another check begins anew, a check that is gone is forgotten, and the player notices neither.
    client.insert(with(check(TcpProbe))).await.unwrap();
    until_known(&lab, "game", HealthState::Healthy).await;
    client.insert(instance("a", [plain])).await.unwrap();
    waited("the relay's forgetting", async || {
        known(&lab).await.is_empty().then_some(())
    })
    .await;
    assert!(client.status().await.unwrap().health.is_empty());
    tcp_echo(&mut player, b"after").await;
}

/// Answers what comes with a header in front, as the headers are not, and anything else not at all.
async fn proxied(lab: &Lab, header: &'static [u8]) -> std::net::SocketAddr {
    let tcp = TcpListener::bind((lab.ip, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = tokio::net::UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            if let Some(payload) = buffer[..length].strip_prefix(header) {
                udp.send_to(payload, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = tcp.accept().await {
            let mut first = vec![0; header.len() + 3];
            let read = socket.read_exact(&mut first).await;
            if read.is_ok() && first.starts_with(header) && first.ends_with(b"GET") {
                drop(socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            }
            held.push(socket);
        }
    });
    address
}

async fn a_check_says_that_it_is_nobodys_where_players_are_named(via: Via) {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let lab = Lab::new(via).await;
    let http = || check(HttpProbe::new("/", 200..=200).unwrap());
    let (v1, v2) = (
        proxied(&lab, b"PROXY UNKNOWN\r\n").await,
        proxied(&lab, V2).await,
    );
    let (one, two) = (ProxyProtocol::V1, ProxyProtocol::V2);
    let (off, first) = (ProxyDatagrams::Off, ProxyDatagrams::First);
    let told = [
        ("v1", "tcp", v1, one, off, http(), true),
        ("v2", "tcp", v2, two, first, http(), true),
        ("udp", "udp", v2, two, first, check(ping()), true),
        ("udp-off", "udp", v2, two, off, check(ping()), false),
        ("off", "tcp", v2, ProxyProtocol::Off, off, http(), false),
    ];
    let services = told.clone().into_iter().zip(lab.port..);
    let services = services.map(|((name, protocol, at, proxy, datagrams, check, _), port)| {
        let service = service(name, protocol, port, at).with_proxy_protocol(proxy, datagrams);
        service.unwrap().with_health(check).unwrap()
    });
    let _client = lab.client([instance("a", services)]).await;
    for (name, .., works) in told {
        let state = if works {
            HealthState::Healthy
        } else {
            HealthState::Unhealthy
        };
        until_known(&lab, name, state).await;
    }
}
