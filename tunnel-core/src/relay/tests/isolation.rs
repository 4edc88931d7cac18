//! What befalls one instance is noticed by no other.

use super::*;

/// A task of one instance panics; its neighbour plays on, and it serves the next player.
async fn panics_at(place: &str, on_relay: bool) {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let instances = [
        echo.instance("a", site.port),
        echo.instance("b", site.port + 1),
    ];
    let client = site.client(instances).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    let mut events = match on_relay {
        true => site.relay.events(),
        false => client.events(),
    };
    fault::arm(format!("{place} {}", site.port + 1));
    // Whatever it is, one of these comes there.
    let mut victim = site.tcp(site.port + 1).await;
    drop(victim.write_all(b"hello").await);
    let udp = site.udp(site.port + 1).await;
    udp.send(b"hello").await.unwrap();
    soon("word of the panic", async {
        while !matches!(
            events.next().await.unwrap().unwrap(),
            Event::Panicked { .. }
        ) {
            neighbour.plays().await;
        }
    })
    .await;
    neighbour.plays().await;
    let counted = [site.relay.metrics().panics, client.metrics().panics];
    assert_eq!(counted, if on_relay { [1, 0] } else { [0, 1] });
    // It is served again, after a pause at most.
    let (mut tcp, udp) = (site.tcp(site.port + 1).await, site.udp(site.port + 1).await);
    let mut heard = [0; 64];
    soon("an echo", async {
        tcp.write_all(b"again").await.unwrap();
        tcp.read_exact(&mut heard[..5]).await.unwrap();
    })
    .await;
    assert_eq!(&heard[..5], b"again");
    soon("an answer", async {
        loop {
            udp.send(b"again").await.unwrap();
            let answer = timeout(Duration::from_millis(100), udp.recv(&mut heard));
            if answer.await.is_ok() {
                break;
            }
        }
    })
    .await;
    neighbour.plays().await;
}

#[tokio::test]
async fn a_listener_that_accepts_nothing_any_more_costs_ten_tries_a_second_and_one_line_a_minute() {
    let site = Site::new().await;
    let mut events = site.relay.events();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let deaf = listener.local_addr().unwrap().to_string();
    // From now on accepting fails at once (EINVAL).
    let both = std::net::Shutdown::Both;
    socket2::SockRef::from(&listener).shutdown(both).unwrap();
    tokio::time::pause();
    let accepted = site.relay.shared.accept(&listener);
    let half_a_minute = Duration::from_secs(30);
    assert!(timeout(half_a_minute, accepted).await.is_err());
    let failed = site.relay.metrics().accepts_failed;
    assert!((250..=301).contains(&failed), "{failed}");
    let mut said = 0;
    while let Ok(event) = timeout(Duration::ZERO, events.next()).await {
        let line = event.unwrap().unwrap().to_string();
        said += usize::from(line.contains(&deaf));
    }
    assert_eq!(said, 1);
}

#[tokio::test]
async fn a_panic_in_accepting_players_is_caught_and_the_task_restarted() {
    panics_at("accepting on", true).await;
}

#[tokio::test]
async fn a_panic_in_receiving_datagrams_is_caught_and_the_task_restarted() {
    panics_at("receiving on", true).await;
}

#[tokio::test]
async fn a_panic_in_a_players_stream_ends_that_stream_alone() {
    panics_at("a player's stream on", true).await;
}

#[tokio::test]
async fn a_panic_over_an_answer_loses_that_answer_alone() {
    panics_at("an answer to", true).await;
}

#[tokio::test]
async fn a_panic_over_a_datagram_loses_that_datagram_alone() {
    panics_at("a datagram to", false).await;
}

#[tokio::test]
async fn a_panic_in_a_flow_ends_that_flow_alone() {
    panics_at("a flow to", false).await;
}

#[tokio::test]
async fn a_panic_in_a_stream_at_the_client_ends_that_stream_alone() {
    panics_at("a stream to", false).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_off_by_a_panic_does_not_look_complete() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let client = site.client([echo.instance("a", site.port)]).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    // At the relay, and at the client.
    for place in [
        format!("of {:?}", Some(site.at(site.port))),
        format!("to {:?}", Some(echo.address)),
    ] {
        fault::arm(format!("carrying a stream {place}"));
        let mut player = site.tcp(site.port).await;
        assert!(is_reset(&mut player).await, "{place}");
        neighbour.plays().await;
    }
    assert_eq!(site.relay.metrics().panics + client.metrics().panics, 2);
}

#[tokio::test]
async fn a_panic_in_resolving_a_name_is_caught_and_the_task_restarted() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let target = format!("localhost:{}", echo.address.port());
    let service = Service::new("game", Protocol::Udp, &*target).unwrap();
    let named = Instance::new("named", [service.public_port(site.port + 1).unwrap()]).unwrap();
    fault::arm(format!("resolving localhost for {}", site.port + 1));
    let client = site.client([named, echo.instance("a", site.port)]).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    until("the panic", || client.metrics().panics == 1).await;
    let player = site.udp(site.port + 1).await;
    soon("an answer", async {
        let mut heard = [0; 64];
        loop {
            player.send(b"hello").await.unwrap();
            let answer = timeout(Duration::from_millis(100), player.recv(&mut heard));
            if answer.await.is_ok() {
                break;
            }
        }
    })
    .await;
    neighbour.plays().await;
}

#[tokio::test]
async fn two_hundred_changes_beside_a_neighbour_cost_it_not_one_packet() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let client = site.client([echo.instance("a", site.port)]).await;
    let other = site.client([]).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    for round in 0..100 {
        let port = site.port + 1 + round % 3;
        // Of the same client, and of another.
        let changed = match round % 2 {
            0 => &client,
            _ => &other,
        };
        changed.insert(echo.instance("b", port)).await.unwrap();
        soon("the change", changed.bound()).await.unwrap();
        neighbour.plays().await;
        changed.remove("b".parse().unwrap()).await.unwrap();
        neighbour.plays().await;
    }
    let metrics = site.relay.metrics();
    assert_eq!(metrics.drop_queue_full + metrics.drop_no_tunnel, 0);
    assert_eq!(client.metrics().flows_opened, 1);
}

/// Declares ports of one instance, each a service.
async fn declare(client: &mut Scripted, id: &str, ports: &[u16]) {
    let declarations = ports.iter().zip(1..).map(|(port, service)| {
        let Message::Declare { services, .. } = declaration(id, service, Protocol::Both, *port)
        else {
            unreachable!()
        };
        services
    });
    let services = declarations.flatten().collect();
    let Message::Declare {
        instance, revision, ..
    } = declaration(id, 1, Protocol::Both, 1)
    else {
        unreachable!()
    };
    client
        .say(&Message::Declare {
            instance,
            revision,
            services,
        })
        .await;
}

#[tokio::test]
async fn a_declaration_that_panics_leaves_nothing_bound_that_is_not_and_nothing_unbound_that_is() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let _client = site.client([echo.instance("a", site.port)]).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    let (one, two) = (site.port + 1, site.port + 2);
    let listens = async |port| TcpStream::connect(site.at(port)).await.is_ok();
    let is_refused = |said: &Option<Message>| {
        let internal = Code::Internal;
        matches!(said, Some(Message::Refused { code, .. }) if *code == internal)
    };
    // What stood before, what is declared, and where that panics; which of the two ports are open then, and whether the instance
    // that stood is lost.
    let cases = [
        (
            &[][..],
            &[one][..],
            "declaring".to_owned(),
            [false; 2],
            false,
        ),
        (
            &[],
            &[one, two],
            format!("binding {two}"),
            [false; 2],
            false,
        ),
        (
            &[one],
            &[one, two],
            format!("binding {two}"),
            [true, false],
            false,
        ),
        (&[one], &[two], format!("binding {two}"), [false; 2], true),
    ];
    for (number, (before, wanted, place, open, is_lost)) in cases.into_iter().enumerate() {
        let id = format!("reconciled-{}-{number}", site.port);
        let mut client = Scripted::at(&site).await;
        if !before.is_empty() {
            declare(&mut client, &id, before).await;
            let said = client.hear().await;
            assert!(matches!(said, Some(Message::Bound { .. })), "{said:?}");
        }
        let place = match place.as_str() {
            "declaring" => format!("declaring {id}"),
            _ => place,
        };
        fault::arm(place);
        declare(&mut client, &id, wanted).await;
        if is_lost {
            let said = client.hear().await;
            assert!(
                matches!(said, Some(Message::Unbound { .. })),
                "{number}: {said:?}"
            );
        }
        let said = client.hear().await;
        assert!(is_refused(&said), "{number}: {said:?}");
        for (port, open) in [one, two].into_iter().zip(open) {
            // A service that has ended closes its socket when its task notices.
            soon("the port", async {
                while listens(port).await != open {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        declare(&mut client, &id, wanted).await;
        let said = client.hear().await;
        assert!(
            matches!(said, Some(Message::Bound { .. })),
            "{number}: {said:?}"
        );
        for port in wanted {
            assert!(listens(*port).await, "{number}: {port}");
        }
        neighbour.plays().await;
        let goodbye = Message::Goodbye {
            code: Code::Shutdown,
            text: crate::proto::message::Text::new(""),
        };
        client.say(&goodbye).await;
        soon("the end", client.connection.closed()).await;
    }
    assert_eq!(site.relay.metrics().panics, 4);
}

#[tokio::test]
async fn what_a_declaration_that_panics_has_changed_is_as_before() {
    let site = Site::new().await;
    let (one, two) = (site.port, site.port + 1);
    let mut client = Scripted::at(&site).await;
    let id = format!("again-{one}");
    client.bind(&id, 1, Protocol::Udp, one).await;
    // The first service has another id now, and the second one panics.
    fault::arm(format!("binding {two}"));
    let declared = [(11, one), (12, two)].map(|(service, port)| {
        let Message::Declare { services, .. } = declaration(&id, service, Protocol::Udp, port)
        else {
            unreachable!()
        };
        services
    });
    client
        .say(&Message::Declare {
            instance: id.parse().unwrap(),
            revision: Revision(2),
            services: declared.concat(),
        })
        .await;
    let said = client.hear().await;
    assert!(matches!(said, Some(Message::Refused { .. })), "{said:?}");
    let player = site.udp(one).await;
    player.send(b"hello").await.unwrap();
    let (_, opened) = client.player().await;
    assert_eq!(opened.unwrap().service, ServiceId(1));
}
