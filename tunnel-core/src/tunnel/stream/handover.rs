//! A stream's handover from a channel that works to its next one, as far as tasks are concerned: what a stream tells of its
//! pace, and where both directions find the next channel. The rules are those of `proto::stream::handover`.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

use crate::{
    proto::stream::handover::{CALM_LOOK, Calm, Pace},
    sync::lock,
    tunnel::stream::channel::{Channel, ChannelRx, ChannelTx},
};

/// What a stream flows like, for whoever decides where it should travel.
#[derive(Debug, Default)]
pub(crate) struct Flowing {
    /// Bytes so far, in both directions.
    through: AtomicU64,
    /// Of [`Pace`].
    pace: AtomicU8,
    /// It is on its way to another channel.
    is_in_handover: AtomicBool,
    /// We have named it on another channel.
    is_named: AtomicBool,
    /// Of the pace and the handover. One waits: the stream's own resumption.
    changed: Notify,
}

impl Flowing {
    /// `through` bytes have gone through.
    pub(crate) fn handle_progress(&self, through: u64) {
        self.through.store(through, Ordering::Relaxed);
    }

    /// It flows like this from now on.
    pub(crate) fn set(&self, pace: Pace) {
        if self.pace.swap(pace as u8, Ordering::Relaxed) != pace as u8 {
            self.changed.notify_one();
        }
    }

    /// It is on its way to another channel, or stays on the one that it is on.
    pub(crate) fn set_in_handover(&self, is_in_handover: bool) {
        self.set_named(is_in_handover);
        self.is_in_handover.store(is_in_handover, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// It is named on another channel from here on: the other side may go there.
    pub(crate) fn set_named(&self, is_named: bool) {
        self.is_named.store(is_named, Ordering::Relaxed);
    }

    pub(crate) fn is_named(&self) -> bool {
        self.is_named.load(Ordering::Relaxed)
    }

    pub(crate) fn is_in_handover(&self) -> bool {
        self.is_in_handover.load(Ordering::Relaxed)
    }

    /// Comes when it flows like this or faster, and is on one channel.
    pub(crate) async fn at_least(&self, pace: Pace) {
        while self.pace.load(Ordering::Relaxed) < pace as u8 || self.is_in_handover() {
            self.changed.notified().await;
        }
    }

    /// Comes when the stream is calm by the measure of `rate`, and on one channel.
    pub(crate) async fn calmed(&self, rate: u64) {
        let through = || self.through.load(Ordering::Relaxed);
        let mut calm = Calm::new(through(), rate);
        loop {
            sleep(CALM_LOOK).await;
            if calm.handle_look(through()) && !self.is_in_handover() {
                return self.set(Pace::Talk);
            }
        }
    }
}

/// Where a stream goes on, while the channel that it is on works.
#[derive(Debug)]
pub(crate) struct NextChannel {
    pub(crate) channel: Channel,
    /// Gets the lane that it leaves, once nothing of the stream is on it any more.
    pub(crate) back: Option<oneshot::Sender<Channel>>,
}

/// The way from one channel to the next: each direction takes its half when it leaves its own.
#[derive(Debug, Default)]
pub(crate) struct ChannelSwitch(Mutex<Option<Box<Passage>>>);

#[derive(Debug)]
struct Passage {
    tx: Option<ChannelTx>,
    rx: Option<ChannelRx>,
    left_tx: Option<ChannelTx>,
    left_rx: Option<ChannelRx>,
    back: Option<oneshot::Sender<Channel>>,
}

impl ChannelSwitch {
    pub(crate) fn put(&self, next: NextChannel) {
        *lock(&self.0) = Some(Box::new(Passage {
            tx: Some(next.channel.tx),
            rx: Some(next.channel.rx),
            left_tx: None,
            left_rx: None,
            back: next.back,
        }));
    }

    /// MOVE has been said: what is sent from now on goes on the next channel. `false` if there is none.
    pub(crate) fn change_tx(&self, tx: &mut ChannelTx) -> bool {
        let mut passage = lock(&self.0);
        let Some((on_it, next)) = passage.as_mut().and_then(|it| {
            let next = it.tx.take()?;
            Some((it, next))
        }) else {
            return false;
        };
        on_it.left_tx = std::mem::replace(tx, next).left();
        end(&mut passage);
        true
    }

    /// MOVE has been read: what comes from now on comes on the next channel. `false` if there is none.
    pub(crate) fn change_rx(&self, rx: &mut ChannelRx) -> bool {
        let mut passage = lock(&self.0);
        let Some((on_it, next)) = passage.as_mut().and_then(|it| {
            let next = it.rx.take()?;
            Some((it, next))
        }) else {
            return false;
        };
        on_it.left_rx = Some(std::mem::replace(rx, next));
        end(&mut passage);
        true
    }

    /// What was left of it is of no more use.
    pub(crate) fn clear(&self) {
        drop(lock(&self.0).take());
    }
}

/// Once both directions have changed, the lane that they left is clean.
fn end(passage: &mut Option<Box<Passage>>) {
    let Some(ended) = passage.take_if(|it| it.tx.is_none() && it.rx.is_none()) else {
        return;
    };
    if let (Some(tx), Some(rx), Some(back)) = (ended.left_tx, ended.left_rx, ended.back) {
        // Its task may have ended with its tunnel.
        drop(back.send(Channel { tx, rx }));
    }
}
