//! The streams of a client, so that the relay can continue them on other channels.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot, watch};

use crate::{
    client::{Shared, link::Link, offers::Offers},
    metrics::Gauge,
    proto::stream::frame::{Frame, ResetCode, StreamId},
    sync::lock,
    tunnel::stream::{
        Carrier, Channel, ChannelError, Flowing, Moved, Onward, RESUME_PATIENCE, Resumed,
        Resumption, StreamEnd,
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
    /// What has run.
    ended: Lately,
    /// What the relay wanted to continue before its OPEN came. From then on it is too late for that: the relay opens it anew.
    unheard: Lately,
    /// Whose lanes lead nowhere, of which the relay has to be told.
    lost: Vec<StreamId>,
}

impl State {
    /// Whether this stream may be opened.
    fn is_new(&self, stream: StreamId) -> bool {
        !self.running.contains_key(&stream)
            && !self.ended.contains(stream)
            && !self.unheard.contains(stream)
    }

    /// What the relay has to know of a stream that does not run, however often it asks.
    fn missing(&mut self, now: Instant, stream: StreamId) -> ResetCode {
        if self.ended.contains(stream) {
            return ResetCode::Socket;
        }
        self.unheard.note(now, stream);
        ResetCode::NoService
    }
}

/// Streams of the last minutes, for as long as anybody may ask for them.
#[derive(Debug, Default)]
struct Lately {
    /// The newest first.
    parts: [HashSet<StreamId>; 3],
    /// When the newest was begun.
    began: Option<Instant>,
}

impl Lately {
    fn contains(&self, stream: StreamId) -> bool {
        self.parts.iter().any(|part| part.contains(&stream))
    }

    fn note(&mut self, now: Instant, stream: StreamId) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= PART || self.parts[0].len() >= PART_MOST {
            self.parts.rotate_right(1);
            self.parts[0] = HashSet::new();
            self.began = Some(now);
        }
        self.parts[0].insert(stream);
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
    /// Begins a stream, which the relay may continue from now on; `None` if the relay has given its OPEN up meanwhile.
    fn open(&self, stream: StreamId) -> Option<Arc<Offers<Box<Attach>>>> {
        let mut state = lock(&self.state);
        let offers = state
            .is_new(stream)
            .then(|| Arc::new(Offers::new(ATTACHES)))?;
        state.running.insert(stream, offers.clone());
        Some(offers)
    }

    /// Gives a channel to the stream that the relay names; gives it back with the answer if there is none.
    pub(crate) fn attach(
        &self,
        stream: StreamId,
        attach: Box<Attach>,
    ) -> Result<(), (Box<Attach>, ResetCode)> {
        let mut state = lock(&self.state);
        let Some(wanted) = state.running.get(&stream).cloned() else {
            return Err((attach, state.missing(Instant::now(), stream)));
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
    /// A stream that the relay has just opened; `None` if it is too late for that.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        link: &Link,
        stream: StreamId,
        on_lane: bool,
    ) -> Option<Self> {
        let offers = match link.resumes {
            true => shared.streams.open(stream)?,
            false => Arc::new(Offers::new(ATTACHES)),
        };
        Some(Self {
            shared: shared.clone(),
            stream,
            resumes: link.resumes,
            on_lane: on_lane.then(|| on_lanes(shared)),
            path: link.path.subscribe(),
            offers,
            next: None,
            back: None,
        })
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
            let mut state = lock(&self.shared.streams.state);
            state.running.remove(&self.stream);
            state.ended.note(Instant::now(), self.stream);
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
/// A third of the least time for which a stream is remembered. 90 s in all: the relay asks for one for 30 s after its channel broke, and
/// what QUIC carries is not on its way for longer.
const PART: Duration = Duration::from_secs(30);
/// Streams of one such part: 262,144 are 8,700 a second, and 4 MiB.
const PART_MOST: usize = 1 << 18;

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
    fn an_open_that_comes_behind_any_number_of_newer_ones_is_served() {
        let streams = Streams::default();
        for stream in (0..10_000).filter(|stream| *stream != 5) {
            assert!(streams.open(StreamId(stream)).is_some());
        }
        assert!(streams.open(StreamId(5)).is_some());
        assert!(streams.open(StreamId(5)).is_none(), "once");
    }

    #[test]
    fn the_relay_hears_the_same_of_a_stream_however_often_it_asks() {
        let mut state = State::default();
        let now = Instant::now();
        state.ended.note(now, StreamId(1));
        for _ in 0..2 {
            assert_eq!(state.missing(now, StreamId(1)), ResetCode::Socket);
            assert_eq!(state.missing(now, StreamId(2)), ResetCode::NoService);
        }
        // It has opened them anew.
        assert!(!state.is_new(StreamId(1)) && !state.is_new(StreamId(2)));
        assert!(state.is_new(StreamId(3)));
        let streams = Streams {
            state: Mutex::new(state),
            ..Streams::default()
        };
        streams.clear();
        let anew = streams.open(StreamId(1));
        assert!(anew.is_some(), "another process of the relay");
    }

    #[test]
    fn streams_are_remembered_for_as_long_as_they_may_be_asked_for_and_only_so_many() {
        let mut lately = Lately::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        lately.note(start, StreamId(0));
        for second in 1..=89 {
            lately.note(at(second), StreamId(second));
            assert!(lately.contains(StreamId(0)), "{second}");
        }
        for second in 90..200 {
            lately.note(at(second), StreamId(second));
        }
        assert!(!lately.contains(StreamId(0)));
        for stream in 0..4 * PART_MOST as u64 {
            lately.note(at(200), StreamId(stream));
        }
        let held: usize = lately.parts.iter().map(HashSet::len).sum();
        assert!(held <= 3 * PART_MOST, "{held}");
    }
}
