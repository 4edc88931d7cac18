//! Where the protocol meets transports and the clock: what both roles share.

pub(crate) mod control;
pub(crate) mod datagram;
pub(crate) mod drain;
pub(crate) mod fault;
pub(crate) mod futures;
pub(crate) mod lane;
pub(crate) mod notices;
pub(crate) mod stream;
pub(crate) mod supervise;

pub(crate) use fault::fault;
