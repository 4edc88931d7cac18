use super::*;
use crate::proto::testing::{XorShift, unhex};

fn random_head(random: &mut XorShift) -> DatagramHead {
    let mut address = || {
        let ip = match random.below(2) {
            0 => IpAddr::from((random.next() as u32).to_be_bytes()),
            _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, random.next() as u16]),
        };
        SocketAddr::new(ip, random.next() as u16)
    };
    let [player, local] = [address(), address()];
    let varint = random.next() >> (2 + random.below(62));
    DatagramHead {
        flow: FlowId(varint),
        kind: [Kind::Data, Kind::Close, Kind::Probe][random.below(3)],
        open: (random.below(2) == 0).then_some(FlowOpen {
            service: ServiceId(random.next() as u32 >> random.below(32)),
            port_index: random.next() as u16 >> random.below(16),
            player,
            local: (random.below(2) == 0).then_some(local),
        }),
        fragment: (random.below(2) == 0).then(|| {
            let count = 2 + random.below(254) as u8;
            FragmentHead {
                packet: random.next() as u16,
                index: random.below(count.into()) as u8,
                count,
            }
        }),
        redundancy: (random.below(2) == 0).then(|| RedundancyHead {
            sequence: random.next() as u16,
            scheme: match random.below(3) {
                0 => Scheme::Copied,
                1 => Scheme::Source,
                _ => Scheme::Repair(random_repair(random)),
            },
        }),
    }
}

fn random_repair(random: &mut XorShift) -> RepairHead {
    let mut counts = [0; BUNDLES_MAX];
    let bundles = 1 + random.below(BUNDLES_MAX);
    counts[..bundles].fill_with(|| 1 + random.below(BUNDLE_COUNT_MAX.into()) as u8);
    RepairHead {
        number: random.next() as u8,
        bundle: random.next() as u8,
        counts,
    }
}

fn decode(bytes: &[u8]) -> Result<(DatagramHead, Bytes), DatagramError> {
    DatagramHead::decode(Bytes::copy_from_slice(bytes))
}

#[test]
fn heads_come_back_and_their_truncations_are_errors() {
    let mut random = XorShift::new(6);
    for _ in 0..5000 {
        let head = random_head(&mut random);
        let mut out = BytesMut::new();
        head.encode(&mut out);
        assert_eq!(out.len(), head.encoded_len());
        assert!(out.len() <= MAX_HEAD);
        for end in 0..out.len() {
            assert_eq!(
                decode(&out[..end]),
                Err(DatagramError::Malformed(WireError::Truncated))
            );
        }
        let payload = random.bytes(100);
        out.put_slice(&payload);
        assert_eq!(decode(&out), Ok((head, payload.into())));
    }
}

#[test]
fn longest_head_is_as_long_as_said() {
    let head = DatagramHead {
        flow: FlowId(1 << 61),
        kind: Kind::Data,
        open: Some(FlowOpen {
            service: ServiceId(u32::MAX),
            port_index: u16::MAX,
            player: "[2001:db8::1]:1".parse().unwrap(),
            local: Some("[2001:db8::2]:1".parse().unwrap()),
        }),
        fragment: Some(FragmentHead {
            packet: 1,
            index: 0,
            count: 2,
        }),
        redundancy: Some(RedundancyHead {
            sequence: 1,
            scheme: Scheme::Repair(RepairHead {
                number: 1,
                bundle: 1,
                counts: [15; BUNDLES_MAX],
            }),
        }),
    };
    assert_eq!(head.encoded_len(), MAX_HEAD);
}

#[test]
fn payload_is_a_slice_of_the_datagram() {
    let datagram = Bytes::from(unhex("00 05 aabb"));
    let (head, payload) = DatagramHead::decode(datagram.clone()).unwrap();
    assert_eq!(head, DatagramHead::data(FlowId(5)));
    assert_eq!(payload.as_ptr(), datagram[2..].as_ptr());
    assert!(
        decode(&unhex("0005")).unwrap().1.is_empty(),
        "empty packets"
    );
}

#[test]
fn parts_of_a_later_version_are_left_unread() {
    let (head, payload) =
        decode(&unhex("a0 05 0c 01 00 04 c0000201 c350 ffffff 04 0009 aa")).unwrap();
    assert_eq!(
        head.open.unwrap().player,
        "192.0.2.1:50000".parse().unwrap()
    );
    assert_eq!(head.open.unwrap().local, None);
    assert_eq!(head.redundancy.unwrap().sequence, 9);
    let (head, _) = decode(&unhex(
        "80 05 12 01 00 04 c0000201 c350 04 cb007101 63dd ffff",
    ))
    .unwrap();
    assert_eq!(
        head.open.unwrap().local,
        Some("203.0.113.1:25565".parse().unwrap())
    );
    assert_eq!(&payload[..], [0xaa]);
}

#[test]
fn heads_that_do_not_hold_are_refused() {
    for kind in 3..=31 {
        assert_eq!(decode(&[kind, 1]), Err(DatagramError::UnknownKind(kind)));
    }
    for (index, count) in [(0, 0), (0, 1), (2, 2), (255, 255)] {
        assert_eq!(
            decode(&[FRAGMENT, 1, 0, 0, index, count]),
            Err(DatagramError::NoSuchFragment { index, count })
        );
    }
    for scheme in (0..=3).chain(7..=255) {
        assert_eq!(
            decode(&[REDUNDANCY, 1, scheme, 0, 0]),
            Err(DatagramError::UnknownScheme(scheme))
        );
    }
    // An address family that does not exist, a service id past 2^32, a repair of no bundle, of 17, and of an empty one.
    for hex in [
        "80 01 09 01 00 05 c0000201 c350",
        "80 01 0c 01 00 04 c0000201 c350 04 cb0071",
        "80 01 10 c000000100000000 00 04 c0000201 c350",
        "20 01 06 0000 0000 00",
        "20 01 06 0000 0000 11 111111111111111111",
        "20 01 06 0000 0000 02 10",
    ] {
        assert!(matches!(
            decode(&unhex(hex)),
            Err(DatagramError::Malformed(_))
        ));
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = XorShift::new(7);
    for _ in 0..50_000 {
        let bytes = random.bytes(60);
        if let Ok((head, payload)) = decode(&bytes) {
            assert!(payload.len() < bytes.len());
            assert!(head.encoded_len() <= MAX_HEAD);
        }
    }
}
