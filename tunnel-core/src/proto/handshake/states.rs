//! The states of both sides, one type each.

use std::fmt;

use snow::HandshakeState;
use zeroize::Zeroizing;

use crate::{
    key::{KEY_LEN, Psk, PublicKey, SecretKey},
    proto::handshake::{
        error::{HandshakeError, MAX_LANE_PAYLOAD, MAX_MESSAGE},
        keys::Secrets,
        noise,
        payload::{Answer, Hello},
        suite::{Suite, TransportKind},
    },
};

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
