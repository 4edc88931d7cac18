//! A client with a valid key that follows no rules: it reaches its own ports and players, and nothing else.

use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::{
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, FragmentHead, Kind, RedundancyHead, Scheme},
        handshake::Hello,
        message::{IdleLanes, Text},
        record::RecordType,
        redundancy::{Protector, ProtectorSettings},
        stream::frame::{Frame, StreamHeader, StreamId},
    },
    transport::lane,
    tunnel::stream::Item,
};

/// A relay with a client that follows the rules, and a player of it.
struct Scene {
    site: Site,
    client: Client,
    _echo: Echo,
    neighbour: Neighbour,
    /// The hostile client's own port.
    port: u16,
}

impl Scene {
    async fn new() -> Self {
        Self::with(RelayLimits::default()).await
    }

    async fn with(limits: RelayLimits) -> Self {
        Self::at(Site::with(limits).await).await
    }

    async fn at(site: Site) -> Self {
        let echo = Echo::new().await;
        let client = site.client([echo.instance("a", site.port)]).await;
        let neighbour = Neighbour::of(&site, site.port).await;
        let port = site.port + 1;
        Self {
            site,
            client,
            _echo: echo,
            neighbour,
            port,
        }
    }

    fn metrics(&self) -> Snapshot {
        self.site.relay.metrics()
    }

    /// The client that follows the rules, its player and its port have noticed nothing.
    async fn is_unharmed(&mut self) {
        self.neighbour.plays().await;
        Neighbour::of(&self.site, self.site.port).await;
        assert_eq!(self.metrics().panics, 0);
        assert_eq!(self.client.metrics().panics, 0);
        let status = self.client.status().await.unwrap();
        assert_eq!(status.transport, Some(Transport::Quic));
    }
}

fn code_of(answer: Option<Message>) -> Code {
    match answer {
        Some(Message::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn ids_and_ports_of_others_are_refused_and_not_withdrawn() {
    let mut scene = Scene::new().await;
    let mut hostile = Scripted::at(&scene.site).await;
    let (theirs, own) = (scene.site.port, scene.port);
    hostile.declare("a", 1, Protocol::Udp, own).await;
    assert_eq!(code_of(hostile.hear().await), Code::IdInUse);
    hostile.declare("b", 2, Protocol::Udp, theirs).await;
    assert_eq!(code_of(hostile.hear().await), Code::PortInUse);
    hostile.declare("b", 3, Protocol::Tcp, theirs).await;
    assert_eq!(code_of(hostile.hear().await), Code::PortInUse);
    let withdraw = Message::Withdraw {
        instance: "a".parse().unwrap(),
        revision: Revision(4),
    };
    hostile.say(&withdraw).await;
    // Answered behind it: it has been read, and has done nothing.
    hostile.bind("c", 5, Protocol::Both, own).await;
    scene.is_unharmed().await;

    // Its permission is asked for each time, whatever was granted before.
    let key = hostile.identity.secret_key.public_key();
    if let Some((_, ports)) = lock(&scene.site.desk.known).get_mut(&key) {
        *ports = PortSet::default();
    }
    scene.site.relay.recheck().await;
    let told = hostile.hear().await;
    assert!(matches!(told, Some(Message::Unbound { .. })), "{told:?}");
    hostile.declare("c", 6, Protocol::Both, own).await;
    assert_eq!(code_of(hostile.hear().await), Code::NotPermitted);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn what_only_a_relay_may_say_ends_the_tunnel() {
    let mut scene = Scene::new().await;
    let (instance, revision) = ("a".parse::<InstanceId>().unwrap(), Revision(1));
    let (code, text) = (Code::None, Text::new("no"));
    let messages = [
        Message::Welcome {
            version: 1,
            heartbeat: HANG,
            lease: HANG,
            psk: None,
            client: Text::new("relay"),
            software: Text::new("evil"),
        },
        Message::Reject {
            code,
            text: text.clone(),
        },
        Message::Bound {
            instance: instance.clone(),
            revision,
        },
        Message::Refused {
            instance: instance.clone(),
            revision,
            code,
            text: Text::new("no"),
            port: None,
        },
        Message::Lanes {
            idle: IdleLanes::new(256),
        },
        Message::Unbound {
            instance,
            revision,
            code,
            text: Text::new("no"),
        },
    ];
    for message in messages {
        let mut hostile = Scripted::at(&scene.site).await;
        hostile.say(&message).await;
        assert_eq!(hostile.goodbye().await, Code::ProtocolError, "{message:?}");
    }
    let Message::Declare {
        instance,
        revision,
        services,
    } = declaration("twice", 1, Protocol::Udp, scene.port)
    else {
        unreachable!()
    };
    let mut hostile = Scripted::at(&scene.site).await;
    let twice = Message::Declare {
        instance,
        revision,
        services: [services.clone(), services].concat(),
    };
    hostile.say(&twice).await;
    assert_eq!(hostile.goodbye().await, Code::ProtocolError);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn what_is_no_message_ends_the_tunnel_and_allocates_nothing() {
    let mut scene = Scene::new().await;
    let cases: [(&str, &[u8]); 4] = [
        ("four gigabytes", &[3, 0xc0, 0, 0, 1, 0, 0, 0, 0]),
        (
            "all that a length can say",
            &[3, 0xff, 255, 255, 255, 255, 255, 255, 255],
        ),
        ("one byte too much", &[3, 0x80, 1, 0, 1]),
        ("a declaration of nothing", &[3, 0]),
    ];
    for (what, bytes) in cases {
        let mut hostile = Scripted::at(&scene.site).await;
        hostile.say_bytes(bytes).await;
        assert_eq!(hostile.goodbye().await, Code::ProtocolError, "{what}");
    }
    // What a later version may say is skipped.
    let mut hostile = Scripted::at(&scene.site).await;
    hostile.say_bytes(&[63, 3, 1, 2, 3]).await;
    hostile.bind("c", 1, Protocol::Udp, scene.port).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn datagrams_reach_only_ones_own_players() {
    let mut scene = Scene::new().await;
    let mut hostile = Scripted::at(&scene.site).await;
    hostile.bind("c", 1, Protocol::Udp, scene.port).await;
    let before = scene.metrics();
    // The neighbour's flow has one of the first ids.
    for flow in 0..64 {
        let data = DatagramHead::data(FlowId(flow));
        let opening = DatagramHead {
            open: Some(FlowOpen {
                service: ServiceId(1),
                port_index: 0,
                player: scene.neighbour.udp.local_addr().unwrap(),
                local: None,
            }),
            ..data
        };
        let fragment = DatagramHead {
            fragment: Some(FragmentHead {
                packet: 1,
                index: 0,
                count: 255,
            }),
            ..data
        };
        let close = DatagramHead {
            kind: Kind::Close,
            ..data
        };
        for head in [data, opening, fragment, close] {
            let mut datagram = BytesMut::new();
            head.encode(&mut datagram);
            datagram.extend_from_slice(b"not from your game");
            hostile.connection.send_datagram(datagram.freeze()).unwrap();
        }
    }
    until("the count", || {
        scene.metrics().drop_unknown_flow - before.drop_unknown_flow >= 128
    })
    .await;
    // What a repair brings back is looked at like what came.
    let repaired = before.repaired;
    for datagram in repaired_to(64) {
        hostile.connection.send_datagram(datagram).unwrap();
    }
    until("the repairs", || scene.metrics().repaired - repaired >= 16).await;
    // An answer of another would stand before its own, and a closed flow would be another one.
    scene.neighbour.plays().await;
    assert_eq!(scene.metrics().flows_opened, before.flows_opened);
    // What the hostile client has, it has: its own player is answered.
    let player = scene.site.udp(scene.port).await;
    player.send(b"hello").await.unwrap();
    let datagram = soon("the player's datagram", hostile.connection.read_datagram()).await;
    let (head, payload) = DatagramHead::decode(datagram.unwrap()).unwrap();
    assert_eq!(&payload[..], b"hello");
    let mut answer = BytesMut::new();
    DatagramHead::data(head.flow).encode(&mut answer);
    answer.extend_from_slice(b"welcome");
    hostile.connection.send_datagram(answer.freeze()).unwrap();
    let mut heard = [0; 64];
    let length = soon("the answer", player.recv(&mut heard)).await.unwrap();
    assert_eq!(&heard[..length], b"welcome");
    scene.is_unharmed().await;
}

/// Datagrams and their repairs, of which every fourth flow's below `flows` is lost on the way.
fn repaired_to(flows: u64) -> Vec<Bytes> {
    let mut protector = Protector::new(ProtectorSettings {
        permille: u32::MAX,
        ..ProtectorSettings::default()
    });
    let mut now = Instant::now();
    let mut datagrams = Vec::new();
    for flow in 0..flows {
        let scheme = Scheme::Source;
        let sequence = protector.sequence(scheme);
        let head = DatagramHead {
            redundancy: Some(RedundancyHead { sequence, scheme }),
            ..DatagramHead::data(FlowId(flow))
        };
        let mut datagram = BytesMut::new();
        head.encode(&mut datagram);
        datagram.extend_from_slice(b"not from your game");
        protector.handle_source(now, sequence, &datagram);
        if flow % 4 != 1 {
            datagrams.push(datagram.freeze());
        }
        now += Duration::from_millis(2);
        let mut repair = BytesMut::new();
        assert!(protector.poll_repair(now, &mut repair));
        datagrams.push(repair.freeze());
    }
    datagrams
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_alone_and_is_counted() {
    let mut scene = Scene::new().await;
    let mut hostile = Scripted::at(&scene.site).await;
    hostile.bind("c", 1, Protocol::Tcp, scene.port).await;
    let open = StreamHeader {
        stream: StreamId(1),
        service: ServiceId(1),
        port_index: 0,
        player: ([192, 0, 2, 1], 1).into(),
        local: ([192, 0, 2, 2], 2).into(),
    };
    let cases: [(&str, &[Frame]); 11] = [
        ("a move unasked", &[Frame::Move { offset: 0 }]),
        (
            "two moves unasked",
            &[Frame::Move { offset: 0 }, Frame::Move { offset: 0 }],
        ),
        (
            "a name for where it is",
            &[Frame::Join {
                stream: StreamId(1),
            }],
        ),
        (
            "somebody else's name",
            &[Frame::Join {
                stream: StreamId(0),
            }],
        ),
        (
            "bytes that were never sent",
            &[Frame::Ack { offset: 1 << 40 }],
        ),
        ("an end elsewhere", &[Frame::Fin { offset: 77 }]),
        (
            "an end twice",
            &[Frame::Fin { offset: 0 }, Frame::Fin { offset: 1 }],
        ),
        ("a stream of its own", &[Frame::Open(open)]),
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
    for (what, frames) in cases {
        let before = scene.metrics();
        let mut player = scene.site.tcp(scene.port).await;
        let mut channel = hostile.stream().await;
        assert!(matches!(
            channel.rx.read().await.unwrap(),
            Item::Frame(Frame::Open(_))
        ));
        for frame in frames {
            // The relay may have had enough already.
            drop(channel.tx.write(Some(*frame), None).await);
        }
        // What would end a sound stream.
        drop(channel.tx.end(None).await);
        assert!(is_reset(&mut player).await, "{what}");
        until(what, || {
            let now = scene.metrics();
            let counted = |it: &Snapshot| it.stream_misbehaved + it.stream_broken;
            counted(&now) > counted(&before)
        })
        .await;
    }
    // The tunnel stands, and carries the next stream.
    let mut player = scene.site.tcp(scene.port).await;
    let mut channel = hostile.stream().await;
    channel.rx.read().await.unwrap();
    channel.tx.write(None, Some("hi".into())).await.unwrap();
    let mut heard = [0; 2];
    soon("a greeting", player.read_exact(&mut heard))
        .await
        .unwrap();
    scene.is_unharmed().await;
}

#[tokio::test]
async fn data_beyond_what_a_tunnel_may_hold_ends_the_stream() {
    let mut scene = Scene::new().await;
    let mut hostile = Scripted::at(&scene.site).await;
    hostile.bind("c", 1, Protocol::Tcp, scene.port).await;
    // A player who reads nothing.
    let mut player = scene.site.tcp(scene.port).await;
    let mut channel = hostile.stream().await;
    let block = Bytes::from(vec![7; 64 * 1024]);
    let mut written = 0;
    while let Ok(()) = soon("room", channel.tx.write(None, Some(block.clone()))).await {
        written += block.len();
        assert!(written < MUCH, "the relay takes everything");
        if written % (8 << 20) == 0 {
            scene.neighbour.plays().await;
        }
    }
    assert!(is_reset(&mut player).await);
    until("the count", || scene.metrics().stream_misbehaved == 1).await;
    // The budget of its tunnel is whole again: its next player is served.
    let mut player = scene.site.tcp(scene.port).await;
    let mut channel = hostile.stream().await;
    channel.tx.write(None, Some("hi".into())).await.unwrap();
    let mut heard = [0; 2];
    let greeting = soon("a greeting", player.read_exact(&mut heard));
    greeting.await.unwrap();
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_ended() {
    let impatient = |config: &mut Config| config.send_patience = Duration::from_secs(2);
    let mut scene = Scene::at(Site::configured(impatient).await).await;
    let mut lane = only_lane(&scene.site, &scene.site.identity()).await;
    until("its tunnel", || scene.metrics().tunnels == 2).await;
    // Each is answered; nobody takes the answers.
    let mut pings = BytesMut::new();
    for number in 0..4096 {
        Message::Ping {
            number,
            heard: None,
        }
        .encode(&mut pings);
    }
    soon("the end", async {
        let mut pieces = pings.chunks(8192).cycle();
        while let Some(piece) = pieces.next()
            && lane
                .writer
                .write_frame(RecordType::Control, piece)
                .await
                .is_ok()
        {}
    })
    .await;
    scene.is_unharmed().await;
    until("the tunnel's end", || scene.metrics().tunnels == 1).await;
}

#[tokio::test]
async fn a_flood_of_declarations_keeps_nobody_else_waiting() {
    let mut scene = Scene::new().await;
    let Scripted {
        mut send,
        mut recv,
        connection,
        ..
    } = Scripted::at(&scene.site).await;
    let mut flood = BytesMut::new();
    for n in 1..=2_000_u32 {
        declaration("c", n, Protocol::Both, scene.port + n as u16 % 2).encode(&mut flood);
        Message::Withdraw {
            instance: "c".parse().unwrap(),
            revision: Revision(n.into()),
        }
        .encode(&mut flood);
    }
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while let Ok(Some(chunk)) = recv.read_chunk(64 * 1024, true).await {
            read += chunk.bytes.len();
        }
        read
    });
    let writing = tokio::spawn(async move {
        drop(send.write_all(&flood).await);
        send
    });
    for round in 0..10 {
        let port = scene.site.port + 4 + round % 2;
        let id: InstanceId = format!("new-{round}").parse().unwrap();
        scene
            .client
            .insert(scene._echo.instance(id.as_str(), port))
            .await
            .unwrap();
        soon("its being bound", scene.client.bound()).await.unwrap();
        Neighbour::of(&scene.site, port).await;
        scene.client.remove(id).await.unwrap();
        scene.neighbour.plays().await;
    }
    connection.close(quinn::VarInt::from_u32(0), b"");
    drop(writing.await.unwrap());
    assert!(reading.await.unwrap() > 0, "some of it was answered");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn lanes_without_end_are_bounded() {
    let limits = RelayLimits {
        lanes_per_tunnel: 8,
        ..RelayLimits::default()
    };
    let mut scene = Scene::with(limits).await;
    let hostile = Scripted::at(&scene.site).await;
    let secret = quic::lane_secret(&hostile.connection);
    let mut lanes = Vec::new();
    for number in 1..=64 {
        let tcp = TcpStream::connect(scene.site.relay.local_addr().unwrap()).await;
        let io = lane::Io::Tcp(tcp.unwrap());
        // It is opened, and then closed if it is one too many; or not opened at all.
        lanes.push(lane::connect_further(io, &secret, number, Suite::fastest()).await);
    }
    let mut closed = 0;
    for lane in &mut lanes {
        let Ok(lane) = lane else {
            closed += 1;
            continue;
        };
        let ended = timeout(Duration::from_millis(50), lane.reader.read()).await;
        closed += usize::from(matches!(ended, Ok(Ok(None) | Err(_))));
    }
    assert!(closed >= 64 - 8, "{closed} were closed");
    until("the count", || scene.metrics().lanes <= 8).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_client_opens_no_streams_of_its_own() {
    let mut scene = Scene::new().await;
    let mut hostile = Scripted::at(&scene.site).await;
    let opened = timeout(Duration::from_millis(300), hostile.connection.open_bi()).await;
    assert!(opened.is_err(), "beside the control stream there is none");
    let opened = timeout(Duration::from_millis(300), hostile.connection.open_uni()).await;
    assert!(opened.is_err());
    hostile.bind("c", 1, Protocol::Udp, scene.port).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn who_leaves_its_players_waiting_is_followed_by_who_serves_them() {
    let scene = Scene::new().await;
    // Over a lane alone, without one for players.
    let identity = scene.site.identity();
    let mut lane = only_lane(&scene.site, &identity).await;
    let mut encoded = BytesMut::new();
    declaration("c", 1, Protocol::Both, scene.port).encode(&mut encoded);
    let written = lane.writer.write_frame(RecordType::Control, &encoded);
    written.await.unwrap();
    soon("the port", async {
        while TcpStream::connect(scene.site.at(scene.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut player = scene.site.tcp(scene.port).await;
    player.write_all(b"anybody there?").await.unwrap();
    // The same key in another process: the player, for whom nothing has been said yet, is this one's.
    let client = Client::builder(identity)
        .instances([scene._echo.instance("c", scene.port)])
        .start()
        .unwrap();
    let mut heard = [0; 14];
    soon("an echo", player.read_exact(&mut heard))
        .await
        .unwrap();
    assert_eq!(&heard, b"anybody there?");
    assert_eq!(scene.metrics().stream_broken, 0);
    drop(client);
}

/// A client's tunnel over one lane, which has shown that it is there and whose end holds little that is not read.
async fn only_lane(site: &Site, identity: &ClientIdentity) -> lane::LaneHalves {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let tcp = socket.connect(site.relay.local_addr().unwrap()).await;
    let hello = Hello {
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        process: ProcessId::from([7; 16]),
        token: None,
        transport_parameters: None,
    };
    let opened = lane::connect_first(
        lane::Io::Tcp(tcp.unwrap()),
        Suite::fastest(),
        &identity.secret_key,
        &identity.relay_public_key,
        &identity.psk,
        &hello,
    );
    let (mut lane, _, _) = soon("a lane", opened).await.unwrap();
    let mut decoder = Decoder::new();
    let number = soon("the question whether it is there", async {
        loop {
            let record = lane.reader.read().await.unwrap();
            if let Some((RecordType::Control, piece)) = record {
                decoder.handle_input(&piece);
            }
            if let Some(Message::Ping { number, .. }) = decoder.poll_message().unwrap() {
                return number;
            }
        }
    })
    .await;
    let mut encoded = BytesMut::new();
    Message::Pong { number }.encode(&mut encoded);
    let answered = lane.writer.write_frame(RecordType::Control, &encoded);
    answered.await.unwrap();
    lane
}

/// What a relay may take for one who does not read: what a tunnel may hold, QUIC's windows and the player's socket.
const MUCH: usize = 160 << 20;

#[tokio::test]
async fn one_client_cannot_take_every_tunnels_place() {
    let limits = RelayLimits {
        tunnels: 8,
        tunnels_per_client: 2,
        ..RelayLimits::default()
    };
    let mut scene = Scene::with(limits).await;
    let identity = scene.site.identity();
    let mut held = Vec::new();
    for _ in 0..12 {
        // Each proves itself, and never opens a control stream.
        held.push(Scripted::proven(&identity, new_process()).await);
    }
    let refused = || scene.site.relay.metrics().tunnels_refused >= 8;
    until("the refusals", refused).await;
    // There is a place for another client all the same.
    Scripted::at(&scene.site).await;
    scene.is_unharmed().await;
}
