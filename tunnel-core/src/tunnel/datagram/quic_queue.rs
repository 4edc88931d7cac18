//! The send queue before QUIC's own.
//!
//! quinn's datagram buffer is a plain queue that drops its oldest entry silently. This one is fair among players, drops by age,
//! and counts what it drops; quinn is only given what its buffer has room for.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    metrics::Metrics,
    sync::lock,
    tunnel::datagram::{
        fair::{Fair, FairKey},
        limits::QueueLimits,
        meter::{self, GameMeter},
    },
};

/// The queue before QUIC's own: QUIC drops its oldest silently, so it is never given more than it has room for.
#[derive(Debug)]
pub(super) struct QuicQueue {
    connection: quinn::Connection,
    limits: QueueLimits,
    waiting: Mutex<Fair<Bytes>>,
    /// Whether anything waits, read without the lock: the usual case is that nothing does.
    is_waiting: AtomicBool,
    added: Notify,
    meter: Arc<GameMeter>,
    /// What QUIC has room for when nothing waits in it.
    room: usize,
    start: Instant,
    /// When it was last seen so, in µs since the start.
    empty: AtomicU64,
    /// Datagrams that QUIC has taken.
    sent: AtomicU64,
}

impl QuicQueue {
    /// A queue before a connection. The tasks that it takes end with the connection.
    pub(super) fn start(
        connection: quinn::Connection,
        limits: QueueLimits,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let queue = Arc::new(Self::new(connection, limits));
        tokio::spawn(drain(queue.clone(), metrics));
        let connection = queue.connection.clone();
        tokio::spawn(meter::declare(connection, queue.meter.clone()));
        queue
    }

    /// What is told of those who would feel a queue.
    pub(super) const fn meter(&self) -> &Arc<GameMeter> {
        &self.meter
    }

    pub(super) const fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    pub(super) fn new(connection: quinn::Connection, limits: QueueLimits) -> Self {
        Self {
            room: connection.datagram_send_buffer_space(),
            connection,
            limits,
            waiting: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            added: Notify::new(),
            meter: Arc::default(),
            start: Instant::now(),
            empty: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Datagrams that QUIC has taken, in all.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether all that was sent until `age` ago has left, for QUIC was seen empty since: it goes as fast as it is sent.
    pub(super) fn has_flowed(&self, now: Instant, age: Duration) -> bool {
        self.look(now);
        let empty = self.start + Duration::from_micros(self.empty.load(Ordering::Relaxed));
        now.saturating_duration_since(empty) < age
    }

    /// Sees whether QUIC is empty. To be called before what is to be protected is sent.
    pub(super) fn look(&self, now: Instant) {
        if !self.is_waiting.load(Ordering::Acquire)
            && self.connection.datagram_send_buffer_space() >= self.room
        {
            // Relaxed: it guards nothing, and a look that is missed costs a copy.
            let since = now.saturating_duration_since(self.start);
            self.empty
                .store(since.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Sends a datagram that nobody misses, if QUIC has room and nothing waits for it.
    pub(super) fn send_if_idle(&self, datagram: Bytes) -> bool {
        let length = datagram.len();
        let is_sent = self.is_idle(length) && self.connection.send_datagram(datagram).is_ok();
        if is_sent {
            self.sent.fetch_add(1, Ordering::Relaxed);
            self.meter.handle_sent(length);
        }
        is_sent
    }

    /// What was counted as sent since the last call.
    #[cfg(test)]
    pub(super) fn take_metered(&self) -> u64 {
        self.meter.take()
    }

    fn is_idle(&self, length: usize) -> bool {
        !self.is_waiting.load(Ordering::Acquire)
            && self.connection.datagram_send_buffer_space() >= length
    }

    pub(super) fn send(&self, whose: FairKey, datagram: Bytes, metrics: &Metrics) {
        if self.is_idle(datagram.len()) {
            self.send_now(datagram, metrics);
            return;
        }
        let mut waiting = lock(&self.waiting);
        let now = Instant::now();
        let dropped = waiting.push(now, whose, datagram, self.limits.quic);
        if !dropped.is_empty() {
            // Dropping is safe: datagrams are never retransmitted, and the oldest is worth least.
            metrics.drop_queue_full.add(dropped.len() as u64);
            self.meter.handle_drop();
        }
        self.is_waiting.store(true, Ordering::Release);
        drop(waiting);
        self.added.notify_one();
    }

    fn send_now(&self, datagram: Bytes, metrics: &Metrics) {
        self.meter.handle_sent(datagram.len());
        match self.connection.send_datagram(datagram) {
            Ok(()) => drop(self.sent.fetch_add(1, Ordering::Relaxed)),
            // The path's size fell between the look and the sending.
            Err(quinn::SendDatagramError::TooLarge) => metrics.drop_too_large.one(),
            Err(_) => metrics.drop_no_tunnel.one(),
        }
    }
}

/// Feeds what waits to QUIC as it makes room, and drops what has grown too old.
async fn drain(queue: Arc<QuicQueue>, metrics: Arc<Metrics>) {
    let mut moved = Instant::now();
    loop {
        tokio::select! {
            () = queue.added.notified() => {}
            _ = queue.connection.closed() => return,
        }
        loop {
            let next = {
                let mut waiting = lock(&queue.waiting);
                let next = waiting.pop();
                if next.is_none() {
                    queue.is_waiting.store(false, Ordering::Release);
                }
                next
            };
            let Some(waited) = next else { break };
            let now = Instant::now();
            let Some(left) = waited.left(now, moved, queue.limits.age) else {
                metrics.drop_too_old.one();
                queue.meter.handle_drop();
                continue;
            };
            let datagram = waited.item;
            if queue.connection.datagram_send_buffer_space() >= datagram.len() {
                // Without a timer for each, or a queue would be emptied more slowly than it is filled.
                queue.send_now(datagram, &metrics);
                moved = now;
                continue;
            }
            let length = datagram.len();
            let sent = tokio::time::timeout(left, queue.connection.send_datagram_wait(datagram));
            match sent.await {
                Ok(Ok(())) => {
                    queue.sent.fetch_add(1, Ordering::Relaxed);
                    queue.meter.handle_sent(length);
                    moved = Instant::now();
                }
                Ok(Err(quinn::SendDatagramError::TooLarge)) => metrics.drop_too_large.one(),
                Ok(Err(_)) => return,
                Err(_) => {
                    metrics.drop_too_old.one();
                    queue.meter.handle_drop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::handshake::Suite,
        transport::quic::{congestion, tests::pair},
    };

    #[tokio::test]
    async fn what_quic_never_took_is_not_counted_as_sent() {
        let (connection, _, _peer, _endpoints) = pair(Suite::Aes256Gcm).await;
        let limits = QueueLimits {
            age: Duration::from_millis(20),
            ..QueueLimits::default()
        };
        let queue = Arc::new(QuicQueue::new(connection.clone(), limits));
        let metrics = Arc::<Metrics>::default();
        let drains = tokio::spawn(drain(queue.clone(), metrics.clone()));
        congestion::choke(&connection, true);
        for _ in 0..100 {
            queue.send(
                FairKey::flow(1, 1),
                Bytes::from_static(&[7; 1_000]),
                &metrics,
            );
        }
        let emptied = async {
            while queue.is_waiting.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let hang = Duration::from_secs(30);
        tokio::time::timeout(hang, emptied).await.unwrap();
        let dropped = metrics.snapshot().drop_too_old;
        assert!(dropped > 0);
        let sent = queue.take_metered();
        assert_eq!(sent, (100 - dropped) * (1_000 + meter::OVERHEAD as u64));
        drains.abort();
    }
}
