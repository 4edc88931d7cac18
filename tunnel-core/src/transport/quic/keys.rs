//! Everything QUIC needs keys for. Packets are protected by rustls' suites with our secrets.

use std::io;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use quinn::Side;
use quinn::crypto::{KeyPair, Keys, PacketKey};
use rustls::{
    crypto::aws_lc_rs::cipher_suite::{TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256},
    quic::Version,
};

use super::cid::CidKey;
use crate::{
    key::{PublicKey, SecretKey},
    proto::handshake::{
        Suite,
        keys::{Secret, expand, expand_into, extract, hmac},
    },
};

/// The private QUIC versions, one for each suite.
pub(super) const VERSIONS: [u32; 2] = [0x4144_4901, 0x4144_4902];

/// The version that names `suite`.
pub(super) const fn version_of(suite: Suite) -> u32 {
    match suite {
        Suite::Aes256Gcm => VERSIONS[0],
        Suite::ChaCha20Poly1305 => VERSIONS[1],
    }
}

/// The suite that `version` names.
pub(super) fn suite_of(version: u32) -> Option<Suite> {
    Suite::ALL
        .into_iter()
        .find(|suite| version_of(*suite) == version)
}

/// rustls' two suites with the AEADs of ours. Their hash (SHA-384 beside AES-256-GCM, SHA-256 beside
/// ChaCha20-Poly1305) makes packet keys out of our secrets and is nowhere else.
#[derive(Clone, Copy)]
pub(super) struct Suites {
    aes: rustls::quic::Suite,
    chacha: rustls::quic::Suite,
}

impl Suites {
    /// Fails only if rustls was built without QUIC.
    pub(super) fn load() -> io::Result<Self> {
        let quic = |suite: rustls::SupportedCipherSuite| {
            suite
                .tls13()
                .and_then(rustls::Tls13CipherSuite::quic_suite)
                .ok_or_else(|| io::Error::other("rustls was built without QUIC"))
        };
        Ok(Self {
            aes: quic(TLS13_AES_256_GCM_SHA384)?,
            chacha: quic(TLS13_CHACHA20_POLY1305_SHA256)?,
        })
    }

    /// Keys for both directions, made like QUIC's Initial keys with `secret` for the connection id.
    pub(super) fn keys(&self, suite: Suite, secret: &Secret, side: Side) -> Keys {
        let keys = self.raw(suite, secret, side);
        Keys {
            header: KeyPair {
                local: Box::new(keys.local.header),
                remote: Box::new(keys.remote.header),
            },
            packet: KeyPair {
                local: Box::new(keys.local.packet),
                remote: Box::new(keys.remote.packet),
            },
        }
    }

    /// The same for packets alone: header keys outlive a key update.
    pub(super) fn packet_keys(
        &self,
        suite: Suite,
        secret: &Secret,
        side: Side,
    ) -> KeyPair<Box<dyn PacketKey>> {
        self.keys(suite, secret, side).packet
    }

    /// The same, as rustls has them.
    pub(super) fn raw(&self, suite: Suite, secret: &Secret, side: Side) -> rustls::quic::Keys {
        let side = match side {
            Side::Client => rustls::Side::Client,
            Side::Server => rustls::Side::Server,
        };
        match suite {
            Suite::Aes256Gcm => self.aes,
            Suite::ChaCha20Poly1305 => self.chacha,
        }
        .keys(secret.as_bytes(), side, Version::V1)
    }
}

/// The secret of Initial packets: only who knows the relay can make it.
pub(super) fn initial_secret(relay: &PublicKey, destination: &[u8]) -> Secret {
    Secret::from(hmac(relay.as_bytes(), &[b"adit 1 initial", destination]))
}

/// The next generation's traffic secret.
pub(super) fn next_generation(traffic: &Secret) -> Secret {
    expand(traffic, b"key update")
}

/// What a relay derives from its private key, so that it outlives a restart.
pub(super) struct RelayKeys {
    /// Marks the relay's connection ids.
    pub(super) cid: CidKey,
    /// Makes stateless reset tokens.
    pub(super) reset: Secret,
    /// Seals Retry tokens.
    pub(super) retry_token: Secret,
}

impl RelayKeys {
    pub(super) fn derive(secret_key: &SecretKey) -> Self {
        let root = extract(b"adit 1", secret_key.as_bytes());
        Self {
            cid: CidKey::new(expand_into(&root, &[b"cid"])),
            reset: expand_into(&root, &[b"reset"]),
            retry_token: expand_into(&root, &[b"retry token"]),
        }
    }
}

/// The integrity tag of a Retry packet (RFC 9001 §5.8): guards against damage, not against an adversary.
pub(super) fn retry_tag(original: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut pseudo_packet = vec![original.len() as u8];
    pseudo_packet.extend_from_slice(original);
    for part in parts {
        pseudo_packet.extend_from_slice(part);
    }
    let tag = UnboundKey::new(&AES_128_GCM, &RETRY_KEY).and_then(|key| {
        LessSafeKey::new(key).seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(RETRY_NONCE),
            Aad::from(pseudo_packet),
            &mut [],
        )
    });
    // A fixed key of the right length and an empty text: it cannot fail, and zeros would only be a wrong tag.
    tag.ok()
        .and_then(|tag| tag.as_ref().try_into().ok())
        .unwrap_or_default()
}

/// RFC 9001 §5.8.
const RETRY_KEY: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
/// RFC 9001 §5.8.
const RETRY_NONCE: [u8; 12] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001, appendix A.4.
    #[test]
    fn retry_tag_is_that_of_rfc_9001() {
        let original = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        let header = [
            0xff, 0, 0, 0, 1, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5,
        ];
        assert_eq!(
            retry_tag(&original, &[&header, b"token"]),
            [
                0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58, 0xfb, 0x3f, 0x0f, 0x24,
                0x96, 0xba
            ]
        );
    }

    /// docs/protocol.md §3, written out with HKDF alone.
    #[test]
    fn packet_keys_are_those_of_the_protocol() {
        use aws_lc_rs::{aead, hkdf};

        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        fn expand_label(prk: &hkdf::Prk, label: &str, length: usize) -> Vec<u8> {
            let label = format!("tls13 {label}");
            let head = [0, length as u8, label.len() as u8];
            let mut out = vec![0; length];
            prk.expand(&[&head, label.as_bytes(), &[0]], Length(length))
                .unwrap()
                .fill(&mut out)
                .unwrap();
            out
        }

        let salt_of_version_1 = [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8,
            0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a,
        ];
        let suites = Suites::load().unwrap();
        for (suite, hash, hash_len, cipher) in [
            (Suite::Aes256Gcm, hkdf::HKDF_SHA384, 48, &aead::AES_256_GCM),
            (
                Suite::ChaCha20Poly1305,
                hkdf::HKDF_SHA256,
                32,
                &aead::CHACHA20_POLY1305,
            ),
        ] {
            let secret = Secret::from([7; 32]);
            let initial = hkdf::Salt::new(hash, &salt_of_version_1).extract(secret.as_bytes());
            for (side, label) in [(Side::Client, "client in"), (Side::Server, "server in")] {
                let direction = expand_label(&initial, label, hash_len);
                let direction = hkdf::Prk::new_less_safe(hash, &direction);
                let key = expand_label(&direction, "quic key", 32);
                let iv: [u8; 12] = expand_label(&direction, "quic iv", 12).try_into().unwrap();
                let expected = LessSafeKey::new(UnboundKey::new(cipher, &key).unwrap())
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(iv),
                        Aad::from(b"header"),
                        &mut [],
                    )
                    .unwrap();
                let tag = suites
                    .raw(suite, &secret, side)
                    .local
                    .packet
                    .encrypt_in_place(0, b"header", &mut [])
                    .unwrap();
                assert_eq!(tag.as_ref(), expected.as_ref());
            }
        }
    }

    #[test]
    fn version_and_suite_name_each_other() {
        for suite in Suite::ALL {
            assert_eq!(suite_of(version_of(suite)), Some(suite));
        }
        assert_eq!(suite_of(1), None);
    }

    #[test]
    fn relay_keys_follow_from_the_private_key() {
        let one = RelayKeys::derive(&SecretKey::from([1; 32]));
        let same = RelayKeys::derive(&SecretKey::from([1; 32]));
        let other = RelayKeys::derive(&SecretKey::from([2; 32]));
        assert_eq!(one.reset.as_bytes(), same.reset.as_bytes());
        assert_ne!(one.reset.as_bytes(), other.reset.as_bytes());
        assert_ne!(one.reset.as_bytes(), one.retry_token.as_bytes());
    }
}
