//! Takes in the lanes that a client opens beside its first connection.
//!
//! A lane waits in its tunnel's pool until a stream takes it. Where the tunnel has no QUIC, the client may offer a lane for datagrams
//! instead.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    metrics::Gauge,
    proto::record::RecordType,
    relay::{ingress::replies::Replies, shared::Shared, tunnel::RelayTunnel},
    tunnel::{
        datagram::DatagramHandler,
        lane::{Lane, Watched, carry, probe},
    },
};

impl Shared {
    /// Adds a lane that was opened to its tunnel. Drops it if the tunnel has as many lanes as it may.
    pub(crate) fn add_lane(self: &Arc<Self>, tunnel: Arc<RelayTunnel>, mut lane: Lane) {
        let Ok(permit) = tunnel.pool.permits.clone().try_acquire_owned() else {
            self.metrics.lanes_refused.one();
            return;
        };
        let counted = Gauge::new(&self.metrics, |m| &m.lanes);
        lane.reader.hold((permit, counted));
        tunnel.pool.watch.add(&lane);
        self.keep_lane(tunnel, lane);
    }

    /// Puts a lane into its tunnel's pool, until a stream takes it, the client offers it for datagrams, or it ends.
    pub(crate) fn keep_lane(self: &Arc<Self>, tunnel: Arc<RelayTunnel>, lane: Lane) {
        let shared = self.clone();
        tokio::spawn(async move {
            let mut path = tunnel.path.subscribe();
            let watched = tokio::select! {
                watched = tunnel.pool.idle.watch(lane, tunnel.pool.watch.doubts()) => watched,
                _ = path.changed() => return,
                () = tunnel.retired.cancelled() => return,
                () = tunnel.closed.cancelled() => return,
            };
            if let Watched::Datagrams(lane, first) = watched {
                shared.carry_datagrams(&tunnel, lane, first).await;
            }
        });
    }

    /// Carries datagrams on a lane that the client offers for it.
    async fn carry_datagrams(&self, tunnel: &RelayTunnel, mut lane: Lane, first: Bytes) {
        let Ok(_permit) = tunnel.pool.datagram_permits.clone().try_acquire_owned() else {
            self.metrics.lanes_refused.one();
            return;
        };
        let agreed = (lane.writer)
            .write_frame(RecordType::Datagram, &probe())
            .await;
        if agreed.is_err() {
            return;
        }
        let mut replies = Replies::new(tunnel, self.reporter());
        replies.handle(first);
        let queue = tunnel.queues.add(self.metrics.clone());
        tokio::select! {
            _ = carry(lane, None, queue, &mut replies) => {}
            () = tunnel.closed.cancelled() => {}
        }
    }
}
