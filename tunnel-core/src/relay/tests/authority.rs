//! Rights that change, and an authority that fails.

use super::*;
use crate::{
    client::{self, EnrolError},
    join::{JoinString, Token},
    proto::{handshake::Hello, record::RecordType},
    transport::{admission::Source, lane},
};

/// Hears until then what happens, and says which of it speaks of tunnels.
async fn tunnels_until(events: &mut Events, last: impl Fn(&Event) -> bool) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let event = soon("an event", events.next()).await.unwrap().unwrap();
        if matches!(event, Event::TunnelUp { .. } | Event::TunnelDown { .. }) {
            heard.push(event.to_string());
        }
        if last(&event) {
            return heard;
        }
    }
}

#[tokio::test]
async fn an_enrolment_is_no_tunnel_and_takes_none_over() {
    let site = Site::new().await;
    let mut events = site.relay.events();
    let token = Token {
        id: TokenId::from(key::random::<16>().unwrap()),
        secret: Psk::generate().unwrap(),
    };
    lock(&site.desk.tokens).insert(token.id, token.secret.clone());
    let join = JoinString {
        relay: site.relay.local_addr().unwrap().into(),
        relay_public_key: site.relay.public_key(),
        token,
    };
    let node = SecretKey::generate().unwrap();
    let enrolled = soon("a key", client::enrol(&join, &node)).await.unwrap();
    let identity = ClientIdentity {
        relay: join.relay.clone(),
        relay_public_key: join.relay_public_key,
        secret_key: node.clone(),
        psk: enrolled.psk,
    };
    let echo = Echo::new().await;
    let client = Client::builder(identity)
        .instances([echo.instance("a", site.port)])
        .start()
        .unwrap();
    soon("the instance's being bound", client.bound())
        .await
        .unwrap();
    let mut player = Neighbour::of(&site, site.port).await;
    let is_bound = |event: &Event| matches!(event, Event::Bound { .. });
    assert_eq!(tunnels_until(&mut events, is_bound).await.len(), 1);

    // The same token and key again, as after a lost answer: the tunnel that stands is not touched.
    soon("a key", client::enrol(&join, &node)).await.unwrap();
    player.plays().await;
    let is_enrolled = |event: &Event| matches!(event, Event::Enrolled { .. });
    assert_eq!(
        tunnels_until(&mut events, is_enrolled).await,
        [""; 0],
        "neither up nor down"
    );
    assert_eq!(site.relay.metrics().tunnels_opened, 1);

    let unknown = JoinString {
        token: Token {
            id: TokenId::from([0; 16]),
            ..join.token.clone()
        },
        ..join
    };
    let refused = soon("an answer", client::enrol(&unknown, &node)).await;
    assert!(matches!(refused, Err(EnrolError::Unreachable(_))));
}

#[tokio::test]
async fn who_cannot_prove_its_key_takes_nothing_over() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let identity = site.identity();
    let wanted = echo.instance("a", site.port);
    let client = Client::builder(identity.clone())
        .instances([wanted.clone()])
        .start()
        .unwrap();
    soon("the instance's being bound", client.bound())
        .await
        .unwrap();
    let mut player = Neighbour::of(&site, site.port).await;
    // The same key, another process, and not the secret that both sides share. It tries QUIC and lanes.
    let thief = ClientIdentity {
        psk: Psk::generate().unwrap(),
        ..identity
    };
    let thief = Client::builder(thief).instances([wanted]).start().unwrap();
    let mut events = thief.events();
    for _ in 0..2 {
        soon("a failure", async {
            while !matches!(
                events.next().await.unwrap().unwrap(),
                Event::Reconnecting { .. }
            ) {}
        })
        .await;
        player.plays().await;
    }
    assert_eq!(site.relay.metrics().tunnels_opened, 1);
    assert_eq!(
        client.status().await.unwrap().transport,
        Some(Transport::Quic)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_heard_while_what_it_asked_for_takes_long() {
    let site = Site::new().await;
    let mut client = Scripted::at(&site).await;
    let (at_gate, open) = site.desk.close_gate("may_bind");
    client.declare("a", 1, Protocol::Tcp, site.port).await;
    soon("the question", at_gate).await.unwrap();
    // Of what comes meanwhile, one more thing that it asks for may wait.
    let number = 4711;
    let heard = None;
    client.say(&Message::Ping { number, heard }).await;
    soon("the PONG", client.hear_pong(number)).await;
    open.send(()).unwrap();
    assert!(matches!(client.hear().await, Some(Message::Bound { .. })));
}

/// Has a client connect that has proved itself and was let in, and takes its right away before its tunnel stands.
async fn loses_its_right_during_its_handshake(take_away: impl FnOnce(&Desk, PublicKey)) {
    let site = Site::new().await;
    let identity = site.identity();
    let (at_gate, open) = site.desk.close_gate("admit");
    let connecting = tokio::spawn(Scripted::connected(identity.clone()));
    soon("the question", at_gate).await.unwrap();
    take_away(&site.desk, identity.secret_key.public_key());
    site.relay.recheck().await;
    open.send(()).unwrap();
    let mut revoked = connecting.await.unwrap();
    let mut last = None;
    while let Some(said) = revoked.hear().await {
        last = Some(said);
    }
    assert!(
        matches!(
            last,
            Some(Message::Goodbye {
                code: Code::Revoked,
                ..
            })
        ),
        "{last:?}"
    );
    assert!(site.relay.status().await.unwrap().clients.is_empty());
    until("the tunnel's end", || site.relay.metrics().tunnels == 0).await;
}

#[tokio::test]
async fn who_is_revoked_during_its_handshake_gets_no_tunnel() {
    loses_its_right_during_its_handshake(|desk, client| desk.revoke(&client)).await;
}

#[tokio::test]
async fn whose_pre_shared_key_is_replaced_during_its_handshake_gets_no_tunnel() {
    let another = Psk::generate().unwrap();
    loses_its_right_during_its_handshake(|desk, client| desk.knows(client, another)).await;
}

#[tokio::test]
async fn another_pre_shared_key_ends_the_tunnel_that_the_old_one_made() {
    let site = Site::new().await;
    let mut events = site.relay.events();
    let echo = Echo::new().await;
    let identity = site.identity();
    let wanted = echo.instance("a", site.port);
    let start = |identity| {
        Client::builder(identity)
            .instances([wanted.clone()])
            .start()
    };
    let old = start(identity.clone()).unwrap();
    soon("the instance's being bound", old.bound())
        .await
        .unwrap();
    let mut player = Neighbour::of(&site, site.port).await;
    let neighbour = site.client([echo.instance("b", site.port + 1)]).await;
    let mut other = Neighbour::of(&site, site.port + 1).await;
    site.relay.recheck().await;
    player.plays().await;
    let psk = Psk::generate().unwrap();
    site.desk
        .knows(identity.secret_key.public_key(), psk.clone());
    site.relay.recheck().await;
    assert!(is_reset(&mut player.tcp).await);
    let is_down = |event: &Event| matches!(event, Event::TunnelDown { .. });
    let heard = tunnels_until(&mut events, is_down).await;
    let last = heard.last().unwrap();
    assert!(
        last.contains("pre-shared key has become another one"),
        "{last}"
    );
    // Who has the new one is let in, and the old one stays out.
    let new = start(ClientIdentity { psk, ..identity }).unwrap();
    soon("the instance's being bound", new.bound())
        .await
        .unwrap();
    Neighbour::of(&site, site.port).await.plays().await;
    assert_eq!(old.status().await.unwrap().transport, None);
    other.plays().await;
    assert!(neighbour.status().await.unwrap().transport.is_some());
}

#[tokio::test]
async fn only_who_is_let_in_is_known_where_it_comes_from() {
    let site = Site::new().await;
    let home = Source::of(Ipv4Addr::LOCALHOST.into());
    let is_known = || lock(&site.relay.shared.admission).knows(home);
    // As the holder of a token that has ended, or of a key that was revoked a moment ago: it proves itself in vain.
    lock(&site.desk.panics).insert("admit");
    let identity = site.identity();
    let mut denied = Scripted::connected(identity.clone()).await;
    let said = denied.hear().await;
    assert!(matches!(said, Some(Message::Reject { .. })), "{said:?}");
    let mut lane = proven_lane(&site, &identity).await;
    assert!(
        soon("a denial", lane.reader.read())
            .await
            .unwrap()
            .is_some()
    );
    assert!(!is_known());
    lock(&site.desk.panics).clear();
    Scripted::at(&site).await;
    assert!(is_known());
}

/// The first lane of a client that has proved itself.
async fn proven_lane(site: &Site, identity: &ClientIdentity) -> lane::LaneHalves {
    let tcp = TcpStream::connect(site.relay.local_addr().unwrap()).await;
    let io = lane::Io::Tcp(tcp.unwrap());
    let hello = Hello {
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        process: ProcessId::from([1; 16]),
        token: None,
        transport_parameters: None,
    };
    let (key, relay) = (&identity.secret_key, &identity.relay_public_key);
    let lane = lane::connect_first(io, Suite::fastest(), key, relay, &identity.psk, &hello);
    soon("a lane", lane).await.unwrap().0
}

/// A client with an instance on each of two ports, and a player of either.
async fn two_neighbours(site: &Site, echo: &Echo) -> (Client, Neighbour, Neighbour) {
    let instances = [
        echo.instance("a", site.port),
        echo.instance("b", site.port + 1),
    ];
    let client = site.client(instances).await;
    let first = Neighbour::of(site, site.port).await;
    let second = Neighbour::of(site, site.port + 1).await;
    (client, first, second)
}

#[tokio::test]
async fn a_policy_that_changes_its_mind_ends_streams_and_flows() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (client, mut kept, mut lost) = two_neighbours(&site, &echo).await;
    lock(&site.desk.forbidden).insert(site.port + 1);
    site.relay.recheck().await;
    assert!(is_reset(&mut lost.tcp).await);
    until("the flow's end", || site.relay.metrics().flows == 1).await;
    kept.plays().await;
    // It is declared again and again, and comes back with the permission.
    lock(&site.desk.forbidden).clear();
    soon("the instance's being bound", async {
        while !client.status().await.unwrap().is_bound() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    Neighbour::of(&site, site.port + 1).await;
}

#[tokio::test]
async fn ports_that_the_relay_gives_out_no_more_end_their_streams_and_flows() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let (_client, mut kept, mut lost) = two_neighbours(&site, &echo).await;
    let ports = site.port.to_string().parse().unwrap();
    site.relay.set_ports(ports).await;
    assert!(is_reset(&mut lost.tcp).await);
    until("the flow's end", || site.relay.metrics().flows == 1).await;
    kept.plays().await;
}

/// An authority that panics at one question denies what was asked, and nothing else.
async fn fails_at(question: &'static str) {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let _client = site.client([echo.instance("a", site.port)]).await;
    let mut neighbour = Neighbour::of(&site, site.port).await;
    let mut events = site.relay.events();
    lock(&site.desk.panics).insert(question);
    let late = Client::builder(site.identity())
        .instances([echo.instance("b", site.port + 1)])
        .start()
        .unwrap();
    let name = format!("the authority's {question}");
    soon("word of the panic", async {
        while events.next().await.unwrap().unwrap() != (Event::Panicked { task: name.clone() }) {}
    })
    .await;
    site.relay.recheck().await;
    neighbour.plays().await;
    assert!(site.relay.metrics().panics > 0);
    // As soon as the authority answers again, so does the relay.
    lock(&site.desk.panics).clear();
    soon("the late one's being bound", late.bound())
        .await
        .unwrap();
    Neighbour::of(&site, site.port + 1).await;
    neighbour.plays().await;
    assert_eq!(site.relay.metrics().tunnels, 2);
}

#[tokio::test]
async fn an_authority_that_panics_for_a_key_takes_nothing_down() {
    fails_at("psk").await;
}

#[tokio::test]
async fn an_authority_that_panics_at_an_admission_takes_nothing_down() {
    fails_at("admit").await;
}

#[tokio::test]
async fn an_authority_that_panics_at_a_recheck_takes_nothing_down() {
    fails_at("readmit").await;
}

#[tokio::test]
async fn a_policy_that_panics_takes_nothing_down() {
    fails_at("may_bind").await;
}

#[tokio::test]
async fn who_proves_a_spent_key_many_times_holds_a_few_places_and_others_get_in() {
    const MANY: usize = 20;
    let limits = RelayLimits {
        handshakes: 6,
        handshakes_per_source: 4,
        handshake_cpu_permille: 1000,
        ..RelayLimits::default()
    };
    let site = Site::with(limits).await;
    let echo = Echo::new().await;
    let spent = site.identity();
    site.desk.denies.store(true, Ordering::Relaxed);
    let mut held = Vec::new();
    for _ in 0..MANY {
        // It never asks why it is not let in.
        held.push(soon("a proof", Scripted::proven(&spent, new_process())).await);
    }
    let evicted = || site.relay.metrics().handshakes_evicted;
    until("all but a few to be gone", || evicted() == MANY as u64 - 4).await;
    assert_eq!(site.relay.shared.proven.count(), 4);
    let is_open = |held: &&(_, quinn::Connection)| held.1.close_reason().is_none();
    until("word of it", || held.iter().filter(is_open).count() <= 4).await;
    site.desk.denies.store(false, Ordering::Relaxed);
    let _client = site.client([echo.instance("a", site.port)]).await;
    Neighbour::of(&site, site.port).await.plays().await;
}

#[tokio::test]
async fn who_is_not_let_in_yet_may_send_a_few_messages_only() {
    let site = Site::new().await;
    let identity = site.identity();
    let (at_gate, opener) = site.desk.close_gate("admit");
    let proven = Scripted::proven(&identity, new_process()).await;
    soon("the question", at_gate).await.unwrap();
    let mut client = Scripted::opened(identity, proven).await;
    let mut ping = BytesMut::new();
    let message = Message::Ping {
        number: 0,
        heard: None,
    };
    message.encode(&mut ping);
    let pings = ping.repeat((1 << 20) / ping.len() + 1);
    let mut sent = 0;
    let silence = Duration::from_millis(300);
    while let Ok(more) = timeout(silence, client.send.write(&pings[sent..])).await {
        sent += more.unwrap();
    }
    assert!(sent > 0 && sent <= 16 << 10, "{sent}");
    opener.send(()).unwrap();
    // The answer to what it hears must not come between the halves of a message.
    let whole = sent.next_multiple_of(ping.len());
    client.say_bytes(&pings[sent..whole]).await;
    let first = client.hear().await;
    assert!(matches!(first, Some(Message::Welcome { .. })), "{first:?}");
    // And then as much as it likes.
    client.say_bytes(&pings[whole..]).await;
}

#[tokio::test]
async fn who_is_not_let_in_and_talks_on_is_closed() {
    /// More than all buffers between two sockets hold.
    const MUCH: usize = 64 << 20;
    let site = Site::new().await;
    let identity = site.identity();
    site.desk.denies.store(true, Ordering::Relaxed);
    let mut ping = BytesMut::new();
    let message = Message::Ping {
        number: 0,
        heard: None,
    };
    message.encode(&mut ping);
    let pings = ping.repeat((16 << 10) / ping.len());

    let proven = Scripted::proven(&identity, new_process()).await;
    let mut on_stream = Scripted::opened(identity.clone(), proven).await;
    let mut sent = 0;
    while let Ok(more) = soon("room, or an end", on_stream.send.write(&pings)).await {
        sent += more;
        assert!(sent < MUCH, "whatever it says is read");
    }
    let proven = Scripted::proven(&identity, new_process()).await;
    let by_datagrams = Scripted::opened(identity.clone(), proven).await;
    let datagram = bytes::Bytes::from(vec![7; 1_000]);
    let mut sent = 0;
    while (soon(
        "room",
        by_datagrams.connection.send_datagram_wait(datagram.clone()),
    )
    .await)
        .is_ok()
    {
        sent += datagram.len();
        assert!(sent < MUCH, "whatever it says is read");
    }
    let mut lane = proven_lane(&site, &identity).await;
    let mut sent = 0;
    let mut write = async || lane.writer.write_frame(RecordType::Control, &pings).await;
    while soon("room, or an end", write()).await.is_ok() {
        sent += pings.len();
        assert!(sent < MUCH, "whatever it says is read");
    }
}
