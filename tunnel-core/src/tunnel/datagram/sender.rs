//! Datagrams into the tunnel: fragmented to what the path carries, dropped by age rather than queued.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::{BufMut, BytesMut};

use crate::{
    instance::Redundancy,
    metrics::Metrics,
    proto::{
        datagram::{DatagramHead, FragmentHead},
        fragment::{self, Fragments},
        handshake::Capabilities,
        redundancy::protected_room,
    },
    transport::blocks::make_room,
    tunnel::datagram::{
        fair::FairKey,
        lane_queues::LaneQueues,
        limits::QueueLimits,
        meter::GameMeter,
        protection::{PathTo, Protection},
        quic_queue::QuicQueue,
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
        let queue = QuicQueue::start(connection, limits, metrics.clone());
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
    pub(crate) fn meter(&self) -> Option<Arc<GameMeter>> {
        match &self.way {
            Way::Quic(queue) => Some(queue.meter().clone()),
            Way::Lanes(_) => None,
        }
    }

    /// What protects its datagrams, over QUIC.
    pub(crate) fn protection(&self) -> Option<Arc<Protection>> {
        self.protection.clone()
    }

    /// The other side has shown that it is at this address.
    pub(crate) fn handle_moved(&self, to: IpAddr) {
        if let Some(protection) = &self.protection {
            protection.handle_moved(to);
        }
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
        whose: FairKey,
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
        whose: FairKey,
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

    /// Hands on a datagram of which the way carries `room` bytes at once, in pieces where it has to; counts what no cut
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
            Way::Quic(queue) => queue.connection().max_datagram_size().unwrap_or(0),
            Way::Lanes(_) => LANE_DATAGRAM_MAX,
        }
    }

    fn send_one(&self, whose: FairKey, head: DatagramHead, payload: &[u8], scratch: &mut BytesMut) {
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

/// Largest datagram on a lane: a record's body with room for the head.
const LANE_DATAGRAM_MAX: usize = 16 * 1024;
