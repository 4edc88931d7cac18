//! quinn's cryptographic session, with our handshake in it.
//!
//! quinn hands over CRYPTO bytes in any pieces and does not say at which level they came; so messages carry their
//! length, and each state takes exactly one. Both sides end with an empty message in a Handshake packet, because
//! that is what makes quinn take a connection for established.

use std::{any::Any, io::Cursor, sync::Arc};

use quinn::crypto::{
    self as quic, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
    UnsupportedVersion,
};
use quinn::{ConnectError, ConnectionId, Side, TransportErrorCode};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};

use super::{
    error::QuicConnectError,
    identity::{ClientIdentity, RelayIdentity},
    keys::{Suites, initial_secret, next_generation, retry_tag, suite_of},
};
use crate::{
    key::{self, Psk, PublicKey},
    proto::handshake::{
        Answer, HandshakeError, Hello, Identified, Initiator, MAX_MESSAGE, Responder, Secret,
        Secrets, Suite, TransportKind, VersionRange,
    },
};

/// Makes a relay's sessions.
pub(super) struct RelayCrypto {
    identity: RelayIdentity,
    public_key: PublicKey,
    suites: Suites,
}

impl RelayCrypto {
    pub(super) fn new(identity: RelayIdentity, suites: Suites) -> Self {
        Self {
            public_key: identity.secret_key.public_key(),
            identity,
            suites,
        }
    }

    /// Reads message 1 and chooses the pre-shared key.
    fn read_hello(&self, suite: Suite, message: &[u8]) -> Result<(Identified, Psk), Fault> {
        let ephemeral = key::random().map_err(|_| Fault::Internal)?;
        // Made whether it is needed or not: both ways do the same work.
        let random = Psk::generate().map_err(|_| Fault::Internal)?;
        let identity = &self.identity;
        let identified =
            Responder::new(suite, TransportKind::Quic, &identity.secret_key, ephemeral)?
                .read_hello(message)?;
        let known = identity
            .psks
            .psk(&identified.peer(), identified.hello().token);
        Ok((identified, known.unwrap_or(random)))
    }
}

impl quic::ServerConfig for RelayCrypto {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let suite = suite_of(version).ok_or(UnsupportedVersion)?;
        let secret = initial_secret(&self.public_key, dst_cid);
        Ok(self.suites.keys(suite, &secret, Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(orig_dst_cid, &[packet])
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(NoiseSession {
            side: Side::Server,
            // quinn asks for Initial keys first, which a foreign version has none of.
            suite: suite_of(version).unwrap_or(Suite::Aes256Gcm),
            relay: self.public_key,
            suites: self.suites,
            inbox: Vec::new(),
            outgoing: Outgoing::Nothing,
            state: State::AwaitHello {
                parameters: encode(params),
                crypto: self,
            },
            peer: None,
            secrets: None,
            generation: None,
        })
    }
}

/// Makes a client's sessions.
pub(super) struct ClientCrypto {
    identity: ClientIdentity,
    suites: Suites,
}

impl ClientCrypto {
    pub(super) fn new(identity: &ClientIdentity) -> Result<Self, QuicConnectError> {
        Ok(Self {
            identity: identity.clone(),
            suites: Suites::load().map_err(|error| QuicConnectError::NoQuic(error.to_string()))?,
        })
    }

    fn write_hello(&self, params: &TransportParameters) -> Result<(Initiator, Vec<u8>), Fault> {
        let identity = &self.identity;
        let made = Initiator::new(
            identity.suite,
            TransportKind::Quic,
            &identity.secret_key,
            &identity.relay,
            &identity.psk,
            key::random().map_err(|_| Fault::Internal)?,
            &Hello {
                versions: identity.versions,
                capabilities: identity.capabilities,
                process: identity.process,
                token: identity.token,
                transport_parameters: Some(encode(params)),
            },
        )?;
        Ok(made)
    }
}

impl quic::ClientConfig for ClientCrypto {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        if suite_of(version) != Some(self.identity.suite) {
            return Err(ConnectError::UnsupportedVersion);
        }
        // The variant stands for the relay's key: quinn's error has no other room for one of ours.
        let (initiator, message) = self
            .write_hello(params)
            .map_err(|_| ConnectError::InvalidServerName(String::new()))?;
        Ok(Box::new(NoiseSession {
            side: Side::Client,
            suite: self.identity.suite,
            relay: self.identity.relay,
            suites: self.suites,
            inbox: Vec::new(),
            outgoing: Outgoing::Hello(message),
            state: State::AwaitAnswer(initiator),
            peer: None,
            secrets: None,
            generation: None,
        }))
    }
}

/// Who a relay talks with, once message 1 has been read: what its `handshake_data` gives. A client's gives the
/// relay's [`Answer`].
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) key: PublicKey,
    /// What it has to prove.
    pub(super) psk: Psk,
    pub(super) hello: Hello,
    pub(super) suite: Suite,
    pub(super) relay_versions: VersionRange,
}

enum Peer {
    Client(Client),
    Relay(Answer),
}

/// One connection's handshake and keys.
struct NoiseSession {
    side: Side,
    suite: Suite,
    relay: PublicKey,
    suites: Suites,
    /// The start of a message that has not come whole: never longer than one.
    inbox: Vec<u8>,
    outgoing: Outgoing,
    state: State,
    peer: Option<Peer>,
    secrets: Option<Secrets>,
    /// The traffic secret of the newest generation of keys handed out.
    generation: Option<Secret>,
}

enum State {
    AwaitHello {
        crypto: Arc<RelayCrypto>,
        parameters: Vec<u8>,
    },
    AwaitAnswer(Initiator),
    AwaitFinished,
    Finished,
    Failed,
}

/// What `write_handshake` gives next.
enum Outgoing {
    Nothing,
    /// The client's message 1.
    Hello(Vec<u8>),
    /// The relay's message 2, and the Handshake keys.
    Answer(Vec<u8>),
    /// The Handshake keys: the client has nothing more to say in Initial packets.
    HandshakeKeys,
    /// The empty message, and the 1-RTT keys.
    Finished,
}

impl NoiseSession {
    /// Takes one message; whether it told who the peer is.
    fn handle_message(&mut self, message: &[u8]) -> Result<bool, Fault> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::AwaitHello { crypto, parameters } => {
                let (identified, psk) = crypto.read_hello(self.suite, message)?;
                let client = Client {
                    key: identified.peer(),
                    psk: psk.clone(),
                    hello: identified.hello().clone(),
                    suite: self.suite,
                    relay_versions: crypto.identity.versions,
                };
                let answer = Answer {
                    versions: crypto.identity.versions,
                    capabilities: crypto.identity.capabilities,
                    process: crypto.identity.process,
                    transport_parameters: Some(parameters),
                };
                let (message, secrets) = identified.answer(&psk, &answer)?;
                self.outgoing = Outgoing::Answer(message);
                self.secrets = Some(secrets);
                self.peer = Some(Peer::Client(client));
                self.state = State::AwaitFinished;
                Ok(true)
            }
            State::AwaitAnswer(initiator) => {
                let (answer, secrets) = initiator.read_answer(message)?;
                self.outgoing = Outgoing::HandshakeKeys;
                self.secrets = Some(secrets);
                self.peer = Some(Peer::Relay(answer));
                self.state = State::AwaitFinished;
                Ok(true)
            }
            // A finished before our own keys are out came in an Initial packet, which proves nothing.
            State::AwaitFinished
                if message.is_empty() && matches!(self.outgoing, Outgoing::Nothing) =>
            {
                self.state = State::Finished;
                Ok(false)
            }
            State::AwaitFinished | State::Finished | State::Failed => Err(Fault::Unexpected),
        }
    }

    fn keys(&self, secret: impl Fn(&Secrets) -> &Secret) -> Option<Keys> {
        let secrets = self.secrets.as_ref()?;
        Some(self.suites.keys(self.suite, secret(secrets), self.side))
    }
}

impl Session for NoiseSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let secret = initial_secret(&self.relay, dst_cid);
        self.suites.keys(self.suite, &secret, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        Some(match self.peer.as_ref()? {
            Peer::Client(client) => Box::new(client.clone()),
            Peer::Relay(answer) => Box::new(answer.clone()),
        })
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(match self.peer.as_ref()? {
            Peer::Client(client) => client.key,
            Peer::Relay(_) => self.relay,
        }))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        !matches!(self.state, State::Finished)
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inbox.extend_from_slice(buf);
        let mut told = false;
        while let Some((length, rest)) = self.inbox.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length > MAX_MESSAGE {
                return Err(Fault::Unexpected.into());
            }
            let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else {
                break;
            };
            self.inbox.drain(..2 + length);
            told |= self.handle_message(&message)?;
        }
        Ok(told)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let encoded = match &self.peer {
            Some(Peer::Client(client)) => &client.hello.transport_parameters,
            Some(Peer::Relay(answer)) => &answer.transport_parameters,
            None => return Ok(None),
        };
        encoded
            .as_ref()
            .map(|bytes| TransportParameters::read(self.side, &mut Cursor::new(bytes)))
            .transpose()
            .map_err(Into::into)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match std::mem::replace(&mut self.outgoing, Outgoing::Nothing) {
            Outgoing::Nothing => {
                // quinn asks after each packet. Message 1 comes whole in the first one, or never: read later, it
                // would cost its Diffie-Hellman outside of what admission measures.
                if matches!(self.state, State::AwaitHello { .. }) {
                    self.state = State::Failed;
                }
                None
            }
            Outgoing::Hello(message) => {
                frame(buf, &message);
                None
            }
            Outgoing::Answer(message) => {
                frame(buf, &message);
                self.outgoing = Outgoing::Finished;
                self.keys(|secrets| &secrets.handshake)
            }
            Outgoing::HandshakeKeys => {
                self.outgoing = Outgoing::Finished;
                self.keys(|secrets| &secrets.handshake)
            }
            Outgoing::Finished => {
                frame(buf, &[]);
                self.generation = self.secrets.as_ref().map(|secrets| secrets.traffic.clone());
                self.keys(|secrets| &secrets.traffic)
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let next = next_generation(self.generation.as_ref()?);
        let keys = self.suites.packet_keys(self.suite, &next, self.side);
        self.generation = Some(next);
        Some(keys)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        payload
            .split_last_chunk::<16>()
            .is_some_and(|(token, tag)| retry_tag(orig_dst_cid, &[header, token]) == *tag)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.secrets
            .as_ref()
            .and_then(|secrets| secrets.export(label, context, output).ok())
            .ok_or(ExportKeyingMaterialError)
    }
}

/// Why a session fails. The peer learns no more than that.
enum Fault {
    /// A message does not fit our keys.
    Handshake,
    /// A message where none is due, or too long.
    Unexpected,
    /// We have no randomness.
    Internal,
}

impl From<HandshakeError> for Fault {
    fn from(_: HandshakeError) -> Self {
        Self::Handshake
    }
}

impl From<Fault> for TransportError {
    fn from(fault: Fault) -> Self {
        Self {
            code: match fault {
                Fault::Handshake => handshake_failure(),
                Fault::Unexpected => TransportErrorCode::PROTOCOL_VIOLATION,
                Fault::Internal => TransportErrorCode::INTERNAL_ERROR,
            },
            frame: None,
            reason: String::new(),
        }
    }
}

/// TLS' alert 40, handshake_failure, as RFC 9001 §4.8 carries it.
pub(super) fn handshake_failure() -> TransportErrorCode {
    TransportErrorCode::crypto(40)
}

fn encode(params: &TransportParameters) -> Vec<u8> {
    let mut out = Vec::new();
    params.write(&mut out);
    out
}

fn frame(out: &mut Vec<u8>, message: &[u8]) {
    // A handshake message is never longer than MAX_MESSAGE.
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use quinn::crypto::{ClientConfig, ServerConfig};

    use super::*;
    use crate::{
        join::TokenId,
        key::SecretKey,
        proto::handshake::{Capabilities, ProcessId, SUPPORTED},
        transport::{PskSource, quic::keys::version_of},
    };

    #[derive(Debug)]
    struct One;

    impl PskSource for One {
        fn psk(&self, _: &PublicKey, _: Option<TokenId>) -> Option<Psk> {
            Some(Psk::from([3; 32]))
        }
    }

    fn sessions() -> (Box<dyn Session>, Box<dyn Session>) {
        let suite = Suite::Aes256Gcm;
        let relay = RelayIdentity {
            secret_key: SecretKey::from([1; 32]),
            process: ProcessId::from([1; 16]),
            versions: SUPPORTED,
            capabilities: Capabilities::default(),
            psks: Arc::new(One),
        };
        let client = ClientIdentity {
            secret_key: SecretKey::from([2; 32]),
            relay: relay.secret_key.public_key(),
            psk: Psk::from([3; 32]),
            process: ProcessId::from([2; 16]),
            versions: SUPPORTED,
            capabilities: Capabilities::default(),
            token: None,
            suite,
        };
        let params = TransportParameters::read(Side::Client, &mut Cursor::new(&[])).unwrap();
        let relay = Arc::new(RelayCrypto::new(relay, Suites::load().unwrap()));
        let client = Arc::new(ClientCrypto::new(&client).unwrap());
        let version = version_of(suite);
        (
            client.start_session(version, "", &params).unwrap(),
            ServerConfig::start_session(relay, version, &params),
        )
    }

    fn written(session: &mut dyn Session) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let keys = session.write_handshake(&mut out);
        (out, keys.is_some())
    }

    #[test]
    fn handshake_runs_to_its_end() {
        let (mut client, mut relay) = sessions();
        let (hello, keys) = written(&mut *client);
        assert!(!keys && relay.handshake_data().is_none());
        assert!(relay.read_handshake(&hello).unwrap());
        let (answer, keys) = written(&mut *relay);
        assert!(keys);
        assert_eq!(written(&mut *relay), (vec![0, 0], true));
        assert_eq!(written(&mut *relay), (vec![], false));
        assert!(relay.next_1rtt_keys().is_some());
        // In the smallest pieces.
        for byte in &answer[..answer.len() - 1] {
            assert!(!client.read_handshake(&[*byte]).unwrap());
            assert_eq!(written(&mut *client), (vec![], false));
        }
        assert!(client.read_handshake(&answer[answer.len() - 1..]).unwrap());
        assert_eq!(written(&mut *client), (vec![], true));
        assert_eq!(written(&mut *client), (vec![0, 0], true));
        for session in [&mut client, &mut relay] {
            assert!(session.is_handshaking());
            assert!(!session.read_handshake(&[0, 0]).unwrap());
            assert!(!session.is_handshaking());
            assert!(session.read_handshake(&[0, 0]).is_err());
        }
        let (mut one, mut other) = ([0; 16], [0; 16]);
        client.export_keying_material(&mut one, b"a", b"b").unwrap();
        relay
            .export_keying_material(&mut other, b"a", b"b")
            .unwrap();
        assert_eq!(one, other);
    }

    #[test]
    fn a_finished_in_an_initial_packet_is_refused() {
        let (mut client, mut relay) = sessions();
        let (mut hello, _) = written(&mut *client);
        hello.extend_from_slice(&[0, 0]);
        assert!(relay.read_handshake(&hello).is_err());
        assert!(relay.is_handshaking());
        let (mut client, mut relay) = sessions();
        relay.read_handshake(&written(&mut *client).0).unwrap();
        let (mut answer, _) = written(&mut *relay);
        answer.extend_from_slice(&[0, 0]);
        assert!(client.read_handshake(&answer).is_err());
    }

    #[test]
    fn message_1_comes_whole_in_the_first_packet() {
        let (mut client, mut relay) = sessions();
        let (hello, _) = written(&mut *client);
        let (one, other) = hello.split_at(100);
        // Two frames of one packet are one packet.
        assert!(!relay.read_handshake(one).unwrap());
        assert!(relay.read_handshake(other).unwrap());
        let (_, mut relay) = sessions();
        assert!(!relay.read_handshake(one).unwrap());
        written(&mut *relay);
        assert!(relay.read_handshake(other).is_err());
    }

    #[test]
    fn long_and_wrong_messages_are_refused() {
        let (mut client, mut relay) = sessions();
        assert!(client.read_handshake(&[0x08, 0x01]).is_err());
        assert!(relay.read_handshake(&[0, 3, 1, 2, 3]).is_err());
        assert!(relay.read_handshake(&[0, 0]).is_err());
        assert!(relay.handshake_data().is_none() && relay.peer_identity().is_none());
        assert!(relay.export_keying_material(&mut [0; 8], b"", b"").is_err());
    }
}
