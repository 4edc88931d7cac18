//! Golden vectors of handshake version 1. They never change: a peer of version 1 must be understood for ever.
#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers may panic like the test"
)]

use snow::Builder;
use tunnel_core::{
    join::TokenId,
    key::{Psk, SecretKey},
    proto::handshake::{
        Answer, Capabilities, Hello, Initiator, ProcessId, Responder, Secrets, Suite,
        TransportKind, VersionRange,
    },
};

const CLIENT: [u8; 32] = [0x11; 32];
const RELAY: [u8; 32] = [0x22; 32];
const PSK: [u8; 32] = [0x33; 32];
const CLIENT_EPHEMERAL: [u8; 32] = [0x44; 32];
const RELAY_EPHEMERAL: [u8; 32] = [0x55; 32];

struct Vector {
    suite: Suite,
    kind: TransportKind,
    message_1: &'static str,
    message_2: &'static str,
    handshake: &'static str,
    traffic: &'static str,
    exporter: &'static str,
    lane: &'static str,
    /// `export("adit lanes", "", 32)`.
    exported: &'static str,
}

const VECTORS: [Vector; 4] = [
    Vector {
        suite: Suite::Aes256Gcm,
        kind: TransportKind::Quic,
        message_1: "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6be4832971f77aeeb7ae45\
            4dbf7b05eb309d884de2519c03ce95a8471dd8e4a1a5554e1716450bb8e924b26162e0acc9ff79d63dff\
            be1f3cf616a01d97ac84ce53c256f06de89d7afcf716ee81c16c802f2178690ea5b41a7577c5bdabf149\
            3e2b90",
        message_2: "38ab664bd86f77d7e66bdd9ae0792913a94fd8b33a1260027e4b46c1f4884c6797d026cefb1413b38a45\
            0bdd9c395b641c22c444bc53b61457bd5be3a2c0e370f5e29acd8188edab04c06b164bdcbdf01f",
        handshake: "f78827ead7634280f3a28d2521aae817ed257e4cbf6f4478bea1a99d5f8e8e41",
        traffic: "0cd32cb4755ae07c8201093d56f0fee607e5c55e5c003df884c923b5f82ca6c8",
        exporter: "7cb764364f8f3804490221ed36fb0ad96079419a98e225cfa1fcc61ada4a3804",
        lane: "93ac71cf44acd8b815341a84052be2cba6d9f5afabffad88f2ac889d9bd4b9f4",
        exported: "d4ffd416d8fb240031211156ecdadf8154189678363687b24fce4ac290485b8f",
    },
    Vector {
        suite: Suite::ChaCha20Poly1305,
        kind: TransportKind::Quic,
        message_1: "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b16e7290bc9433c305bf8\
            e20abe6605794b6f57581c0c32776819d95574d530d50fa7b85f816cd2316e6fc6f16f10b8ee6acd5b49\
            47e575d4d7086a6e4473fb4284698799ed548d14558a9761644a6f6b570069f023b74a404a910b5293c7\
            448780",
        message_2: "38ab664bd86f77d7e66bdd9ae0792913a94fd8b33a1260027e4b46c1f4884c67a17d9b2f866314bfecdb\
            997cb7272e4b937f3edc084088e5edacf8649b4d726eb8bc9fec9763bb4afb026495c94b1b8ec4",
        handshake: "096d9fc2018b286ad833de195e0ddb73eca6df54f894bd432b9734eb44d41a8b",
        traffic: "41188ba66f3e55c1153e3f3c12c3e06dde29888184bd75727171b3fb1336ea40",
        exporter: "916bcaedb5daa86408f1a3a3b629b2fbe4674a2794e9048dbd5a1a232caa60fe",
        lane: "9b7beb3b74c71f27b334ecc49def277480ca8742f4606b75760c429f617c444f",
        exported: "4c6ee640990f84acc993697cfaddf2aedbcc317445837f69ab166c414d938616",
    },
    Vector {
        suite: Suite::Aes256Gcm,
        kind: TransportKind::Lane,
        message_1: "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6be4832971f77aeeb7ae45\
            4dbf7b05eb309d884de2519c03ce95a8471dd8e4a1a525dfda9ee7014a0772ab1c45883a140979d63dff\
            be1f3cf616a01d97ac84ce53c256f06de89d7afcf717f8f2b29bf658560b2a0f35eceb76a2c213145e6c\
            872d4ebcb2596f8fdc29be4c73e636e978c37d5f2ef9972998c5920e7914e02d084922e085d44d66207d\
            c45e03c7234c5414ce9d9656df98301dce1b75e51966426a8c566a132fa56bceba7c36225f55673f846a\
            c7b43e0bd126ec9f7a089d3b85684f96852b755bc0c9a1e9b13f6f3b6d95ca3f90e6635b9d10548ba3bf\
            b016dfdd9a0c702dcc0809ba800b8ebc8ecbf6a7e9917054763b4de069a4712779ae11b003e7e58b2614\
            acae5eb8563098b63cd2b8af625e7df4e01b29873683037fc688d566984994ac01db24a120efcbc5ef83\
            84803f77c459462a05edff3c9d2d79a0",
        message_2: "38ab664bd86f77d7e66bdd9ae0792913a94fd8b33a1260027e4b46c1f4884c6797d026cefb1413b38a45\
            0bdd9c395b641c22c444bc53b61457be1d03a640e170f5d8980abd3eb699e23dce2a3d0f30dcab7dd4f2\
            d18907b4ea4e85748796647a1b8fc011fcd413bfb3d562e8cf7eb4b4756e19df38d51c0368761a397b85\
            6539fcaef965c1a31de864ad60cdb5a689bdb1ca1c4663aa30c8e727b8c4d635f582ef79747b7bdcecf0\
            d025f30a2e2847560375df49dab6f09aec743e8d43597d28aa2cd44d16abe797ee50014cd03b08d1b0d6\
            277496493421769cf7f0d003bbc5e50da905eba5f918f93504291642d3a79a3fb19ca1adc40e7fb3862e\
            142ead4a99e702b164f7afbe66b10af8402e1a2af9afd55e793e04349fad6ecb98c39230843f7bdc5cb5\
            b6b57336bea884d97fb2",
        handshake: "c7374b481708f3f97baf97b99f5da3bbd32f84e5fdd37468e3fbb59ae5672409",
        traffic: "e9b9bc896d65805cdba5c5da58e66141f0e4001674a629ac9d7d0520c0822fa2",
        exporter: "57dbaed2c0b9fe580a924b806be1ca77c6b4f6e36e33350909918e4aece90d66",
        lane: "a095545d861ea0c39d3d136fde7536ebdfd258187c1da8d3226f3849c2d8bf88",
        exported: "ad700e04898f90c9c16e4253dc990b2501eecda9cc9cb3e709437419c23ea8d2",
    },
    Vector {
        suite: Suite::ChaCha20Poly1305,
        kind: TransportKind::Lane,
        message_1: "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b16e7290bc9433c305bf8\
            e20abe6605794b6f57581c0c32776819d95574d530d553e89ef31052161fcb356675571684e66acd5b49\
            47e575d4d7086a6e4473fb4284698799ed548d14558b811217bd191c200b07fedb80bb2362aa6dadf15f\
            0154d3cd8d30d8d308911179fdef5095db9947a8f129794cf1f53c5b7ca9f20f77810b45bc8e3f0abf85\
            4ec15123909581f3a16c5a011eb2d2c3811a8e7235a6ca658dae283b3891640683a5b5330e548e30419c\
            e5f823140fe948ae56c5911dac30e1359877ea8dce62859dfd09591f5cae821035c3cdc830f85c593467\
            01db33c1f2cbc64ac8169ab465c929970ab56b2cc32c4d2cc3a36ab2a27530ead34b54b1c72c86809051\
            372fe0a52a7f34fa799ec7872870647cdfa753423c674e66a401f63e0f802d6b122cd36cc2cf678bb3e7\
            68ba91aae7ca42234e9c813c26c89a71",
        message_2: "38ab664bd86f77d7e66bdd9ae0792913a94fd8b33a1260027e4b46c1f4884c67a17d9b2f866314bfecdb\
            997cb7272e4b937f3edc084088e5edafbe849fcd706eb826c80f499c8336052d217c372079fb3b7bb5f7\
            971a110d588d593bf7ee268d5a059957fdf9e357a8ad38bea90bda18ea9201abde3c4dfeca98d7d91b80\
            a830e5699047bf9f6d9205aba34cff16864ab4140e130345491197b16fb453e7db2923eb6bb5507ec6da\
            82bb279f9a1f0c349d0f64a038ab841af1328fa7ca17e5ad4216cb77997e529aaa4ac7e955862210ddfd\
            ad246a02a870c2bca2959cf30b1224ec48b3dd8acd0b9d3298c8d49ab017f3169fbe637d85c605856f58\
            745a57e8a54329a80de484c8c0e9fa88877f14dde56bdd9b14fe1f241593da5e443c3b19cf4833cb10fe\
            e330328f3c10b5955dd3",
        handshake: "603f80dd53b9bd5744f38c2462908ac324c20177a2ecb164b31fc111743d617f",
        traffic: "20dfb0f5f1a19c27abd780187a44fa32482ac781b6177083aeb824e6c1b7fd00",
        exporter: "91a4cf3a1cb8b267af22aa9f0e03b2ee20da4449c681b615b996f7bf5177b08e",
        lane: "681c1675c241382ad4c9eedb9b1d95cc855c1285c9b5c3ddd795b1f73cc32abc",
        exported: "a20d4f92e5d682783e2b2c11fe3d8adabb5e8539c572f5f690eb2755190ab81f",
    },
];

fn hello(kind: TransportKind) -> Hello {
    Hello {
        versions: VersionRange::new(1, 1).unwrap(),
        capabilities: Capabilities::from_bits(7),
        process: ProcessId::from([0x66; 16]),
        token: (kind == TransportKind::Lane).then(|| TokenId::from([0x77; 16])),
        transport_parameters: (kind == TransportKind::Quic)
            .then(|| vec![0x04, 0x04, 0x80, 1, 0, 0]),
    }
}

fn answer(kind: TransportKind) -> Answer {
    Answer {
        versions: VersionRange::new(1, 1).unwrap(),
        capabilities: Capabilities::from_bits(3),
        process: ProcessId::from([0x99; 16]),
        transport_parameters: (kind == TransportKind::Quic)
            .then(|| vec![0x04, 0x04, 0x80, 2, 0, 0]),
    }
}

fn run(suite: Suite, kind: TransportKind) -> (Vec<u8>, Vec<u8>, Secrets, Secrets) {
    let relay = SecretKey::from(RELAY);
    let (initiator, message_1) = Initiator::new(
        suite,
        kind,
        &SecretKey::from(CLIENT),
        &relay.public_key(),
        &Psk::from(PSK),
        CLIENT_EPHEMERAL,
        &hello(kind),
    )
    .unwrap();
    let identified = Responder::new(suite, kind, &relay, RELAY_EPHEMERAL)
        .unwrap()
        .read_hello(&message_1)
        .unwrap();
    assert_eq!(identified.hello(), &hello(kind));
    let (message_2, relays) = identified.answer(&Psk::from(PSK), &answer(kind)).unwrap();
    let (read, clients) = initiator.read_answer(&message_2).unwrap();
    assert_eq!(read, answer(kind));
    (message_1, message_2, relays, clients)
}

#[test]
fn version_1_stays() {
    let (mut got, mut expected) = (String::new(), String::new());
    for vector in VECTORS {
        let (message_1, message_2, relays, clients) = run(vector.suite, vector.kind);
        let mut line = |name: &str, bytes: &[u8], hex: &str| {
            got += &format!("{name} {}\n", to_hex(bytes));
            expected += &format!("{name} {hex}\n");
        };
        line("message_1", &message_1, vector.message_1);
        line("message_2", &message_2, vector.message_2);
        for secrets in [&relays, &clients] {
            let mut exported = [0; 32];
            secrets.export(b"adit lanes", b"", &mut exported).unwrap();
            line("handshake", secrets.handshake.as_bytes(), vector.handshake);
            line("traffic", secrets.traffic.as_bytes(), vector.traffic);
            line("exporter", secrets.exporter.as_bytes(), vector.exporter);
            line("lane", secrets.lane.as_bytes(), vector.lane);
            line("exported", &exported, vector.exported);
        }
    }
    assert_eq!(got, expected);
}

/// Our messages are made with aws-lc-rs; snow's own ciphers, hash and curve make the same.
#[test]
fn an_independent_implementation_makes_the_same_messages() {
    for (suite, name, number) in [
        (Suite::Aes256Gcm, "Noise_IKpsk2_25519_AESGCM_SHA256", 1),
        (
            Suite::ChaCha20Poly1305,
            "Noise_IKpsk2_25519_ChaChaPoly_SHA256",
            2,
        ),
    ] {
        for (kind, letter) in [(TransportKind::Quic, b'q'), (TransportKind::Lane, b'l')] {
            let (message_1, message_2, _, _) = run(suite, kind);
            let prologue = [b'a', b'd', b'i', b't', 0, 1, letter, number];
            let build = |key, ephemeral| {
                Builder::new(name.parse().unwrap())
                    .local_private_key(key)
                    .and_then(|builder| builder.prologue(&prologue))
                    .and_then(|builder| builder.psk(2, &PSK))
                    .unwrap()
                    .fixed_ephemeral_key_for_testing_only(ephemeral)
            };
            let mut payload = vec![0; 2_048];
            let mut relay = build(&RELAY, &RELAY_EPHEMERAL).build_responder().unwrap();
            let length = relay.read_message(&message_1, &mut payload).unwrap();
            let hello = payload[..length].to_vec();
            let public = SecretKey::from(RELAY).public_key();
            let mut client = build(&CLIENT, &CLIENT_EPHEMERAL)
                .remote_public_key(public.as_bytes())
                .unwrap()
                .build_initiator()
                .unwrap();
            let mut message = vec![0; 2_048];
            let length = client.write_message(&hello, &mut message).unwrap();
            assert_eq!(message[..length], message_1);
            let length = client.read_message(&message_2, &mut payload).unwrap();
            let answer = payload[..length].to_vec();
            let length = relay.write_message(&answer, &mut message).unwrap();
            assert_eq!(message[..length], message_2);
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
