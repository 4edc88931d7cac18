//! The streams of a client, so that the relay can continue them on other channels.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, oneshot, watch};

use crate::{
    client::{Shared, link::Link, offers::Offers},
    metrics::Gauge,
    proto::stream::frame::{Frame, ResetCode, StreamId},
    tunnel::{
        channel::{Channel, ChannelError},
        datagrams::lock,
        pump::{Carrier, Moved, RESUME_PATIENCE, Resumed, Resumption, StreamEnd},
        turn::{Flowing, Onward},
    },
};

/// Every stream of the relay's process, whichever tunnel it is on.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    /// Wakes the driver: a stream has lost its lane.
    lost: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<StreamId, Arc<Offers<Box<Attach>>>>,
    opened: Opened,
    /// Whose lanes lead nowhere, of which the relay has to be told.
    lost: Vec<StreamId>,
}

/// Which streams have been opened: the newest by name, and all that are older.
#[derive(Debug, Default)]
struct Opened(BTreeSet<StreamId>);

impl Opened {
    fn contains(&self, stream: StreamId) -> bool {
        let is_older = |oldest: &StreamId| stream < *oldest;
        self.0.contains(&stream) || (self.0.len() >= OPENED && self.0.first().is_some_and(is_older))
    }

    /// Whether it had not been opened before.
    fn note(&mut self, stream: StreamId) -> bool {
        if self.contains(stream) {
            return false;
        }
        self.0.insert(stream);
        if self.0.len() > OPENED {
            self.0.pop_first();
        }
        true
    }
}

/// The relay continues a stream on this channel.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) link: Arc<Link>,
    pub(crate) channel: Channel,
    /// The relay has every byte below.
    pub(crate) received: u64,
    /// The channel stands beside the stream's own, which works.
    pub(crate) is_beside: bool,
    /// Where a lane goes when the stream has left it clean.
    pub(crate) back: Option<oneshot::Sender<Channel>>,
}

impl Streams {
    /// Whether this stream may be opened: an OPEN that was long on its way comes when the relay has given it up.
    pub(crate) fn open(&self, stream: StreamId) -> bool {
        lock(&self.state).opened.note(stream)
    }

    /// Gives a channel to the stream that the relay names; gives it back with the answer if there is none.
    pub(crate) fn attach(
        &self,
        stream: StreamId,
        attach: Box<Attach>,
    ) -> Result<(), (Box<Attach>, ResetCode)> {
        let mut state = lock(&self.state);
        let Some(wanted) = state.running.get(&stream).cloned() else {
            // From now on it is too late for its OPEN: the relay opens it anew.
            let is_unheard_of = state.opened.note(stream);
            let code = if is_unheard_of {
                ResetCode::NoService
            } else {
                ResetCode::Socket
            };
            return Err((attach, code));
        };
        drop(state);
        (wanted.offer(attach)).map_err(|attach| (attach, ResetCode::Socket))
    }

    /// Gives a stream the channel that stands beside its own; gives it back if the stream has ended or not begun, which
    /// another channel tells.
    pub(crate) fn stand_beside(
        &self,
        stream: StreamId,
        attach: Box<Attach>,
    ) -> Result<(), Box<Attach>> {
        let Some(wanted) = lock(&self.state).running.get(&stream).cloned() else {
            return Err(attach);
        };
        wanted.offer(attach)
    }

    /// A stream's lane leads nowhere, of which the relay may not know: it has sent nothing there.
    fn handle_lost(&self, stream: StreamId) {
        lock(&self.state).lost.push(stream);
        self.lost.notify_one();
    }

    /// The streams that the relay has to be told of, once there are any. Cancel safe.
    pub(crate) async fn lost(&self) -> Vec<StreamId> {
        loop {
            let lost = std::mem::take(&mut lock(&self.state).lost);
            if !lost.is_empty() {
                return lost;
            }
            self.lost.notified().await;
        }
    }

    /// The relay that knew them is gone: those that wait for it end.
    pub(crate) fn clear(&self) {
        let state = std::mem::take(&mut *lock(&self.state));
        for offers in state.running.into_values() {
            offers.close();
        }
    }
}

/// A stream's place, and how it comes to another.
#[derive(Debug)]
pub(crate) struct ClientResumption {
    shared: Arc<Shared>,
    stream: StreamId,
    resumes: bool,
    /// While it is on a lane.
    on_lane: Option<Gauge>,
    /// Changes when lanes from the former address are of no more use.
    path: watch::Receiver<u64>,
    offers: Arc<Offers<Box<Attach>>>,
    /// The newest that has come and was not used yet.
    next: Option<Box<Attach>>,
    back: Option<oneshot::Sender<Channel>>,
}

impl ClientResumption {
    /// A stream that the relay has just opened.
    pub(crate) fn new(shared: &Arc<Shared>, link: &Link, stream: StreamId, on_lane: bool) -> Self {
        let offers = Arc::new(Offers::new(ATTACHES));
        if link.resumes {
            lock(&shared.streams.state)
                .running
                .insert(stream, offers.clone());
        }
        Self {
            shared: shared.clone(),
            stream,
            resumes: link.resumes,
            on_lane: on_lane.then(|| on_lanes(shared)),
            path: link.path.subscribe(),
            offers,
            next: None,
            back: None,
        }
    }

    /// Gives a clean channel to whom it belongs: to the task of the lane that the stream moved to, or to the caller.
    pub(crate) fn hand_back(&mut self, channel: Channel) -> Option<Channel> {
        match self.back.take() {
            // Its task has ended with its tunnel.
            Some(back) => {
                drop(back.send(channel));
                None
            }
            None => Some(channel),
        }
    }

    /// Agrees to a channel that stands beside the stream's own.
    async fn agree(&mut self, attach: Attach, flowing: &Flowing) -> Option<Box<Onward>> {
        let mut channel = attach.channel;
        if flowing.is_turning() {
            // The relay is there already, and stays.
            channel.tx.abort(Some(ResetCode::Socket)).await;
            return None;
        }
        let stream = self.stream;
        let beside = Frame::Beside { stream };
        flowing.set_named(true);
        // Of a lane that broke the relay hears as we do.
        channel.tx.write(Some(beside), None).await.ok()?;
        self.on_lane = channel.is_lane().then(|| on_lanes(&self.shared));
        self.path = attach.link.path.subscribe();
        let back = std::mem::replace(&mut self.back, attach.back);
        Some(Box::new(Onward { channel, back }))
    }
}

impl Resumption for ClientResumption {
    async fn moved(&mut self, flowing: &Flowing) -> Moved {
        if !self.resumes {
            return std::future::pending().await;
        }
        while self.next.is_none() {
            let is_on_lane = self.on_lane.is_some();
            let next = tokio::select! {
                next = self.offers.next() => next,
                _ = self.path.changed(), if is_on_lane => None,
            };
            match next {
                Some(attach) if attach.is_beside => {
                    // A stream that stays where it is has no room for it.
                    if let Some(onward) = Box::pin(self.agree(*attach, flowing)).await {
                        return Moved::Onto(onward);
                    }
                }
                Some(attach) => self.next = Some(attach),
                None => break,
            }
        }
        Moved::Away
    }

    async fn resume(&mut self, received: u64) -> Result<Resumed, StreamEnd> {
        if !self.resumes {
            return Err(StreamEnd::Broken(ChannelError::Ended));
        }
        // The lane that it was on is gone.
        self.back = None;
        if self.on_lane.take().is_some() && self.next.is_none() {
            self.shared.streams.handle_lost(self.stream);
        }
        let newest = newest(self.next.take(), &self.offers, |it| it.is_beside);
        let attached = tokio::time::timeout(RESUME_PATIENCE, newest).await;
        let Ok(Some(attach)) = attached else {
            return Err(StreamEnd::Moved);
        };
        self.on_lane = attach.channel.is_lane().then(|| on_lanes(&self.shared));
        self.path = attach.link.path.subscribe();
        self.back = attach.back;
        Ok(Resumed {
            channel: attach.channel,
            carrier: attach.link.carrier(),
            received: attach.received,
            greeting: Some(Frame::Attach {
                stream: self.stream,
                received,
            }),
        })
    }
}

/// The newest channel that continues a stream; what stands beside one is of no use without it.
async fn newest<T>(next: Option<T>, more: &Offers<T>, is_beside: impl Fn(&T) -> bool) -> Option<T> {
    let mut newest = next.filter(|next| !is_beside(next));
    loop {
        match more.try_next() {
            Some(newer) if is_beside(&newer) => {}
            Some(newer) => newest = Some(newer),
            None if newest.is_some() => return newest,
            None => newest = Some(more.next().await?).filter(|next| !is_beside(next)),
        }
    }
}

impl Drop for ClientResumption {
    fn drop(&mut self) {
        // Once its own entry is gone, the number may be that of another relay's stream.
        if self.resumes && !self.offers.is_closed() {
            lock(&self.shared.streams.state)
                .running
                .remove(&self.stream);
        }
        // Who has found it before may offer one still.
        self.offers.close();
        while self.offers.try_next().is_some() {}
    }
}

impl Link {
    /// What this tunnel bears of its streams.
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier {
            budget: self.budget.clone(),
            meter: self.sender.meter(),
            closed: self.closed.clone(),
        }
    }
}

fn on_lanes(shared: &Shared) -> Gauge {
    Gauge::new(&shared.metrics, |m| &m.streams_on_lanes)
}

/// Channels offered to one stream at a time: the relay tries one after another, and the last one counts.
const ATTACHES: usize = 4;
/// Opened streams that are known by name: more than can be on their way on two paths at once.
const OPENED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_channel_that_continues_a_stream_counts_and_none_that_stood_beside_another()
    {
        const BESIDE: u32 = 100;
        for (next, queue, used) in [
            (None, &[1][..], Some(1)),
            (None, &[1, 2], Some(2)),
            (None, &[1, BESIDE], Some(1)),
            (Some(1), &[BESIDE], Some(1)),
            (Some(BESIDE), &[BESIDE, 1, BESIDE], Some(1)),
            (Some(BESIDE), &[], None),
            (None, &[BESIDE], None),
        ] {
            let offers = Offers::new(ATTACHES);
            for it in queue {
                offers.offer(*it).unwrap();
            }
            offers.close();
            let found = newest(next, &offers, |it| *it == BESIDE).await;
            assert_eq!(found, used, "{next:?} {queue:?}");
        }
    }

    #[test]
    fn a_stream_is_opened_once_and_never_after_much_newer_ones() {
        let streams = Streams::default();
        // In whatever order they come.
        for stream in [1, 0, 3, 2] {
            assert!(streams.open(StreamId(stream)));
            assert!(!streams.open(StreamId(stream)));
        }
        for stream in 10..10 + OPENED as u64 {
            assert!(streams.open(StreamId(stream)));
        }
        assert!(!streams.open(StreamId(5)));
        assert_eq!(lock(&streams.state).opened.0.len(), OPENED);
        streams.clear();
        assert!(streams.open(StreamId(5)), "another process of the relay");
    }
}
