use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use super::*;
use crate::proto::testing::{XorShift, unhex};

/// Two records a generation, so that every test crosses several.
const SHORT: u64 = 2;

fn lane_secret() -> Secret {
    Secret::from(std::array::from_fn(|i| i as u8))
}

fn ends(suite: Suite, generation: u64) -> ((Sealer, Opener), (Sealer, Opener)) {
    let end = |role| directions_with(suite, &lane_secret(), role, generation).unwrap();
    (end(Role::Client), end(Role::Relay))
}

fn seal(sealer: &mut Sealer, kind: RecordType, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    sealer.seal_into(&mut out, kind, b"", body).unwrap();
    out.to_vec()
}

fn samples() -> [(RecordType, &'static [u8], &'static [u8]); 4] {
    let last = RecordType::from_number(0x1f).unwrap();
    [
        (RecordType::Ready, b"", b""),
        (RecordType::Ping, b"", &[1, 2, 3, 4, 5, 6, 7, 8]),
        (RecordType::DATA, b"\x40\x80", b"an adit is a way in"),
        (last, &[0; 15], b""),
    ]
}

/// Made by another implementation (Python's hmac and cryptography), two records a generation.
const VECTORS: [(Suite, Role, [&str; 4]); 4] = [
    (
        Suite::Aes256Gcm,
        Role::Client,
        [
            "0011cbb6360f19a5fe202852d8266c62fc2190",
            "0019b025141c0d21037ac000fe22fdc4fa2f5473c524df99a5b136",
            "00265fda84d259c44c5434a7eecffbecc28fe490f7536149d80389bfd56d7b3f33f82808e333e1fe",
            "00203779cade66f5e2ce40c88ec901bcebb4a3278bcd1ea76423b55904f6746a2f55",
        ],
    ),
    (
        Suite::Aes256Gcm,
        Role::Relay,
        [
            "00115fd8996205225890d44da66609741f3d1f",
            "00195c6bdb9e0a3dd2c089bc09ad3a01c4f0a3dd60d9b2643b8900",
            "00264ab220a66a0c81219095993c7fb8117825f1547b12bfdcf0a5df3f844c53695a8cc7facd0987",
            "0020cc3b6b2037ae9f4b662fc69890944795ed238244f94e847fb2aacf6fe33a8002",
        ],
    ),
    (
        Suite::ChaCha20Poly1305,
        Role::Client,
        [
            "001148b3720b25512aadbdbf1844f2545022c1",
            "001962a3ff36d8e569976d474bb7ba668e74a2bc01907aaf165b14",
            "00267edf5996f14d32a6716a3cfcfd0e06ab3333530b13ca6188fd840c197af96e4e7b45e751b8b6",
            "00200dd08d572d47444ce044a5e27db4e3f49ebb576e07981822e0a8f9c957fd84fa",
        ],
    ),
    (
        Suite::ChaCha20Poly1305,
        Role::Relay,
        [
            "00110a78a8f70d8af300cfb01075767a146463",
            "0019a882a887862d6462753ec55a571969ba235c10fcf5c51c4f61",
            "0026af6d019b21f9527dc7f33c58fc2ad330e2398202da22dc6c47338fccbc8d57d78d57dbd3725a",
            "0020eaa6567bd6e3fb969b61e0a0b1f57630bd2d830464877a113c9c5750feba7aea",
        ],
    ),
];

#[test]
fn records_of_version_1_stay() {
    for (suite, role, records) in VECTORS {
        let (client, relay) = ends(suite, SHORT);
        let ((mut sealer, _), (_, opener)) = match role {
            Role::Client => (client, relay),
            Role::Relay => (relay, client),
        };
        let mut deframer = Deframer::new(opener);
        for ((kind, head, body), record) in samples().into_iter().zip(records) {
            let mut out = BytesMut::new();
            sealer.seal_into(&mut out, kind, head, body).unwrap();
            assert_eq!(out, unhex(record), "{suite:?} {role:?} {kind:?}");
            deframer.buffer_mut().extend_from_slice(&out);
            let (got, bytes) = deframer.poll_record().unwrap().unwrap();
            assert_eq!((got, &bytes[..]), (kind, &[head, body].concat()[..]));
        }
    }
}

#[test]
fn a_record_keeps_its_protocols_lengths() {
    let ((mut sealer, _), (_, opener)) = ends(Suite::Aes256Gcm, SHORT);
    let mut out = BytesMut::new();
    let (head, body) = ([1; RECORD_HEAD_MAX], [2; RECORD_BODY_MAX]);
    (sealer.seal_into(&mut out, RecordType::DATA, &head, &body)).unwrap();
    assert_eq!(out.len(), 2 + 16_416);
    assert_eq!(out.len(), RECORD_MAX);
    let mut deframer = Deframer::new(opener);
    deframer.buffer_mut().extend_from_slice(&out);
    let (_, bytes) = deframer.poll_record().unwrap().unwrap();
    assert_eq!(bytes, [&head[..], &body[..]].concat());
}

#[test]
fn too_long_a_body_is_not_sealed_and_costs_no_number() {
    let ((mut sealer, _), (_, opener)) = ends(Suite::Aes256Gcm, SHORT);
    let mut out = BytesMut::from(&b"before"[..]);
    for (head, body) in [(16, 0), (0, RECORD_BODY_MAX + 1), (100_000, 1_000_000)] {
        assert_eq!(
            sealer.seal_into(&mut out, RecordType::DATA, &vec![0; head], &vec![0; body]),
            Err(RecordError::TooLongToSend(head, body))
        );
        assert_eq!(out, &b"before"[..]);
    }
    let mut deframer = Deframer::new(opener);
    let record = seal(&mut sealer, RecordType::Control, b"after");
    deframer.buffer_mut().extend_from_slice(&record);
    assert!(deframer.poll_record().unwrap().is_some());
}

#[test]
fn a_flipped_bit_at_every_position_closes_or_waits_and_never_yields() {
    for suite in Suite::ALL {
        let ((mut sealer, _), _) = ends(suite, SHORT);
        let record = seal(&mut sealer, RecordType::DATA, b"some bytes");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (_, (_, opener)) = ends(suite, SHORT);
            let mut deframer = Deframer::new(opener);
            deframer.buffer_mut().extend_from_slice(&damaged);
            match deframer.poll_record() {
                // A longer length waits for bytes that never come, or that do not fit when they do.
                Ok(None) => assert!(bit < 16),
                Err(_) => {}
                Ok(Some(record)) => panic!("bit {bit} was not noticed: {record:?}"),
            }
        }
    }
}

#[test]
fn every_truncation_waits_and_says_what_is_missing() {
    let ((mut sealer, _), _) = ends(Suite::Aes256Gcm, SHORT);
    let record = seal(&mut sealer, RecordType::Control, &[7; 300]);
    for end in 0..record.len() {
        let (_, (_, opener)) = ends(Suite::Aes256Gcm, SHORT);
        let mut deframer = Deframer::new(opener);
        deframer.buffer_mut().extend_from_slice(&record[..end]);
        assert_eq!(deframer.poll_record(), Ok(None));
        assert_eq!(deframer.is_empty(), end == 0);
        let missing = deframer.missing().unwrap();
        let expected = if end < 2 { 19 } else { record.len() };
        assert_eq!(missing, expected - end);
        deframer.buffer_mut().extend_from_slice(&record[end..]);
        assert_eq!(deframer.missing(), Ok(0));
        assert!(deframer.poll_record().unwrap().is_some());
        assert!(deframer.is_empty());
    }
}

#[test]
fn impossible_lengths_are_refused_before_the_bytes_come() {
    for length in (0..=16u16).chain([16_417, 20_000, u16::MAX]) {
        let (_, (_, opener)) = ends(Suite::Aes256Gcm, SHORT);
        let mut deframer = Deframer::new(opener);
        deframer.buffer_mut().put_u16(length);
        let refused = RecordError::BadLength(length.into());
        assert_eq!(deframer.missing(), Err(refused.clone()));
        assert_eq!(deframer.poll_record(), Err(refused));
    }
    let (_, (_, mut opener)) = ends(Suite::Aes256Gcm, SHORT);
    assert_eq!(opener.open(&mut []), Err(RecordError::BadLength(0)));
    let (_, (_, mut opener)) = ends(Suite::Aes256Gcm, SHORT);
    let long = opener.open(&mut vec![0; 70_000]);
    assert_eq!(long, Err(RecordError::BadLength(70_000)));
}

#[test]
fn replayed_reordered_reflected_and_dropped_records_do_not_open() {
    for suite in Suite::ALL {
        let ((mut sealer, client_opener), _) = ends(suite, SHORT);
        let records: Vec<_> = (0..6u8)
            .map(|i| seal(&mut sealer, RecordType::DATA, &[i; 40]))
            .collect();
        let open = |order: &[usize]| {
            let (_, (_, mut opener)) = ends(suite, SHORT);
            (order.iter())
                .map(|&i| opener.open(&mut records[i].clone()[2..]))
                .collect::<Vec<_>>()
        };
        assert!(open(&[0, 1, 2, 3, 4, 5]).iter().all(Result::is_ok));
        for order in [[0, 0], [0, 2], [1, 0], [2, 3], [4, 5]] {
            let last = open(&order).pop().unwrap();
            assert!(last.is_err(), "{suite:?} {order:?}");
        }
        // The same place in the next generation is another record.
        assert!(open(&[0, 1, 0]).pop().unwrap().is_err());
        // After a bad one, not even the right one opens.
        let after = open(&[1, 0]).pop().unwrap();
        assert_eq!(after, Err(RecordError::Broken));
        let mut reflected = Deframer::new(client_opener);
        reflected.buffer_mut().extend_from_slice(&records[0]);
        assert_eq!(reflected.poll_record(), Err(RecordError::NotAuthentic));
    }
}

#[test]
fn a_genuine_record_of_an_unknown_type_is_named() {
    for number in 0..=u8::MAX {
        let known = matches!(number, 0x01..=0x05 | 0x10..=0x1f);
        assert_eq!(RecordType::from_number(number).is_some(), known);
        if let Some(kind) = RecordType::from_number(number) {
            assert_eq!(kind.number(), number);
        }
        let frame = FrameType::from_number(number).map(FrameType::number);
        assert_eq!(frame.is_some(), matches!(number, 0x10..=0x1f));
    }
    let ((_, _), (_, mut opener)) = ends(Suite::Aes256Gcm, SHORT);
    let secret = expand(&expand(&lane_secret(), b"client"), b"key");
    let key = UnboundKey::new(&aead::AES_256_GCM, secret.as_bytes()).map(LessSafeKey::new);
    let mut record = vec![0x42];
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    (key.unwrap())
        .seal_in_place_append_tag(nonce, Aad::from(17u16.to_be_bytes()), &mut record)
        .unwrap();
    let opened = opener.open(&mut record);
    assert_eq!(opened, Err(RecordError::UnknownType(0x42)));
}

#[test]
fn bodies_share_the_buffer_and_an_emptied_one_is_given_back() {
    let ((mut sealer, _), (_, opener)) = ends(Suite::Aes256Gcm, GENERATION);
    let mut deframer = Deframer::new(opener);
    let start = {
        let buffer = deframer.buffer_mut();
        buffer.reserve(4_096);
        buffer.as_ptr() as usize
    };
    for body in [&b"one"[..], b"", b"three"] {
        let record = seal(&mut sealer, RecordType::Control, body);
        deframer.buffer_mut().extend_from_slice(&record);
    }
    let mut bodies = Vec::new();
    while let Some((_, body)) = deframer.poll_record().unwrap() {
        bodies.push(body);
    }
    assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
    assert_eq!(bodies[0].as_ptr() as usize, start + 3);
    deframer.release();
    assert_eq!(deframer.buffer_mut().capacity(), 0);
}

#[test]
fn any_chunks_of_any_bytes_never_panic() {
    let mut random = XorShift::new(4);
    for _ in 0..2_000 {
        let ((mut sealer, _), (_, opener)) = ends(Suite::Aes256Gcm, SHORT);
        let mut wire = BytesMut::new();
        let mut sent = 0;
        for _ in 0..random.below(5) {
            let body = random.bytes(200);
            (sealer.seal_into(&mut wire, RecordType::DATA, b"", &body)).unwrap();
            sent += 1;
        }
        let garbage = random.bytes(60);
        wire.extend_from_slice(&garbage);
        let mut deframer = Deframer::new(opener);
        let mut opened = 0;
        'lane: while !wire.is_empty() {
            let chunk = 1 + random.below(wire.len());
            let chunk = wire.split_to(chunk);
            deframer.buffer_mut().extend_from_slice(&chunk);
            loop {
                match deframer.poll_record() {
                    Ok(Some(_)) => opened += 1,
                    Ok(None) => break,
                    Err(_) => break 'lane,
                }
            }
            if random.below(3) == 0 {
                deframer.release();
            }
        }
        assert_eq!(opened, sent);
    }
}

#[test]
fn secrets_are_not_printed() {
    let ((sealer, opener), _) = ends(Suite::Aes256Gcm, SHORT);
    let text = format!("{sealer:?} {opener:?}");
    assert!(!text.contains("secret") && !text.contains("key"), "{text}");
}
