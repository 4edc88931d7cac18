//! Instances: bound as a whole, changed without a touch on their neighbours, and given back.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tunnel_core::{
    client::{ClientEnd, InstanceState, NotBound},
    event::Event,
    proto::message::Code,
};

use crate::support::{
    Lab, Via, bound, hang, instance, refused,
    servers::{End, Server, end_of, tcp_echo, udp_echo},
    service, simple, until, waited,
};

on_every_transport!(
    an_instance_is_bound_as_a_whole_or_not_at_all,
    a_port_of_another_client_is_refused_until_it_is_given_back,
    an_id_of_another_client_is_refused,
    a_receipt_says_what_became_of_an_instance,
    ports_outside_of_what_a_client_may_have_are_refused,
    ports_outside_of_what_the_relay_gives_out_are_refused,
    a_change_of_one_instance_leaves_its_neighbour_alone,
    a_change_of_one_service_leaves_the_others_alone,
    a_change_that_is_refused_leaves_what_stood,
    a_port_may_change_its_protocol,
    a_port_may_move_from_one_instance_to_another,
    a_new_target_serves_the_next_player,
    a_removed_instance_ends_its_players_and_gives_its_ports_back,
    the_relay_tells_what_is_bound,
);

async fn an_instance_is_bound_as_a_whole_or_not_at_all(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    // Another process has the third port.
    let taken = UdpSocket::bind(lab.at(lab.port + 2)).await.unwrap();
    let game = instance(
        "game",
        [
            service("one", "tcp", lab.port, target),
            service("two", "udp", lab.port + 1, target),
            service("three", "both", lab.port + 2, target),
        ],
    );
    let other = simple("other", "both", lab.port + 10, target);
    let client = lab.start(lab.identity(), [game.clone(), other.clone()]);
    bound(&client, &other).await;
    assert_eq!(refused(&client, "game").await, Code::PortInUse);
    assert!(client.metrics().instances_refused > 0);
    assert!(lab.relay().metrics().instances_refused > 0);
    // Nothing of it is open.
    for port in lab.port..lab.port + 3 {
        assert!(TcpStream::connect(lab.at(port)).await.is_err());
    }
    drop(UdpSocket::bind(lab.at(lab.port + 1)).await.unwrap());
    tcp_echo(&mut lab.tcp(lab.port + 10).await, b"hello").await;

    drop(taken);
    bound(&client, &game).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    udp_echo(&lab.udp(lab.port + 1).await, b"hello").await;
    tcp_echo(&mut lab.tcp(lab.port + 2).await, b"hello").await;
    udp_echo(&lab.udp(lab.port + 2).await, b"hello").await;
}

async fn a_port_of_another_client_is_refused_until_it_is_given_back(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let first = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let wanted = simple("b", "tcp", lab.port, server.address());
    let second = lab.start(lab.identity(), [wanted.clone()]);
    assert_eq!(refused(&second, "b").await, Code::PortInUse);
    hang("the end of the first", first.shutdown(HASTE)).await;
    bound(&second, &wanted).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

async fn an_id_of_another_client_is_refused(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let _first = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let second = lab.start(
        lab.identity(),
        [simple("a", "tcp", lab.port + 1, server.address())],
    );
    assert_eq!(refused(&second, "a").await, Code::IdInUse);
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
}

async fn a_receipt_says_what_became_of_an_instance(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let permitted = format!("{}-{}", lab.port, lab.port + 1).parse().unwrap();
    let client = lab.start(lab.identity_with(permitted), []);
    let insert = async |id: &str, port: u16| {
        let instance = simple(id, "tcp", port, server.address());
        let receipt = client.insert(instance).await.unwrap();
        hang("an answer", receipt.settled()).await.unwrap()
    };
    match insert("in", lab.port).await {
        InstanceState::Bound { ports, .. } => {
            assert_eq!(ports, [lab.port.to_string().parse().unwrap()]);
        }
        other => panic!("{other:?}"),
    }
    // The same once more is no change.
    assert!(insert("in", lab.port).await.is_bound());
    client.bound().await.unwrap();
    match insert("out", lab.port + 2).await {
        InstanceState::Refused { code, text, .. } => {
            assert_eq!(code, Code::NotPermitted);
            assert!(text.contains(&(lab.port + 2).to_string()), "{text}");
        }
        other => panic!("{other:?}"),
    }
    // No wait helps against that; another version does.
    let refused = hang("an answer", client.bound()).await.unwrap_err();
    assert!(matches!(refused, NotBound::Refused { .. }), "{refused}");
    assert!(insert("out", lab.port + 1).await.is_bound());
    client.bound().await.unwrap();
    assert!(client.remove("in".parse().unwrap()).await.unwrap());
    assert!(!client.remove("in".parse().unwrap()).await.unwrap());

    let waits = simple("waits", "tcp", lab.port, server.address());
    let receipt = client.insert(waits.clone()).await.unwrap();
    client.shutdown(Duration::ZERO).await;
    assert_eq!(client.insert(waits).await.unwrap_err(), ClientEnd::Stopped);
    assert_eq!(client.set_instances([]).await, Err(ClientEnd::Stopped));
    assert_eq!(client.status().await.unwrap_err(), ClientEnd::Stopped);
    assert_eq!(client.bound().await, Err(ClientEnd::Stopped.into()));
    match hang("the receipt's end", receipt.settled()).await {
        Ok(state) => assert!(state.is_bound(), "the relay was faster"),
        Err(error) => assert_eq!(error, ClientEnd::Stopped.into()),
    }
}

async fn ports_outside_of_what_a_client_may_have_are_refused(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let permitted = format!("{}-{}", lab.port, lab.port + 1).parse().unwrap();
    let client = lab.start(
        lab.identity_with(permitted),
        [
            simple("in", "tcp", lab.port, server.address()),
            simple("out", "tcp", lab.port + 2, server.address()),
            instance(
                "half",
                [
                    service("in", "udp", lab.port + 1, server.address()),
                    service("out", "udp", lab.port + 3, server.address()),
                ],
            ),
        ],
    );
    assert_eq!(refused(&client, "out").await, Code::NotPermitted);
    assert_eq!(refused(&client, "half").await, Code::NotPermitted);
    bound(&client, &simple("in", "tcp", lab.port, server.address())).await;
    assert!(TcpStream::connect(lab.at(lab.port + 2)).await.is_err());
    drop(UdpSocket::bind(lab.at(lab.port + 1)).await.unwrap());
}

async fn ports_outside_of_what_the_relay_gives_out_are_refused(via: Via) {
    let lab = Lab::with(via, |builder| builder.ports("1024-9000".parse().unwrap())).await;
    let server = Server::tcp(lab.ip).await;
    let wanted = simple("a", "tcp", lab.port, server.address());
    let client = lab.start(lab.identity(), [wanted.clone()]);
    assert_eq!(refused(&client, "a").await, Code::NotPermitted);
    lab.relay().set_ports("9001-65535".parse().unwrap()).await;
    bound(&client, &wanted).await;
    let mut player = lab.tcp(lab.port).await;
    tcp_echo(&mut player, b"hello").await;
    lab.relay().set_ports("1024-9000".parse().unwrap()).await;
    assert_eq!(end_of(&mut player).await, End::Reset);
    assert_eq!(refused(&client, "a").await, Code::NotPermitted);
}

async fn a_change_of_one_instance_leaves_its_neighbour_alone(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let neighbour = simple("neighbour", "both", lab.port, target);
    let client = lab
        .client([
            neighbour.clone(),
            simple("changing", "both", lab.port + 1, target),
        ])
        .await;
    let mut tcp = lab.tcp(lab.port).await;
    let udp = lab.udp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    udp_echo(&udp, b"before").await;

    for port in [lab.port + 2, lab.port + 3, lab.port + 1] {
        let changed = simple("changing", "both", port, target);
        client
            .set_instances([neighbour.clone(), changed.clone()])
            .await
            .unwrap();
        bound(&client, &changed).await;
        tcp_echo(&mut tcp, b"during").await;
        udp_echo(&udp, b"during").await;
        tcp_echo(&mut lab.tcp(port).await, b"the changed one").await;
    }
    client.set_instances([neighbour.clone()]).await.unwrap();
    until("the end of the changed one", || {
        std::net::TcpListener::bind(lab.at(lab.port + 1)).is_ok()
    })
    .await;
    tcp_echo(&mut tcp, b"after").await;
    udp_echo(&udp, b"after").await;
    assert_eq!(lab.relay().metrics().flows_opened, 1, "never a new flow");
    assert_eq!(client.metrics().flows_opened, 1);
}

async fn a_change_of_one_service_leaves_the_others_alone(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let with = |port| {
        instance(
            "a",
            [
                service("game", "both", lab.port, target),
                service("beacon", "both", port, target),
            ],
        )
    };
    let client = lab.client([with(lab.port + 1)]).await;
    let mut tcp = lab.tcp(lab.port).await;
    let udp = lab.udp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    udp_echo(&udp, b"before").await;
    for port in [lab.port + 2, lab.port + 3] {
        client.insert(with(port)).await.unwrap();
        bound(&client, &with(port)).await;
        tcp_echo(&mut tcp, b"during").await;
        udp_echo(&udp, b"during").await;
        tcp_echo(&mut lab.tcp(port).await, b"the beacon").await;
    }
    assert_eq!(lab.relay().metrics().flows_opened, 1, "never a new flow");
    assert_eq!(client.metrics().flows_opened, 1);
}

async fn a_change_that_is_refused_leaves_what_stood(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let client = lab.client([simple("a", "both", lab.port, target)]).await;
    let mut tcp = lab.tcp(lab.port).await;
    let udp = lab.udp(lab.port).await;
    tcp_echo(&mut tcp, b"before").await;
    udp_echo(&udp, b"before").await;

    let taken = TcpListener::bind(lab.at(lab.port + 1)).await.unwrap();
    let wanted = instance(
        "a",
        [
            service("game", "both", lab.port, target),
            service("beacon", "tcp", lab.port + 1, target),
        ],
    );
    client.insert(wanted.clone()).await.unwrap();
    assert_eq!(refused(&client, "a").await, Code::PortInUse);
    tcp_echo(&mut tcp, b"as before").await;
    udp_echo(&udp, b"as before").await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"a new player").await;
    udp_echo(&lab.udp(lab.port).await, b"a new player").await;

    drop(taken);
    bound(&client, &wanted).await;
    tcp_echo(&mut tcp, b"still").await;
    tcp_echo(&mut lab.tcp(lab.port + 1).await, b"the beacon").await;
}

async fn a_port_may_change_its_protocol(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let with = |protocol| {
        instance(
            "a",
            [
                service("game", protocol, lab.port, target),
                service("beacon", "tcp", lab.port + 1, target),
            ],
        )
    };
    let client = lab.client([with("tcp")]).await;
    let mut beacon = lab.tcp(lab.port + 1).await;
    tcp_echo(&mut beacon, b"before").await;
    for protocol in ["both", "udp", "tcp", "both"] {
        client.insert(with(protocol)).await.unwrap();
        bound(&client, &with(protocol)).await;
        if protocol != "udp" {
            tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
        }
        if protocol != "tcp" {
            udp_echo(&lab.udp(lab.port).await, b"hello").await;
        }
        tcp_echo(&mut beacon, b"during").await;
    }
    assert_eq!(lab.relay().metrics().instances_refused, 0);
}

async fn a_port_may_move_from_one_instance_to_another(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let client = lab.client([simple("a", "both", lab.port, target)]).await;
    for id in ["b", "c", "d"] {
        let next = simple(id, "both", lab.port, target);
        client.set_instances([next.clone()]).await.unwrap();
        bound(&client, &next).await;
        tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    }
    assert_eq!(lab.relay().metrics().instances_refused, 0);
}

async fn a_new_target_serves_the_next_player(via: Via) {
    let lab = Lab::new(via).await;
    let before = Server::tcp(lab.ip).await;
    let after = Server::tcp(lab.ip).await;
    let client = lab
        .client([simple("a", "tcp", lab.port, before.address())])
        .await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    drop(before);
    let changed = simple("a", "tcp", lab.port, after.address());
    client.insert(changed.clone()).await.unwrap();
    bound(&client, &changed).await;
    tcp_echo(&mut lab.tcp(lab.port).await, b"hello").await;
    assert_eq!(client.metrics().stream_no_service, 0);
    assert_eq!(client.metrics().stream_target_refused, 0);
}

async fn a_removed_instance_ends_its_players_and_gives_its_ports_back(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::both(lab.ip).await;
    let target = server.address();
    let client = lab.client([simple("a", "both", lab.port, target)]).await;
    let mut tcp = lab.tcp(lab.port).await;
    let udp = lab.udp(lab.port).await;
    tcp_echo(&mut tcp, b"hello").await;
    udp_echo(&udp, b"hello").await;
    let mut events = lab.relay().events();
    client.remove("a".parse().unwrap()).await.unwrap();
    assert_eq!(end_of(&mut tcp).await, End::Reset);
    hang("word of it", async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if matches!(event, Event::Unbound { instance } if instance.as_str() == "a") {
                break;
            }
        }
    })
    .await;
    waited("the ports", async || {
        let tcp = TcpListener::bind(lab.at(lab.port)).await.ok()?;
        UdpSocket::bind(lab.at(lab.port)).await.ok()?;
        Some(tcp)
    })
    .await;
    until("the end of the flows", || {
        lab.relay().metrics().flows == 0 && client.metrics().flows == 0
    })
    .await;
}

async fn the_relay_tells_what_is_bound(via: Via) {
    let lab = Lab::new(via).await;
    let server = Server::tcp(lab.ip).await;
    let identity = lab.identity();
    let key = identity.secret_key.public_key();
    let client = lab.start(identity, [simple("a", "tcp", lab.port, server.address())]);
    hang("the instance's being bound", client.bound())
        .await
        .unwrap();
    let status = lab.relay().status().await.unwrap();
    let [known] = &status.clients[..] else {
        panic!("{status:?}");
    };
    assert_eq!(known.key, key);
    assert_eq!(
        Some(known.name.clone()),
        client.status().await.unwrap().name
    );
    assert_eq!(known.transport, client.status().await.unwrap().transport);
    assert_eq!(known.instances.len(), 1);
    assert_eq!(known.instances[0].id.as_str(), "a");
    assert_eq!(
        known.instances[0].services[0].declaration.public.first(),
        lab.port
    );
    assert_eq!(status.counters.tunnels, 1);
}

const HASTE: Duration = Duration::ZERO;
