//! What a client is at one moment, and why it has ended.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    health::Health,
    instance::{Instance, InstanceId, ServiceName},
    proto::{message::Code, session::client::InstanceState},
    transport::Transport,
};

/// A client's tunnel and instances at one moment.
#[derive(Debug, Clone)]
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
    /// The health of each service that is checked and has been at least once, sorted by instance and name.
    pub health: Vec<(InstanceId, ServiceName, Health)>,
}

impl ClientStatus {
    /// Whether a tunnel stands and every instance is bound: players may come.
    pub fn is_bound(&self) -> bool {
        let mut states = self.instances.iter().map(|(_, state)| state);
        self.transport.is_some() && states.all(InstanceState::is_bound)
    }
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
    #[non_exhaustive]
    Rejected {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
}

impl ClientEnd {
    /// Waits until the client has ended. Cancel safe.
    pub(crate) async fn of(finished: &watch::Receiver<Option<Self>>) -> Self {
        let mut finished = finished.clone();
        let ended = finished.wait_for(Option::is_some).await;
        // A main task that is dropped with its runtime says nothing.
        ended
            .ok()
            .and_then(|end| end.clone())
            .unwrap_or(Self::Stopped)
    }
}

/// Why a client's instances are not all bound, and will not be by waiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotBound {
    /// The relay refuses an instance for a reason that does not pass by itself. It is tried again all the same, as the
    /// relay's configuration may change.
    #[error("instance {instance} is refused ({code}): {text}")]
    #[non_exhaustive]
    Refused {
        /// Which.
        instance: InstanceId,
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(#[from] ClientEnd),
}

/// Whether everything that a client exposes is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Binding {
    Pending,
    Bound,
    Refused(NotBound),
}

impl Binding {
    /// What instances in these states come to. Only the relay's operator or another configuration helps against some refusals;
    /// others pass by themselves, as when somebody else has the port.
    pub(crate) fn of<'a>(
        is_all_bound: bool,
        mut instances: impl Iterator<Item = (&'a Instance, &'a InstanceState)>,
    ) -> Self {
        if is_all_bound {
            return Self::Bound;
        }
        let refused = instances.find_map(|(instance, state)| match state {
            InstanceState::Refused {
                code: code @ (Code::NotPermitted | Code::PrivilegedPort | Code::ProtocolError),
                text,
            } => Some(NotBound::Refused {
                instance: instance.id().clone(),
                code: *code,
                text: text.clone(),
            }),
            _ => None,
        });
        refused.map_or(Self::Pending, Self::Refused)
    }
}
