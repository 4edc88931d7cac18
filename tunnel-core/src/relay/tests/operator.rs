//! What an operator says at run time: gates, bans, players, reservations.

use std::net::IpAddr;

use super::*;
use crate::{addresses::IpNet, relay::Gate};

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// A player of another address than the other players'.
async fn tcp_from(ip: &str, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(ip.parse().unwrap(), 0))
        .unwrap();
    soon("a connection", socket.connect(to)).await.unwrap()
}

async fn udp_from(ip: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).await;
    let socket = socket.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

/// Whether both protocols answer a new player.
async fn serves(site: &Site, port: u16) -> bool {
    let mut tcp = site.tcp(port).await;
    let mut heard = [0; 16];
    drop(tcp.write_all(b"hello").await);
    if soon("an echo or an end", tcp.read_exact(&mut heard[..5]))
        .await
        .is_err()
    {
        return false;
    }
    let udp = site.udp(port).await;
    udp.send(b"hello").await.unwrap();
    soon("an answer", udp.recv(&mut heard)).await.is_ok()
}

/// Sends a datagram that is dropped, and waits until that is counted.
async fn is_dropped(udp: &UdpSocket, counted: impl Fn() -> u64) {
    let before = counted();
    udp.send(b"lost").await.unwrap();
    until("a datagram's drop", || counted() > before).await;
    let heard = udp.try_recv(&mut [0; 16]);
    assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_gate_keeps_new_players_out_and_one_that_closes_ends_those_who_are_there() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (a, b) = (site.port, site.port + 1);
    let instances = [echo.instance("a", a), echo.instance("b", b)];
    let _client = site.client(instances).await;
    let (mut inside, mut beside) = (Neighbour::of(&site, a).await, Neighbour::of(&site, b).await);
    let relay = &site.relay;
    let draining = || relay.metrics().drop_draining;

    relay
        .set_gate(Some(id("a")), Gate::NoNewPlayers)
        .await
        .unwrap();
    inside.plays().await;
    assert!(!serves(&site, a).await && serves(&site, b).await);
    assert_eq!(relay.metrics().stream_draining, 1);
    is_dropped(&site.udp(a).await, draining).await;

    relay.set_gate(Some(id("a")), Gate::Open).await.unwrap();
    assert!(serves(&site, a).await);

    relay.set_gate(Some(id("a")), Gate::Closed).await.unwrap();
    assert!(is_reset(&mut inside.tcp).await);
    is_dropped(&inside.udp, draining).await;
    assert!(!serves(&site, a).await);
    beside.plays().await;
    let status = relay.status().await.unwrap();
    let of = |at: usize| {
        let instance = &status.clients[0].instances[at];
        let service = &instance.services[0];
        (instance.gate, service.streams, service.flows)
    };
    assert_eq!(of(0), (Gate::Closed, 0, 0));
    assert_eq!(of(1).0, Gate::Open);

    relay.set_gate(None, Gate::NoNewPlayers).await.unwrap();
    relay.set_gate(Some(id("a")), Gate::Open).await.unwrap();
    assert!(!serves(&site, a).await && !serves(&site, b).await);
    beside.plays().await;
    relay.set_gate(None, Gate::Open).await.unwrap();
    assert!(serves(&site, a).await && serves(&site, b).await);
    beside.plays().await;
}

#[tokio::test]
async fn a_ban_ends_whom_it_names_at_once_and_keeps_them_out() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (a, b) = (site.port, site.port + 1);
    let instances = [echo.instance("a", a), echo.instance("b", b)];
    let _client = site.client(instances).await;
    let mut neighbour = Neighbour::of(&site, a).await;
    let mut banned = Neighbour {
        tcp: tcp_from("127.0.0.2", site.at(a)).await,
        udp: udp_from("127.0.0.2", site.at(a)).await,
        said: 0,
    };
    banned.plays().await;
    let net: IpNet = "127.0.0.2/31".parse().unwrap();
    let relay = &site.relay;
    let counted = || relay.metrics().banned;
    let at_a = Ban::everywhere(net).at_instance(id("a"));
    relay.set_bans(vec![at_a]).await.unwrap();
    assert!(is_reset(&mut banned.tcp).await);
    is_dropped(&banned.udp, counted).await;
    is_dropped(&udp_from("127.0.0.3", site.at(a)).await, counted).await;
    assert!(is_reset(&mut tcp_from("127.0.0.2", site.at(a)).await).await);
    neighbour.plays().await;
    // It is at the other instance that this one is not banned.
    let mut elsewhere = Neighbour {
        tcp: tcp_from("127.0.0.2", site.at(b)).await,
        udp: udp_from("127.0.0.2", site.at(b)).await,
        said: 0,
    };
    elsewhere.plays().await;
    relay.set_bans(vec![Ban::everywhere(net)]).await.unwrap();
    assert!(is_reset(&mut elsewhere.tcp).await);
    is_dropped(&elsewhere.udp, counted).await;
    relay.set_bans(Vec::new()).await.unwrap();
    let mut back = Neighbour {
        tcp: tcp_from("127.0.0.2", site.at(a)).await,
        udp: banned.udp,
        said: 0,
    };
    back.plays().await;
    neighbour.plays().await;
}

#[tokio::test]
async fn players_are_listed_with_what_has_passed_and_ended_one_by_one() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let _client = site.client([echo.instance("a", site.port)]).await;
    let mut stays = Neighbour::of(&site, site.port).await;
    let mut goes = Neighbour::of(&site, site.port).await;
    let players = site.relay.players().await.unwrap();
    assert_eq!(players.len(), 4);
    let (mut ended, public) = (Vec::new(), site.at(site.port));
    for player in &players {
        let at = (
            &player.instance,
            player.public,
            player.received,
            player.sent,
        );
        // Three exchanges of eight bytes.
        assert_eq!(at, (&id("a"), public, 24, 24), "{player:?}");
        assert_eq!(player.service.as_ref().unwrap().as_str(), "game");
        let own = [goes.tcp.local_addr(), goes.udp.local_addr()];
        if own.iter().any(|it| *it.as_ref().unwrap() == player.player) {
            ended.push(player.id);
        }
    }
    assert_eq!(ended.len(), 2);
    for player in &ended {
        assert!(site.relay.end_player(*player).await.unwrap());
        assert!(!site.relay.end_player(*player).await.unwrap());
    }
    assert!(is_reset(&mut goes.tcp).await);
    stays.plays().await;
    let left = site.relay.players().await.unwrap();
    assert!(left.iter().all(|player| !ended.contains(&player.id)));
    // Nobody is banned: the next datagram is a new flow.
    goes.tcp = site.tcp(site.port).await;
    goes.plays().await;
    let status = site.relay.status().await.unwrap();
    let service = &status.clients[0].instances[0].services[0];
    assert_eq!((service.streams, service.flows), (2, 2));
    // What those had who are gone is not forgotten: 3 + 3 exchanges of each of two players, over two protocols.
    assert_eq!((service.received, service.sent), (192, 192));
}

/// The name under which the relay knows its only client.
async fn only_client(site: &Site) -> String {
    let status = site.relay.status().await.unwrap();
    assert_eq!(status.clients.len(), 1);
    status.clients[0].name.clone()
}

fn wanted(name: &str, protocol: Protocol, public: WantedPorts) -> WantedService {
    WantedService::new(name.parse().unwrap(), protocol, public)
}

fn these(port: u16) -> WantedPorts {
    WantedPorts::These(port.to_string().parse().unwrap())
}

fn request(instance: &str, client: &str, services: Vec<WantedService>) -> ReservationRequest {
    ReservationRequest::new(id(instance), client, services, PortSet::default())
}

#[tokio::test]
async fn what_is_reserved_is_its_clients_alone_and_as_it_was_reserved() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (a, b) = (site.port, site.port + 1);
    let mut owner = Scripted::at(&site).await;
    let name = only_client(&site).await;
    let mut other = Scripted::at(&site).await;
    let game = vec![wanted("game", Protocol::Both, these(a))];
    let reserved = site.relay.reserve(request("a", &name, game)).await;
    let reserved = reserved.unwrap();
    assert_eq!(
        (reserved.instance, reserved.client),
        (id("a"), name.clone())
    );
    let refused = |said: Option<Message>| match said {
        Some(Message::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    // Neither the port nor the id, whoever asks.
    other.declare("x", 1, Protocol::Tcp, a).await;
    assert_eq!(refused(other.hear().await), Code::PortInUse);
    other.declare("a", 2, Protocol::Both, b).await;
    assert_eq!(refused(other.hear().await), Code::IdInUse);
    owner.declare("x", 1, Protocol::Udp, a).await;
    assert_eq!(refused(owner.hear().await), Code::PortInUse);
    // The instance has these services and no others, and may have fewer protocols only if that was said.
    owner.declare("a", 2, Protocol::Both, b).await;
    assert_eq!(refused(owner.hear().await), Code::NotPermitted);
    owner.declare("a", 3, Protocol::Udp, a).await;
    assert_eq!(refused(owner.hear().await), Code::NotPermitted);
    owner.bind("a", 4, Protocol::Both, a).await;
    // The operator's word is a permission of its own.
    {
        let mut known = lock(&site.desk.known);
        for (_, ports) in known.values_mut() {
            *ports = PortSet::default();
        }
    }
    site.relay.recheck().await;
    owner.bind("a", 5, Protocol::Both, a).await;
    // Other ports for it: what is bound is not as reserved any more.
    let game = vec![wanted("game", Protocol::Both, these(b))];
    site.relay.reserve(request("a", &name, game)).await.unwrap();
    let gone = owner.hear().await;
    assert!(
        matches!(
            &gone,
            Some(Message::Unbound {
                code: Code::NotPermitted,
                ..
            })
        ),
        "{gone:?}"
    );
    owner.bind("a", 6, Protocol::Both, b).await;
    assert!(site.relay.release(id("a")).await.unwrap());
    assert!(matches!(owner.hear().await, Some(Message::Unbound { .. })));
    assert!(!site.relay.release(id("a")).await.unwrap());
    owner.declare("a", 7, Protocol::Both, b).await;
    assert_eq!(refused(owner.hear().await), Code::NotPermitted);
    drop(echo);
}

#[tokio::test]
async fn a_reservation_is_all_or_nothing_and_takes_no_port_that_somebody_has() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (a, b) = (site.port, site.port + 1);
    let _client = site.client([echo.instance("bound", a)]).await;
    let refusal = |reserved: Result<Reservation, OperateError>| match reserved {
        Err(OperateError::Refused { code, port, .. }) => (code, port),
        other => panic!("{other:?}"),
    };
    let foreign = StdUdp::bind(site.at(b)).unwrap();
    for (services, expected) in [
        (
            vec![("x", these(b + 1)), ("y", these(a))],
            (Code::PortInUse, Some(a)),
        ),
        (
            vec![("x", these(b + 1)), ("y", these(b))],
            (Code::PortInUse, Some(b)),
        ),
        (
            vec![("x", these(b + 1)), ("y", these(b + 1))],
            (Code::ProtocolError, Some(b + 1)),
        ),
        (
            vec![("x", these(b + 1)), ("y", WantedPorts::Any(1))],
            (Code::Limit, None),
        ),
        (vec![], (Code::ProtocolError, None)),
    ] {
        let services = services.into_iter();
        let services = services.map(|(name, ports)| wanted(name, Protocol::Udp, ports));
        let reserved = site
            .relay
            .reserve(request("new", "node", services.collect()));
        assert_eq!(refusal(reserved.await), expected);
        assert!(site.relay.status().await.unwrap().reservations.is_empty());
    }
    // An instance that another client has.
    let services = vec![wanted("x", Protocol::Udp, these(b + 1))];
    let reserved = site.relay.reserve(request("bound", "node", services));
    assert_eq!(refusal(reserved.await).0, Code::IdInUse);
    // Left to the relay: past the one that is bound and the one that another program has.
    let any = |instance: &str| {
        let services = vec![wanted("game", Protocol::Both, WantedPorts::Any(1))];
        let pool = format!("{a}-{}", a + 3).parse().unwrap();
        site.relay.reserve(ReservationRequest::new(
            id(instance),
            "node",
            services,
            pool,
        ))
    };
    let port = |reserved: &Reservation| reserved.services[0].public.first();
    let first = any("one").await.unwrap();
    assert_eq!(port(&first), a + 2);
    assert_eq!(
        any("one").await.unwrap(),
        first,
        "the same again is the same"
    );
    assert_eq!(port(&any("two").await.unwrap()), a + 3);
    assert_eq!(refusal(any("three").await), (Code::Limit, None));
    drop(foreign);
    assert_eq!(port(&any("three").await.unwrap()), b);
    assert!(serves(&site, a).await);
}

#[tokio::test]
async fn a_client_that_is_disconnected_comes_back_and_its_players_play_on() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let client = site.client([echo.instance("a", site.port)]).await;
    let mut player = Neighbour::of(&site, site.port).await;
    let name = only_client(&site).await;
    assert!(!site.relay.disconnect("nobody").await.unwrap());
    assert!(site.relay.disconnect(name).await.unwrap());
    until("another tunnel", || {
        site.relay.metrics().tunnels_opened == 2
    })
    .await;
    soon("its instances", client.bound()).await.unwrap();
    player.plays().await;
}

#[tokio::test]
async fn what_an_operator_said_before_holds_from_the_first_connection_on() {
    let port = Site::new().await.port;
    let range = |port: u16| port.to_string().parse().unwrap();
    let service = |port| ReservedService::new("game".parse().unwrap(), Protocol::Udp, range(port));
    let reserved = |name, port| Reservation::new(id(name), "node", vec![service(port)]);
    let said = OperatorState {
        reservations: vec![
            reserved("a", port),
            reserved("b", port),
            reserved("c", port + 1),
        ],
        gates: vec![(id("d"), Gate::Closed)],
        gate_of_all: Gate::Open,
        bans: vec![Ban::everywhere("127.0.0.2/32".parse().unwrap())],
    };
    let desk = Arc::<Desk>::default();
    let relay = Relay::builder(SecretKey::generate().unwrap(), desk.clone())
        .listen((Ipv4Addr::LOCALHOST, 0).into())
        .public_bind(Ipv4Addr::LOCALHOST.into())
        .operator(said);
    let relay = relay.start().await.unwrap();
    let mut events = relay.events();
    let warned = soon("a warning", events.next()).await.unwrap().unwrap();
    assert!(
        warned.to_string().contains("instance b is not reserved"),
        "{warned}"
    );
    let site = Site { relay, desk, port };
    let kept = site.relay.status().await.unwrap().reservations;
    let kept: Vec<_> = kept.iter().map(|it| it.instance.as_str()).collect();
    assert_eq!(kept, ["a", "c"]);
    let echo = Echo::new().await;
    let _client = site
        .client([echo.instance("d", port + 2), echo.instance("e", port + 3)])
        .await;
    assert!(!serves(&site, port + 2).await && serves(&site, port + 3).await);
    assert!(is_reset(&mut tcp_from("127.0.0.2", site.at(port + 3)).await).await);
}

#[tokio::test]
async fn an_address_that_may_be_forged_is_sent_little() {
    let limits = RelayLimits {
        unproved_rate: 16_000,
        ..RelayLimits::default()
    };
    let site = Site::with(limits).await;
    // A game that answers everything with 1,500 bytes, and "much" with two such datagrams.
    let game = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = game.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        let mut heard = [0; 64];
        while let Ok((length, from)) = game.recv_from(&mut heard).await {
            for _ in 0..if length == 100 { 2 } else { 1 } {
                drop(game.send_to(&[7; 1_500], from).await);
            }
        }
    });
    let service = Service::new("game", Protocol::Udp, target).unwrap();
    let service = service.public_port(site.port).unwrap();
    let _client = site.client([Instance::new("a", [service]).unwrap()]).await;
    let unproved = || site.relay.metrics().drop_unproved;
    let mut heard = [0; 2_000];
    // 3 x 64 + 1,200 bytes are less than the answer; with 101 bytes more it passes.
    let small = site.udp(site.port).await;
    small.send(&[0; 64]).await.unwrap();
    until("the drop of an answer", || unproved() == 1).await;
    small.send(&[0; 50]).await.unwrap();
    assert_eq!(
        soon("an answer", small.recv(&mut heard)).await.unwrap(),
        1_500
    );
    // It has been answered and sends again: from here on there is no bound.
    for _ in 0..8 {
        small.send(&[0; 1]).await.unwrap();
        assert_eq!(
            soon("an answer", small.recv(&mut heard)).await.unwrap(),
            1_500
        );
    }
    assert_eq!(unproved(), 1);
    // All that are not proved have 16,000 bytes at once between them: ten answers, one of which was taken above.
    for _ in 0..30 {
        let player = site.udp(site.port).await;
        player.send(&[0; 64]).await.unwrap();
        player.send(&[0; 64]).await.unwrap();
    }
    until("the drops of a flood", || unproved() >= 1 + 30 + 15).await;
    small.send(&[0; 1]).await.unwrap();
    assert_eq!(
        soon("an answer", small.recv(&mut heard)).await.unwrap(),
        1_500
    );
    answers.abort();
}
