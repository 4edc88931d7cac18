//! What relay and client share: the protocol of `proto` run over the transports of `transport`, with tasks and the clock.
//!
//! A tunnel is one QUIC connection, TCP lanes, or both. Its parts follow what it carries: [`stream`] for players' TCP
//! connections, [`datagram`] for players' UDP packets, [`lane`] for the lanes themselves, and [`control`] for the control
//! messages of both sides.

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
