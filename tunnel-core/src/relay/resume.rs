//! Brings a player's stream to another channel, on its tunnel or on the one that has replaced it.
//!
//! A stream whose channel breaks resumes on the next one: both sides say which bytes they have. A stream whose channel works may
//! move to a better one: bulk from QUIC to a lane, what has become interactive back to QUIC. The relay always brings the new channel.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    instance::Optimize,
    key::PublicKey,
    proto::{
        backoff::Backoff,
        stream::{
            frame::{Frame, ResetCode, StreamId},
            handover::Pace,
        },
    },
    relay::{
        lane_streams::OnLane,
        shared::Shared,
        tunnel::{AttachError, Player, RelayTunnel},
    },
    tunnel::stream::{
        Carrier, Channel, ChannelError, Flowing, Item, Moved, NextChannel, RESUME_PATIENCE,
        Resumed, Resumption, StreamEnd,
    },
};

/// The tunnel and channel of a stream, and where it may go from there.
#[derive(Debug)]
pub(crate) struct RelayResumption {
    pub(crate) tunnel: Arc<RelayTunnel>,
    stream: StreamId,
    player: Player,
    optimize: Optimize,
    successor: watch::Receiver<Option<Arc<RelayTunnel>>>,
    /// Changes when all lanes have become useless.
    path: watch::Receiver<u64>,
    shared: Arc<Shared>,
    on_lane: Option<OnLane>,
    since: Instant,
    /// The time before which no lane is tried, because the last one broke or the stream came back from it.
    lane_from: Instant,
    lane_pause: Backoff,
    /// A shutdown of the tunnel waits for its streams.
    _counted: TaskTrackerToken,
}

impl RelayResumption {
    /// A stream that has just been opened.
    pub(crate) fn new(
        tunnel: Arc<RelayTunnel>,
        shared: &Arc<Shared>,
        stream: StreamId,
        player: Player,
        optimize: Optimize,
        on_lane: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            player,
            optimize,
            successor: tunnel.successor.subscribe(),
            path: tunnel.path.subscribe(),
            shared: shared.clone(),
            on_lane: on_lane.then(|| on_lane_of(shared, tunnel.client, stream)),
            since: now,
            lane_from: now,
            lane_pause: Backoff::new(LANE_PAUSE_LEAST, LANE_PAUSE_MOST),
            _counted: tunnel.streams.token(),
            tunnel,
        }
    }

    /// The parts of the tunnel that the stream uses.
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier {
            budget: self.tunnel.budget.clone(),
            meter: self.tunnel.datagrams.meter(),
            closed: self.tunnel.closed.clone(),
        }
    }

    /// Goes on to the newest tunnel of the same process.
    fn follow(&mut self) {
        loop {
            let next = self.successor.borrow_and_update().clone();
            let Some(next) = next else { return };
            self.successor = next.successor.subscribe();
            self.path = next.path.subscribe();
            self._counted = next.streams.token();
            self.tunnel = next;
        }
    }

    async fn attach(&mut self, received: u64) -> Result<Resumed, StreamEnd> {
        // Keeps the tunnel: it ends with its last stream, and would end this one with it.
        let _bears = self.tunnel.streams.token();
        let is_lane_lost = self.on_lane.take().is_some();
        // A lane that broke because the client's address has changed was no bad lane.
        if is_lane_lost && !self.path.has_changed().unwrap_or(true) {
            self.defer_lane();
        }
        // After a channel that broke at once, the next one waits for a moment.
        let mut pause = if self.since.elapsed() < PAUSE {
            PAUSE
        } else {
            Duration::ZERO
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.successor.wait_for(Option::is_some) => {}
            }
            pause = PAUSE;
            self.follow();
            self.path.mark_unchanged();
            let tunnel = self.tunnel.clone();
            let (stream, player, optimize) = (self.stream, self.player, self.optimize);
            let attached = tokio::select! {
                attached = attach_on(&tunnel, stream, player, optimize, received) => attached,
                () = tokio::time::sleep(ATTACH_PATIENCE) => continue,
                // The next round goes there.
                _ = self.successor.wait_for(Option::is_some) => continue,
            };
            match attached {
                Ok((stream, channel, received)) => {
                    self.stream = stream;
                    self.on_lane = channel
                        .is_lane()
                        .then(|| on_lane_of(&self.shared, self.tunnel.client, stream));
                    self.since = Instant::now();
                    return Ok(Resumed {
                        channel,
                        carrier: self.carrier(),
                        received,
                        greeting: None,
                    });
                }
                Err(AttachError::Refused(code)) => return Err(StreamEnd::PeerReset(code)),
                Err(AttachError::Broken(error)) => {
                    tracing::trace!(stream = self.stream.0, "not attached: {error}");
                }
            }
        }
    }
}

impl Resumption for RelayResumption {
    async fn moved(&mut self, flowing: &Flowing) -> Moved {
        if !self.tunnel.resumes {
            return std::future::pending().await;
        }
        loop {
            let course = self.course();
            let is_on_lane = self.on_lane.is_some();
            let rate = self.shared.config.limits.lane_rate;
            let is_lost = lost(self.on_lane.as_ref());
            let is_due = async {
                match course {
                    Some(Course::Lane(from)) => flowing.at_least(from).await,
                    // Few streams have this timer.
                    Some(Course::Quic) => Box::pin(flowing.calmed(rate)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.successor.wait_for(Option::is_some) => return Moved::Away,
                _ = self.path.changed(), if is_on_lane => return Moved::Away,
                () = is_lost => return Moved::Away,
                () = is_due => {}
            }
            let mut successor = self.successor.clone();
            // Boxed: a stream that does not move keeps no room for this.
            let tried = Box::pin(async {
                match course {
                    Some(Course::Quic) => self.try_quic(flowing).await,
                    _ => self.try_lane(flowing).await,
                }
            });
            tokio::select! {
                _ = successor.wait_for(Option::is_some) => return Moved::Away,
                moved = tried => if let Some(moved) = moved {
                    return moved;
                }
            }
        }
    }

    async fn resume(&mut self, received: u64) -> Result<Resumed, StreamEnd> {
        if !self.tunnel.resumes {
            return Err(StreamEnd::Broken(ChannelError::Ended));
        }
        tokio::time::timeout(RESUME_PATIENCE, self.attach(received))
            .await
            .unwrap_or(Err(StreamEnd::Moved))
    }
}

/// Where a stream would do better than where it is.
#[derive(Debug, Clone, Copy)]
enum Course {
    /// On a lane, from this pace on.
    Lane(Pace),
    /// On QUIC, once it is calm.
    Quic,
}

impl RelayResumption {
    fn course(&self) -> Option<Course> {
        if !self.tunnel.moves || self.tunnel.quic.is_none() {
            return None;
        }
        match (self.optimize, &self.on_lane) {
            (Optimize::Auto, None) => Some(Course::Lane(Pace::Bulk)),
            (Optimize::Auto, Some(_)) => Some(Course::Quic),
            // There was none when it was opened.
            (Optimize::Throughput, None) => Some(Course::Lane(Pace::Talk)),
            (Optimize::Throughput, Some(_)) | (Optimize::Latency, _) => None,
        }
    }

    /// Agrees with the client on the next idle lane, while QUIC carries the stream; `None` if nothing came of it and the next
    /// may be tried.
    async fn try_lane(&mut self, flowing: &Flowing) -> Option<Moved> {
        let mut path = self.path.clone();
        let (tunnel, lane_from) = (self.tunnel.clone(), self.lane_from);
        let lane = async {
            tokio::time::sleep_until(lane_from).await;
            path.mark_unchanged();
            tokio::select! {
                found = tunnel.pool.verified_idle_lane() => Some(found),
                // The lane that was found leads to the former address.
                _ = path.changed() => None,
            }
        };
        let is_auto = self.optimize == Optimize::Auto;
        let rate = self.shared.config.limits.lane_rate;
        let found = tokio::select! {
            found = lane => found?,
            // The lane came too late.
            () = flowing.calmed(rate), if is_auto => return None,
        };
        let mut channel = match found {
            Ok(lane) => Channel::lane(*lane),
            Err(error) => {
                tracing::trace!(stream = self.stream.0, "no lane to move to: {error}");
                self.defer_lane();
                return None;
            }
        };
        self.path = path.clone();
        flowing.set_named(true);
        let agreed = tokio::select! {
            agreed = agree_in_time(&mut channel, self.stream) => agreed,
            _ = path.changed() => Err(AttachError::Broken(ChannelError::Ended)),
        };
        match agreed {
            Ok(()) => {
                tracing::debug!(stream = self.stream.0, "stream moves to a lane");
                self.on_lane = Some(on_lane_of(&self.shared, self.tunnel.client, self.stream));
                self.since = Instant::now();
                let back = None;
                Some(Moved::Onto(Box::new(NextChannel { channel, back })))
            }
            // The stream ends there, of which QUIC brings word, or has not begun.
            Err(AttachError::Refused(_)) => {
                flowing.set_named(false);
                self.defer_lane();
                None
            }
            // The client may have gone there already: it has to be asked on another channel.
            Err(AttachError::Broken(_)) => {
                self.defer_lane();
                Some(Moved::Away)
            }
        }
    }

    /// Agrees with the client on a QUIC stream, while a lane carries the stream; `None` if nothing came of it.
    async fn try_quic(&mut self, flowing: &Flowing) -> Option<Moved> {
        let mut path = self.path.clone();
        let agreed = async {
            // Until something is written on it, the client does not know of it.
            let mut channel = self.tunnel.open_quic().await.ok()?;
            flowing.set_named(true);
            let agreed = agree_in_time(&mut channel, self.stream).await;
            Some(agreed.map(|()| channel))
        };
        let agreed = tokio::select! {
            agreed = agreed => agreed?,
            _ = path.changed() => Err(AttachError::Broken(ChannelError::Ended)),
        };
        match agreed {
            Ok(channel) => {
                tracing::debug!(stream = self.stream.0, "stream moves back to QUIC");
                // Bulk that comes in bursts is not moved for each burst.
                self.defer_lane();
                self.on_lane = None;
                self.since = Instant::now();
                let back = Some(self.lane_keeper());
                Some(Moved::Onto(Box::new(NextChannel { channel, back })))
            }
            Err(AttachError::Refused(_)) => {
                flowing.set_named(false);
                None
            }
            Err(AttachError::Broken(_)) => Some(Moved::Away),
        }
    }

    /// Takes the lane that the stream leaves back into the pool.
    fn lane_keeper(&self) -> oneshot::Sender<Channel> {
        let (back, returned) = oneshot::channel();
        let (shared, tunnel) = (self.shared.clone(), self.tunnel.clone());
        tokio::spawn(async move {
            if let Some(lane) = returned.await.ok().and_then(Channel::into_lane) {
                shared.keep_lane(tunnel, Box::new(lane));
            }
        });
        back
    }

    /// Puts off the next try of a lane, for longer each time unless the last lane has served for long.
    fn defer_lane(&mut self) {
        if self.since.elapsed() >= LANE_PAUSE_MOST {
            self.lane_pause.reset();
        }
        self.lane_from = Instant::now() + self.lane_pause.next(u64::MAX);
    }
}

/// [`agree`] with a timeout.
async fn agree_in_time(channel: &mut Channel, stream: StreamId) -> Result<(), AttachError> {
    match tokio::time::timeout(JOIN_PATIENCE, agree(channel, stream)).await {
        Ok(agreed) => agreed,
        Err(_) => Err(AttachError::Broken(ChannelError::Ended)),
    }
}

/// Names the stream on a channel beside its own, and waits for the client to do the same.
async fn agree(channel: &mut Channel, stream: StreamId) -> Result<(), AttachError> {
    channel.tx.write(Some(Frame::Join { stream }), None).await?;
    match channel.rx.read().await? {
        Item::Frame(Frame::Join { stream: named }) if named == stream => Ok(()),
        Item::Frame(Frame::Reset { code }) => Err(AttachError::Refused(code)),
        Item::Frame(other) => Err(ChannelError::Unexpected(other.kind()).into()),
        Item::Data(_) | Item::End => Err(ChannelError::Ended.into()),
    }
}

fn on_lane_of(shared: &Shared, client: PublicKey, stream: StreamId) -> OnLane {
    OnLane::new(&shared.lane_streams, &shared.metrics, client, stream)
}

/// Completes when the client has reported that the lane leads nowhere.
async fn lost(on_lane: Option<&OnLane>) {
    match on_lane {
        Some(on_lane) => on_lane.lost().await,
        None => std::future::pending().await,
    }
}

/// Continues a stream on a tunnel. Opens it anew if its OPEN was lost, so that the client has none of its bytes. Returns the channel,
/// and how many bytes the client has.
async fn attach_on(
    tunnel: &RelayTunnel,
    stream: StreamId,
    player: Player,
    optimize: Optimize,
    received: u64,
) -> Result<(StreamId, Channel, u64), AttachError> {
    match tunnel.attach(stream, received, optimize).await {
        Err(AttachError::Refused(ResetCode::NoService)) if received == 0 => {
            let (stream, channel) = tunnel.open_stream(player, optimize, None).await?;
            Ok((stream, channel, 0))
        }
        attached => attached.map(|(channel, received)| (stream, channel, received)),
    }
}

/// How long the client may take to answer on one channel before the next is tried: a few round trips, a loss among
/// them.
const ATTACH_PATIENCE: Duration = Duration::from_secs(3);
/// How long the client may take to name the stream on a lane that was just verified: it does so at once, unless it still connects
/// to the target.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before another lane is tried after one that broke.
const LANE_PAUSE_LEAST: Duration = Duration::from_secs(1);
/// Longest such pause, and how long a lane must have served for the first to hold again: a middlebox that ends long
/// connections costs one change of channel a minute.
const LANE_PAUSE_MOST: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
