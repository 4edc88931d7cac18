use super::*;
use crate::proto::testing::{XorShift, unhex};

fn frames() -> Vec<Frame> {
    let header = |player: &str, local: &str| StreamHeader {
        stream: StreamId(1 << 61),
        service: ServiceId(u32::MAX),
        port_index: 1023,
        player: player.parse().unwrap(),
        local: local.parse().unwrap(),
    };
    vec![
        Frame::Open(header("192.0.2.1:50000", "198.51.100.1:7777")),
        Frame::Open(header("[2001:db8::1]:50000", "[2001:db8::2]:7777")),
        Frame::Attach {
            stream: StreamId(3),
            received: 1 << 40,
        },
        Frame::Ack { offset: 65_536 },
        Frame::Fin { offset: 0 },
        Frame::Reset {
            code: ResetCode::Unreachable,
        },
        Frame::Reset {
            code: ResetCode::Other(99),
        },
        Frame::Move { offset: 1 << 20 },
        Frame::Idle,
        Frame::Join {
            stream: StreamId(1 << 33),
        },
    ]
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

fn all(decoder: &mut FrameDecoder) -> Vec<Decoded> {
    std::iter::from_fn(|| decoder.poll().unwrap()).collect()
}

/// Frames, and each run of data as one.
fn joined(decoded: Vec<Decoded>) -> Vec<Result<Frame, Vec<u8>>> {
    let mut out: Vec<Result<Frame, Vec<u8>>> = Vec::new();
    for item in decoded {
        match (out.last_mut(), item) {
            (Some(Err(run)), Decoded::Data(more)) => run.extend_from_slice(&more),
            (_, Decoded::Data(run)) => out.push(Err(run.to_vec())),
            (_, Decoded::Frame(frame)) => out.push(Ok(frame)),
        }
    }
    out
}

#[test]
fn bodies_come_back() {
    for frame in frames() {
        let mut body = BytesMut::new();
        frame.encode_body(&mut body);
        assert_eq!(Frame::decode_body(frame.kind(), &body), Ok(frame));
        assert!(body.len() <= 75);
        for end in 0..body.len() {
            assert!(Frame::decode_body(frame.kind(), &body[..end]).is_err());
        }
        body.put_u8(0xff);
        assert!(Frame::decode_body(frame.kind(), &body).is_err());
    }
}

#[test]
fn frames_and_payload_come_back_however_they_are_cut() {
    let payload: Vec<u8> = (0..100_000).map(|i| i as u8).collect();
    let mut stream = BytesMut::new();
    let mut expected = Vec::new();
    for (i, frame) in frames().into_iter().enumerate() {
        frame.encode(&mut stream);
        expected.push(Decoded::Frame(frame));
        let length = [0, 1, 63, 64, 1000, 5000, 16_383, 16_384, 65_535, 65_536][i];
        stream.put_slice(&DataHead::new(length).unwrap());
        stream.put_slice(&payload[..length]);
        if length > 0 {
            expected.push(Decoded::Data(Bytes::copy_from_slice(&payload[..length])));
        }
    }
    let expected = joined(expected);
    let stream = stream.freeze();
    let mut random = XorShift::new(4);
    for round in 0..100 {
        let mut decoder = FrameDecoder::new();
        let mut got = Vec::new();
        let mut rest = stream.clone();
        while !rest.is_empty() {
            let most = [3, 40, 2000, 200_000][round % 4].min(rest.len());
            decoder.handle_input(rest.split_to(1 + random.below(most)));
            // Sometimes the caller does not drain.
            if round % 8 > 3 || random.below(4) > 0 {
                got.extend(all(&mut decoder));
            }
            assert!(decoder.partial.len() <= 9 + MAX_BODY);
        }
        got.extend(all(&mut decoder));
        assert_eq!(joined(got), expected);
        assert!(decoder.is_between_frames());
    }
}

#[test]
fn payload_is_not_copied() {
    let mut input = BytesMut::new();
    Frame::Ack { offset: 1 }.encode(&mut input);
    input.put_slice(&DataHead::new(5000).unwrap());
    let start = input.len();
    input.put_bytes(7, 3000);
    let input = input.freeze();
    let mut decoder = FrameDecoder::new();
    decoder.handle_input(input.clone());
    let got = all(&mut decoder);
    let Decoded::Data(data) = &got[1] else {
        panic!("{got:?}");
    };
    assert_eq!(data.as_ptr(), input[start..].as_ptr());
    assert_eq!(data.len(), 3000);
    assert!(!decoder.is_between_frames());
}

#[test]
fn every_truncation_is_incomplete() {
    for frame in frames() {
        let bytes = encoded(&frame).freeze();
        for end in 0..bytes.len() {
            let mut decoder = FrameDecoder::new();
            decoder.handle_input(bytes.slice(..end));
            assert_eq!(decoder.poll(), Ok(None));
            assert_eq!(decoder.is_between_frames(), end == 0);
            decoder.handle_input(bytes.slice(end..));
            assert_eq!(decoder.poll(), Ok(Some(Decoded::Frame(frame))));
            assert!(decoder.is_between_frames());
        }
    }
}

#[test]
fn promised_gigabytes_are_refused_at_once() {
    for hex in [
        "12 ffffffffffffffff",
        "12 80010001",
        "10 4401",
        "17 ffffffffffffffff",
        "13 4401",
    ] {
        // Whole, and byte by byte through the partial head.
        for step in [20, 1] {
            let mut decoder = FrameDecoder::new();
            let bytes = unhex(hex);
            let mut failed = None;
            for piece in bytes.chunks(step) {
                decoder.handle_input(Bytes::copy_from_slice(piece));
                failed = decoder.poll().err();
            }
            assert!(matches!(failed, Some(FrameError::TooLong { .. })), "{hex}");
            decoder.handle_input(Bytes::from_static(&[0x17, 0]));
            assert_eq!(decoder.poll().err(), failed, "errors are final");
        }
    }
}

#[test]
fn unknown_types_are_refused() {
    for kind in (0..=0x0f).chain(0x19..=0xff) {
        let mut decoder = FrameDecoder::new();
        decoder.handle_input(vec![kind].into());
        assert_eq!(decoder.poll(), Err(FrameError::UnknownType(kind)));
        assert_eq!(
            Frame::decode_body(kind, &[]),
            Err(FrameError::UnknownType(kind))
        );
    }
    assert_eq!(
        Frame::decode_body(DATA, b"x"),
        Err(FrameError::UnknownType(DATA))
    );
}

#[test]
fn data_head_has_its_bounds() {
    assert_eq!(&DataHead::new(0).unwrap()[..], [DATA, 0]);
    assert_eq!(&DataHead::new(65_536).unwrap()[..], unhex("12 80010000"));
    assert!(DataHead::new(65_537).is_none());
}

#[test]
fn random_bytes_never_panic() {
    let mut random = XorShift::new(5);
    let samples: Vec<_> = frames().iter().map(encoded).collect();
    for _ in 0..20_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
        bytes.extend_from_slice(&random.bytes(30));
        let mut bytes = bytes.freeze();
        let mut decoder = FrameDecoder::new();
        while !bytes.is_empty() {
            decoder.handle_input(bytes.split_to(1 + random.below(bytes.len())));
            while let Ok(Some(_)) = decoder.poll() {}
        }
        let kind = 0x10 + random.below(9) as u8;
        Frame::decode_body(kind, &random.bytes(20)).ok();
    }
}
