//! A tunnel: the authenticated connection to one client, on which the relay opens a channel for each player's stream.
//!
//! A channel is a QUIC stream or a lane. The relay opens it and names the service and the player in its first frame.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    instance::Optimize,
    key::PublicKey,
    proto::{
        handshake::ProcessId,
        message::{Code, Message, ServiceDeclaration, ServiceId, Text},
        stream::frame::{Frame, ResetCode, StreamHeader, StreamId},
    },
    relay::{
        clients::Serial,
        directory::Directory,
        pool::{LANES_WARM, LanePool},
    },
    transport::Transport,
    tunnel::{
        datagram::{DatagramSender, LaneQueues},
        stream::{Budget, Channel, ChannelError, Item},
    },
};

/// A tunnel to a client.
#[derive(Debug)]
pub(crate) struct RelayTunnel {
    /// Tells the tunnels of one client apart.
    pub(crate) serial: Serial,
    pub(crate) client: PublicKey,
    pub(crate) process: ProcessId,
    pub(crate) name: Arc<str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) began: Instant,
    pub(crate) transport: Transport,
    pub(crate) quic: Option<quinn::Connection>,
    pub(crate) pool: LanePool,
    pub(crate) datagrams: DatagramSender,
    /// Queues of the lanes that carry datagrams where there is no QUIC.
    pub(crate) queues: Arc<LaneQueues>,
    /// The client's flows, in which the answers that come by this tunnel are looked up.
    pub(crate) flows: Arc<Directory>,
    pub(crate) budget: Arc<Budget>,
    /// Messages for the client.
    pub(crate) messages: mpsc::Sender<Message>,
    /// Cancelled when the tunnel ends with everything on it.
    pub(crate) closed: CancellationToken,
    /// Cancelled when the client shuts down: it takes no new players. Streams and flows go on.
    pub(crate) draining: CancellationToken,
    /// Cancelled when another tunnel of the same process has replaced this one, which ends with its last stream.
    pub(crate) retired: CancellationToken,
    /// The streams that run on it.
    pub(crate) streams: TaskTracker,
    pub(crate) next_stream: Arc<AtomicU64>,
    /// Both sides can continue a stream on another channel.
    pub(crate) resumes: bool,
    /// Both sides can move a stream to another channel while its own works.
    pub(crate) moves: bool,
    /// The tunnel of the same process that has replaced this one, over which its streams go on.
    pub(crate) successor: watch::Sender<Option<Arc<Self>>>,
    /// Counts how often all lanes have become useless: the client's address has changed, or the path was silent for long.
    pub(crate) path: watch::Sender<u64>,
}

/// A player's connection: who connects, from where, and to which port of which service.
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

impl RelayTunnel {
    /// Opens a stream for a player, with its first bytes where they are known.
    pub(crate) async fn open_stream(
        &self,
        player: Player,
        optimize: Optimize,
        early: Option<Bytes>,
    ) -> Result<(StreamId, Channel), ChannelError> {
        let mut stream = StreamId(0);
        let open = || {
            // Drawn when there is a channel: a client takes a stream whose id is far below the newest for an old one.
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
            None if self.pool.is_full() => FULL_PATIENCE,
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
            // The relay may learn later than the client that a lane is broken, which frees a permit.
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

    /// Opens a lane or a QUIC stream, as the service wishes and the tunnel allows, and writes the first frame and `data` on it.
    async fn open_channel(
        &self,
        optimize: Optimize,
        patience: Duration,
        mut first: impl FnMut() -> Frame,
        data: Option<Bytes>,
    ) -> Result<Channel, ChannelError> {
        if self.quic.is_none() || optimize == Optimize::Throughput {
            // A lane may have died unnoticed: the next one is tried.
            while let Some(lane) = self.pool.take(patience).await {
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
            return Err(if self.pool.is_full() {
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

    fn patience_beside_quic(&self) -> Duration {
        if self.pool.is_dry() {
            Duration::ZERO
        } else {
            LANE_PATIENCE
        }
    }

    /// Asks the client for idle lanes where the next player of a service will need one.
    pub(crate) fn warm_up(&self, service: &ServiceDeclaration) {
        let throughput = service.optimize == Optimize::Throughput;
        if service.protocol.tcp() && (throughput || self.quic.is_none()) {
            self.pool.want(LANES_WARM);
        }
    }

    /// Sends a message to the client. Closes the tunnel if the client does not read its control stream.
    pub(crate) fn tell(&self, message: Message) {
        if self.messages.try_send(message).is_err() {
            self.closed.cancel();
        }
    }

    /// Ends the conversation with the client as a broken path would: it connects anew, and its streams go on there.
    pub(crate) fn interrupt(&self) {
        self.retired.cancel();
        if let Some(quic) = &self.quic {
            quic.close(quinn::VarInt::from_u32(0), b"");
        }
    }

    /// Sends a GOODBYE, and closes the tunnel with everything on it once that had time to leave.
    pub(crate) fn end(&self, code: Code, text: &str) {
        drop(self.messages.try_send(Message::Goodbye {
            code,
            text: Text::new(text),
        }));
        let closed = self.closed.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GOODBYE_TIME).await;
            closed.cancel();
        });
    }
}

/// How long a goodbye may take to leave before the tunnel is closed.
const GOODBYE_TIME: Duration = Duration::from_millis(500);
/// How long a player waits for a lane before a QUIC stream serves: half a second covers a round trip to the node and a
/// connect back.
const LANE_PATIENCE: Duration = Duration::from_millis(500);
/// The same where there is no QUIC to fall back on.
const ONLY_LANE_PATIENCE: Duration = Duration::from_secs(5);
/// The same where the client may open no further lane: one whose stream has just ended may be on its way back to the pool.
const FULL_PATIENCE: Duration = Duration::from_millis(50);
