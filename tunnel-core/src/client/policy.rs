//! What a client decides about its path to the relay. Nothing here has a socket, a clock or a task: what is seen and the
//! time come in as arguments, and what follows comes out, so that tables of events can test it.

/// One attempt to connect: which address over which transport, and when.
pub(crate) mod attempt;
/// How long QUIC is left alone once it has failed again and again.
pub(crate) mod damper;
/// When to make an attempt, and with which strategy.
pub(crate) mod dial;
/// Whether what leaves over QUIC arrives.
pub(crate) mod hearing;
/// The order in which a relay's addresses are tried.
pub(crate) mod order;
/// From which of this machine's addresses a tunnel leaves.
pub(crate) mod sources;
