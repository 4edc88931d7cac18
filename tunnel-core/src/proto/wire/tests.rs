use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::*;
use crate::proto::testing::{XorShift, unhex};

#[test]
fn varints_are_those_of_rfc_9000() {
    // RFC 9000, appendix A.1.
    for (hex, value) in [
        ("c2197c5eff14e88c", 151_288_809_941_952_652),
        ("9d7f3e7d", 494_878_333),
        ("7bbd", 15_293),
        ("25", 37),
    ] {
        let mut out = BytesMut::new();
        put_varint(&mut out, value);
        assert_eq!(out, unhex(hex));
        assert_eq!(out.len(), varint_len(value));
        assert_eq!(Reader::new(&out).varint(), Ok(value));
    }
    assert_eq!(Reader::new(&[0x40, 0x25]).varint(), Ok(37), "longer form");
}

#[test]
fn varints_come_back_at_every_border() {
    for border in [0, 0x40, 0x4000, 0x4000_0000, VARINT_MAX] {
        for value in [border.saturating_sub(1), border, border + 1] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value.min(VARINT_MAX)));
            assert_eq!(reader.finish(), Ok(()));
            for end in 0..out.len() {
                assert_eq!(Reader::new(&out[..end]).varint(), Err(WireError::Truncated));
            }
        }
    }
}

#[test]
fn prefix_of_any_length_stands_before_its_body() {
    for length in [0, 1, 63, 64, 16_383, 16_384, 70_000] {
        let body: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let mut out = BytesMut::from(&b"before"[..]);
        put_prefixed(&mut out, |out| out.put_slice(&body));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.bytes(6), Ok(&b"before"[..]));
        assert_eq!(reader.prefixed(100_000), Ok(&body[..]));
        assert_eq!(reader.finish(), Ok(()));
    }
}

#[test]
fn promised_length_is_checked_before_it_is_read() {
    let mut out = BytesMut::new();
    put_varint(&mut out, VARINT_MAX);
    assert_eq!(
        Reader::new(&out).prefixed(65_536),
        Err(WireError::TooLong {
            length: VARINT_MAX,
            max: 65_536
        })
    );
    assert_eq!(
        Reader::new(&out).prefixed(u64::MAX),
        Err(WireError::Truncated)
    );
}

#[test]
fn field_rules_hold() {
    let read = |hex: &str| {
        let bytes = unhex(hex);
        let mut must: Slot<u64> = Slot::new("must");
        let mut may: Slot<Option<u16>> = Slot::new("may");
        for field in Fields::new(&bytes) {
            let (tag, value) = field?;
            match tag {
                1 => must.read(value)?,
                2 => may.read(value)?,
                _ => {}
            }
        }
        Ok((must.finish()?, may.finish()?))
    };
    assert_eq!(read("010105"), Ok((5, None)));
    assert_eq!(read("020109010105"), Ok((5, Some(9))), "any order");
    assert_eq!(read("7fff02aabb010105"), Ok((5, None)), "unknown tag");
    assert_eq!(read("7fff007fff00010105"), Ok((5, None)), "unknown twice");
    assert_eq!(read("010105010105"), Err(WireError::FieldTwice("must")));
    assert_eq!(
        read("010105020101020101"),
        Err(WireError::FieldTwice("may"))
    );
    assert_eq!(read(""), Err(WireError::FieldMissing("must")));
    assert_eq!(
        read("01020505"),
        Err(WireError::FieldInvalid("must")),
        "trailing"
    );
    assert_eq!(read("0100"), Err(WireError::FieldInvalid("must")), "empty");
    assert_eq!(
        read("0101050204ffffffff"),
        Err(WireError::FieldInvalid("may")),
        "truncated varint"
    );
    assert_eq!(
        read("010105020480010000"),
        Err(WireError::FieldInvalid("may"))
    );
    assert_eq!(read("01ffffffffffffffff"), Err(WireError::Truncated));
    assert_eq!(read("0101"), Err(WireError::Truncated));
}

#[test]
fn addresses_come_back_and_mapped_ones_as_ipv4() {
    for (text, again, length) in [
        ("192.0.2.1:7777", "192.0.2.1:7777", 6),
        ("[2001:db8::1]:7777", "[2001:db8::1]:7777", 18),
        ("[::ffff:192.0.2.1]:7777", "192.0.2.1:7777", 6),
    ] {
        let mut out = BytesMut::new();
        let address: SocketAddr = text.parse().unwrap();
        address.encode(&mut out);
        assert_eq!(out.len(), length);
        assert_eq!(
            SocketAddr::decode(&mut Reader::new(&out)),
            Ok(again.parse().unwrap())
        );
    }
    for length in (0..40).filter(|length| ![6, 18].contains(length)) {
        assert!(SocketAddr::decode(&mut Reader::new(&vec![1; length])).is_err());
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = XorShift::new(1);
    for _ in 0..20_000 {
        let bytes = random.bytes(64);
        // Each field takes at least two bytes, so the list ends.
        assert!(Fields::new(&bytes).count() <= 33);
    }
}
