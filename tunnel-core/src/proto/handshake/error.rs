//! Bounds of the handshake's messages, and why a handshake fails.

use crate::proto::wire::WireError;

/// Longest handshake message, in bytes. A hello with transport parameters is about 250, so there is room to
/// grow eightfold, and a stranger's message is never worth more memory than a packet or two.
pub const MAX_MESSAGE: usize = 2_048;

/// Longest payload on a lane, in bytes: four times the padded size, the rest is room to grow.
pub const MAX_LANE_PAYLOAD: usize = 1_024;

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

/// Why a genuine payload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Not a field list, or a field is wrong or missing.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// QUIC without its transport parameters.
    #[error("no transport parameters, which QUIC needs")]
    NoTransportParameters,
}
