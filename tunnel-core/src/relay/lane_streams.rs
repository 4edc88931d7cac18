//! Which streams run on lanes.
//!
//! A client can notice before the relay that a lane is dead. It names the streams that it has lost, and each of them is notified.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use crate::{
    key::PublicKey,
    metrics::{Gauge, Metrics},
    proto::stream::frame::StreamId,
    sync::lock,
};

/// The streams that run on lanes, by client and stream id.
#[derive(Debug, Default)]
pub(crate) struct LaneStreams(Mutex<HashMap<(PublicKey, StreamId), Arc<Notify>>>);

impl LaneStreams {
    /// Notifies streams whose lanes lead nowhere, as the client has reported.
    pub(crate) fn handle_lost(&self, client: PublicKey, streams: &[StreamId]) {
        let on_lanes = lock(&self.0);
        for stream in streams {
            if let Some(lost) = on_lanes.get(&(client, *stream)) {
                lost.notify_one();
            }
        }
    }
}

/// A stream's entry, for as long as it runs on a lane.
#[derive(Debug)]
pub(crate) struct OnLane {
    lost: Arc<Notify>,
    name: (PublicKey, StreamId),
    streams: Arc<LaneStreams>,
    _counted: Gauge,
}

impl OnLane {
    pub(crate) fn new(
        streams: &Arc<LaneStreams>,
        metrics: &Arc<Metrics>,
        client: PublicKey,
        stream: StreamId,
    ) -> Self {
        let (lost, name) = (Arc::<Notify>::default(), (client, stream));
        lock(&streams.0).insert(name, lost.clone());
        Self {
            lost,
            name,
            streams: streams.clone(),
            _counted: Gauge::new(metrics, |m| &m.streams_on_lanes),
        }
    }

    /// Completes when the client has reported that the lane leads nowhere.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for OnLane {
    fn drop(&mut self) {
        let mut on_lanes = lock(&self.streams.0);
        // A stream that went from one lane to another has a new entry already.
        if (on_lanes.get(&self.name)).is_some_and(|lost| Arc::ptr_eq(lost, &self.lost)) {
            on_lanes.remove(&self.name);
        }
    }
}
