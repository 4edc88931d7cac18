//! What a peer can do wrong on a stream.

/// What a peer did wrong on a stream; it ends the stream, not the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamMisbehaved {
    /// Acknowledged what was never sent.
    #[error("the peer acknowledged offset {offset}, but only {sent} were sent")]
    AckBeyondSent {
        /// What it acknowledged.
        offset: u64,
        /// What was sent.
        sent: u64,
    },
    /// Wants bytes again that it had acknowledged.
    #[error("the peer asks for offset {offset} again, but had acknowledged {acked}")]
    Forgotten {
        /// What it asks for.
        offset: u64,
        /// What it had acknowledged.
        acked: u64,
    },
    /// Sent data after the end.
    #[error("the peer sent data after the stream's end")]
    DataAfterFin,
    /// Sent more than any window allows.
    #[error("the peer sent {waiting} bytes ahead of what was taken")]
    WindowExceeded {
        /// How many wait.
        waiting: u64,
    },
    /// Left the channel at another offset than it had sent.
    #[error("the peer left the channel at offset {offset}, but sent {received}")]
    WrongMoveOffset {
        /// What it said.
        offset: u64,
        /// What came.
        received: u64,
    },
    /// Left a channel that it had left before.
    #[error("the peer left the channel twice")]
    MovedTwice,
    /// Left a channel though no other was named by this side.
    #[error("the peer left the channel, and no other was named")]
    MovedUnasked,
    /// Ended at another offset than it had sent.
    #[error("the peer ended the stream at offset {offset}, but sent {received}")]
    WrongFinalOffset {
        /// What it said.
        offset: u64,
        /// What came.
        received: u64,
    },
}
