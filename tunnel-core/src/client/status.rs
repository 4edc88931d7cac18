//! What a client is at one moment, and why it has ended.

use std::time::Duration;

use crate::{
    instance::Instance,
    proto::{message::Code, session::client::InstanceState},
    transport::Transport,
};

/// A client's tunnel and instances at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Its name at the relay, once it was let in.
    pub name: Option<String>,
    /// What the tunnel runs on; `None` while there is none.
    pub transport: Option<Transport>,
    /// Round trip of the control stream's last heartbeat.
    pub rtt: Option<Duration>,
    /// The congestion control that the kernel gives to lanes, once there was one: `bbr` is what they want.
    pub lane_congestion: Option<String>,
    /// The relay shuts down: it takes no new players.
    pub relay_drains: bool,
    /// No lane can be opened beside QUIC at the moment: TCP to the relay does not get through.
    pub lanes_blocked: bool,
    /// Every instance, and what became of it, sorted by id.
    pub instances: Vec<(Instance, InstanceState)>,
}

/// Why a client has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientEnd {
    /// It was shut down or dropped.
    #[error("stopped")]
    Stopped,
    /// Another process with the same key has connected. This one stays away, or the two would fight for ever.
    #[error("another process with this client's key has taken the tunnel over")]
    Superseded,
    /// Its main task panicked: a bug. Another start helps.
    #[error("the client's main task panicked")]
    Panicked,
    /// The relay does not let it in, and trying again would not help.
    #[error("the relay refused this client ({code}): {text}")]
    Rejected {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
}
