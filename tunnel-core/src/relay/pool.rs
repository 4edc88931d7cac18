//! The lanes of one tunnel: how many there may be, which of them are idle, and how many the client is asked to keep idle.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc};

use crate::{
    metrics::Metrics,
    proto::{
        message::{IdleLanes as WantedLanes, Message},
        record::RecordType,
    },
    relay::limits::{RelayLimits, permits},
    transport::lane::{LaneError, PeerMisbehaved},
    tunnel::lane::{IdleLanes, Lane, LaneWatch},
};

/// A tunnel's lanes. Only the client can open lanes: the relay says how many idle ones it wants.
#[derive(Debug)]
pub(crate) struct LanePool {
    pub(crate) idle: IdleLanes,
    /// Lanes that the tunnel may have, whatever they are used for.
    pub(crate) permits: Arc<Semaphore>,
    /// Those of them that may carry datagrams.
    pub(crate) datagram_permits: Arc<Semaphore>,
    /// Whether what lanes send arrives.
    pub(crate) watch: Arc<LaneWatch>,
    /// How many idle lanes the client was asked for.
    wanted: AtomicU16,
    /// The last who waited for a lane got none: the client cannot open more.
    is_dry: AtomicBool,
    messages: mpsc::Sender<Message>,
}

impl LanePool {
    /// No lane is there yet. `messages` leads to the client.
    pub(crate) fn new(
        limits: &RelayLimits,
        metrics: &Arc<Metrics>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            idle: IdleLanes::default(),
            permits: permits(limits.lanes_per_tunnel),
            datagram_permits: permits(limits.datagram_lanes),
            watch: LaneWatch::new(metrics.clone()),
            wanted: AtomicU16::new(0),
            is_dry: AtomicBool::new(false),
            messages,
        }
    }

    /// Whether there are as many lanes as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Whether waiting for a lane is in vain, as far as is known.
    pub(crate) fn is_dry(&self) -> bool {
        self.is_full() || self.is_dry.load(Ordering::Relaxed)
    }

    /// Asks the client to keep this many lanes idle, if that is more than it was asked for.
    pub(crate) fn want(&self, wanted: u16) {
        let wanted = wanted.min(LANES_MAX);
        let before = self.wanted.fetch_max(wanted, Ordering::Relaxed);
        if before >= wanted {
            return;
        }
        let idle = WantedLanes::new(wanted);
        if self.messages.try_send(Message::Lanes { idle }).is_err() {
            // A full queue: the client is told with the next demand.
            self.wanted.store(before, Ordering::Relaxed);
        }
    }

    /// An idle lane; waits for one no longer than `patience`.
    pub(crate) async fn take(&self, patience: Duration) -> Option<Lane> {
        if let Some(lane) = self.idle.take(Duration::ZERO).await {
            self.is_dry.store(false, Ordering::Relaxed);
            return Some(lane);
        }
        // The pool was too small for this burst of players.
        self.want((self.wanted.load(Ordering::Relaxed) * 2).max(LANES_WARM));
        if patience.is_zero() {
            return None;
        }
        let taken = self.idle.take(patience).await;
        self.is_dry.store(taken.is_none(), Ordering::Relaxed);
        taken
    }

    /// An idle lane that has just been shown to lead to the client. Waits for one for as long as that takes.
    pub(crate) async fn verified_idle_lane(&self) -> Result<Lane, LaneError> {
        self.want(LANES_WARM);
        let mut lane = loop {
            if let Some(lane) = self.idle.take(LANE_WAIT).await {
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
}

/// Idle lanes that hide the connect round trip of the next players: 4, a browser's first burst.
pub(crate) const LANES_WARM: u16 = 4;
/// Most idle lanes that a relay asks for: 64 players who connect within one round trip.
const LANES_MAX: u16 = 64;
/// How long a lane that works may take to answer: a loss and its retransmission on a long path.
const PONG_PATIENCE: Duration = Duration::from_secs(3);
/// One round of waiting for a lane while QUIC carries the stream: nothing depends on it.
const LANE_WAIT: Duration = Duration::from_secs(3600);
