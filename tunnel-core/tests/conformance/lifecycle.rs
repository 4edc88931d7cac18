//! Relays and clients that come, go, come back and are sent away.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, UdpSocket},
};
use tunnel_core::{
    client::{Client, ClientEnd, ClientIdentity},
    event::{Event, Events},
    instance::{Instance, PortSet},
    key::{Psk, SecretKey},
    proto::{message::Code, session::client::InstanceState},
    relay::{RelayBuilder, RelayLimits},
};

use crate::support::{
    Lab, Via, bound, hang, refused,
    servers::{End, Server, accept, end_of, listener, read_all, tcp_echo, udp_answer, udp_echo},
    simple, until, waited,
};

on_every_transport!(
    a_client_comes_back_to_a_relay_that_was_restarted,
    a_client_comes_back_to_a_relay_that_crashed,
    flows_of_a_restarted_relay_are_not_taken_for_older_ones,
    a_client_may_start_before_its_relay,
    a_client_without_instances_is_bound_when_it_is_welcome,
    an_instance_added_later_is_waited_for,
    another_process_with_the_same_key_takes_over,
    a_client_that_crashed_comes_back_and_serves_the_same_players,
    what_a_new_process_does_not_declare_is_given_back_after_the_lease,
    a_revoked_client_is_ended_and_gives_its_ports_back,
    a_permission_taken_back_unbinds_what_it_covered,
    an_unknown_client_is_not_let_in,
    a_wrong_secret_and_a_wrong_relay_key_let_nobody_in_and_are_told,
    a_client_that_shuts_down_gives_its_ports_back_at_once,
    a_dropped_client_gives_its_ports_back,
    a_relay_that_shuts_down_gives_its_ports_back_at_once,
    a_shutdown_waits_for_the_players_who_are_there,
    a_shutdown_does_not_wait_longer_than_its_grace,
);

on_transport!(
    lane_only,
    Lane,
    a_cut_of_every_connection_is_healed_and_keeps_the_flows,
    what_was_removed_while_the_tunnel_was_down_is_given_back,
    a_client_tells_that_udp_is_silent_and_that_lanes_carry_everything,
    ports_of_a_lost_client_are_held_for_the_lease,
);

on_transport!(
    quic_only,
    Quic,
    a_client_whose_relays_name_does_not_resolve_tries_for_ever,
);

// A QUIC connection whose process has died is only silent: the relay gives it up after half a minute, which is too
// long for a test.
on_transport!(mem_only, Mem, ports_of_a_lost_client_are_held_for_the_lease);

async fn a_client_comes_back_to_a_relay_that_was_restarted(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let wanted = simple("a", "both", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"before").await;
    lab.stop_relay().await;
    until_unbound(&client).await;
    lab.start_relay().await;
    bound(&client, &wanted).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    udp_echo(&lab.udp(lab.port).await, b"after").await;
    assert_eq!(
        client.metrics().tunnels_opened,
        0,
        "that is the relay's count"
    );
}

async fn a_client_comes_back_to_a_relay_that_crashed(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let wanted = simple("a", "both", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    drop(lab.relay.take());
    assert_eq!(end_of(&mut player).await, End::Reset);
    lab.start_relay().await;
    until_rebound(&lab, &client, &wanted).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    udp_echo(&lab.udp(lab.port).await, b"after").await;
}

async fn flows_of_a_restarted_relay_are_not_taken_for_older_ones(via: Via) {
    let mut lab = Lab::new(via).await;
    let one = Server::udp_marked(lab.at(lab.port + 20), b"1").await;
    let two = Server::udp_marked(lab.at(lab.port + 21), b"2").await;
    let instances = [
        simple("a", "udp", lab.port, one.address()),
        simple("b", "udp", lab.port + 1, two.address()),
    ];
    let client = lab.client(instances.clone()).await;
    udp_answer(&lab.udp(lab.port).await, b"x", b"1x").await;
    lab.stop_relay().await;
    until_unbound(&client).await;
    lab.start_relay().await;
    for instance in &instances {
        bound(&client, instance).await;
    }
    // The first flow of the new relay, to the other service.
    udp_answer(&lab.udp(lab.port + 1).await, b"x", b"2x").await;
    udp_answer(&lab.udp(lab.port).await, b"x", b"1x").await;
    assert_eq!(two.players().len(), 1);
    assert_eq!(one.players().len(), 2);
}

async fn a_client_may_start_before_its_relay(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    lab.stop_relay().await;
    let wanted = simple("a", "tcp", lab.port, server.address());
    let client = lab.start(identity, [wanted.clone()]);
    let mut events = client.events();
    next(&mut events, |event| {
        matches!(event, Event::Reconnecting { .. })
    })
    .await;
    lab.start_relay().await;
    bound(&client, &wanted).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

async fn a_client_without_instances_is_bound_when_it_is_welcome(via: Via) {
    let lab = Lab::new(via).await;
    let client = lab.client([]).await;
    assert!(client.status().await.unwrap().name.is_some());
}

async fn an_instance_added_later_is_waited_for(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let client = lab.client([]).await;
    client
        .insert(simple("a", "tcp", lab.port, server.address()))
        .await
        .unwrap();
    hang("the new instance's being bound", client.bound())
        .await
        .unwrap();
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    client
        .set_instances([simple("b", "tcp", lab.port + 1, server.address())])
        .await
        .unwrap();
    hang("the other instance's being bound", client.bound())
        .await
        .unwrap();
    tcp_echo(&mut lab.tcp(lab.port + 1).await, b"hello").await;
}

async fn another_process_with_the_same_key_takes_over(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let wanted = simple("a", "both", lab.port, server.address());
    let identity = lab.identity();
    let first = lab.start(identity.clone(), [wanted.clone()]);
    bound(&first, &wanted).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"before").await;
    let second = lab.start(identity, [wanted.clone()]);
    assert_eq!(
        hang("the first one's end", first.finished()).await,
        ClientEnd::Superseded
    );
    bound(&second, &wanted).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    udp_echo(&lab.udp(lab.port).await, b"after").await;
    assert_eq!(lab.relay().metrics().tunnels, 1);
}

async fn a_client_that_crashed_comes_back_and_serves_the_same_players(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let wanted = simple("a", "both", lab.port, server.address());
    let identity = lab.identity();
    let crashing = Crashing::start(&lab, identity.clone(), wanted.clone()).await;
    let udp = lab.udp(lab.port).await;
    udp_echo(&udp, b"before").await;
    let mut tcp = lab.tcp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    crashing.crash().await;

    let client = lab.start(identity, [wanted.clone()]);
    bound(&client, &wanted).await;
    assert_eq!(end_of(&mut tcp).await, End::Reset);
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    // This player has noticed nothing and never stops sending.
    udp_echo(&udp, b"after").await;
}

async fn what_a_new_process_does_not_declare_is_given_back_after_the_lease(via: Via) {
    let lab = Lab::with(via, short_lease).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let old = simple("old", "tcp", lab.port, server.address());
    let crashing = Crashing::start(&lab, identity.clone(), old).await;
    crashing.crash().await;
    // The node comes back with another configuration.
    let new = simple("new", "tcp", lab.port + 1, server.address());
    let client = lab.start(identity, [new.clone()]);
    bound(&client, &new).await;
    let freed = simple("freed", "tcp", lab.port, server.address());
    let other = lab.start(lab.identity(), [freed.clone()]);
    bound(&other, &freed).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    tcp_echo(&mut lab.tcp(lab.port + 1).await, b"hello").await;
}

async fn ports_of_a_lost_client_are_held_for_the_lease(via: Via) {
    let lab = Lab::with(via, short_lease).await;
    let server = Server::both(lab.ip).await;
    let identity = lab.identity();
    let wanted = simple("a", "both", lab.port, server.address());
    let crashing = Crashing::start(&lab, identity.clone(), wanted.clone()).await;
    let player = lab.udp(lab.port).await;
    udp_echo(&player, b"hello").await;
    let mut events = lab.relay().events();
    crashing.crash().await;
    next(&mut events, |event| {
        matches!(event, Event::TunnelDown { .. })
    })
    .await;
    assert!(TcpListener::bind(lab.at(lab.port)).await.is_err());
    assert!(UdpSocket::bind(lab.at(lab.port)).await.is_err());
    assert_eq!(lab.relay().metrics().flows, 1, "and so are flows");
    next(&mut events, |event| matches!(event, Event::Unbound { .. })).await;
    waited("the port", async || {
        TcpListener::bind(lab.at(lab.port)).await.ok()
    })
    .await;
    until("the flow's end", || lab.relay().metrics().flows == 0).await;
    assert!(lab.relay().status().await.unwrap().clients.is_empty());
}

async fn a_revoked_client_is_ended_and_gives_its_ports_back(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let key = identity.secret_key.public_key();
    let wanted = simple("a", "tcp", lab.port, server.address());
    let client = lab.start(identity, [wanted.clone()]);
    bound(&client, &wanted).await;
    let neighbour = lab
        .client([simple("b", "tcp", lab.port + 1, server.address())])
        .await;
    let mut others = lab.tcp(lab.port + 1).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    tcp_echo(&mut others, b"hello").await;

    lab.roster.revoke(&key);
    hang("the recheck", lab.relay().recheck()).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    until_unbound(&client).await;
    waited("the port", async || {
        TcpListener::bind(lab.at(lab.port)).await.ok()
    })
    .await;
    tcp_echo(&mut others, b"hello again").await;
    assert_eq!(lab.relay().status().await.unwrap().clients.len(), 1);
    drop(neighbour);
}

async fn a_permission_taken_back_unbinds_what_it_covered(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let key = identity.secret_key.public_key();
    let (kept, lost) = (
        simple("kept", "tcp", lab.port, server.address()),
        simple("lost", "tcp", lab.port + 1, server.address()),
    );
    let client = lab.start(identity, [kept.clone(), lost.clone()]);
    bound(&client, &kept).await;
    bound(&client, &lost).await;
    let mut stays = lab.tcp(lab.port).await;
    let mut goes = lab.tcp(lab.port + 1).await;
    tcp_echo(&mut stays, b"hello").await;
    tcp_echo(&mut goes, b"hello").await;

    lab.roster
        .permit(&key, lab.port.to_string().parse().unwrap());
    hang("the recheck", lab.relay().recheck()).await;
    assert_eq!(end_of(&mut goes).await, End::Reset);
    assert_eq!(refused(&client, "lost").await, Code::NotPermitted);
    tcp_echo(&mut stays, b"still here").await;

    lab.roster.permit(&key, PortSet::all());
    hang("the recheck", lab.relay().recheck()).await;
    bound(&client, &lost).await;
    tcp_echo(&mut lab.tcp(lab.port + 1).await, b"hello").await;
}

async fn an_unknown_client_is_not_let_in(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    lab.roster.revoke(&identity.secret_key.public_key());
    let wanted = simple("a", "tcp", lab.port, server.address());
    let client = lab.start(identity.clone(), [wanted.clone()]);
    let mut events = client.events();
    for _ in 0..2 {
        next(&mut events, |event| {
            matches!(event, Event::Reconnecting { .. })
        })
        .await;
    }
    assert_eq!(client.status().await.unwrap().transport, None);
    assert_eq!(lab.relay().metrics().tunnels_opened, 0);
    // It is let in as soon as the relay knows it.
    lab.roster.admit(
        identity.secret_key.public_key(),
        identity.psk.clone(),
        PortSet::all(),
    );
    bound(&client, &wanted).await;
}

async fn a_wrong_secret_and_a_wrong_relay_key_let_nobody_in_and_are_told(via: Via) {
    let lab = Lab::new(via).await;
    let mut wrong_secret = lab.identity();
    wrong_secret.psk = Psk::generate().unwrap();
    let mut wrong_relay = lab.identity();
    wrong_relay.relay_public_key = SecretKey::generate().unwrap().public_key();
    for (identity, is_wrong_relay) in [(wrong_secret, false), (wrong_relay, true)] {
        let client = lab.start(identity, []);
        let mut events = client.events();
        let told = next(&mut events, |event| {
            matches!(event, Event::Reconnecting { .. })
        })
        .await;
        let told = told.to_string();
        // A relay says nothing to who has not its key, so nothing more can be known.
        let expected = if is_wrong_relay {
            "closed the connection without answering"
        } else {
            "another secret, or damaged"
        };
        assert!(told.contains(expected), "{told}");
        assert_eq!(client.status().await.unwrap().transport, None);
    }
    assert_eq!(lab.relay().metrics().tunnels_opened, 0);
}

async fn a_client_that_shuts_down_gives_its_ports_back_at_once(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    hang("the client's end", client.shutdown(Duration::ZERO)).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    waited("the ports", async || {
        let tcp = TcpListener::bind(lab.at(lab.port)).await.ok()?;
        let udp = UdpSocket::bind(lab.at(lab.port)).await.ok()?;
        Some((tcp, udp))
    })
    .await;
    let status = lab.relay().status().await.unwrap();
    assert!(status.clients.is_empty(), "no lease is held: {status:?}");
}

async fn a_dropped_client_gives_its_ports_back(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    drop(client);
    waited("the port", async || {
        TcpListener::bind(lab.at(lab.port)).await.ok()
    })
    .await;
    until("the tunnel's end", || lab.relay().metrics().tunnels == 0).await;
}

async fn a_relay_that_shuts_down_gives_its_ports_back_at_once(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    lab.stop_relay().await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    let tcp = TcpListener::bind(lab.at(lab.port)).await.unwrap();
    let udp = UdpSocket::bind(lab.at(lab.port)).await.unwrap();
    drop((tcp, udp));
    if via != Via::Mem {
        drop(TcpListener::bind(lab.listen()).await.unwrap());
        waited("the tunnel's port", async || {
            UdpSocket::bind(lab.listen()).await.ok()
        })
        .await;
    }
    until_unbound(&client).await;
}

async fn a_shutdown_waits_for_the_players_who_are_there(via: Via) {
    let mut lab = Lab::new(via).await;
    let (games, address) = listener(lab.ip).await;
    let client = lab
        .client([
            simple("a", "tcp", lab.port, address),
            simple("b", "tcp", lab.port + 1, address),
        ])
        .await;
    let mut first = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    // The client goes: who is there may finish.
    let ending = tokio::spawn(async move { client.shutdown(LONG).await });
    first.write_all(b"last words").await.unwrap();
    first.shutdown().await.unwrap();
    assert_eq!(read_all(&mut game).await.unwrap(), b"last words");
    game.write_all(b"and the answer").await.unwrap();
    game.shutdown().await.unwrap();
    assert_eq!(read_all(&mut first).await.unwrap(), b"and the answer");
    // It does not wait for longer than there is somebody.
    hang("the client's end", ending).await.unwrap();

    let _client = lab.client([simple("a", "tcp", lab.port, address)]).await;
    let mut second = lab.tcp(lab.port).await;
    let mut game = accept(&games).await;
    let relay = lab.relay.take().unwrap();
    let ending = tokio::spawn(async move { relay.shutdown(LONG).await });
    second.write_all(b"last words").await.unwrap();
    second.shutdown().await.unwrap();
    assert_eq!(read_all(&mut game).await.unwrap(), b"last words");
    game.write_all(b"and the answer").await.unwrap();
    game.shutdown().await.unwrap();
    assert_eq!(read_all(&mut second).await.unwrap(), b"and the answer");
    hang("the relay's end", ending).await.unwrap();
}

async fn a_shutdown_does_not_wait_longer_than_its_grace(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    hang("the client's end", client.shutdown(SHORT)).await;
    assert_eq!(end_of(&mut player).await, End::Reset);

    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    let relay = lab.relay.take().unwrap();
    hang("the relay's end", relay.shutdown(SHORT)).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
}

async fn a_cut_of_every_connection_is_healed_and_keeps_the_flows(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let wanted = simple("a", "both", lab.port, server.address());
    let client = lab.client([wanted.clone()]).await;
    let udp = lab.udp(lab.port).await;
    udp_echo(&udp, b"before").await;
    let mut tcp = lab.tcp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    for _ in 0..3 {
        let mut events = lab.relay().events();
        lab.forwarder().cut();
        next(&mut events, |event| matches!(event, Event::TunnelUp { .. })).await;
        bound(&client, &wanted).await;
        udp_echo(&udp, b"after").await;
        tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    }
    tcp_echo(&mut tcp, b"still there").await;
    assert_eq!(lab.relay().metrics().flows_opened, 1);
    assert_eq!(server.players().len(), 1, "the game noticed nothing");
}

async fn a_client_tells_that_udp_is_silent_and_that_lanes_carry_everything(via: Via) {
    let lab = Lab::new(via).await;
    let client = lab.client([]).await;
    let mut events = client.events();
    let peer = lab.forwarder().address();
    next(&mut events, |event| *event == Event::UdpSilent { peer }).await;
    next(&mut events, |event| matches!(event, Event::TunnelUp { .. })).await;
    next(&mut events, |event| {
        matches!(event, Event::Fallback { active: true, .. })
    })
    .await;
}

async fn a_client_whose_relays_name_does_not_resolve_tries_for_ever(via: Via) {
    let lab = Lab::new(via).await;
    let mut identity = lab.identity();
    identity.relay = "no-such-host.invalid:4433".parse().unwrap();
    let client = lab.start(identity, []);
    let mut events = client.events();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let event = next(&mut events, |event| {
            matches!(event, Event::Reconnecting { .. })
        })
        .await;
        let Event::Reconnecting { reason, retry_in } = event else {
            unreachable!()
        };
        assert!(reason.contains("cannot resolve"), "{reason}");
        waits.push(retry_in);
    }
    // Doubling, with a jitter of half.
    assert!(waits[3] > waits[0], "{waits:?}");
    let ended = tokio::time::timeout(Duration::ZERO, client.finished());
    assert!(ended.await.is_err(), "it does not give up");
}

async fn what_was_removed_while_the_tunnel_was_down_is_given_back(via: Via) {
    let lab = Lab::with(via, short_lease).await;
    let server = Server::tcp(lab.ip).await;
    let kept = simple("kept", "tcp", lab.port, server.address());
    let gone = simple("gone", "tcp", lab.port + 1, server.address());
    let client = lab.client([kept.clone(), gone]).await;
    let mut events = client.events();
    lab.forwarder().cut();
    next(&mut events, |event| {
        matches!(event, Event::TunnelDown { .. })
    })
    .await;
    client.remove("gone".parse().unwrap()).await.unwrap();
    bound(&client, &kept).await;
    waited("the port", async || {
        TcpListener::bind(lab.at(lab.port + 1)).await.ok()
    })
    .await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

/// A client in a runtime of its own, which can end without a word.
pub(crate) struct Crashing {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Crashing {
    pub(crate) async fn start(lab: &Lab, identity: ClientIdentity, wanted: Instance) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let client = lab.start(identity, [wanted.clone()]);
        drop(guard);
        bound(&client, &wanted).await;
        Self { client, runtime }
    }

    pub(crate) async fn crash(self) {
        let Self { client, runtime } = self;
        // Its tasks end where they are. Only then is the handle dropped, which would say goodbye.
        let crashing = move || runtime.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(crashing).await.unwrap();
        drop(client);
    }
}

/// A relay that holds ports for a second.
fn short_lease(builder: RelayBuilder) -> RelayBuilder {
    let mut limits = RelayLimits::default();
    limits.lease = Duration::from_secs(1);
    builder.limits(limits)
}

/// Waits for an event.
pub(crate) async fn next(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    hang("an event", async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Waits until a client has noticed that nothing of it is bound.
pub(crate) async fn until_unbound(client: &Client) {
    waited("the loss of the tunnel", async || {
        let status = client.status().await.unwrap();
        let bound = |state: &InstanceState| state.is_bound();
        let none = !status.instances.iter().any(|(_, state)| bound(state));
        (none && status.transport.is_none()).then_some(())
    })
    .await;
}

/// Waits until this relay has bound an instance: the client may not have noticed yet that the one before is gone.
async fn until_rebound(lab: &Lab, client: &Client, wanted: &Instance) {
    waited("the relay's word", async || {
        let status = lab.relay().status().await.unwrap();
        let mut bound = status.clients.iter().flat_map(|client| &client.instances);
        bound.any(|it| it.id == *wanted.id()).then_some(())
    })
    .await;
    bound(client, wanted).await;
}

/// A grace that no test lasts.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A grace that is over soon.
const SHORT: Duration = Duration::from_millis(100);
