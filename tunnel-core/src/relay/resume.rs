//! How a player's stream comes to another channel: on its tunnel, or on the one that took over from it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    instance::Optimize,
    proto::stream::frame::{ResetCode, StreamId},
    relay::tunnel::{AttachError, Player, RelayTunnel},
    tunnel::{
        channel::{Channel, ChannelError},
        pump::{Carrier, RESUME_PATIENCE, Resumed, Resumption, StreamEnd},
    },
};

/// A stream's place, and where it may go from there.
#[derive(Debug)]
pub(crate) struct RelayResumption {
    pub(crate) tunnel: Arc<RelayTunnel>,
    stream: StreamId,
    player: Player,
    optimize: Optimize,
    successor: watch::Receiver<Option<Arc<RelayTunnel>>>,
    /// Changes when lanes from the client's former address are of no more use.
    path: watch::Receiver<u64>,
    on_lane: bool,
    since: Instant,
    /// A shutdown of the tunnel waits for its streams.
    _counted: TaskTrackerToken,
}

impl RelayResumption {
    /// A stream that has just been opened.
    pub(crate) fn new(
        tunnel: Arc<RelayTunnel>,
        stream: StreamId,
        player: Player,
        optimize: Optimize,
        on_lane: bool,
    ) -> Self {
        Self {
            stream,
            player,
            optimize,
            successor: tunnel.successor.subscribe(),
            path: tunnel.path.subscribe(),
            on_lane,
            since: Instant::now(),
            _counted: tunnel.streams.token(),
            tunnel,
        }
    }

    /// What its tunnel bears of it.
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier {
            budget: self.tunnel.budget.clone(),
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
        // The tunnel that bears it still would end with its last stream, and end this one.
        let _bears = self.tunnel.streams.token();
        // A channel that broke as soon as it stood is not followed by the next at once.
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
                    self.on_lane = channel.is_lane();
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
    async fn moved(&mut self) {
        if !self.tunnel.resumes {
            return std::future::pending().await;
        }
        tokio::select! {
            _ = self.successor.wait_for(Option::is_some) => {}
            _ = self.path.changed(), if self.on_lane => {}
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

/// Continues a stream on a tunnel, or opens it anew if its OPEN was lost with the path that it left on: then nothing of it
/// has ever come to the client. Returns which bytes the client has.
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
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
