//! Identities: static Curve25519 keys, pre-shared keys and the text form of both.
//!
//! Every key is 32 bytes. Its text form, in files and in a join string, is unpadded base64url: 43 characters.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    agreement, constant_time,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::text::bare;

/// Length of every key, in bytes.
pub const KEY_LEN: usize = 32;

/// The public half of a static Curve25519 key: who a relay or a client is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The key as 32 bytes, little-endian as RFC 7748 has it.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl From<[u8; KEY_LEN]> for PublicKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The secret half of a static Curve25519 key. It is wiped from memory when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_LEN]);

impl SecretKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// The key as 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let computed = agreement::PrivateKey::from_private_key(&agreement::X25519, &self.0)
            .and_then(|key| {
                let public = key.compute_public_key()?;
                let mut bytes = [0; KEY_LEN];
                bytes.copy_from_slice(public.as_ref());
                Ok(bytes)
            });
        // Every 32 bytes are a valid X25519 scalar (RFC 7748 clamps them).
        PublicKey(computed.unwrap_or_default())
    }

    /// The text form, for the key file: 43 characters, a secret, wiped from memory when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl From<[u8; KEY_LEN]> for SecretKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A pre-shared key, mixed into the handshake beside the static keys. It is wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; KEY_LEN]);

impl Psk {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// The key as 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The text form, for the key file: 43 characters, a secret, wiped from memory when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl PartialEq for Psk {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Psk {}

impl From<[u8; KEY_LEN]> for Psk {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Psk {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// Why a key could not be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is not base64url without padding.
    #[error("not a key: expected 43 characters of base64url (A-Z a-z 0-9 - _)")]
    NotBase64,
    /// The text decodes to another length than 32 bytes.
    #[error("not a key: {0} bytes long instead of 32")]
    WrongLength(usize),
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

/// 32 fresh random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

fn decode(text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let text = bare(text);
    // Longer than any key: refused before it is decoded into memory.
    if text.len() > 2 * KEY_LEN {
        return Err(KeyError::WrongLength(text.len() * 3 / 4));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| KeyError::NotBase64)?;
    (bytes.as_slice().try_into()).map_err(|_| KeyError::WrongLength(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_is_that_of_rfc_7748() {
        let secret: [u8; 32] = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let public: [u8; 32] = [
            0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e,
            0xf7, 0x5a, 0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e,
            0xaa, 0x9b, 0x4e, 0x6a,
        ];
        assert_eq!(SecretKey::from(secret).public_key().as_bytes(), &public);
    }

    #[test]
    fn text_form_comes_back() {
        let key = SecretKey::generate().unwrap();
        let again: SecretKey = key.to_text().parse().unwrap();
        assert_eq!(key.as_bytes(), again.as_bytes());
        let public = key.public_key();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert_eq!(public.to_string().len(), 43);
    }

    #[test]
    fn text_that_tools_have_written_is_read() {
        let key = SecretKey::from([7; 32]);
        let text = key.to_text();
        let text = text.as_str();
        for written in [
            format!("{text}\r\n"),
            format!("\u{feff}{text}\r\n"),
            format!("\"{text}\""),
        ] {
            let read: SecretKey = written.parse().unwrap();
            assert_eq!(read.as_bytes(), key.as_bytes(), "{written:?}");
        }
    }

    #[test]
    fn wrong_text_is_refused() {
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::WrongLength(0)));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::WrongLength(3)));
        assert_eq!("not a key!".parse::<PublicKey>(), Err(KeyError::NotBase64));
        let long = "A".repeat(100_000);
        assert!(matches!(
            long.parse::<PublicKey>(),
            Err(KeyError::WrongLength(_))
        ));
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = SecretKey::from([7; 32]);
        assert_eq!(format!("{key:?}"), "SecretKey(..)");
        assert_eq!(format!("{:?}", Psk::from([7; 32])), "Psk(..)");
    }
}
