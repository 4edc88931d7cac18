//! What a peer can do wrong.

/// What a peer did wrong in the control conversation; it ends the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionMisbehaved {
    /// A message that only the other side may send.
    #[error("the peer sent {0}, which is not its to send")]
    WrongDirection(&'static str),
    /// Two services of one declaration share an id, or an id was used before.
    #[error("the peer used a service id twice")]
    ServiceIdTwice,
    /// A client that the relay has not let in yet is asked whether it is there, and has nothing else to say.
    #[error("the client sent {0} before it was let in")]
    TooSoon(&'static str),
    /// WELCOME came twice.
    #[error("the relay sent WELCOME twice")]
    WelcomeTwice,
}
