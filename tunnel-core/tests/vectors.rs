//! Golden vectors: bytes of protocol version 1, which stay for ever. Made by an encoder of its own, written from
//! `docs/protocol.md` alone.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tunnel_core::{
    instance::{FlowLimits, Optimize, PortRange, Protocol, Redundancy},
    key::Psk,
    proto::{
        datagram::{
            DatagramHead, FlowId, FlowOpen, FragmentHead, Kind, RedundancyHead, RepairHead, Scheme,
        },
        message::{
            Code, Decoder, HealthWord, IdleLanes, Message, Revision, ServiceDeclaration, ServiceId,
            Text,
        },
        redundancy::Probe,
        stream::frame::{
            DataHead, Decoded, Frame, FrameDecoder, ResetCode, StreamHeader, StreamId,
        },
    },
};

#[test]
fn control_messages_of_version_1_stay() {
    for (hex, message) in messages() {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        assert_eq!(to_hex(&out), hex, "{}", message.name());
        let mut decoder = Decoder::new();
        decoder.handle_input(&out);
        assert_eq!(decoder.poll_message(), Ok(Some(message)));
        assert_eq!(decoder.poll_message(), Ok(None));
    }
}

#[test]
fn stream_frames_of_version_1_stay() {
    for (hex, frame) in frames() {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(to_hex(&out), hex, "{frame:?}");
        let mut decoder = FrameDecoder::new();
        decoder.handle_input(out.freeze());
        assert_eq!(decoder.poll(), Ok(Some(Decoded::Frame(frame))));
    }
    assert_eq!(to_hex(&DataHead::new(1200).unwrap()), "1244b0");
}

#[test]
fn datagram_heads_of_version_1_stay() {
    for (hex, head) in datagrams() {
        let mut out = BytesMut::new();
        head.encode(&mut out);
        assert_eq!(to_hex(&out), hex, "{head:?}");
        out.extend_from_slice(b"payload");
        let payload = Bytes::from_static(b"payload");
        assert_eq!(DatagramHead::decode(out.freeze()), Ok((head, payload)));
    }
}

#[test]
fn probes_of_version_1_stay() {
    let probes = [
        ("0200000102", Probe::Question(258)),
        ("0200010102a0b0c0d0", Probe::Answer(258, 0xa0b0_c0d0)),
    ];
    for (hex, probe) in probes {
        let mut out = BytesMut::new();
        probe.encode(&mut out);
        assert_eq!(to_hex(&out), hex, "{probe:?}");
        let (_, payload) = DatagramHead::decode(out.freeze()).unwrap();
        assert_eq!(Probe::decode(&payload), Some(probe));
    }
}

fn messages() -> Vec<(&'static str, Message)> {
    let welcome = |psk| Message::Welcome {
        version: 1,
        heartbeat: Duration::from_secs(5),
        lease: Duration::from_secs(60),
        psk,
        client: Text::new("node-1"),
        software: Text::new("adit/0.1.0"),
    };
    let instance = || "srv_123".parse().unwrap();
    vec![
        (
            "01210101010202538803048000ea6005066e6f64652d31060a616469742f302e312e30",
            welcome(None),
        ),
        (
            "0140430101010202538803048000ea60042007070707070707070707070707070707070707070707070707\
             0707070707070705066e6f64652d31060a616469742f302e312e30",
            welcome(Some(Psk::from([7; 32]))),
        ),
        (
            "020c010105020765787069726564",
            Message::Reject {
                code: Code::TokenExpired,
                text: Text::new("expired"),
            },
        ),
        (
            "03405d01077372765f3132330204800111700326010101020467616d6503010304025e6105010106010107\
             048001d4c00802404009048000400003240101020206626561636f6e03010104048000753005010a060100\
             07026710080101090101",
            Message::Declare {
                instance: instance(),
                revision: Revision(70_000),
                services: vec![
                    ServiceDeclaration {
                        id: ServiceId(1),
                        name: "game".parse().unwrap(),
                        protocol: Protocol::Both,
                        public: PortRange::new(7777, 7777).unwrap(),
                        optimize: Optimize::Latency,
                        redundancy: Redundancy::Off,
                        flows: FlowLimits {
                            per_address: 64,
                            ..FlowLimits::default()
                        },
                        tells_local: false,
                    },
                    ServiceDeclaration {
                        id: ServiceId(2),
                        name: "beacon".parse().unwrap(),
                        protocol: Protocol::Tcp,
                        public: PortRange::new(30_000, 30_009).unwrap(),
                        optimize: Optimize::Auto,
                        redundancy: Redundancy::Off,
                        flows: FlowLimits {
                            idle: Duration::from_secs(10),
                            per_address: 1,
                            per_service: 1,
                        },
                        tells_local: false,
                    },
                ],
            },
        ),
        (
            "033701077372765f3132330201020329010101020467616d6503010304025e6105010106010107048001d4\
             c0080240400904800040000b0101",
            Message::Declare {
                instance: instance(),
                revision: Revision(2),
                services: vec![ServiceDeclaration {
                    id: ServiceId(1),
                    name: "game".parse().unwrap(),
                    protocol: Protocol::Both,
                    public: PortRange::new(7777, 7777).unwrap(),
                    optimize: Optimize::Latency,
                    redundancy: Redundancy::Off,
                    flows: FlowLimits {
                        per_address: 64,
                        ..FlowLimits::default()
                    },
                    tells_local: true,
                }],
            },
        ),
        (
            "040c01077372765f313233020102",
            Message::Withdraw {
                instance: instance(),
                revision: Revision(2),
            },
        ),
        (
            "050c01077372765f313233020101",
            Message::Bound {
                instance: instance(),
                revision: Revision(1),
            },
        ),
        (
            "061a01077372765f313233020101030109040574616b656e05025e61",
            Message::Refused {
                instance: instance(),
                revision: Revision(1),
                code: Code::PortInUse,
                text: Text::new("taken"),
                port: Some(7777),
            },
        ),
        (
            "061101077372765f31323302010103013f0400",
            Message::Refused {
                instance: instance(),
                revision: Revision(1),
                code: Code::from(63),
                text: Text::default(),
                port: None,
            },
        ),
        (
            "0703010100",
            Message::Ping {
                number: 0,
                heard: None,
            },
        ),
        (
            "0706010102020104",
            Message::Ping {
                number: 2,
                heard: Some(4),
            },
        ),
        (
            "080a0108ffffffffffffffff",
            Message::Pong {
                number: (1 << 62) - 1,
            },
        ),
        (
            "0906010480007530",
            Message::Drain {
                grace: Duration::from_secs(30),
            },
        ),
        (
            "0a080101010203627965",
            Message::Goodbye {
                code: Code::Shutdown,
                text: Text::new("bye"),
            },
        ),
        (
            "0b0401024100",
            Message::Lanes {
                idle: IdleLanes::new(256),
            },
        ),
        (
            "0c1801077372765f31323302010103010d040772656d6f766564",
            Message::Unbound {
                instance: instance(),
                revision: Revision(1),
                code: Code::Removed,
                text: Text::new("removed"),
            },
        ),
        (
            "0d0701010701024100",
            Message::Lost {
                streams: vec![StreamId(7), StreamId(256)],
            },
        ),
        (
            "0e3401077372765f313233020467616d65030104040243e805046c6174650604486f6d6507010308010a0903312e300a05776f726c64",
            Message::Health {
                instance: instance(),
                service: "game".parse().unwrap(),
                state: HealthWord::Refusing,
                age: Duration::from_millis(1000),
                reason: Some(Text::new("late")),
                name: Some(Text::new("Home")),
                players: Some(3),
                max: Some(10),
                version: Some(Text::new("1.0")),
                map: Some(Text::new("world")),
            },
        ),
    ]
}

fn frames() -> Vec<(&'static str, Frame)> {
    vec![
        (
            "10190101010201020301030406c0000201c3500506c63364011e61",
            Frame::Open(StreamHeader {
                stream: StreamId(1),
                service: ServiceId(2),
                port_index: 3,
                player: "192.0.2.1:50000".parse().unwrap(),
                local: "198.51.100.1:7777".parse().unwrap(),
            }),
        ),
        (
            "10340104800186a0020102030100041220010db8000000000000000000000001c350051220010db8000000\
             0000000000000000021e61",
            Frame::Open(StreamHeader {
                stream: StreamId(100_000),
                service: ServiceId(2),
                port_index: 0,
                player: "[2001:db8::1]:50000".parse().unwrap(),
                local: "[2001:db8::2]:7777".parse().unwrap(),
            }),
        ),
        (
            "110d0101070208c000000200000000",
            Frame::Attach {
                stream: StreamId(7),
                received: 1 << 33,
            },
        ),
        ("130480010000", Frame::Ack { offset: 65_536 }),
        ("140105", Frame::Fin { offset: 5 }),
        (
            "150102",
            Frame::Reset {
                code: ResetCode::Unreachable,
            },
        ),
        ("160480100000", Frame::Move { offset: 1 << 20 }),
        ("1700", Frame::Idle),
        (
            "1803010107",
            Frame::Join {
                stream: StreamId(7),
            },
        ),
    ]
}

fn datagrams() -> Vec<(&'static str, DatagramHead)> {
    let data = |flow| DatagramHead::data(FlowId(flow));
    vec![
        ("0005", data(5)),
        (
            "80404609010004c0000201c350",
            DatagramHead {
                open: Some(FlowOpen {
                    service: ServiceId(1),
                    port_index: 0,
                    player: "192.0.2.1:50000".parse().unwrap(),
                    local: None,
                }),
                ..data(70)
            },
        ),
        (
            "80404610010004c0000201c35004cb00710163dd",
            DatagramHead {
                open: Some(FlowOpen {
                    service: ServiceId(1),
                    port_index: 0,
                    player: "192.0.2.1:50000".parse().unwrap(),
                    local: Some("203.0.113.1:25565".parse().unwrap()),
                }),
                ..data(70)
            },
        ),
        (
            "814046174064412c1020010db8000000000000000000000001c350",
            DatagramHead {
                kind: Kind::Close,
                open: Some(FlowOpen {
                    service: ServiceId(100),
                    port_index: 300,
                    player: "[2001:db8::1]:50000".parse().unwrap(),
                    local: None,
                }),
                ..data(70)
            },
        ),
        (
            "408010000002010103",
            DatagramHead {
                fragment: Some(FragmentHead {
                    packet: 513,
                    index: 1,
                    count: 3,
                }),
                ..data(1 << 20)
            },
        ),
        (
            "2205040009",
            DatagramHead {
                kind: Kind::Probe,
                redundancy: Some(RedundancyHead {
                    sequence: 9,
                    scheme: Scheme::Copied,
                }),
                ..data(5)
            },
        ),
        (
            "6005000100020600090708031210",
            DatagramHead {
                fragment: Some(FragmentHead {
                    packet: 1,
                    index: 0,
                    count: 2,
                }),
                redundancy: Some(RedundancyHead {
                    sequence: 9,
                    scheme: Scheme::Repair(RepairHead {
                        number: 7,
                        bundle: 8,
                        counts: [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    }),
                }),
                ..data(5)
            },
        ),
    ]
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
