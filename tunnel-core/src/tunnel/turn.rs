//! What a stream's activities and its next channel tell each other.

use std::sync::{
    Mutex,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::Notify;

use crate::{
    proto::stream::moving::Pace,
    tunnel::{
        channel::{Channel, ChannelRx, ChannelTx},
        datagrams::lock,
    },
};

/// What a stream flows like, for whoever decides where it should travel.
#[derive(Debug, Default)]
pub(crate) struct Flowing {
    /// Of [`Pace`].
    pace: AtomicU8,
    changed: Notify,
}

impl Flowing {
    /// It flows like this from now on.
    pub(crate) fn set(&self, pace: Pace) {
        self.pace.store(pace as u8, Ordering::Relaxed);
        // One waits: the stream's own resumption.
        self.changed.notify_one();
    }

    /// Comes when it flows like this or faster.
    pub(crate) async fn at_least(&self, pace: Pace) {
        while self.pace.load(Ordering::Relaxed) < pace as u8 {
            self.changed.notified().await;
        }
    }
}

/// The channel that a stream goes on to while the one that it is on works: each direction takes its half when its turn
/// comes.
#[derive(Debug, Default)]
pub(crate) struct Next {
    tx: Mutex<Option<Box<ChannelTx>>>,
    rx: Mutex<Option<Box<ChannelRx>>>,
}

impl Next {
    pub(crate) fn put(&self, channel: Channel) {
        *lock(&self.tx) = Some(Box::new(channel.tx));
        *lock(&self.rx) = Some(Box::new(channel.rx));
    }

    pub(crate) fn tx(&self) -> Option<ChannelTx> {
        Some(*lock(&self.tx).take()?)
    }

    pub(crate) fn rx(&self) -> Option<ChannelRx> {
        Some(*lock(&self.rx).take()?)
    }

    /// What was left of it is of no more use.
    pub(crate) fn clear(&self) {
        drop((self.tx(), self.rx()));
    }
}
