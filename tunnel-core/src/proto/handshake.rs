//! The handshake: Noise `IKpsk2` as a typestate, the two payloads and the key schedule (docs/protocol.md §2).
//!
//! ```text
//! Initiator ── message 1 ──► Responder          learns who, and what they say: Identified
//! Initiator ◄── message 2 ── Identified         only now needs the pre-shared key
//!    Secrets                    Secrets          equal, if both used the same pre-shared key
//! ```
//!
//! The responder's secrets alone prove nothing: a client is who it says once something sealed with them arrives.

pub(crate) mod keys;
mod noise;
mod payload;

use std::fmt;

use snow::HandshakeState;
use zeroize::Zeroizing;

pub use self::{
    keys::{ExportTooLong, Secret, Secrets},
    payload::{
        Answer, Capabilities, Hello, PayloadError, ProcessId, SUPPORTED, VersionMismatch,
        VersionRange,
    },
};
use crate::key::{KEY_LEN, Psk, PublicKey, SecretKey};

/// Longest handshake message, in bytes. A hello with transport parameters is about 250, so there is room to
/// grow eightfold, and a stranger's message is never worth more memory than a packet or two.
pub const MAX_MESSAGE: usize = 2_048;

/// Longest payload on a lane, in bytes: four times the padded size, the rest is room to grow.
pub const MAX_LANE_PAYLOAD: usize = 1_024;

/// The cipher of a handshake and of everything after it. Curve25519 and SHA-256 are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM: the fastest where the CPU has AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305: the fastest where it has not, and constant in time there.
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite; a relay speaks them all.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The suite's number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The suite with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// What a client should pick on this CPU.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_aes = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }

    const fn noise_name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "Noise_IKpsk2_25519_AESGCM_SHA256",
            Self::ChaCha20Poly1305 => "Noise_IKpsk2_25519_ChaChaPoly_SHA256",
        }
    }
}

/// What carries the handshake. It enters the prologue, so that a message recorded on one is void on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// CRYPTO frames of a QUIC connection; the payloads carry its transport parameters.
    Quic,
    /// A TCP connection; the payloads are padded to 256 bytes.
    Lane,
}

impl TransportKind {
    const fn letter(self) -> u8 {
        match self {
            Self::Quic => b'q',
            Self::Lane => b'l',
        }
    }
}

/// A client that has sent message 1 and waits for message 2.
pub struct Initiator {
    kind: TransportKind,
    noise: Box<HandshakeState>,
}

impl Initiator {
    /// Starts a handshake with `relay` and writes message 1. `ephemeral` must be 32 bytes of fresh randomness.
    pub fn new(
        suite: Suite,
        kind: TransportKind,
        local: &SecretKey,
        relay: &PublicKey,
        psk: &Psk,
        ephemeral: [u8; KEY_LEN],
        hello: &Hello,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let payload = hello.encode(kind)?;
        let mut noise = noise::builder(suite, ephemeral)?
            .local_private_key(local.as_bytes())?
            .remote_public_key(relay.as_bytes())?
            .psk(PSK_SLOT, psk.as_bytes())?
            .prologue(&prologue(suite, kind))?
            .build_initiator()
            .map(Box::new)?;
        let message = write(&mut noise, &payload)?;
        Ok((Self { kind, noise }, message))
    }

    /// Reads message 2. Success proves that the peer is the relay and holds the same pre-shared key.
    pub fn read_answer(mut self, message: &[u8]) -> Result<(Answer, Secrets), HandshakeError> {
        let payload = read(&mut self.noise, self.kind, message)?;
        let answer = Answer::decode(self.kind, &payload)?;
        Ok((answer, Secrets::split(&mut self.noise)?))
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A relay that waits for message 1.
pub struct Responder {
    kind: TransportKind,
    noise: Box<HandshakeState>,
}

impl Responder {
    /// Prepares for one message 1. `ephemeral` must be 32 bytes of fresh randomness.
    pub fn new(
        suite: Suite,
        kind: TransportKind,
        local: &SecretKey,
        ephemeral: [u8; KEY_LEN],
    ) -> Result<Self, HandshakeError> {
        let noise = noise::builder(suite, ephemeral)?
            .local_private_key(local.as_bytes())?
            .prologue(&prologue(suite, kind))?
            .build_responder()
            .map(Box::new)?;
        Ok(Self { kind, noise })
    }

    /// Reads message 1. Success proves that its author holds the static key, but not that the author sends it:
    /// it may be a recording.
    pub fn read_hello(mut self, message: &[u8]) -> Result<Identified, HandshakeError> {
        let payload = read(&mut self.noise, self.kind, message)?;
        let hello = Hello::decode(self.kind, &payload)?;
        let peer = self
            .noise
            .get_remote_static()
            .and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok())
            .ok_or(HandshakeError::Crypto)?;
        Ok(Identified {
            kind: self.kind,
            noise: self.noise,
            peer: PublicKey::from(peer),
            hello,
        })
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A relay that knows who asks, and has yet to choose the pre-shared key and to answer.
pub struct Identified {
    kind: TransportKind,
    noise: Box<HandshakeState>,
    peer: PublicKey,
    hello: Hello,
}

impl Identified {
    /// The static key that made message 1.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// What the client said.
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Writes message 2. For a client that is unknown or revoked, `psk` is a random one: the work and the sizes
    /// stay the same, and the client cannot read the answer.
    pub fn answer(
        mut self,
        psk: &Psk,
        answer: &Answer,
    ) -> Result<(Vec<u8>, Secrets), HandshakeError> {
        let payload = answer.encode(self.kind)?;
        self.noise.set_psk(usize::from(PSK_SLOT), psk.as_bytes())?;
        let message = write(&mut self.noise, &payload)?;
        Ok((message, Secrets::split(&mut self.noise)?))
    }
}

impl fmt::Debug for Identified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identified")
            .field("peer", &self.peer)
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

/// Why a handshake failed. A relay tells the peer none of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The message is damaged, or made for another key, pre-shared key, suite or transport.
    #[error("the peer's handshake message does not fit: another key, another secret, or damaged")]
    Undecryptable,
    /// The message is longer than any of ours.
    #[error("the peer's handshake message has {0} bytes, at most {MAX_MESSAGE} are allowed")]
    MessageTooLong(usize),
    /// The payload is longer than a lane's may be.
    #[error(
        "the handshake payload has {0} bytes, at most {MAX_LANE_PAYLOAD} are allowed on a lane"
    )]
    PayloadTooLong(usize),
    /// The message was genuine, but what it says makes no sense.
    #[error("the peer's handshake payload is wrong: {0}")]
    BadPayload(#[from] PayloadError),
    /// The cryptographic library refused.
    #[error("the cryptographic library failed")]
    Crypto,
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        match error {
            // A public key of low order is the peer's doing, like a tag that does not fit.
            snow::Error::Decrypt | snow::Error::Dh | snow::Error::Input => Self::Undecryptable,
            _ => Self::Crypto,
        }
    }
}

fn prologue(suite: Suite, kind: TransportKind) -> [u8; 8] {
    let mut prologue = *b"adit\0\x01TS";
    prologue[6] = kind.letter();
    prologue[7] = suite.number();
    prologue
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut message = vec![0; MAX_MESSAGE];
    let length = noise
        .write_message(payload, &mut message)
        .map_err(|error| match error {
            snow::Error::Input => HandshakeError::PayloadTooLong(payload.len()),
            other => other.into(),
        })?;
    message.truncate(length);
    Ok(message)
}

fn read(
    noise: &mut HandshakeState,
    kind: TransportKind,
    message: &[u8],
) -> Result<Zeroizing<Vec<u8>>, HandshakeError> {
    if message.len() > MAX_MESSAGE {
        return Err(HandshakeError::MessageTooLong(message.len()));
    }
    let mut payload = Zeroizing::new(vec![0; message.len()]);
    let length = noise.read_message(message, &mut payload)?;
    payload.truncate(length);
    if kind == TransportKind::Lane && length > MAX_LANE_PAYLOAD {
        return Err(HandshakeError::PayloadTooLong(length));
    }
    Ok(payload)
}

/// `psk2`: the pre-shared key is mixed in at the end of message 2.
const PSK_SLOT: u8 = 2;

#[cfg(test)]
mod tests;
