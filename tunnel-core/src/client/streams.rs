//! The streams of a client, so that the relay can continue them on other channels.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use crate::{
    client::{mailbox::Mailbox, tunnel::ClientTunnel},
    proto::stream::frame::{ResetCode, StreamId},
    sync::lock,
    tunnel::stream::Channel,
};

/// Every stream of the relay's process, whichever tunnel it is on.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    /// Wakes the client's main task: a stream has lost its lane.
    lost: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<StreamId, Arc<Attaches>>,
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

/// Where a stream finds the channels that the relay continues it on.
pub(crate) type Attaches = Mailbox<Box<Attach>>;

/// The relay continues a stream on this channel.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) tunnel: Arc<ClientTunnel>,
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
    pub(crate) fn open(&self, stream: StreamId) -> Option<Arc<Attaches>> {
        let mut state = lock(&self.state);
        let mailbox = state.is_new(stream).then(mailbox)?;
        state.running.insert(stream, mailbox.clone());
        Some(mailbox)
    }

    /// A stream has ended that was opened here.
    pub(crate) fn end(&self, stream: StreamId) {
        let mut state = lock(&self.state);
        state.running.remove(&stream);
        state.ended.note(Instant::now(), stream);
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
    pub(crate) fn handle_lost(&self, stream: StreamId) {
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
        for mailbox in state.running.into_values() {
            mailbox.close();
        }
    }
}

/// An empty mailbox for one stream.
pub(crate) fn mailbox() -> Arc<Attaches> {
    Arc::new(Mailbox::new(ATTACHES))
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
