//! One client's tunnel, as the relay's other tasks use it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    instance::Optimize,
    key::PublicKey,
    metrics::Gauge,
    proto::{
        handshake::ProcessId,
        message::{IdleLanes as WantedLanes, Message, ServiceId},
        stream::frame::{Frame, StreamHeader, StreamId},
    },
    relay::{RelayLimits, ingress::udp::Directory, permits},
    transport::lane::LaneHalves,
    tunnel::{
        budget::Budget,
        channel::{ChannelError, ChannelRx, ChannelTx},
        datagrams::{DatagramSender, LaneQueues},
        lanes::{IdleLanes, Lane},
    },
};

/// A tunnel that stands.
#[derive(Debug)]
pub(crate) struct RelayTunnel {
    /// Tells the tunnels of one client apart.
    pub(crate) serial: u64,
    pub(crate) client: PublicKey,
    pub(crate) process: ProcessId,
    pub(crate) name: Arc<str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) transport: &'static str,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) lanes: IdleLanes,
    /// Lanes that it may have, whatever they are used for.
    pub(crate) lane_permits: Arc<Semaphore>,
    /// Those of them that may carry datagrams.
    pub(crate) datagram_lane_permits: Arc<Semaphore>,
    pub(crate) datagrams: DatagramSender,
    /// The lanes that carry datagrams, where there is no QUIC.
    pub(crate) queues: Arc<LaneQueues>,
    /// Where answers find their flows.
    pub(crate) flows: Arc<Directory>,
    pub(crate) budget: Arc<Budget>,
    /// Messages for the client.
    pub(crate) messages: mpsc::Sender<Message>,
    /// Ends the tunnel and everything on it.
    pub(crate) closed: CancellationToken,
    /// No new players: another tunnel of the same process has taken over, and this one ends with its last stream.
    pub(crate) retired: CancellationToken,
    /// The streams that run on it.
    pub(crate) streams: TaskTracker,
    pub(crate) next_stream: Arc<AtomicU64>,
    lanes_wanted: AtomicU16,
    _counted: Gauge,
}

/// Who opens a stream, and to what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Player {
    pub(crate) service: ServiceId,
    pub(crate) port_index: u16,
    pub(crate) player: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// A channel on which a stream has been opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) tx: ChannelTx,
    pub(crate) rx: ChannelRx,
}

/// What a tunnel is made of; see [`RelayTunnel`] for the fields.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) serial: u64,
    pub(crate) client: PublicKey,
    pub(crate) process: ProcessId,
    pub(crate) name: Arc<str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) transport: &'static str,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) datagrams: DatagramSender,
    pub(crate) queues: Arc<LaneQueues>,
    pub(crate) flows: Arc<Directory>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) next_stream: Arc<AtomicU64>,
    pub(crate) limits: &'a RelayLimits,
}

impl RelayTunnel {
    pub(crate) fn new(parts: Parts<'_>, counted: Gauge) -> Self {
        Self {
            serial: parts.serial,
            client: parts.client,
            process: parts.process,
            name: parts.name,
            peer: parts.peer,
            transport: parts.transport,
            quic: parts.quic,
            lanes: IdleLanes::default(),
            lane_permits: permits(parts.limits.lanes_per_tunnel),
            datagram_lane_permits: permits(parts.limits.datagram_lanes),
            datagrams: parts.datagrams,
            queues: parts.queues,
            flows: parts.flows,
            budget: Arc::new(Budget::new(parts.limits.tunnel_memory)),
            messages: parts.messages,
            closed: CancellationToken::new(),
            retired: CancellationToken::new(),
            streams: TaskTracker::new(),
            next_stream: parts.next_stream,
            lanes_wanted: AtomicU16::new(0),
            _counted: counted,
        }
    }

    /// Opens a stream for a player: on a lane or a QUIC stream, as the service wishes and the tunnel has.
    pub(crate) async fn open_stream(
        &self,
        player: Player,
        optimize: Optimize,
    ) -> Result<Opened, ChannelError> {
        let header = StreamHeader {
            stream: StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed)),
            service: player.service,
            port_index: player.port_index,
            player: player.player,
            local: player.local,
        };
        let first = Some(Frame::Open(header));
        if self.quic.is_none() || optimize == Optimize::Throughput {
            let patience = if self.quic.is_some() {
                LANE_PATIENCE
            } else {
                ONLY_LANE_PATIENCE
            };
            // A lane may have died unnoticed: the next one is tried.
            while let Some(lane) = self.take_lane(patience).await {
                let LaneHalves { reader, writer } = *lane;
                let mut tx = ChannelTx::Lane(writer);
                if tx.write(first, None).await.is_ok() {
                    return Ok(Opened {
                        tx,
                        rx: ChannelRx::Lane(reader),
                    });
                }
            }
        }
        let Some(quic) = &self.quic else {
            return Err(ChannelError::Ended);
        };
        let (send, recv) = quic
            .open_bi()
            .await
            .map_err(quinn::WriteError::ConnectionLost)?;
        let mut tx = ChannelTx::quic(send);
        tx.write(first, None).await?;
        Ok(Opened {
            tx,
            rx: ChannelRx::quic(recv),
        })
    }

    /// Asks the client for so many idle lanes, if that is more than before.
    pub(crate) fn want_lanes(&self, wanted: u16) {
        let wanted = wanted.min(LANES_MAX);
        if self.lanes_wanted.fetch_max(wanted, Ordering::Relaxed) < wanted {
            // A full queue: the client is told with the next demand.
            drop(self.messages.try_send(Message::Lanes {
                idle: WantedLanes::new(wanted),
            }));
        }
    }

    async fn take_lane(&self, patience: Duration) -> Option<Lane> {
        if let Some(lane) = self.lanes.take(Duration::ZERO).await {
            return Some(lane);
        }
        // The pool was too small for this burst of players.
        self.want_lanes((self.lanes_wanted.load(Ordering::Relaxed) * 2).max(LANES_WARM));
        self.lanes.take(patience).await
    }
}

/// Idle lanes that hide the connect round trip of the next players: 4, a browser's first burst.
pub(crate) const LANES_WARM: u16 = 4;
/// Most idle lanes that a relay asks for: 64 players who connect within one round trip.
const LANES_MAX: u16 = 64;
/// How long a player waits for a lane before a QUIC stream serves: half a second covers a round trip to the node and a
/// connect back.
const LANE_PATIENCE: Duration = Duration::from_millis(500);
/// The same where there is no QUIC to fall back on.
const ONLY_LANE_PATIENCE: Duration = Duration::from_secs(5);
