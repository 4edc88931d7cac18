//! One client's tunnel, as the relay's other tasks use it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    instance::Optimize,
    key::PublicKey,
    metrics::Metrics,
    proto::{
        handshake::ProcessId,
        message::{IdleLanes as WantedLanes, Message, ServiceId},
        record::RecordType,
        stream::frame::{Frame, ResetCode, StreamHeader, StreamId},
    },
    relay::{
        directory::Directory,
        limits::{RelayLimits, permits},
    },
    transport::lane::{LaneError, PeerMisbehaved},
    tunnel::{
        datagram::{DatagramSender, LaneQueues},
        lane::{IdleLanes, Lane, LaneWatch},
        stream::{Budget, Channel, ChannelError, Item, Memory},
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
    pub(crate) transport: crate::transport::Transport,
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
    /// No new players: the client shuts down. What runs goes on.
    pub(crate) draining: CancellationToken,
    /// No new players: another tunnel of the same process has taken over, and this one ends with its last stream.
    pub(crate) retired: CancellationToken,
    /// The streams that run on it.
    pub(crate) streams: TaskTracker,
    pub(crate) next_stream: Arc<AtomicU64>,
    /// Both sides can continue a stream on another channel.
    pub(crate) resumes: bool,
    /// Both sides can move a stream to another channel while its own works.
    pub(crate) moves: bool,
    /// The tunnel of the same process that took over from this one: its streams go on there.
    pub(crate) successor: watch::Sender<Option<Arc<Self>>>,
    /// Counts how often lanes have become useless: the client's address has changed, or everything was silent for long.
    pub(crate) path: watch::Sender<u64>,
    lanes_wanted: AtomicU16,
    /// The last who waited for a lane got none: the client cannot open more.
    lanes_dry: AtomicBool,
    /// Whether what its lanes send arrives.
    pub(crate) watch: Arc<LaneWatch>,
}

/// Who opens a stream, and to what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Player {
    pub(crate) service: ServiceId,
    pub(crate) port_index: u16,
    pub(crate) player: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Why a stream cannot go on over a channel of this tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("the client does not continue the stream: {0}")]
    Refused(ResetCode),
    #[error(transparent)]
    Broken(#[from] ChannelError),
}

/// What a tunnel is made of; see [`RelayTunnel`] for the fields.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) serial: u64,
    pub(crate) client: PublicKey,
    pub(crate) process: ProcessId,
    pub(crate) name: Arc<str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) transport: crate::transport::Transport,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) datagrams: DatagramSender,
    pub(crate) queues: Arc<LaneQueues>,
    pub(crate) flows: Arc<Directory>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) next_stream: Arc<AtomicU64>,
    pub(crate) resumes: bool,
    pub(crate) moves: bool,
    pub(crate) memory: Arc<Memory>,
    pub(crate) limits: &'a RelayLimits,
    pub(crate) metrics: &'a Arc<Metrics>,
}

impl RelayTunnel {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
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
            budget: Arc::new(Budget::new(parts.memory, parts.limits.tunnel_memory)),
            messages: parts.messages,
            closed: CancellationToken::new(),
            draining: CancellationToken::new(),
            retired: CancellationToken::new(),
            streams: TaskTracker::new(),
            next_stream: parts.next_stream,
            resumes: parts.resumes,
            moves: parts.moves,
            successor: watch::Sender::new(None),
            path: watch::Sender::new(0),
            lanes_wanted: AtomicU16::new(0),
            lanes_dry: AtomicBool::new(false),
            watch: LaneWatch::new(parts.metrics.clone()),
        }
    }

    /// Opens a stream for a player, with its first bytes where they are known.
    pub(crate) async fn open_stream(
        &self,
        player: Player,
        optimize: Optimize,
        early: Option<Bytes>,
    ) -> Result<(StreamId, Channel), ChannelError> {
        let mut stream = StreamId(0);
        let open = || {
            // Drawn when the channel is there: a client holds what comes long after much newer ones for old.
            stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
            Frame::Open(StreamHeader {
                stream,
                service: player.service,
                port_index: player.port_index,
                player: player.player,
                local: player.local,
            })
        };
        let patience = match self.quic {
            None if self.is_full() => FULL_PATIENCE,
            None => ONLY_LANE_PATIENCE,
            Some(_) => self.patience_beside_quic(),
        };
        let channel = self.open_channel(optimize, patience, open, early).await?;
        Ok((stream, channel))
    }

    /// Continues a stream of which every byte below `received` has come. Returns the channel, and which bytes the
    /// client has.
    pub(crate) async fn attach(
        &self,
        stream: StreamId,
        received: u64,
        optimize: Optimize,
    ) -> Result<(Channel, u64), AttachError> {
        let attach = Frame::Attach { stream, received };
        let patience = match self.quic {
            // Of a broken lane the relay may know later than the client, and its place is free then.
            None => ONLY_LANE_PATIENCE,
            Some(_) => self.patience_beside_quic(),
        };
        let mut channel = (self.open_channel(optimize, patience, || attach, None)).await?;
        match channel.rx.read().await? {
            Item::Frame(Frame::Attach {
                stream: continued,
                received,
            }) if continued == stream => Ok((channel, received)),
            Item::Frame(Frame::Reset { code }) => Err(AttachError::Refused(code)),
            Item::Frame(other) => Err(ChannelError::Unexpected(other.kind()).into()),
            Item::Data(_) | Item::End => Err(ChannelError::Ended.into()),
        }
    }

    /// An idle lane that leads to the client, beside QUIC. Waits for one for as long as that takes.
    pub(crate) async fn sound_lane(&self) -> Result<Lane, LaneError> {
        self.want_lanes(LANES_WARM);
        let mut lane = loop {
            if let Some(lane) = self.lanes.take(LANE_WAIT).await {
                break lane;
            }
        };
        // It may have died unnoticed, and nothing may be said on it then that the other side must hear.
        let answered = async {
            lane.writer.write_frame(RecordType::Ping, &[0; 8]).await?;
            loop {
                match lane.reader.read().await? {
                    Some((RecordType::Pong, _)) => return Ok(()),
                    // The client's wish to use it for datagrams: it is taken already.
                    Some((RecordType::Datagram, _)) => {}
                    Some((other, _)) => return Err(PeerMisbehaved::WrongPlace(other).into()),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                }
            }
        };
        match tokio::time::timeout(PONG_PATIENCE, answered).await {
            Ok(answered) => answered.map(|()| lane),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// A lane or a QUIC stream, as the service wishes and the tunnel has, with `first` said on it and `data` behind.
    async fn open_channel(
        &self,
        optimize: Optimize,
        patience: Duration,
        mut first: impl FnMut() -> Frame,
        data: Option<Bytes>,
    ) -> Result<Channel, ChannelError> {
        if self.quic.is_none() || optimize == Optimize::Throughput {
            // A lane may have died unnoticed: the next one is tried.
            while let Some(lane) = self.take_lane(patience).await {
                let mut channel = Channel::lane(*lane);
                let written = channel.tx.write(Some(first()), data.clone());
                if written.await.is_ok() {
                    return Ok(channel);
                }
            }
        }
        let mut channel = self.open_quic().await?;
        channel.tx.write(Some(first()), data).await?;
        Ok(channel)
    }

    /// A QUIC stream of which the client does not know yet.
    pub(crate) async fn open_quic(&self) -> Result<Channel, ChannelError> {
        let Some(quic) = &self.quic else {
            return Err(if self.is_full() {
                ChannelError::NoLane
            } else {
                ChannelError::Ended
            });
        };
        let (send, recv) = quic
            .open_bi()
            .await
            .map_err(quinn::WriteError::ConnectionLost)?;
        Ok(Channel::opening(send, recv))
    }

    /// Whether it has as many lanes as it may.
    fn is_full(&self) -> bool {
        self.lane_permits.available_permits() == 0
    }

    fn patience_beside_quic(&self) -> Duration {
        if self.is_full() || self.lanes_dry.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            LANE_PATIENCE
        }
    }

    /// Asks the client for so many idle lanes, if that is more than before.
    pub(crate) fn want_lanes(&self, wanted: u16) {
        let wanted = wanted.min(LANES_MAX);
        let before = self.lanes_wanted.fetch_max(wanted, Ordering::Relaxed);
        if before >= wanted {
            return;
        }
        let idle = WantedLanes::new(wanted);
        if self.messages.try_send(Message::Lanes { idle }).is_err() {
            // A full queue: the client is told with the next demand.
            self.lanes_wanted.store(before, Ordering::Relaxed);
        }
    }

    async fn take_lane(&self, patience: Duration) -> Option<Lane> {
        if let Some(lane) = self.lanes.take(Duration::ZERO).await {
            self.lanes_dry.store(false, Ordering::Relaxed);
            return Some(lane);
        }
        // The pool was too small for this burst of players.
        self.want_lanes((self.lanes_wanted.load(Ordering::Relaxed) * 2).max(LANES_WARM));
        if patience.is_zero() {
            return None;
        }
        let taken = self.lanes.take(patience).await;
        self.lanes_dry.store(taken.is_none(), Ordering::Relaxed);
        taken
    }
}

/// Idle lanes that hide the connect round trip of the next players: 4, a browser's first burst.
pub(crate) const LANES_WARM: u16 = 4;
/// Most idle lanes that a relay asks for: 64 players who connect within one round trip.
const LANES_MAX: u16 = 64;
/// How long a lane that is sound may take to say so: a loss and its retransmission on a long path.
const PONG_PATIENCE: Duration = Duration::from_secs(3);
/// One round of waiting for a lane while QUIC carries the stream: nothing depends on it.
const LANE_WAIT: Duration = Duration::from_secs(3600);
/// How long a player waits for a lane before a QUIC stream serves: half a second covers a round trip to the node and a
/// connect back.
const LANE_PATIENCE: Duration = Duration::from_millis(500);
/// The same where there is no QUIC to fall back on.
const ONLY_LANE_PATIENCE: Duration = Duration::from_secs(5);
/// The same where no further lane will be opened: one whose stream has just ended may be on its way back to the pool.
const FULL_PATIENCE: Duration = Duration::from_millis(50);
