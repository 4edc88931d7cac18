//! The handshake's messages and payloads.

use std::sync::LazyLock;

use tunnel_core::{
    fuzz_support::{decode_answer, decode_hello, encode_answer, encode_hello},
    join::TokenId,
    key::{Psk, SecretKey},
    proto::handshake::{
        Answer, Capabilities, Hello, Initiator, ProcessId, Responder, SUPPORTED, Suite,
        TransportKind,
    },
};

use crate::input::Input;

const KINDS: [TransportKind; 2] = [TransportKind::Quic, TransportKind::Lane];

/// What is read of a payload comes back from its own encoding. A message that is not the very one that was written
/// does not open, on either side.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.below(16);
    let kind = KINDS[input.below(2)];
    match mode {
        0 => meddled(&mut input, kind),
        even if even % 2 == 0 => hello(kind, input.rest()),
        _ => answer(kind, input.rest()),
    }
}

fn hello(kind: TransportKind, payload: &[u8]) {
    let Ok(hello) = decode_hello(kind, payload) else {
        return;
    };
    // A lane's own payload is bounded, and read only within that bound.
    if let Ok(again) = encode_hello(kind, &hello) {
        assert_eq!(decode_hello(kind, &again), Ok(hello));
        assert!(again.len() <= payload.len().max(256));
    } else {
        assert_eq!(kind, TransportKind::Lane);
    }
}

fn answer(kind: TransportKind, payload: &[u8]) {
    let Ok(answer) = decode_answer(kind, payload) else {
        return;
    };
    if let Ok(again) = encode_answer(kind, &answer) {
        assert_eq!(decode_answer(kind, &again), Ok(answer));
        assert!(again.len() <= payload.len().max(256));
    } else {
        assert_eq!(kind, TransportKind::Lane);
    }
}

struct Written {
    suite: Suite,
    kind: TransportKind,
    hello: Hello,
    first: Vec<u8>,
    second: Vec<u8>,
}

static WRITTEN: LazyLock<Vec<Written>> = LazyLock::new(|| {
    let all = Suite::ALL
        .iter()
        .flat_map(|suite| KINDS.map(|kind| (*suite, kind)));
    all.map(|(suite, kind)| write(suite, kind)).collect()
});

fn relay() -> SecretKey {
    SecretKey::from([0x22; 32])
}

fn psk() -> Psk {
    Psk::from([0x33; 32])
}

fn initiator(suite: Suite, kind: TransportKind, hello: &Hello) -> (Initiator, Vec<u8>) {
    let client = SecretKey::from([0x11; 32]);
    let relay = relay().public_key();
    Initiator::new(suite, kind, &client, &relay, &psk(), [0x44; 32], hello).unwrap()
}

fn write(suite: Suite, kind: TransportKind) -> Written {
    let parameters = (kind == TransportKind::Quic).then(|| vec![5; 40]);
    let hello = Hello {
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        process: ProcessId::from([6; 16]),
        token: Some(TokenId::from([7; 16])),
        transport_parameters: parameters.clone(),
    };
    let answer = Answer {
        versions: SUPPORTED,
        capabilities: Capabilities::SUPPORTED,
        process: ProcessId::from([8; 16]),
        transport_parameters: parameters,
    };
    let (_, first) = initiator(suite, kind, &hello);
    let responder = Responder::new(suite, kind, &relay(), [0x55; 32]).unwrap();
    let identified = responder.read_hello(&first).unwrap();
    let (second, _) = identified.answer(&psk(), &answer).unwrap();
    Written {
        suite,
        kind,
        hello,
        first,
        second,
    }
}

fn meddled(input: &mut Input<'_>, kind: TransportKind) {
    let written = &WRITTEN[input.below(WRITTEN.len())];
    let second = input.flag();
    let original = if second {
        &written.second
    } else {
        &written.first
    };
    let mut message = original.clone();
    for _ in 0..input.below(4) {
        match input.below(4) {
            0 => {
                let length = input.below(message.len() + 1);
                message.truncate(length);
            }
            1 => message.extend_from_slice(input.bytes(4_096)),
            _ if message.is_empty() => {}
            _ => {
                let at = input.below(message.len());
                message[at] ^= input.byte();
            }
        }
    }
    // Recorded on one transport, sent on the other.
    let same = message == *original && kind == written.kind;
    if second {
        if kind != written.kind {
            return;
        }
        let (initiator, _) = initiator(written.suite, kind, &written.hello);
        assert_eq!(initiator.read_answer(&message).is_ok(), same);
    } else {
        let responder = Responder::new(written.suite, kind, &relay(), [0x55; 32]).unwrap();
        let identified = responder.read_hello(&message);
        assert_eq!(identified.is_ok(), same);
        if let Ok(identified) = identified {
            assert_eq!(identified.hello(), &written.hello);
        }
    }
}
