//! The key schedule, and HKDF and HMAC with SHA-256 for all that derives from it.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use snow::HandshakeState;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::proto::handshake::error::HandshakeError;

/// 32 secret bytes. They are wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret as 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a finished handshake leaves behind, the same on both sides.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Protects QUIC's Handshake packets.
    pub handshake: Secret,
    /// Protects QUIC's 1-RTT packets, first generation.
    pub traffic: Secret,
    /// The root of everything exported.
    pub exporter: Secret,
    /// The lane's secret, when the handshake ran on a lane.
    pub lane: Secret,
}

impl Secrets {
    /// Fills `out` with bytes that only the two ends know, bound to `label` and `context`.
    pub fn export(
        &self,
        label: &[u8],
        context: &[u8],
        out: &mut [u8],
    ) -> Result<(), ExportTooLong> {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).map_err(|_| ExportTooLong);
        let info: [&[u8]; 5] = [
            b"adit 1 export",
            &length(label)?.to_be_bytes(),
            label,
            &length(context)?.to_be_bytes(),
            context,
        ];
        fill(&self.exporter, &info, out)
    }

    pub(super) fn split(noise: &mut HandshakeState) -> Result<Self, HandshakeError> {
        let (mut k1, mut k2) = noise.dangerously_get_raw_split();
        let mut both = Zeroizing::new([0; 64]);
        both[..32].copy_from_slice(&k1);
        both[32..].copy_from_slice(&k2);
        k1.zeroize();
        k2.zeroize();
        // The hash is public: it salts, it keeps nothing secret.
        let master = extract(noise.get_handshake_hash(), both.as_slice());
        Ok(Self {
            handshake: expand(&master, b"handshake"),
            traffic: expand(&master, b"traffic"),
            exporter: expand(&master, b"exporter"),
            lane: expand(&master, b"lane"),
        })
    }
}

/// More was asked of the exporter than HKDF gives: 8,160 bytes, or a label or context beyond 65,535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more key material was asked for than HKDF gives")]
pub struct ExportTooLong;

/// HKDF-Extract.
pub(crate) fn extract(salt: &[u8], secret: &[u8]) -> Secret {
    // Extract is HMAC keyed with the salt.
    Secret(hmac(salt, &[secret]))
}

/// The protocol's `expand(secret, label)`: HKDF-Expand with `"adit 1 "` before the label.
pub(crate) fn expand(secret: &Secret, label: &[u8]) -> Secret {
    expand_into(secret, &[b"adit 1 ", label])
}

/// HKDF-Expand of 32 bytes with the concatenated `info`.
pub(crate) fn expand_into(secret: &Secret, info: &[&[u8]]) -> Secret {
    let mut out = Secret([0; 32]);
    // One block: it cannot be too long.
    let filled = fill(secret, info, &mut out.0);
    debug_assert!(filled.is_ok());
    out
}

/// HMAC of the concatenated `parts`.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn fill(secret: &Secret, info: &[&[u8]], out: &mut [u8]) -> Result<(), ExportTooLong> {
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret.0)
        .expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| ExportTooLong)
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 1.
    #[test]
    fn extract_is_that_of_rfc_5869() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let prk = extract(&salt, &[0x0b; 22]);
        assert_eq!(
            prk.as_bytes()[..8],
            [0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf]
        );
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        assert_eq!(
            expand_into(&prk, &[&info]).as_bytes()[..8],
            [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]
        );
    }

    #[test]
    fn label_and_context_do_not_run_into_each_other() {
        let secrets = Secrets {
            handshake: Secret([0; 32]),
            traffic: Secret([0; 32]),
            exporter: Secret([1; 32]),
            lane: Secret([0; 32]),
        };
        let (mut one, mut two) = ([0; 32], [0; 32]);
        secrets.export(b"ab", b"c", &mut one).unwrap();
        secrets.export(b"a", b"bc", &mut two).unwrap();
        assert_ne!(one, two);
        assert_eq!(
            secrets.export(b"a", b"", &mut vec![0; 255 * 32 + 1]),
            Err(ExportTooLong)
        );
        assert_eq!(
            secrets.export(&vec![0; 70_000], b"", &mut one),
            Err(ExportTooLong)
        );
        assert_eq!(format!("{:?}", secrets.lane), "Secret(..)");
    }
}
