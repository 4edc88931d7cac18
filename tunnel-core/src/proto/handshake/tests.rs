use super::*;
use crate::{
    join::TokenId,
    key::{Psk, SecretKey},
    proto::testing::XorShift,
};

struct Setup {
    suite: Suite,
    kind: TransportKind,
    client: SecretKey,
    relay: SecretKey,
    psk: Psk,
}

impl Setup {
    fn new(suite: Suite, kind: TransportKind) -> Self {
        Self {
            suite,
            kind,
            client: SecretKey::from([0x11; 32]),
            relay: SecretKey::from([0x22; 32]),
            psk: Psk::from([0x33; 32]),
        }
    }

    fn every() -> impl Iterator<Item = Self> {
        Suite::ALL.into_iter().flat_map(|suite| {
            [TransportKind::Quic, TransportKind::Lane].map(|kind| Self::new(suite, kind))
        })
    }

    fn parameters(&self) -> Option<Vec<u8>> {
        (self.kind == TransportKind::Quic).then(|| vec![0x55; 90])
    }

    fn hello(&self) -> Hello {
        Hello {
            versions: SUPPORTED,
            capabilities: Capabilities::REDUNDANCY | Capabilities::from_bits(1 << 40),
            process: ProcessId::from([0x44; 16]),
            token: None,
            transport_parameters: self.parameters(),
        }
    }

    fn reply(&self) -> Answer {
        Answer {
            versions: SUPPORTED,
            capabilities: Capabilities::STREAM_RESUMPTION,
            process: ProcessId::from([0x66; 16]),
            transport_parameters: self.parameters(),
        }
    }

    fn initiator(&self) -> (Initiator, Vec<u8>) {
        self.initiator_with(&self.hello())
    }

    fn initiator_with(&self, hello: &Hello) -> (Initiator, Vec<u8>) {
        let relay = self.relay.public_key();
        Initiator::new(
            self.suite,
            self.kind,
            &self.client,
            &relay,
            &self.psk,
            [0x77; 32],
            hello,
        )
        .unwrap()
    }

    fn responder(&self) -> Responder {
        Responder::new(self.suite, self.kind, &self.relay, [0x88; 32]).unwrap()
    }
}

#[test]
fn both_ends_learn_the_same_and_of_each_other() {
    for setup in Setup::every() {
        let hello = Hello {
            token: Some(TokenId::from([9; 16])),
            ..setup.hello()
        };
        let (initiator, message_1) = setup.initiator_with(&hello);
        let identified = setup.responder().read_hello(&message_1).unwrap();
        assert_eq!(identified.peer(), setup.client.public_key());
        assert_eq!(identified.hello(), &hello);
        let (message_2, relays) = identified.answer(&setup.psk, &setup.reply()).unwrap();
        let (answer, clients) = initiator.read_answer(&message_2).unwrap();
        assert_eq!(answer, setup.reply());
        for (one, other) in [
            (&relays.handshake, &clients.handshake),
            (&relays.traffic, &clients.traffic),
            (&relays.exporter, &clients.exporter),
            (&relays.lane, &clients.lane),
        ] {
            assert_eq!(one.as_bytes(), other.as_bytes());
        }
        assert_ne!(relays.handshake.as_bytes(), relays.traffic.as_bytes());
        assert_ne!(relays.exporter.as_bytes(), relays.lane.as_bytes());
    }
}

#[test]
fn message_2_has_one_size_for_known_and_unknown_clients() {
    for setup in Setup::every() {
        let sizes: Vec<usize> = [setup.psk.clone(), Psk::generate().unwrap()]
            .iter()
            .map(|psk| {
                let (_, message_1) = setup.initiator();
                let identified = setup.responder().read_hello(&message_1).unwrap();
                identified.answer(psk, &setup.reply()).unwrap().0.len()
            })
            .collect();
        assert_eq!(sizes[0], sizes[1]);
    }
}

#[test]
fn lane_messages_have_one_size_whoever_asks() {
    for suite in Suite::ALL {
        let setup = Setup::new(suite, TransportKind::Lane);
        let (_, plain) = setup.initiator();
        let (_, enrolling) = setup.initiator_with(&Hello {
            token: Some(TokenId::from([9; 16])),
            versions: VersionRange::new(1, u32::MAX).unwrap(),
            capabilities: Capabilities::from_bits(u64::MAX),
            ..setup.hello()
        });
        // Ephemeral key, sealed static key, sealed payload.
        assert_eq!(plain.len(), 32 + 48 + 256 + 16);
        assert_eq!(enrolling.len(), plain.len());
    }
}

#[test]
fn another_suite_transport_or_relay_reads_nothing() {
    for setup in Setup::every() {
        let (_, message_1) = setup.initiator();
        for other in Setup::every() {
            let fits = other.suite == setup.suite && other.kind == setup.kind;
            assert_eq!(other.responder().read_hello(&message_1).is_ok(), fits);
        }
        let stranger = SecretKey::from([0x23; 32]);
        let responder = Responder::new(setup.suite, setup.kind, &stranger, [0x88; 32]).unwrap();
        assert_eq!(
            responder.read_hello(&message_1).unwrap_err(),
            HandshakeError::Undecryptable
        );
    }
}

#[test]
fn client_refuses_an_answer_made_with_another_secret() {
    for setup in Setup::every() {
        let (initiator, message_1) = setup.initiator();
        let identified = setup.responder().read_hello(&message_1).unwrap();
        let (message_2, _) = identified
            .answer(&Psk::from([0x34; 32]), &setup.reply())
            .unwrap();
        assert_eq!(
            initiator.read_answer(&message_2).unwrap_err(),
            HandshakeError::Undecryptable
        );
    }
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    let setup = Setup::new(Suite::Aes256Gcm, TransportKind::Quic);
    let (_, message_1) = setup.initiator();
    let identified = setup.responder().read_hello(&message_1).unwrap();
    let (message_2, _) = identified.answer(&setup.psk, &setup.reply()).unwrap();
    for end in 0..message_1.len() {
        assert!(setup.responder().read_hello(&message_1[..end]).is_err());
    }
    for end in 0..message_2.len() {
        let (initiator, _) = setup.initiator();
        assert!(initiator.read_answer(&message_2[..end]).is_err());
    }
    for at in 0..message_1.len() {
        let mut damaged = message_1.clone();
        damaged[at] ^= 0x40;
        assert!(setup.responder().read_hello(&damaged).is_err());
    }
    for at in 0..message_2.len() {
        let (initiator, _) = setup.initiator();
        let mut damaged = message_2.clone();
        damaged[at] ^= 0x40;
        assert!(initiator.read_answer(&damaged).is_err());
    }
}

#[test]
fn random_bytes_are_refused() {
    let mut random = XorShift::new(7);
    for _ in 0..500 {
        let setup = Setup::new(Suite::ChaCha20Poly1305, TransportKind::Lane);
        let bytes = random.bytes(400);
        assert!(setup.responder().read_hello(&bytes).is_err());
        assert!(setup.initiator().0.read_answer(&bytes).is_err());
    }
    let setup = Setup::new(Suite::Aes256Gcm, TransportKind::Lane);
    assert_eq!(
        setup.responder().read_hello(&[0; 2_049]).unwrap_err(),
        HandshakeError::MessageTooLong(2_049)
    );
}

#[test]
fn public_keys_of_low_order_are_refused() {
    let setup = Setup::new(Suite::Aes256Gcm, TransportKind::Lane);
    // An ephemeral key of zeros would make every shared secret zero.
    assert_eq!(
        setup.responder().read_hello(&[0; 352]).unwrap_err(),
        HandshakeError::Undecryptable
    );
}

#[test]
fn payloads_are_checked() {
    let quic = TransportKind::Quic;
    let setup = Setup::new(Suite::Aes256Gcm, quic);
    let whole = setup.hello().encode(quic).unwrap();
    for end in 0..whole.len() {
        assert!(Hello::decode(quic, &whole[..end]).is_err(), "{end}");
    }
    let mut twice = whole.clone();
    twice.extend_from_slice(&[2, 1, 0]);
    assert!(Hello::decode(quic, &twice).is_err());
    let mut more = whole;
    more.extend_from_slice(&[0x3f, 2, 1, 1]);
    assert_eq!(Hello::decode(quic, &more).unwrap(), setup.hello());
    let without = Hello {
        transport_parameters: None,
        ..setup.hello()
    };
    assert_eq!(
        Hello::decode(quic, &without.encode(quic).unwrap()),
        Err(PayloadError::NoTransportParameters)
    );
    let mut random = XorShift::new(8);
    for _ in 0..10_000 {
        let bytes = random.bytes(80);
        let _never_panics = Hello::decode(TransportKind::Lane, &bytes);
    }
}

#[test]
fn long_payloads_are_refused_on_lanes() {
    let setup = Setup::new(Suite::Aes256Gcm, TransportKind::Lane);
    let hello = Hello {
        transport_parameters: Some(vec![0; 1_000]),
        ..setup.hello()
    };
    let relay = setup.relay.public_key();
    let made = Initiator::new(
        setup.suite,
        setup.kind,
        &setup.client,
        &relay,
        &setup.psk,
        [0x77; 32],
        &hello,
    );
    assert!(matches!(made, Err(HandshakeError::PayloadTooLong(_))));
}

#[test]
fn version_mismatch_says_whom_to_upgrade() {
    let range = |lowest, highest| VersionRange::new(lowest, highest).unwrap();
    assert_eq!(range(1, 3).agreed(&range(2, 5)), Ok(3));
    assert_eq!(range(1, 1).agreed(&range(1, 1)), Ok(1));
    let ours = range(1, 2).agreed(&range(3, 4)).unwrap_err();
    assert!(!ours.peer_is_behind());
    assert_eq!(
        ours.to_string(),
        "no common protocol version: this side speaks 1 to 2, the peer 3 to 4; upgrade this side"
    );
    let theirs = range(3, 4).agreed(&range(1, 1)).unwrap_err();
    assert!(theirs.peer_is_behind());
    assert!(theirs.to_string().ends_with("upgrade the peer"));
    assert_eq!(VersionRange::new(2, 1), None);
}
