//! What players see of a shutdown, and of a tunnel that is away or changes hands in the moment when they come.

use std::{io, time::Duration};

use tokio::net::{TcpStream, UdpSocket};
use tunnel_core::{
    client::{Client, ClientEnd},
    event::{Event, Events},
    relay::{RelayBuilder, RelayLimits},
};

use crate::{
    lifecycle::{Crashing, LONG, next, until_unbound},
    support::{
        Lab, Via, hang,
        servers::{End, Server, end_of, tcp_echo, udp_echo},
        simple, until, waited,
    },
};

on_every_transport!(
    a_relay_that_drains_refuses_new_players_and_keeps_those_who_are_there,
    a_client_that_drains_refuses_new_players_and_keeps_those_who_are_there,
    a_drain_ends_flows_after_its_grace,
);

on_transport!(
    lane_only,
    Lane,
    a_silent_lane_is_suspect_and_its_flows_move_to_another,
    streams_that_came_from_another_tunnel_have_the_relays_grace_too,
    streams_that_came_from_another_tunnel_have_the_clients_grace_too,
    a_player_who_comes_while_the_client_is_away_is_served_when_it_is_back,
    a_player_who_waits_too_long_for_a_tunnel_is_reset_and_counted,
);

// Over QUIC the relay takes a crashed client for silent, not for gone.
on_transport!(
    mem_only,
    Mem,
    a_player_who_comes_while_the_client_is_away_is_served_when_it_is_back,
    a_player_who_waits_too_long_for_a_tunnel_is_reset_and_counted,
);

async fn a_relay_that_drains_refuses_new_players_and_keeps_those_who_are_there(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let mut events = client.events();
    let (mut tcp, udp) = (lab.tcp(lab.port).await, lab.udp(lab.port).await);
    tcp_echo(&mut tcp, b"before").await;
    udp_echo(&udp, b"before").await;

    let relay = lab.relay.take().unwrap();
    let draining = async {
        next(&mut events, |event| {
            matches!(event, Event::PeerDraining { .. })
        })
        .await;
        assert!(client.status().await.unwrap().relay_drains);
        waited("the listener's end", async || {
            let refused = TcpStream::connect(lab.at(lab.port)).await.err()?;
            (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
        })
        .await;
        let newcomer = lab.udp(lab.port).await;
        newcomer.send(b"let me in").await.unwrap();
        until("the count", || relay.metrics().drop_draining > 0).await;
        for _ in 0..5 {
            tcp_echo(&mut tcp, b"during").await;
            udp_echo(&udp, b"during").await;
        }
        assert_eq!(relay.metrics().flows_opened, 1);
        // The last connection ends, the game is played on for a while, and then it is quiet.
        drop(tcp);
        until("the stream's end", || relay.metrics().streams == 0).await;
        udp_echo(&udp, b"still there").await;
    };
    // Well before the grace is over: it waits for players, not for the clock.
    tokio::join!(hang("the relay's end", relay.shutdown(LONG)), draining);
    let gone = next(&mut events, |event| {
        matches!(event, Event::TunnelDown { .. })
    })
    .await;
    let Event::TunnelDown { reason, .. } = gone else {
        unreachable!()
    };
    assert!(reason.contains("the relay shuts down"), "{reason}");
    until_unbound(&client).await;
}

async fn a_client_that_drains_refuses_new_players_and_keeps_those_who_are_there(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let mut events = lab.relay().events();
    let (mut tcp, udp) = (lab.tcp(lab.port).await, lab.udp(lab.port).await);
    tcp_echo(&mut tcp, b"before").await;
    udp_echo(&udp, b"before").await;

    let metrics = || lab.relay().metrics();
    let draining = async {
        next(&mut events, |event| {
            matches!(event, Event::PeerDraining { .. })
        })
        .await;
        is_reset(&lab).await;
        assert_eq!(metrics().stream_draining, 1);
        let newcomer = lab.udp(lab.port).await;
        newcomer.send(b"let me in").await.unwrap();
        until("the count", || metrics().drop_draining > 0).await;
        for _ in 0..5 {
            tcp_echo(&mut tcp, b"during").await;
            udp_echo(&udp, b"during").await;
        }
        assert_eq!((metrics().flows_opened, metrics().streams_opened), (1, 1));
        drop(tcp);
        until("the stream's end", || client.metrics().streams == 0).await;
        udp_echo(&udp, b"still there").await;
    };
    tokio::join!(hang("the client's end", client.shutdown(LONG)), draining);
    assert_eq!(client.finished().await, ClientEnd::Stopped);
    let status = lab.relay().status().await.unwrap();
    assert!(status.clients.is_empty(), "no lease is held: {status:?}");
    waited("the ports", async || {
        UdpSocket::bind(lab.at(lab.port)).await.ok()
    })
    .await;
}

async fn a_drain_ends_flows_after_its_grace(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    // A player who never stops sending.
    let udp = lab.udp(lab.port).await;
    udp_echo(&udp, b"hello").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let player = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            // ICMP of an earlier one: the port is closed.
            drop(udp.send(b"and another").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let relay = lab.relay.take().unwrap();
    hang("the relay's end", relay.shutdown(SHORT)).await;
    assert_eq!(relay.metrics().flows, 0);
    until_unbound(&client).await;
    hang("the client's end", client.shutdown(SHORT)).await;
    stop.send(()).unwrap();
    player.await.unwrap();
}

async fn a_silent_lane_is_suspect_and_its_flows_move_to_another(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let client = lab
        .client([simple("a", "both", lab.port, server.address())])
        .await;
    let udp = lab.udp(lab.port).await;
    udp_echo(&udp, b"before").await;
    let mut events = client.events();
    // All that there is goes silent: no end, no error, no answer. What is dialled from now on gets through.
    lab.forwarder().freeze_all();
    next(&mut events, |event| {
        matches!(event, Event::Suspect { suspect: true, .. })
    })
    .await;
    next(&mut events, |event| matches!(event, Event::TunnelUp { .. })).await;
    udp_echo(&udp, b"after").await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"after").await;
    assert_eq!(lab.relay().metrics().flows_opened, 1, "the same flow");
    assert_eq!(server.players().len(), 1, "the game noticed nothing");
}

async fn streams_that_came_from_another_tunnel_have_the_relays_grace_too(via: Via) {
    let mut lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let (client, tcp) = on_the_next_tunnel(&lab, &server).await;
    let events = client.events();
    let relay = lab.relay.take().unwrap();
    let draining = talks_through_the_drain(events, tcp);
    tokio::join!(hang("the relay's end", relay.shutdown(LONG)), draining);
}

async fn streams_that_came_from_another_tunnel_have_the_clients_grace_too(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let (client, tcp) = on_the_next_tunnel(&lab, &server).await;
    let events = lab.relay().events();
    let draining = talks_through_the_drain(events, tcp);
    tokio::join!(hang("the client's end", client.shutdown(LONG)), draining);
}

/// A player who goes on while the other side of the tunnel drains, and then leaves.
async fn talks_through_the_drain(mut events: Events, mut tcp: TcpStream) {
    next(&mut events, |event| {
        matches!(event, Event::PeerDraining { .. })
    })
    .await;
    for _ in 0..5 {
        tcp_echo(&mut tcp, b"during").await;
    }
}

/// A client whose tunnel was replaced, and a player on the one before.
async fn on_the_next_tunnel(lab: &Lab, server: &Server) -> (Client, TcpStream) {
    let client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut tcp = lab.tcp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    let mut events = client.events();
    // The first lane carries control; the player's own still works, and is left all the same.
    lab.forwarder().freeze(1);
    next(&mut events, |event| {
        matches!(event, Event::Suspect { suspect: true, .. })
    })
    .await;
    next(&mut events, |event| matches!(event, Event::TunnelUp { .. })).await;
    until("the stream's going on", || {
        lab.relay().metrics().streams_resumed > 0
    })
    .await;
    tcp_echo(&mut tcp, b"on the next one").await;
    (client, tcp)
}

async fn a_player_who_comes_while_the_client_is_away_is_served_when_it_is_back(via: Via) {
    let lab = Lab::with(via, |builder| patience(builder, LONG)).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let wanted = simple("a", "tcp", lab.port, server.address());
    let mut events = lab.relay().events();
    let crashing = Crashing::start(&lab, identity.clone(), wanted.clone()).await;
    crashing.crash().await;
    next(&mut events, |event| {
        matches!(event, Event::TunnelDown { .. })
    })
    .await;
    let mut player = lab.tcp(lab.port).await;
    let echo = async {
        tcp_echo(&mut player, b"hello").await;
    };
    let back = async { lab.start(identity, [wanted]) };
    let ((), _client) = tokio::join!(echo, back);
    assert_eq!(lab.relay().metrics().stream_no_tunnel, 0);
}

async fn a_player_who_waits_too_long_for_a_tunnel_is_reset_and_counted(via: Via) {
    let lab = Lab::with(via, |builder| patience(builder, SHORT)).await;
    let server = Server::tcp(lab.ip).await;
    let wanted = simple("a", "tcp", lab.port, server.address());
    let mut events = lab.relay().events();
    let crashing = Crashing::start(&lab, lab.identity(), wanted).await;
    crashing.crash().await;
    next(&mut events, |event| {
        matches!(event, Event::TunnelDown { .. })
    })
    .await;
    is_reset(&lab).await;
    assert_eq!(lab.relay().metrics().stream_no_tunnel, 1);
}

/// A player connects and is reset, perhaps before the system has told it that it is connected.
pub(crate) async fn is_reset(lab: &Lab) {
    match hang("an end", TcpStream::connect(lab.at(lab.port))).await {
        Ok(mut player) => assert_eq!(end_of(&mut player).await, End::Reset),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

/// A relay whose players wait so long for a tunnel.
fn patience(builder: RelayBuilder, patience: Duration) -> RelayBuilder {
    let mut limits = RelayLimits::default();
    limits.stream_wait = patience;
    builder.limits(limits)
}

/// A grace or a patience that is over soon.
const SHORT: Duration = Duration::from_millis(100);
