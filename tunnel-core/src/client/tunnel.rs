//! A tunnel that stands, as the client's tasks share it.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        dial::tunnel_socket, limits::ClientLimits, mailbox::Mailbox, policy::hearing::Hearing,
        ports::LocalPorts,
    },
    metrics::Metrics,
    proto::handshake::ProcessId,
    transport::{Transport, quic::ClientEndpoint},
    tunnel::{
        datagram::{DatagramSender, LaneQueues},
        lane::LaneWatch,
        stream::{Budget, Carrier},
    },
};

/// A tunnel that stands.
#[derive(Debug)]
pub(crate) struct ClientTunnel {
    pub(crate) transport: Transport,
    /// Which process of the relay it leads to.
    pub(crate) relay: ProcessId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) quic: Option<quinn::Connection>,
    /// What that leaves from.
    pub(crate) endpoint: Option<ClientEndpoint>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) sender: Arc<DatagramSender>,
    /// Ends the tunnel and everything on it.
    pub(crate) closed: CancellationToken,
    /// Its transport has ended.
    pub(crate) broken: CancellationToken,
    /// Both sides can continue a stream on another channel.
    pub(crate) resumes: bool,
    /// The relay takes word of services' health.
    pub(crate) takes_health: bool,
    /// Counts how often lanes have become useless: an address of ours is gone, or everything was silent for long.
    pub(crate) path: watch::Sender<u64>,
    /// Wakes the client's main task after such a change.
    pub(crate) path_changed: Notify,
    /// What the main task has to do about what leaves over QUIC.
    pub(crate) hearing: Mailbox<Hearing>,
    pub(crate) lanes: TunnelLanes,
}

/// The lanes of a tunnel beside the one, if any, that it was established on.
#[derive(Debug)]
pub(crate) struct TunnelLanes {
    /// Idle lanes that the relay wants.
    pub(crate) wanted: watch::Sender<u32>,
    /// The most that it gets.
    most: u32,
    pub(crate) idle: AtomicUsize,
    /// Wakes the opener: an idle lane was taken.
    pub(crate) taken: Notify,
    /// The relay has ended an idle one: it takes no more.
    pub(crate) refused: AtomicBool,
    /// A stream has used one since.
    pub(crate) used: AtomicBool,
    /// The last attempt to open one failed.
    pub(crate) blocked: AtomicBool,
    pub(crate) next: AtomicU64,
    /// Whether what they send arrives.
    pub(crate) watch: Arc<LaneWatch>,
    /// What they carry where there is no QUIC.
    pub(crate) queues: Arc<LaneQueues>,
}

impl ClientTunnel {
    /// Comes when the tunnel has ended, whoever has ended it. Cancel safe.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.broken.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Closes its QUIC connection, if it has one.
    pub(crate) fn close_quic(&self, code: u64) {
        if let Some(quic) = &self.quic {
            quic.close(quinn::VarInt::from_u64(code).unwrap_or_default(), b"");
        }
    }

    /// What this tunnel bears of its streams.
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier {
            budget: self.budget.clone(),
            meter: self.sender.meter(),
            closed: self.closed.clone(),
        }
    }

    /// A target has come that these ports belong to: QUIC goes on from another.
    pub(crate) fn make_way(&self, ports: &LocalPorts, of_targets: &HashSet<u16>) {
        if let (Some(endpoint), Some(peer)) = (&self.endpoint, self.peer)
            && (endpoint.port()).is_some_and(|port| of_targets.contains(&port))
        {
            let moved = tunnel_socket(ports, peer).and_then(|udp| endpoint.move_to(udp));
            if let Err(error) = moved {
                tracing::warn!(%error, "the tunnel's port belongs to a target");
            }
        }
    }
}

impl TunnelLanes {
    pub(crate) fn new(
        limits: &ClientLimits,
        metrics: &Arc<Metrics>,
        queues: Arc<LaneQueues>,
    ) -> Self {
        Self {
            wanted: watch::Sender::new(0),
            most: u32::try_from(limits.idle_lanes).unwrap_or(u32::MAX),
            idle: AtomicUsize::new(0),
            taken: Notify::new(),
            refused: AtomicBool::new(false),
            used: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            next: AtomicU64::new(1),
            watch: LaneWatch::new(metrics.clone()),
            queues,
        }
    }

    /// Whether lanes cannot be opened at the moment.
    pub(crate) fn are_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// The relay wants this many idle lanes.
    pub(crate) fn want(&self, wanted: u32) {
        self.wanted.send_replace(wanted.min(self.most));
    }
}
