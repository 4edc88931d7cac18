//! Datagrams into the tunnel: fragmented to what the path carries, dropped by age rather than queued.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use crate::{
    instance::Redundancy,
    metrics::Metrics,
    proto::{
        datagram::{DatagramHead, FragmentHead},
        fragment::{self, Fragments},
        handshake::Capabilities,
        redundancy::protected_room,
    },
    sync::lock,
    transport::blocks::make_room,
    tunnel::datagram::{
        fair::{Fair, Whose},
        meter::{self, Meter},
        protection::{PathTo, Protection},
    },
};

/// The way datagrams leave: QUIC's datagrams where there is QUIC, else the tunnel's lanes.
#[derive(Debug)]
pub(crate) struct DatagramSender {
    way: Way,
    /// Redundancy: over QUIC alone, for a lane loses nothing, and only with a peer that knows it.
    protection: Option<Arc<Protection>>,
    metrics: Arc<Metrics>,
    next_packet: AtomicU16,
}

#[derive(Debug)]
enum Way {
    Quic(Arc<QuicQueue>),
    Lanes(Arc<LaneQueues>),
}

impl DatagramSender {
    /// Datagrams go over QUIC, to a peer that can do so much. The tasks that it takes end with the connection.
    pub(crate) fn quic(
        connection: quinn::Connection,
        metrics: Arc<Metrics>,
        limits: QueueLimits,
        capabilities: Capabilities,
        path: PathTo,
    ) -> Self {
        let queue = Arc::new(QuicQueue::new(connection, limits));
        tokio::spawn(drain(queue.clone(), metrics.clone()));
        let connection = queue.connection.clone();
        tokio::spawn(meter::declare(connection, queue.meter.clone()));
        let protection = capabilities
            .contains(Capabilities::REDUNDANCY)
            .then(|| Protection::start(queue.clone(), metrics.clone(), path));
        Self {
            way: Way::Quic(queue),
            protection,
            metrics,
            next_packet: AtomicU16::new(0),
        }
    }

    /// What is told of those who would feel a queue, where QUIC's congestion control can do something about it.
    pub(crate) fn meter(&self) -> Option<Arc<Meter>> {
        match &self.way {
            Way::Quic(queue) => Some(queue.meter.clone()),
            Way::Lanes(_) => None,
        }
    }

    /// What protects its datagrams, over QUIC.
    pub(crate) fn protection(&self) -> Option<Arc<Protection>> {
        self.protection.clone()
    }

    /// Datagrams go over lanes, which are added as they open.
    pub(crate) fn lanes(lanes: Arc<LaneQueues>, metrics: Arc<Metrics>) -> Self {
        Self {
            way: Way::Lanes(lanes),
            protection: None,
            metrics,
            next_packet: AtomicU16::new(0),
        }
    }

    /// Sends one datagram, or counts why not. Never waits.
    ///
    /// `whose` it is decides its turn, if it has to wait. `head` goes before the payload; `scratch` is a buffer that the
    /// caller keeps, so that a packet costs no allocation of its own.
    pub(crate) fn send(
        &self,
        whose: Whose,
        head: DatagramHead,
        payload: &[u8],
        scratch: &mut BytesMut,
    ) {
        self.cut(self.room(), fragment::split, head, payload, |head, part| {
            self.send_one(whose, head, part, scratch);
        });
    }

    /// Sends one datagram, protected as its service wishes; counts why not. Never waits.
    pub(crate) fn send_protected(
        &self,
        whose: Whose,
        head: DatagramHead,
        payload: &[u8],
        redundancy: Redundancy,
        scratch: &mut BytesMut,
    ) {
        let Some(protection) = &self.protection else {
            return self.send(whose, head, payload, scratch);
        };
        let room = self.room();
        if let Some(scheme) = protection.scheme(redundancy, payload.len()) {
            let room = protected_room(scheme, room);
            // Each fragment has a number of its own: what is cut in two is not lost twice.
            return self.cut(room, fragment::split, head, payload, |head, part| {
                protection.send(whose, head, scheme, part, scratch);
            });
        }
        let split = |length, room| {
            fragment::split_rest(length, room).or_else(|| fragment::split(length, room))
        };
        self.cut(room, split, head, payload, |head, part| {
            // The short rest of what does not quite fit would double the loss of the whole: it is worth a copy.
            let is_rest = head
                .fragment
                .is_some_and(|it| it.count == 2 && it.index == 1)
                && part.len() <= payload.len() / fragment::REST_SHARE;
            let scheme = is_rest.then(|| protection.scheme(Redundancy::Adaptive, part.len()));
            match scheme.flatten() {
                Some(scheme) => protection.send(whose, head, scheme, part, scratch),
                None => self.send_one(whose, head, part, scratch),
            }
        });
    }

    /// Hands on a datagram of which the way carries so many bytes at once, in pieces where it has to; counts what no cut
    /// carries.
    fn cut(
        &self,
        room: usize,
        split: impl FnOnce(usize, usize) -> Option<Fragments>,
        mut head: DatagramHead,
        payload: &[u8],
        mut send: impl FnMut(DatagramHead, &[u8]),
    ) {
        if head.encoded_len() + payload.len() <= room {
            return send(head, payload);
        }
        let pieces = room
            .checked_sub(head.encoded_len() + FragmentHead::LEN)
            .and_then(|room| split(payload.len(), room));
        let Some(pieces) = pieces else {
            self.metrics.drop_too_large.one();
            return;
        };
        let packet = self.next_packet.fetch_add(1, Ordering::Relaxed);
        let count = pieces.parts();
        for (index, range) in pieces.enumerate() {
            head.fragment = Some(FragmentHead {
                packet,
                index: index as u8,
                count,
            });
            send(head, &payload[range]);
        }
    }

    fn room(&self) -> usize {
        match &self.way {
            Way::Quic(queue) => queue.connection.max_datagram_size().unwrap_or(0),
            Way::Lanes(_) => LANE_DATAGRAM_MAX,
        }
    }

    fn send_one(&self, whose: Whose, head: DatagramHead, payload: &[u8], scratch: &mut BytesMut) {
        let length = head.encoded_len() + payload.len();
        make_room(scratch, length);
        head.encode(scratch);
        scratch.put_slice(payload);
        let datagram = scratch.split().freeze();
        match &self.way {
            Way::Quic(queue) => queue.send(whose, datagram, &self.metrics),
            Way::Lanes(lanes) => lanes.send(whose, head.flow.0, datagram, &self.metrics),
        }
    }
}

/// The queue before QUIC's own: QUIC drops its oldest silently, so it is never given more than it has room for.
#[derive(Debug)]
pub(super) struct QuicQueue {
    connection: quinn::Connection,
    limits: QueueLimits,
    waiting: Mutex<Fair<Bytes>>,
    /// Whether anything waits, read without the lock: the usual case is that nothing does.
    is_waiting: AtomicBool,
    added: Notify,
    meter: Arc<Meter>,
    /// What QUIC has room for when nothing waits in it.
    room: usize,
    start: Instant,
    /// When it was last seen so, in µs since the start.
    empty: AtomicU64,
    /// Datagrams that QUIC has taken.
    sent: AtomicU64,
}

impl QuicQueue {
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

    pub(super) fn send(&self, whose: Whose, datagram: Bytes, metrics: &Metrics) {
        if self.is_idle(datagram.len()) {
            self.send_now(datagram, metrics);
            return;
        }
        let mut waiting = lock(&self.waiting);
        let now = Instant::now();
        if (waiting.push(now, whose, datagram, self.limits.quic)).is_some() {
            // Dropping is safe: datagrams are never retransmitted, and the oldest is worth least.
            metrics.drop_queue_full.one();
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

    fn send(&self, whose: Whose, flow: u64, datagram: Bytes, metrics: &Metrics) {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|lane| !lane.has_ended.load(Ordering::Relaxed));
        let Some(place) = flow.checked_rem(lanes.len() as u64) else {
            metrics.drop_no_tunnel.one();
            return;
        };
        let lane = &lanes[place as usize];
        let now = Instant::now();
        let dropped = lock(&lane.datagrams).push(now, whose, datagram, self.limits.lane);
        if dropped.is_some() {
            // Dropping is safe: datagrams are never retransmitted, and the oldest is worth least.
            metrics.drop_queue_full.one();
        }
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

/// How many datagrams may wait for the tunnel, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Age at which a datagram that waits is dropped.
    pub(crate) age: Duration,
    /// Datagrams that wait for QUIC at most.
    pub(crate) quic: usize,
    /// Datagrams that wait for one lane at most.
    pub(crate) lane: usize,
}

impl Default for QueueLimits {
    /// See [`RelayLimits`](crate::relay::RelayLimits) for the reasons.
    fn default() -> Self {
        Self {
            age: Duration::from_millis(100),
            quic: 4096,
            lane: 1024,
        }
    }
}

/// Largest datagram on a lane: a record's body with room for the head.
const LANE_DATAGRAM_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::handshake::Suite,
        transport::quic::{congestion, tests::pair},
    };

    fn whose() -> Whose {
        Whose::flow(1, 1)
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
            queue.send(whose(), Bytes::from_static(&[7; 1_000]), &metrics);
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
