//! The streams of a service: who is connected, since when, and how much has passed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{metrics::Traffic, sync::lock};

/// A player's stream or flow, by a number that is unique in the relay's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlayerId {
    /// A TCP connection.
    Stream(u64),
    /// A UDP conversation.
    Flow(u64),
}

/// The streams of one service.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    live: Mutex<BTreeMap<u64, Arc<LiveStream>>>,
    /// Bytes of those that have ended.
    ended: Traffic,
}

/// A player's stream.
#[derive(Debug)]
pub(crate) struct LiveStream {
    /// Unique in the relay's process.
    pub(crate) id: u64,
    pub(crate) player: SocketAddr,
    /// The public address that the player has connected to.
    pub(crate) local: SocketAddr,
    pub(crate) began: Instant,
    pub(crate) traffic: Arc<Traffic>,
    /// Ends it with a reset.
    pub(crate) cancelled: CancellationToken,
}

/// A stream's entry, for as long as the stream lives.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    streams: &'a Streams,
    pub(crate) stream: Arc<LiveStream>,
}

impl Streams {
    pub(crate) fn enter(&self, stream: LiveStream) -> Entered<'_> {
        let stream = Arc::new(stream);
        lock(&self.live).insert(stream.id, stream.clone());
        Entered {
            streams: self,
            stream,
        }
    }

    /// Who is connected now, in the order in which they came.
    pub(crate) fn list(&self) -> Vec<Arc<LiveStream>> {
        lock(&self.live).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<LiveStream>> {
        lock(&self.live).get(&id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.live).len()
    }

    /// Bytes from players and to them, of all streams that there ever were.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let live = lock(&self.live);
        let of = |traffic: &Traffic| (traffic.read.get(), traffic.written.get());
        (live.values().map(|stream| of(&stream.traffic)))
            .fold(of(&self.ended), |(a, b), (c, d)| (a + c, b + d))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let traffic = &self.stream.traffic;
        let mut live = lock(&self.streams.live);
        live.remove(&self.stream.id);
        self.streams.ended.read.add(traffic.read.get());
        self.streams.ended.written.add(traffic.written.get());
    }
}
