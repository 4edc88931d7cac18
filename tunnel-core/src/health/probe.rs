//! How a target is asked whether it works.

use std::fmt;

use crate::{health::state::Report, instance::HostPort};

/// A way to ask targets how they are. The engine brings three; an embedder brings others, such as a game's own query.
pub trait Probe: fmt::Debug + Send + Sync {
    /// What it asks, in a word or a line; all that tells it from other probes, so that a change of it is noticed.
    fn name(&self) -> &str;

    /// What it is carried over. The service must take that.
    fn over(&self) -> Over;

    /// A question to a target.
    fn ask(&self, asked: Asked<'_>) -> Box<dyn Exchange>;
}

/// What a question travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// One connection, whose bytes come in any pieces.
    Tcp,
    /// Datagrams, each whole.
    Udp,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// The target as it is written, its first port.
    pub target: &'a HostPort,
    /// 64 random bits, for answers to be told from others.
    pub nonce: u64,
}

/// One question to a target, up to its answer. The client sends what [`poll_transmit`](Self::poll_transmit) yields, gives what
/// comes to [`handle_input`](Self::handle_input), and again, until there is a report, an error, or no time left.
pub trait Exchange: Send {
    /// The connection stands, or nothing has been sent yet: whether that alone is the answer.
    fn is_answered_by_connection(&self) -> bool {
        false
    }

    /// What to send next, if anything.
    fn poll_transmit(&mut self) -> Option<Vec<u8>>;

    /// A datagram, or the next bytes of the connection, came; none at all when the target has closed the connection. `None` until
    /// the answer is whole. An error says what is wrong with it.
    fn handle_input(&mut self, input: &[u8]) -> Result<Option<Report>, String>;

    /// Nothing came for a while: over UDP the last datagram is sent again.
    fn handle_silence(&mut self) {}
}

impl<'a> Asked<'a> {
    /// Asks this target; `nonce` is 64 random bits.
    pub const fn new(target: &'a HostPort, nonce: u64) -> Self {
        Self { target, nonce }
    }
}
