use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::{
    instance::{FlowLimits, Optimize, PortRange, Protocol, Redundancy},
    key::Psk,
    proto::{
        testing::{XorShift, unhex},
        wire::{Reader, Value, WireError, put_field, put_prefixed, put_varint},
    },
};

fn service(id: u32) -> ServiceDeclaration {
    ServiceDeclaration {
        id: ServiceId(id),
        name: "x".repeat(63).parse().unwrap(),
        protocol: Protocol::Both,
        public: PortRange::new(30_000, 31_023).unwrap(),
        optimize: Optimize::Throughput,
        redundancy: Redundancy::ALL[id as usize % 4],
        flows: FlowLimits {
            idle: Duration::from_secs(86_400),
            per_address: 65_536,
            per_service: 1_048_576,
        },
        tells_local: id % 2 == 1,
    }
}

fn declare(services: u32) -> Message {
    Message::Declare {
        instance: "i".repeat(63).parse().unwrap(),
        revision: Revision(u64::MAX >> 2),
        services: (0..services).map(service).collect(),
    }
}

fn health(state: HealthWord) -> Message {
    Message::Health {
        instance: "i".repeat(63).parse().unwrap(),
        service: "s".repeat(63).parse().unwrap(),
        state,
        age: Duration::from_secs(4_000_000),
        reason: Some(Text::new(&"r".repeat(256))),
        name: Some(Text::new(&"ß".repeat(128))),
        players: Some(u32::MAX),
        max: Some(0),
        version: Some(Text::new("1")),
        map: Some(Text::new("m")),
    }
}

fn samples() -> Vec<Message> {
    vec![
        declare(3),
        Message::Welcome {
            version: 1,
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(60),
            psk: Some(Psk::from([9; 32])),
            client: Text::new("node"),
            software: Text::new("adit"),
        },
        Message::Refused {
            instance: "a".parse().unwrap(),
            revision: Revision(1),
            code: Code::Other(1 << 40),
            text: Text::new("ß"),
            port: Some(1),
        },
        Message::Drain {
            grace: Duration::from_secs(1),
        },
        Message::Lanes {
            idle: IdleLanes::new(3),
        },
        health(HealthWord::Unhealthy),
    ]
}

fn encoded(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn decode(bytes: &[u8]) -> Result<Option<Message>, MessageError> {
    let mut decoder = Decoder::new();
    decoder.handle_input(bytes);
    decoder.poll_message()
}

fn malformed(hex: &str) -> WireError {
    match decode(&unhex(hex)) {
        Err(MessageError::Malformed { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_come_back_however_they_are_cut() {
    let stream: Vec<u8> = samples().iter().flat_map(encoded).collect();
    let mut random = XorShift::new(2);
    for _ in 0..200 {
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.below(rest.len().min(40)));
            rest = after;
            decoder.handle_input(piece);
            while let Some(message) = decoder.poll_message().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, samples());
    }
}

#[test]
fn every_truncation_of_a_message_is_incomplete() {
    for message in samples() {
        let bytes = encoded(&message);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(None));
        }
    }
}

#[test]
fn every_truncation_of_the_fields_is_an_error() {
    for message in samples() {
        let mut fields = BytesMut::new();
        message.encode_fields(&mut fields);
        for end in 0..fields.len() {
            let decoded = Message::decode_fields(message.number(), &fields[..end]);
            // A message whose last fields are optional or of a list may end early, but never as itself.
            assert_ne!(decoded.unwrap_or(None), Some(message.clone()));
        }
    }
}

#[test]
fn largest_declaration_fits() {
    let bytes = encoded(&declare(64));
    assert!(bytes.len() < 10_000, "{}", bytes.len());
    assert_eq!(decode(&bytes), Ok(Some(declare(64))));
}

#[test]
fn sixty_fifth_service_is_refused() {
    assert_eq!(
        decode(&encoded(&declare(65))),
        Err(MessageError::Malformed {
            message: "Declare",
            error: WireError::TooMany {
                name: "services",
                max: 64
            }
        })
    );
    assert!(matches!(
        decode(&encoded(&declare(0))),
        Err(MessageError::Malformed {
            error: WireError::FieldMissing("services"),
            ..
        })
    ));
}

#[test]
fn unknown_messages_and_fields_are_skipped() {
    let ping = encoded(&Message::Ping {
        number: 1,
        heard: None,
    });
    let mut stream = unhex("7fff 8000ea60");
    stream.resize(stream.len() + 60_000, 0xff);
    stream.extend_from_slice(&ping);
    stream.extend_from_slice(&unhex("3f 00"));
    stream.extend_from_slice(&unhex("07 08 010102 7fff020102"));
    let mut decoder = Decoder::new();
    let mut got = Vec::new();
    for piece in stream.chunks(1000) {
        decoder.handle_input(piece);
        assert!(decoder.buffer.len() <= 1000, "skipped, not kept");
        while let Some(message) = decoder.poll_message().unwrap() {
            got.push(message);
        }
    }
    assert_eq!(
        got,
        [
            Message::Ping {
                number: 1,
                heard: None
            },
            Message::Ping {
                number: 2,
                heard: None
            }
        ]
    );
}

#[test]
fn promised_gigabytes_are_refused_at_once() {
    for hex in ["07 ffffffffffffffff", "3f c000000100000000", "03 80010001"] {
        let mut decoder = Decoder::new();
        decoder.handle_input(&unhex(hex));
        let error = decoder.poll_message().unwrap_err();
        assert!(matches!(error, MessageError::TooLong { .. }));
        decoder.handle_input(&[0; 100_000]);
        assert_eq!(decoder.poll_message(), Err(error), "errors are final");
        assert_eq!(decoder.buffer.capacity(), 0);
    }
    // A nested length is bounded by the message around it.
    assert_eq!(malformed("07 09 01 ffffffffffffffff"), WireError::Truncated);
}

#[test]
fn values_out_of_their_range_are_refused() {
    use WireError::{FieldInvalid, FieldMissing, FieldTwice};
    assert_eq!(malformed("07 00"), FieldMissing("number"));
    assert_eq!(malformed("07 06 010101 010102"), FieldTwice("number"));
    assert_eq!(malformed("0b 04 01024101"), FieldInvalid("idle"));
    assert_eq!(malformed("04 06 010141 020101"), FieldInvalid("instance"));
    assert_eq!(malformed("04 06 0101ff 020101"), FieldInvalid("instance"));
    let mut long = BytesMut::new();
    put_varint(&mut long, 10);
    put_prefixed(&mut long, |out| {
        put_field(out, 1, &0u64);
        put_field(out, 2, &Box::<[u8]>::from([b'x'; 257]));
    });
    assert!(decode(&long).is_err());
    // 2^32 ms.
    assert_eq!(
        malformed("09 0a 0108c000000100000000"),
        FieldInvalid("grace")
    );
}

#[test]
fn declared_services_hold() {
    let with = |tag: u64, value: u64| {
        let mut out = BytesMut::new();
        let defaults = [1u64, 0, 3, 7777, 1, 0, 120_000, 64, 16_384];
        for (own, default) in (1..).zip(defaults) {
            match own {
                2 => put_field(&mut out, 2, &Box::<[u8]>::from(*b"game")),
                own if own == tag => put_field(&mut out, own, &value),
                own => put_field(&mut out, own, &default),
            }
        }
        ServiceDeclaration::decode(&mut Reader::new(&out))
    };
    assert!(with(0, 0).is_ok());
    for (tag, values) in [
        (1, &[1 << 32][..]),
        (3, &[0, 4]),
        (4, &[0, 65_536]),
        (5, &[0, 1025, 65_535]),
        (6, &[3]),
        (7, &[0, 9_999, 86_401_000, 1 << 40]),
        (8, &[0, 65_537]),
        (9, &[0, 1_048_577]),
    ] {
        for value in values {
            assert!(with(tag, *value).is_err(), "tag {tag}: {value}");
        }
    }
    assert_eq!(with(5, 1024).unwrap().public.last(), 8800);
}

#[test]
fn text_is_cut_to_fit_and_drives_no_terminal() {
    assert_eq!(Text::<4>::new("äöü").as_str(), "äö");
    assert_eq!(Text::<9>::new("\u{1b}[2J\n\u{9b}").as_str(), "?[2J??");
    let text = Text::<9>::decode(&mut Reader::new(b"a\x1b[31m")).unwrap();
    assert_eq!(text.as_str(), "a?[31m");
    assert!(Text::<4>::decode(&mut Reader::new(b"12345")).is_err());
    assert!(Text::<4>::decode(&mut Reader::new(b"\xff")).is_err());
}

#[test]
fn a_verdict_of_a_later_version_is_none() {
    for word in [
        HealthWord::Unchecked,
        HealthWord::Starting,
        HealthWord::Healthy,
        HealthWord::Unhealthy,
        HealthWord::Refusing,
    ] {
        assert_eq!(decode(&encoded(&health(word))), Ok(Some(health(word))));
    }
    for number in [5, 1 << 40] {
        let mut later = BytesMut::new();
        put_varint(&mut later, number);
        let word = HealthWord::decode(&mut Reader::new(&later));
        assert_eq!(word, Ok(HealthWord::Starting));
    }
}

#[test]
fn codes_of_later_versions_are_kept() {
    for number in (0..=16).chain([1 << 61]) {
        assert_eq!(u64::from(Code::from(number)), number);
    }
    assert_eq!(Code::from(15), Code::Timeout);
    assert_eq!(Code::from(16), Code::Other(16));
}

#[test]
fn random_bytes_never_panic() {
    let mut random = XorShift::new(3);
    let samples: Vec<_> = samples().iter().map(encoded).collect();
    for _ in 0..20_000 {
        let mut decoder = Decoder::new();
        decoder.handle_input(&random.bytes(60));
        while let Ok(Some(_)) = decoder.poll_message() {}
        // Closer to home: a good message with one byte changed.
        let mut bytes = samples[random.below(samples.len())].clone();
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
        let mut decoder = Decoder::new();
        decoder.handle_input(&bytes);
        while let Ok(Some(_)) = decoder.poll_message() {}
    }
}

#[test]
fn every_message_has_its_row_in_the_documents_and_a_golden_vector() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| std::fs::read_to_string(root.join(name)).unwrap();
    let (documents, vectors) = (read("../docs/protocol.md"), read("tests/vectors.rs"));
    let all: Vec<_> = (0..10_000)
        .filter_map(|number| Some((number, Message::name_of(number)?)))
        .collect();
    assert!(all.len() >= 13, "{all:?}");
    for (number, name) in all {
        let row = format!("| {number} | {} |", name.to_uppercase());
        assert!(documents.contains(&row), "docs/protocol.md: {row}");
        let vector = format!("Message::{name} {{");
        assert!(vectors.contains(&vector), "tests/vectors.rs: {vector}");
    }
}
