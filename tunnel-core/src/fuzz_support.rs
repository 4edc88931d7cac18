//! What `fuzz/checks` needs of the crate's inside. It is no part of the API and changes at will.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    key::SecretKey,
    proto::{
        handshake::{Answer, HandshakeError, Hello, PayloadError, Secret, Suite, TransportKind},
        record::{self, Opener, RecordError, Role, Sealer},
    },
    transport::{
        admission::{Admission, AdmissionLimits},
        lane::LaneWindow,
        quic::{self, DropReason},
    },
};

/// Both directions of a lane that rekeys after a given number of records.
pub fn directions(
    suite: Suite,
    secret: &Secret,
    role: Role,
    generation: u64,
) -> Result<(Sealer, Opener), RecordError> {
    record::directions_with(suite, secret, role, generation)
}

/// Reads the payload of message 1.
pub fn decode_hello(kind: TransportKind, payload: &[u8]) -> Result<Hello, PayloadError> {
    Hello::decode(kind, payload)
}

/// Writes the payload of message 1.
pub fn encode_hello(kind: TransportKind, hello: &Hello) -> Result<Vec<u8>, HandshakeError> {
    hello.encode(kind)
}

/// Reads the payload of message 2.
pub fn decode_answer(kind: TransportKind, payload: &[u8]) -> Result<Answer, PayloadError> {
    Answer::decode(kind, payload)
}

/// Writes the payload of message 2.
pub fn encode_answer(kind: TransportKind, answer: &Answer) -> Result<Vec<u8>, HandshakeError> {
    answer.encode(kind)
}

/// Which of a tunnel's lane numbers were used.
#[derive(Debug)]
pub struct Window(LaneWindow);

impl Window {
    /// No number was used.
    #[allow(
        clippy::new_without_default,
        reason = "one way to make it is enough here"
    )]
    pub fn new() -> Self {
        Self(LaneWindow::new())
    }

    /// Whether the number may be used, now and never again.
    pub fn accept(&mut self, number: u64) -> bool {
        self.0.accept(number).is_ok()
    }
}

/// What stands between a relay's UDP socket and quinn.
pub struct Filter(quic::Filter);

impl Filter {
    /// That of the relay with this key. It has all the time of the world: what it says depends on the bytes alone.
    pub fn relay(key: &SecretKey) -> io::Result<Self> {
        let limits = AdmissionLimits {
            cpu_permille: 1_000_000,
            ..AdmissionLimits::default()
        };
        quic::relay_filter(key, Admission::shared(limits)).map(Self)
    }

    /// Whether quinn may see the datagram.
    pub fn passes(&self, datagram: &[u8]) -> bool {
        self.0.check(datagram, SENDER).is_ok()
    }

    /// Whether the datagram is dropped for its QUIC version, and not for what follows it.
    pub fn is_foreign(&self, datagram: &[u8]) -> bool {
        self.0.check(datagram, SENDER) == Err(DropReason::ForeignVersion)
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

/// Who sends what is checked: it decides about a budget that is never short.
const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
