//! Limits: each takes effect, is counted, and touches nobody else.

use std::time::Duration;

use tokio::net::TcpStream;
use tunnel_core::{
    client::{Client, ClientEnd, ClientLimits},
    event::Event,
    instance::{Optimize, PortSet},
    proto::message::Code,
    relay::RelayLimits,
};

use crate::{
    lifecycle::next,
    support::{
        Lab, Via, bound, hang, instance, refused,
        servers::{End, Server, accept, end_of, listener, stuff, tcp_echo, udp_echo},
        service, simple, until, waited,
    },
};

on_every_transport!(
    streams_of_one_address_are_bounded,
    streams_of_one_client_are_bounded,
    streams_of_all_are_bounded,
    a_client_bounds_its_streams_and_flows,
    ports_of_an_instance_and_of_a_client_are_bounded,
    declarations_are_paced_and_come_through_in_the_end,
    tunnels_are_bounded,
    a_stalled_reader_holds_what_the_relay_lets_it,
);

/// A laboratory whose relay has other limits.
async fn lab(via: Via, change: fn(&mut RelayLimits)) -> Lab {
    Lab::with(via, move |builder| {
        let mut limits = RelayLimits::default();
        change(&mut limits);
        builder.limits(limits)
    })
    .await
}

async fn streams_of_one_address_are_bounded(via: Via) {
    let lab = lab(via, |limits| limits.streams_per_address = 2).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut players = [lab.tcp(lab.port).await, lab.tcp(lab.port).await];
    for player in &mut players {
        tcp_echo(player, b"hello").await;
    }
    let mut events = lab.relay().events();
    turned_away(&lab, lab.port).await;
    assert_eq!(lab.relay().metrics().stream_address_cap, 1);
    let told = next(&mut events, |event| matches!(event, Event::Crowded(_))).await;
    assert_eq!(
        told.to_string(),
        format!(
            "instance a, service game (port {}): the relay's [limits] streams_per_address = 2 is reached by 127.0.0.1; \
             new connections are refused",
            lab.port
        )
    );
    // Somebody else still comes in.
    let mut other = from_elsewhere(&lab).await;
    tcp_echo(&mut other, b"hello").await;
    let [one, mut two] = players;
    drop(one);
    waited("the place's being free", async || {
        let mut player = TcpStream::connect(lab.at(lab.port)).await.ok()?;
        served(&mut player).await.then_some(())
    })
    .await;
    tcp_echo(&mut two, b"undisturbed").await;
}

async fn streams_of_one_client_are_bounded(via: Via) {
    let lab = lab(via, |limits| limits.streams_per_client = 2).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let _other = lab
        .client([simple("b", "tcp", lab.port + 1, server.address())])
        .await;
    let mut players = [lab.tcp(lab.port).await, lab.tcp(lab.port).await];
    for player in &mut players {
        tcp_echo(player, b"hello").await;
    }
    turned_away(&lab, lab.port).await;
    assert_eq!(lab.relay().metrics().stream_client_cap, 1);
    tcp_echo(&mut lab.tcp(lab.port + 1).await, b"another client").await;
    tcp_echo(&mut players[0], b"undisturbed").await;
}

async fn streams_of_all_are_bounded(via: Via) {
    let lab = lab(via, |limits| limits.streams = 1).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    turned_away(&lab, lab.port).await;
    assert_eq!(lab.relay().metrics().stream_limit, 1);
    tcp_echo(&mut player, b"undisturbed").await;
}

async fn a_client_bounds_its_streams_and_flows(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let mut limits = ClientLimits::default();
    (limits.streams, limits.flows) = (1, 1);
    let game = simple("a", "both", lab.port, server.address());
    let client = start(&lab, limits, game).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    let mut events = client.events();
    let mut told = async |key: &str| {
        let told = next(&mut events, |event| matches!(event, Event::Crowded(_))).await;
        let expected = format!(
            "instance a, service game (port {}): the client's [limits] {key} = 1 is reached",
            lab.port
        );
        assert!(told.to_string().starts_with(&expected), "{told}");
    };
    turned_away(&lab, lab.port).await;
    assert_eq!(client.metrics().stream_limit, 1);
    told("streams").await;
    tcp_echo(&mut player, b"undisturbed").await;

    let udp = lab.udp(lab.port).await;
    udp_echo(&udp, b"hello").await;
    lab.udp(lab.port).await.send(b"one too many").await.unwrap();
    until("the drop", || client.metrics().drop_limit > 0).await;
    told("flows").await;
    udp_echo(&udp, b"undisturbed").await;
    assert_eq!(client.metrics().flows, 1);
}

async fn ports_of_an_instance_and_of_a_client_are_bounded(via: Via) {
    let lab = lab(via, |limits| {
        (limits.ports_per_instance, limits.ports_per_client) = (6, 9);
    })
    .await;
    let server = Server::both(lab.ip).await;
    let target = server.address().port();
    let range = |id, protocol, first: u16, count: u16| {
        let ports = format!("{first}-{}", first + count - 1);
        let targets = format!("{}:{target}-{}", lab.ip, target + count - 1);
        simple(id, protocol, ports, targets)
    };
    let large = range("large", "both", lab.port, 4);
    let fits = range("fits", "both", lab.port + 10, 3);
    let client = lab.start(lab.identity(), [large, fits.clone()]);
    bound(&client, &fits).await;
    assert_eq!(refused(&client, "large").await, Code::Limit);
    client
        .insert(range("more", "tcp", lab.port + 20, 4))
        .await
        .unwrap();
    assert_eq!(refused(&client, "more").await, Code::Limit);
    assert!(lab.relay().metrics().instances_refused >= 2);
    let third = range("third", "tcp", lab.port + 30, 3);
    client.insert(third.clone()).await.unwrap();
    bound(&client, &third).await;
    tcp_echo(&mut lab.tcp(lab.port + 30).await, b"hello").await;
}

async fn declarations_are_paced_and_come_through_in_the_end(via: Via) {
    let lab = lab(via, |limits| {
        (limits.declarations_per_second, limits.declaration_burst) = (1, 2);
    })
    .await;
    let server = Server::tcp(lab.ip).await;
    let wanted = |n| simple(&format!("i{n}"), "tcp", lab.port + n, server.address());
    let client = lab.start(lab.identity(), (0..4).map(wanted));
    hang("all being bound", client.bound()).await.unwrap();
    assert!(lab.relay().metrics().declarations_limited > 0);
    assert!(client.metrics().instances_refused > 0);
    for n in 0..4 {
        tcp_echo(&mut lab.tcp(lab.port + n).await, b"hello").await;
    }
}

async fn tunnels_are_bounded(via: Via) {
    let lab = lab(via, |limits| limits.tunnels = 1).await;
    let server = Server::tcp(lab.ip).await;
    let first = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    let wanted = simple("b", "tcp", lab.port + 1, server.address());
    let second = lab.start(lab.identity(), [wanted]);
    let mut events = second.events();
    hang("a refusal", async {
        loop {
            if let Some(Ok(Event::Reconnecting { reason, .. })) = events.next().await
                && reason.contains("as many clients as it may")
            {
                return;
            }
        }
    })
    .await;
    assert!(lab.relay().metrics().tunnels_refused > 0);
    tcp_echo(&mut player, b"undisturbed").await;
    // It goes on trying, and comes in when there is room.
    hang("the first one's end", first.shutdown(Duration::ZERO)).await;
    hang("the second's being bound", second.bound())
        .await
        .unwrap();
}

async fn a_stalled_reader_holds_what_the_relay_lets_it(via: Via) {
    let lab = lab(via, |limits| limits.tunnel_memory = 1 << 20).await;
    let (games, address) = listener(lab.ip).await;
    let client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let player = lab.tcp(lab.port).await;
        let game = accept(&games).await;
        stuff(&player, || lab.relay().metrics().stream_bytes_in).await;
        stalled.push((player, game));
    }
    let held = lab.relay().metrics().stream_bytes_in - client.metrics().stream_bytes_in;
    // With default limits each of the eight holds 256 KiB.
    assert!(held <= 1 << 20, "{held} bytes are held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_a_tunnel_are_bounded() {
    let lab = lab(Via::Lane, |limits| limits.lanes_per_tunnel = 2).await;
    let server = Server::both(lab.ip).await;
    let _client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    until("a lane's being refused", || {
        lab.relay().metrics().lanes_refused > 0
    })
    .await;
    assert!(lab.relay().metrics().lanes <= 2);
    udp_echo(&lab.udp(lab.port).await, b"hello").await;
    assert!(lab.relay().metrics().lanes <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_in_use_count_as_lanes_of_the_tunnel() {
    let lab = lab(Via::Lane, |limits| {
        (limits.lanes_per_tunnel, limits.datagram_lanes) = (3, 0);
    })
    .await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut players = Vec::new();
    for _ in 0..3 {
        let mut player = lab.tcp(lab.port).await;
        tcp_echo(&mut player, b"hello").await;
        players.push(player);
    }
    assert_eq!(lab.relay().metrics().lanes, 3);
    // None may be added, and nobody waits for what cannot come.
    hang("what cannot be served", async {
        for _ in 0..20 {
            turned_away(&lab, lab.port).await;
        }
    })
    .await;
    let counted = lab.relay().metrics();
    assert_eq!((counted.lanes, counted.stream_lanes), (3, 20));
    tcp_echo(&mut players[0], b"undisturbed").await;
    // A place that is free again serves the next.
    drop(players.pop());
    waited("a lane's being free", async || {
        let mut player = TcpStream::connect(lab.at(lab.port)).await.ok()?;
        served(&mut player).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_all_lanes_are_in_use_is_on_quic_at_once() {
    let lab = lab(Via::Quic, |limits| limits.lanes_per_tunnel = 3).await;
    let server = Server::tcp(lab.ip).await;
    let bulk = service("game", "tcp", lab.port, server.address());
    let bulk = bulk.with_optimize(Optimize::Throughput);
    let client = lab.client([instance("a", [bulk])]).await;
    until("a lane", || client.metrics().lanes > 0).await;
    let mut players = Vec::new();
    hang("players beyond the lanes", async {
        for _ in 0..200 {
            let mut player = lab.tcp(lab.port).await;
            tcp_echo(&mut player, b"hello").await;
            players.push(player);
        }
    })
    .await;
    let counted = lab.relay().metrics();
    assert_eq!(counted.streams, 200);
    assert!(counted.streams_on_lanes <= 3, "{counted:?}");
    assert_eq!(counted.stream_lanes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagram_lanes_of_a_tunnel_are_bounded() {
    let lab = lab(Via::Lane, |limits| limits.datagram_lanes = 1).await;
    let server = Server::udp(lab.ip).await;
    let _client = lab
        .client([simple("a", "udp", lab.port, server.address())])
        .await;
    until("a lane's being refused", || {
        lab.relay().metrics().lanes_refused > 0
    })
    .await;
    until("the one that is left", || lab.relay().metrics().lanes == 1).await;
    for _ in 0..8 {
        udp_echo(&lab.udp(lab.port).await, b"hello").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_opens_as_many_lanes_as_it_is_told() {
    let lab = Lab::new(Via::Lane).await;
    let server = Server::udp(lab.ip).await;
    let mut limits = ClientLimits::default();
    (limits.datagram_lanes, limits.idle_lanes) = (1, 2);
    let game = instance(
        "a",
        [
            service("game", "udp", lab.port, server.address()),
            // The relay wants four idle lanes for this one.
            service("web", "tcp", lab.port + 1, server.address()),
        ],
    );
    let client = start(&lab, limits, game).await;
    until("the lanes", || client.metrics().lanes == 3).await;
    udp_echo(&lab.udp(lab.port).await, b"hello").await;
    assert_eq!(client.metrics().lanes, 3);
    assert_eq!(lab.relay().metrics().lanes, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_leaves_for_a_client() {
    let lab = lab(Via::Lane, |limits| limits.handshakes = 2).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(lab.listen()).await.unwrap());
    }
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    assert!(lab.relay().metrics().handshakes_evicted >= 4);
    // Within the default of 32, for one source.
    let lab = lab_of_one_source().await;
    let mut first = TcpStream::connect(lab.listen()).await.unwrap();
    let _second = TcpStream::connect(lab.listen()).await.unwrap();
    assert_eq!(end_of(&mut first).await, End::Clean);
    assert_eq!(lab.relay().metrics().handshakes_evicted, 1);
}

async fn lab_of_one_source() -> Lab {
    lab(Via::Lane, |limits| {
        limits.handshakes_per_source = 1;
        limits.first_message_time = Duration::from_secs(3_600);
        limits.handshake_time = Duration::from_secs(3_600);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_flow_lives_as_long_as_the_relay_lets_it() {
    let patient = lab(Via::Quic, |limits| {
        limits.unanswered_flow_time = Duration::from_secs(600);
    })
    .await;
    let hasty = lab(Via::Quic, |limits| {
        limits.unanswered_flow_time = Duration::from_secs(1);
    })
    .await;
    let silent = tokio::net::UdpSocket::bind((patient.ip, 0)).await.unwrap();
    let mut clients = Vec::new();
    for lab in [&patient, &hasty] {
        let target = silent.local_addr().unwrap();
        clients.push(lab.client([simple("a", "udp", lab.port, target)]).await);
        lab.udp(lab.port).await.send(b"anybody?").await.unwrap();
        until("the flow", || lab.relay().metrics().flows_opened == 1).await;
    }
    until("the hasty one's end", || hasty.relay().metrics().flows == 0).await;
    assert_eq!(patient.relay().metrics().flows, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_player_waits_for_a_tunnel_as_long_as_the_relay_lets_it() {
    let hasty = lab(Via::Lane, |limits| limits.stream_wait = Duration::ZERO).await;
    let patient = lab(Via::Lane, |limits| {
        limits.stream_wait = Duration::from_secs(600);
    })
    .await;
    let mut clients = Vec::new();
    for lab in [&hasty, &patient] {
        let server = Server::tcp(lab.ip).await;
        let identity = lab.identity();
        let key = identity.secret_key.public_key();
        let client = lab.start(identity, [simple("a", "tcp", lab.port, server.address())]);
        hang("the instance's being bound", client.bound())
            .await
            .unwrap();
        // It does not come back, and its ports are held.
        lab.roster.revoke(&key);
        lab.forwarder().cut();
        until("the tunnel's loss", || lab.relay().metrics().tunnels == 0).await;
        clients.push((client, server));
    }
    let waiting = patient.tcp(patient.port).await;
    turned_away(&hasty, hasty.port).await;
    assert_eq!(hasty.relay().metrics().stream_no_tunnel, 1);
    assert_eq!(patient.relay().metrics().stream_no_tunnel, 0);
    drop(waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_has_as_long_to_accept_as_the_client_lets_it() {
    let lab = Lab::new(Via::Quic).await;
    // A queue that is full: a connect to it gets no answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(std::net::SocketAddr::new(lab.ip, 0)).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(connected)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        filling.push(connected);
    }
    let mut limits = ClientLimits::default();
    limits.connect_time = Duration::from_millis(200);
    let hasty = start(&lab, limits.clone(), simple("a", "tcp", lab.port, address)).await;
    limits.connect_time = Duration::from_secs(600);
    let patient = start(&lab, limits, simple("b", "tcp", lab.port + 1, address)).await;
    let _waiting = lab.tcp(lab.port + 1).await;
    turned_away(&lab, lab.port).await;
    assert_eq!(hasty.metrics().stream_target_unreachable, 1);
    assert_eq!(patient.metrics().stream_target_unreachable, 0);
    drop(full);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_cpu_for_strangers_lets_nobody_in_and_counts() {
    let lab = lab(Via::Quic, |limits| {
        (limits.handshake_cpu_permille, limits.handshake_burst) = (0, Duration::ZERO);
    })
    .await;
    let client = lab.start(lab.identity_with(PortSet::all()), []);
    until("the first packet's being left", || {
        lab.relay().metrics().handshakes_ignored > 0
    })
    .await;
    assert_eq!(client.status().await.unwrap().transport, None);
    assert_eq!(lab.relay().metrics().tunnels_opened, 0);
    hang("the client's end", client.shutdown(Duration::ZERO)).await;
}

/// A client with other limits, and its instance bound.
async fn start(lab: &Lab, limits: ClientLimits, game: tunnel_core::instance::Instance) -> Client {
    let client = lab.start_with(lab.identity(), [game], limits);
    tokio::select! {
        bound = hang("the instance's being bound", client.bound()) => bound.unwrap(),
        end = client.finished() => panic!("{end:?}, not {:?}", ClientEnd::Stopped),
    }
    client
}

/// A player of another address.
async fn from_elsewhere(lab: &Lab) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.77.0.1:0".parse().unwrap()).unwrap();
    hang("a connect", socket.connect(lab.at(lab.port)))
        .await
        .unwrap()
}

/// A player comes, and is reset: in the middle of the connect or later.
async fn turned_away(lab: &Lab, port: u16) {
    let connected = hang("a connect", TcpStream::connect(lab.at(port))).await;
    match connected {
        Ok(mut player) => assert_eq!(end_of(&mut player).await, End::Reset),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// Whether a player is served, not reset.
async fn served(player: &mut TcpStream) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answer = [0];
    player.write_all(b"x").await.is_ok() && player.read_exact(&mut answer).await.is_ok()
}
