//! Why there is no connection, on both ends.

use quinn::ConnectionError;

use crate::{key::PublicKey, proto::handshake::VersionMismatch};

/// Why a client got no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum QuicConnectError {
    /// There was nothing to start with.
    #[error("cannot start a connection: {0}")]
    Start(#[source] quinn::ConnectError),
    /// The relay's public key is a point of low order, or there is no randomness for an ephemeral one.
    #[error("cannot start a handshake: the relay's public key is none, or there is no randomness")]
    RelayKey,
    /// rustls was built without QUIC.
    #[error("cannot start a handshake: {0}")]
    NoQuic(String),
    /// The relay answered, but with another secret: it does not know this client, or no longer.
    #[error(
        "the relay does not admit this client: its key is unknown or revoked, or its secret is wrong"
    )]
    NotAdmitted,
    /// The two sides have no protocol version in common.
    #[error(transparent)]
    Incompatible(VersionMismatch),
    /// The path or the peer failed. A timeout may also mean another relay key than the relay's.
    #[error("no connection to the relay: {0}")]
    Connection(#[source] ConnectionError),
}

/// Why a relay did not get a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum QuicAcceptError {
    /// The client did not prove itself in time; a client with a wrong secret cannot.
    #[error("the client did not finish its handshake in time")]
    Timeout,
    /// The two sides have no protocol version in common.
    #[error("client {0}: {1}")]
    Incompatible(PublicKey, #[source] VersionMismatch),
    /// Message 1 was wrong, or the client went away.
    #[error("the client's handshake failed: {0}")]
    Connection(#[source] ConnectionError),
}
