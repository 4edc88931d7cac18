//! What comes from a player.

/// What a packet, or the beginning of a connection, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Incoming {
    /// Somebody asks how the server is: a server list, a health check.
    Status,
    /// Somebody wants to play.
    Login,
    /// Anything else: the game's own packets, scans.
    Other,
    /// Too little of a connection to tell. A datagram never is.
    Incomplete,
}
