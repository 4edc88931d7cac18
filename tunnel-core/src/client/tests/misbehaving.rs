//! A relay that breaks the rules: it is left, or a stream of it ends; the client goes on.

use tokio::net::TcpStream;

use super::*;
use crate::{
    event::Event,
    instance::InstanceId,
    proto::message::{Revision, Text},
    tunnel::stream::Channel,
};

/// A relay that does as the test wishes, and a client with a service for streams and one for flows.
struct Scene {
    relay: Hostile,
    client: Client,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Scene {
    async fn new() -> Self {
        Self::with(ClientLimits::default()).await
    }

    async fn with(limits: ClientLimits) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let services = [
            service("stream", Protocol::Tcp, tcp.local_addr().unwrap()),
            service("flow", Protocol::Udp, udp.local_addr().unwrap()),
        ];
        let instance = Instance::new("srv", services).unwrap();
        let (relay, client) = Hostile::over_with(instance, limits).await;
        Self {
            relay,
            client,
            tcp,
            udp,
        }
    }

    async fn says(&self, message: Message) {
        self.relay.control.tx.send(message).await.unwrap();
    }

    /// A channel that the client has not been told anything on yet.
    async fn channel(&self) -> Channel {
        let (send, recv) = self.relay.connection.open_bi().await.unwrap();
        Channel::quic(send, recv)
    }

    fn header(&self, stream: u64) -> StreamHeader {
        StreamHeader {
            stream: StreamId(stream),
            service: self.relay.id("stream"),
            port_index: 0,
            player: player(),
            local: player(),
        }
    }

    /// A stream that stands, and the game server's end of it.
    async fn stream(&self, stream: u64) -> (Channel, TcpStream) {
        let mut channel = self.channel().await;
        let open = Frame::Open(self.header(stream));
        channel.tx.write(Some(open), None).await.unwrap();
        let (game, _) = timeout(HANG, self.tcp.accept()).await.unwrap().unwrap();
        (channel, game)
    }

    /// Waits until the client has read all that was said before on the control stream.
    async fn has_heard(&mut self) {
        self.says(Message::Ping {
            number: 4711,
            heard: None,
        })
        .await;
        timeout(HANG, async {
            while !matches!(
                self.relay.control.rx.recv().await,
                Some(Ok(Message::Pong { number: 4711 }))
            ) {}
        })
        .await
        .unwrap();
    }

    /// The client has found nothing but the one thing wrong: streams and flows go on.
    async fn goes_on(&self, stream: u64) {
        let (mut channel, mut game) = self.stream(stream).await;
        channel.tx.write(None, Some("x".into())).await.unwrap();
        let mut one = [0];
        timeout(HANG, game.read_exact(&mut one))
            .await
            .unwrap()
            .unwrap();
        self.relay
            .send(1_000_000 + stream, self.relay.id("flow"), 0, b"hello");
        let mut buffer = [0; 64];
        let received = timeout(HANG, self.udp.recv_from(&mut buffer)).await;
        assert_eq!(&buffer[..received.unwrap().unwrap().0], b"hello");
        assert_eq!(self.client.metrics().panics, 0);
        assert!(self.relay.connection.close_reason().is_none());
    }
}

/// What the client says when it leaves.
async fn is_left(connection: &quinn::Connection, what: &str) {
    let closed = timeout(HANG, connection.closed()).await.expect(what);
    let quinn::ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{what}: {closed}");
    };
    assert_eq!(close.error_code.into_inner(), 7, "{what}: PROTOCOL_ERROR");
}

#[tokio::test]
async fn what_a_relay_may_not_say_makes_the_client_leave_with_a_code() {
    let (instance, revision) = ("srv".parse::<InstanceId>().unwrap(), Revision(1));
    let cases = [
        (
            "a second welcome",
            Message::Welcome {
                version: 1,
                heartbeat: HANG,
                lease: HANG,
                psk: None,
                client: Text::new("node-1"),
                software: Text::new("evil"),
            },
        ),
        ("a withdrawal", Message::Withdraw { instance, revision }),
    ];
    for (what, message) in cases {
        let scene = Scene::new().await;
        let mut events = scene.client.events();
        scene.says(message).await;
        is_left(&scene.relay.connection, what).await;
        // It stays away for a moment, or relay and client would do nothing else.
        let again = timeout(HANG, async {
            loop {
                if let Event::Reconnecting { retry_in, .. } = events.next().await.unwrap().unwrap()
                {
                    return retry_in;
                }
            }
        });
        assert!(again.await.expect(what) > Duration::ZERO);
        assert_eq!(scene.client.status().await.unwrap().transport, None);
    }
}

#[tokio::test]
async fn what_is_no_message_makes_the_client_leave() {
    // A length of gigabytes, a welcome of nothing, a field that goes past its message.
    for bytes in [
        &[1, 0xc0, 0, 0, 1, 0, 0, 0, 0][..],
        &[1, 0],
        &[9, 2, 1, 200],
    ] {
        let (endpoint, identity) = relay_and_identity();
        let client = Client::builder(identity).start().unwrap();
        let incoming = timeout(HANG, endpoint.accept()).await.unwrap().unwrap();
        let answered = quic::answer(incoming).unwrap();
        let connection = answered.accepted(HANG).await.unwrap().connection;
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        is_left(&connection, &format!("{bytes:?}")).await;
        assert_eq!(client.metrics().panics, 0);
    }
}

#[tokio::test]
async fn a_flood_of_opens_for_what_is_not_there_ends_each_of_them_alone() {
    let scene = Scene::new().await;
    for flow in 0..2_000 {
        let header = StreamHeader {
            service: ServiceId(999),
            ..scene.header(flow)
        };
        let mut channel = scene.channel().await;
        let open = Frame::Open(header);
        channel.tx.write(Some(open), None).await.unwrap();
        scene.relay.send(flow, ServiceId(999), 0, b"nobody there");
        if flow % 100 == 0 {
            let answer = timeout(HANG, channel.rx.read()).await.unwrap().unwrap();
            assert!(is_no_service(&answer), "{answer:?}");
        }
    }
    scene.goes_on(3_000).await;
    let metrics = scene.client.metrics();
    assert_eq!(metrics.flows_opened, 1);
    assert_eq!(metrics.streams_opened, 1);
    assert!(metrics.drop_unknown_service > 0);
}

#[tokio::test]
async fn flows_without_end_are_bounded_and_counted() {
    let limits = ClientLimits {
        flows: 8,
        ..ClientLimits::default()
    };
    let scene = Scene::with(limits).await;
    for flow in 0..500 {
        scene
            .relay
            .send(flow, scene.relay.id("flow"), 0, b"and one more");
    }
    timeout(HANG, async {
        while scene.client.metrics().drop_limit < 400 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(scene.client.metrics().flows, 8);
}

#[tokio::test]
async fn a_flood_of_lanes_wanted_makes_no_flood_of_connections() {
    let (mut scene, lanes) = loop {
        let scene = Scene::new().await;
        let address = scene.relay.endpoint.local_addr().unwrap();
        // Another may have the port of that number over TCP.
        if let Ok(lanes) = TcpListener::bind(address).await {
            break (scene, lanes);
        }
    };
    for round in 0..10_000 {
        let idle = crate::proto::message::IdleLanes::new(256 - round % 2);
        scene.says(Message::Lanes { idle }).await;
    }
    scene.has_heard().await;
    // Nobody answers their openings: so few are tried at once, and no other until these are through.
    let mut open = Vec::new();
    while let Ok(Ok(lane)) = timeout(Duration::from_millis(300), lanes.accept()).await {
        open.push(lane);
    }
    assert!((1..=8).contains(&open.len()), "{} connections", open.len());
    scene.goes_on(1).await;
}

#[tokio::test]
async fn data_beyond_what_a_tunnel_may_hold_ends_the_stream() {
    let scene = Scene::new().await;
    // A game server that reads nothing.
    let (mut channel, game) = scene.stream(1).await;
    let block = bytes::Bytes::from(vec![7; 64 * 1024]);
    let mut written = 0;
    loop {
        let written_now = timeout(HANG, channel.tx.write(None, Some(block.clone())));
        if written_now.await.expect("room").is_err() {
            break;
        }
        written += block.len();
        assert!(written < 160 << 20, "the client takes everything");
    }
    drop(game);
    assert_eq!(scene.client.metrics().stream_misbehaved, 1);
    scene.goes_on(2).await;
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_alone() {
    let scene = Scene::new().await;
    let cases: [(&str, &[Frame]); 7] = [
        ("a move unasked", &[Frame::Move { offset: 0 }]),
        (
            "a name for where it is",
            &[Frame::Join {
                stream: StreamId(1),
            }],
        ),
        (
            "bytes that were never sent",
            &[Frame::Ack { offset: 1 << 40 }],
        ),
        ("an end elsewhere", &[Frame::Fin { offset: 77 }]),
        (
            "a stream that goes on",
            &[Frame::Attach {
                stream: StreamId(1),
                received: 0,
            }],
        ),
        ("a lane's frame on QUIC", &[Frame::Idle]),
        (
            "a move to nowhere, and more",
            &[Frame::Move { offset: 1 << 40 }, Frame::Fin { offset: 9 }],
        ),
    ];
    for (at, (what, frames)) in cases.into_iter().enumerate() {
        let (mut channel, mut game) = scene.stream(at as u64).await;
        for frame in frames {
            // The client may have had enough already.
            drop(channel.tx.write(Some(*frame), None).await);
        }
        drop(channel.tx.end(None).await);
        let mut rest = Vec::new();
        let ended = timeout(HANG, game.read_to_end(&mut rest))
            .await
            .expect(what);
        assert!(ended.is_err(), "{what}: the game server sees a reset");
    }
    // Streams that nobody opened do not go on.
    for stream in [0, 77, u64::MAX >> 2] {
        let mut channel = scene.channel().await;
        let attach = Frame::Attach {
            stream: StreamId(stream),
            received: 0,
        };
        channel.tx.write(Some(attach), None).await.unwrap();
        let answer = timeout(HANG, channel.rx.read()).await.unwrap().unwrap();
        assert!(
            matches!(answer, Item::Frame(Frame::Reset { .. })),
            "{answer:?}"
        );
    }
    scene.goes_on(100).await;
}

#[tokio::test]
async fn what_stands_beside_a_stream_is_that_streams_alone() {
    let scene = Scene::new().await;
    let (mut first, mut game) = scene.stream(1).await;
    let (mut other, mut others_game) = scene.stream(2).await;
    let beside = |stream| Frame::Join {
        stream: StreamId(stream),
    };
    // One that nobody has, and one that has ended: there is nothing that could move.
    let (mut ended, _ended_game) = scene.stream(3).await;
    until_streams(&scene, 3).await;
    ended.tx.abort(Some(ResetCode::Socket)).await;
    until_streams(&scene, 2).await;
    for stream in [3, 77, u64::MAX >> 2] {
        let mut channel = scene.channel().await;
        channel.tx.write(Some(beside(stream)), None).await.unwrap();
        assert!(is_reset_by(&mut channel).await);
    }
    // The second one finds the stream on its way to the first.
    let mut next = scene.channel().await;
    next.tx.write(Some(beside(1)), None).await.unwrap();
    let answer = timeout(HANG, next.rx.read()).await.unwrap().unwrap();
    assert!(matches!(answer, Item::Frame(frame) if frame == beside(1)));
    let mut again = scene.channel().await;
    again.tx.write(Some(beside(1)), None).await.unwrap();
    assert!(is_reset_by(&mut again).await);
    // It goes on there all the same, and comes to it.
    first.tx.write(None, Some("a".into())).await.unwrap();
    let moves = Frame::Move { offset: 1 };
    first.tx.write(Some(moves), None).await.unwrap();
    next.tx.write(None, Some("b".into())).await.unwrap();
    let mut heard = [0; 2];
    timeout(HANG, game.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"ab");
    // Named there once more, it is over; and nobody else's is.
    next.tx.write(Some(beside(1)), None).await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(HANG, game.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err(), "the game server sees a reset");
    other.tx.write(None, Some("cd".into())).await.unwrap();
    timeout(HANG, others_game.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"cd");
    scene.goes_on(100).await;
}

/// Waits until the client carries this number of streams.
async fn until_streams(scene: &Scene, streams: u64) {
    timeout(HANG, async {
        while scene.client.metrics().streams != streams {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

async fn is_reset_by(channel: &mut Channel) -> bool {
    let answer = timeout(HANG, channel.rx.read()).await.unwrap().unwrap();
    matches!(answer, Item::Frame(Frame::Reset { .. }))
}

#[tokio::test]
async fn a_write_given_up_half_way_ends_in_a_reset_with_its_code() {
    let (relay_key, secret_key, psk) = (
        SecretKey::generate().unwrap(),
        SecretKey::generate().unwrap(),
        Psk::generate().unwrap(),
    );
    let (endpoint, address) = relay_endpoint(&relay_key, &psk);
    let socket = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = quic::client_endpoint(socket, Arc::default()).unwrap();
    let identity = quic::ClientIdentity {
        secret_key,
        relay: relay_key.public_key(),
        psk,
        process: ProcessId::from([2; 16]),
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        token: None,
        suite: crate::proto::handshake::Suite::fastest(),
    };
    let (near, far) = tokio::join!(quic::connect(&own, address, &identity), async {
        let answered = quic::answer(endpoint.accept().await.unwrap());
        answered.unwrap().accepted(HANG).await.unwrap().connection
    });
    let (near, _) = near.unwrap();
    let (send, recv) = far.open_bi().await.unwrap();
    let mut writing = Channel::quic(send, recv);
    let first = Frame::Ack { offset: 1 };
    writing.tx.write(Some(first), None).await.unwrap();
    let (send, recv) = near.accept_bi().await.unwrap();
    let mut reading = Channel::quic(send, recv);
    assert!(matches!(reading.rx.read().await, Ok(Item::Frame(_))));
    // More than the other side takes unread: the write stands in the middle of its data.
    let much = bytes::Bytes::from(vec![7; 32 << 20]);
    let given_up = timeout(
        Duration::from_millis(500),
        writing.tx.write(None, Some(much)),
    );
    assert!(given_up.await.is_err(), "it does not fit");
    writing.tx.abort(Some(ResetCode::Limit)).await;
    let end = timeout(HANG, async {
        loop {
            match reading.rx.read().await.unwrap() {
                Item::Data(_) => {}
                other => return other,
            }
        }
    });
    let end = end.await.unwrap();
    let is_limit = matches!(
        end,
        Item::Frame(Frame::Reset {
            code: ResetCode::Limit
        })
    );
    assert!(is_limit, "{end:?}");
}
