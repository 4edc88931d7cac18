//! The send queues of the lanes that carry datagrams, in a tunnel without QUIC. Each flow keeps to one lane.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    metrics::Metrics,
    sync::lock,
    tunnel::datagram::{
        fair::{Fair, FairKey},
        limits::QueueLimits,
    },
};

/// Queues of the lanes that carry datagrams. A flow keeps to one lane, so that a lost segment stalls only its share.
#[derive(Debug)]
pub(crate) struct LaneQueues {
    limits: QueueLimits,
    lanes: Mutex<Vec<Arc<Waiting>>>,
}

/// What one lane is to send.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    limits: QueueLimits,
    waiting: Arc<Waiting>,
    metrics: Arc<Metrics>,
    /// When it last gave one away.
    moved: Instant,
}

/// What waits for one lane.
#[derive(Debug, Default)]
struct Waiting {
    datagrams: Mutex<Fair<Bytes>>,
    added: Notify,
    /// Nobody sends any more, or the lane has ended.
    has_ended: AtomicBool,
}

impl LaneQueues {
    /// No lane takes part yet.
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: Mutex::default(),
        }
    }

    /// A lane takes part from now on.
    pub(crate) fn add(&self, metrics: Arc<Metrics>) -> LaneQueue {
        let waiting = Arc::<Waiting>::default();
        lock(&self.lanes).push(waiting.clone());
        LaneQueue {
            limits: self.limits,
            waiting,
            metrics,
            moved: Instant::now(),
        }
    }

    pub(super) fn send(&self, whose: FairKey, flow: u64, datagram: Bytes, metrics: &Metrics) {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|lane| !lane.has_ended.load(Ordering::Relaxed));
        let Some(place) = flow.checked_rem(lanes.len() as u64) else {
            metrics.drop_no_tunnel.one();
            return;
        };
        let lane = &lanes[place as usize];
        let now = Instant::now();
        let dropped = lock(&lane.datagrams).push(now, whose, datagram, self.limits.lane);
        // Dropping is safe: datagrams are never retransmitted, and the oldest is worth least.
        metrics.drop_queue_full.add(dropped.len() as u64);
        lane.added.notify_one();
    }
}

impl Drop for LaneQueues {
    fn drop(&mut self) {
        for lane in lock(&self.lanes).drain(..) {
            lane.has_ended.store(true, Ordering::Relaxed);
            lane.added.notify_one();
        }
    }
}

impl LaneQueue {
    /// The next datagram that is still of use. `None` when nobody will send any more. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let next = lock(&self.waiting.datagrams).pop();
            let Some(waited) = next else {
                if self.waiting.has_ended.load(Ordering::Relaxed) {
                    return None;
                }
                self.waiting.added.notified().await;
                continue;
            };
            let now = Instant::now();
            if waited.left(now, self.moved, self.limits.age).is_some() {
                self.moved = now;
                return Some(waited.item);
            }
            // Dropping is safe: datagrams are never retransmitted.
            self.metrics.drop_too_old.one();
        }
    }
}

impl Drop for LaneQueue {
    fn drop(&mut self) {
        self.waiting.has_ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn whose() -> FairKey {
        FairKey::flow(1, 1)
    }

    #[tokio::test]
    async fn what_waited_too_long_for_a_lane_is_dropped_and_counted() {
        let metrics = Arc::new(Metrics::default());
        let limits = QueueLimits {
            age: Duration::from_millis(300),
            ..QueueLimits::default()
        };
        let queues = LaneQueues::new(limits);
        let mut queue = queues.add(metrics.clone());
        let old = Instant::now() - Duration::from_millis(301);
        queue.moved = old;
        let datagram = Bytes::from_static(b"old");
        lock(&queue.waiting.datagrams).push(old, whose(), datagram, limits.lane);
        queues.send(whose(), 1, Bytes::from_static(b"new"), &metrics);
        assert_eq!(queue.next().await, Some(Bytes::from_static(b"new")));
        assert_eq!(metrics.snapshot().drop_too_old, 1);
    }

    #[test]
    fn a_lane_that_does_not_move_bounds_its_queue_and_counts() {
        let metrics = Arc::new(Metrics::default());
        let limits = QueueLimits {
            lane: 7,
            ..QueueLimits::default()
        };
        let queues = LaneQueues::new(limits);
        let queue = queues.add(metrics.clone());
        for _ in 0..7 + 5 {
            queues.send(whose(), 1, Bytes::from_static(b"datagram"), &metrics);
        }
        assert_eq!(metrics.snapshot().drop_queue_full, 5);
        drop(queue);
        queues.send(whose(), 1, Bytes::from_static(b"datagram"), &metrics);
        assert_eq!(metrics.snapshot().drop_no_tunnel, 1);
    }
}
