//! What a stream needs of its tunnel, how each role finds its next channel ([`Resumption`]), and why a stream ends.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{Metrics, Traffic},
    proto::{
        session::DEAD_AFTER,
        stream::{
            StreamMisbehaved,
            frame::{Frame, ResetCode},
        },
    },
    tunnel::{
        datagram::meter::GameMeter,
        stream::{
            budget::Budget,
            channel::{Channel, ChannelError},
            handover::{Flowing, NextChannel},
        },
    },
};

/// What a stream needs of the tunnel that it is on.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) budget: Arc<Budget>,
    /// Is told when a player talks, if the tunnel has a QUIC connection.
    pub(crate) meter: Option<Arc<GameMeter>>,
    /// Ends the stream with a reset on both sides: its tunnel has ended for good.
    pub(crate) closed: CancellationToken,
}

/// What a stream is, wherever it travels.
#[derive(Debug, Clone)]
pub(crate) struct StreamKind {
    pub(crate) metrics: Arc<Metrics>,
    /// Counts the bytes of this stream alone, where somebody asks for them.
    pub(crate) traffic: Option<Arc<Traffic>>,
    /// Counts what the socket sends and what it is sent.
    pub(crate) direction: Direction,
    /// Ends the stream with a reset on both sides: its service is gone.
    pub(crate) cancelled: CancellationToken,
    /// Bytes per second from which it would do better on a lane.
    pub(crate) lane_rate: u64,
}

/// A stream ends after so long without any channel, on both sides: as a tunnel.
pub(crate) const RESUME_PATIENCE: Duration = DEAD_AFTER;

/// How a stream comes to another channel when its own is of no more use.
pub(crate) trait Resumption: Send {
    /// Comes when the stream should go on elsewhere though its channel may still work. Cancel safe.
    fn moved(&mut self, flowing: &Flowing) -> impl Future<Output = Moved> + Send;

    /// The next channel, for a stream of which every byte below `received` has come. An error ends the stream.
    fn resume(&mut self, received: u64) -> impl Future<Output = Result<Resumed, StreamEnd>> + Send;
}

/// Where a stream should go on.
#[derive(Debug)]
pub(crate) enum Moved {
    /// On another channel, which is asked for once this one is left: it leads nowhere.
    Away,
    /// On this channel of the same tunnel, on which both sides have named it, as soon as each direction has ended on
    /// the one that it is on.
    Onto(Box<NextChannel>),
}

/// A channel on which a stream goes on.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) channel: Channel,
    pub(crate) carrier: Carrier,
    /// The other side has every byte below.
    pub(crate) received: u64,
    /// What it has to be told before anything else.
    pub(crate) greeting: Option<Frame>,
}

/// Which side of the tunnel the socket is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The socket is the player's: what it sends goes in.
    FromPlayer,
    /// The socket is the target's: what it sends goes out.
    FromTarget,
}

/// Why a stream ended otherwise than cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("the socket failed: {0}")]
    Socket(#[source] io::Error),
    #[error("the other side reset the stream: {0}")]
    PeerReset(ResetCode),
    #[error("the channel broke: {0}")]
    Broken(#[source] ChannelError),
    #[error(transparent)]
    Misbehaved(#[from] StreamMisbehaved),
    #[error("its reader was slow while memory ran short")]
    Stalled,
    #[error("the service ended")]
    Cancelled,
    #[error("it was to go on over another channel, and could not")]
    Moved,
}

impl StreamEnd {
    /// Whether the stream could go on over another channel: the bytes of this one do not come any more, and none that
    /// came was wrong.
    pub(super) const fn is_of_the_channel(&self) -> bool {
        match self {
            Self::Moved => true,
            Self::Broken(error) => {
                !matches!(error, ChannelError::Frame(_) | ChannelError::Unexpected(_))
            }
            _ => false,
        }
    }

    /// What the other side is told of it, if it does not know.
    pub(super) const fn reset_code(&self) -> Option<ResetCode> {
        match self {
            Self::Socket(_) => Some(ResetCode::Socket),
            Self::Misbehaved(_) => Some(ResetCode::ProtocolError),
            Self::Stalled => Some(ResetCode::Limit),
            Self::Cancelled => Some(ResetCode::Shutdown),
            Self::PeerReset(_) | Self::Broken(_) | Self::Moved => None,
        }
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        match self {
            Self::Socket(_) => metrics.stream_reset.one(),
            Self::Broken(_) | Self::Moved => metrics.stream_broken.one(),
            Self::Misbehaved(_) => metrics.stream_misbehaved.one(),
            Self::Stalled => metrics.stream_limit.one(),
            Self::PeerReset(_) | Self::Cancelled => {}
        }
    }
}
