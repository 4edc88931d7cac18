//! Public UDP ports: receives players' datagrams in batches, sends them into the tunnel, and removes idle flows.

use std::{cell::RefCell, io::IoSliceMut, net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::io::Interest;

use crate::{
    proto::{
        datagram::{DatagramHead, FlowOpen},
        flow::FlowKey,
    },
    relay::ingress::{
        service::{Route, pause},
        shard::{PacketDrop, PublicSocket, UdpShard},
    },
    socket::canonical,
    sync::lock,
    tunnel::{datagram::FairKey, fault, futures::sleep_until, supervise::supervise},
};

impl UdpShard {
    /// Starts the tasks that receive on every port and remove idle flows, until the service is cancelled.
    pub(crate) async fn start(self: &Arc<Self>) {
        let name = &self.service.binding;
        let (reporter, cancelled) = (self.shared.reporter(), &self.service.cancelled);
        for index in 0..self.sockets.len() {
            pause(index).await;
            let shard = self.clone();
            let task = format!("UDP of {name}");
            supervise(reporter.clone(), cancelled.clone(), task, move || {
                shard.clone().serve(index)
            });
        }
        let shard = self.clone();
        let task = format!("flow expiry of {name}");
        supervise(reporter, cancelled.clone(), task, move || {
            shard.clone().expire()
        });
    }

    /// Receives on one port, in batches, for as long as the service lives.
    async fn serve(self: Arc<Self>, index: usize) {
        let Some(socket) = self.sockets.get(index) else {
            return;
        };
        loop {
            if socket.io.readable().await.is_err() {
                return;
            }
            RECEIVE.with_borrow_mut(|buffers| self.receive(index, socket, buffers));
            // A flood must not keep the thread from everybody else.
            tokio::task::consume_budget().await;
        }
    }

    /// Receives one batch and sends it into the tunnel.
    fn receive(
        self: &Arc<Self>,
        index: usize,
        socket: &PublicSocket,
        (buffers, scratch): &mut (Box<[u8]>, BytesMut),
    ) {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let received = socket.io.try_io(Interest::READABLE, || {
            let mut chunks = buffers.chunks_exact_mut(RECEIVE_MAX);
            let mut slices: [_; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            (socket.state).recv((&socket.io).into(), &mut slices, &mut meta)
        });
        fault!("receiving on {}", self.service.binding.public);
        let Ok(received) = received else {
            // An ICMP error of an earlier answer, or nothing there after all.
            return;
        };
        let route = self.service.route();
        let now = Instant::now();
        let buffers = buffers.chunks_exact(RECEIVE_MAX);
        for (meta, buffer) in meta.iter().zip(buffers).take(received) {
            let stride = meta.stride.max(1);
            for payload in buffer.get(..meta.len).unwrap_or_default().chunks(stride) {
                self.handle_player(now, index, meta, payload, route.as_deref(), scratch);
            }
            if meta.len == 0 {
                // An empty datagram is a datagram, too.
                self.handle_player(now, index, meta, &[], route.as_deref(), scratch);
            }
        }
    }

    fn handle_player(
        self: &Arc<Self>,
        now: Instant,
        index: usize,
        meta: &RecvMeta,
        payload: &[u8],
        route: Option<&Route>,
        scratch: &mut BytesMut,
    ) {
        let metrics = &self.shared.metrics;
        let Some(route) = route else {
            metrics.drop_no_tunnel.one();
            return;
        };
        let player = canonical(meta.addr);
        let local = meta
            .dst_ip
            .unwrap_or(self.shared.config.public_bind)
            .to_canonical();
        let key = FlowKey::new(player, local, index as u16);
        let mut rounds = 0;
        let (_order, (id, answered)) = loop {
            let order = lock(&self.order);
            let full = match self.pass(now, key, payload.len(), route) {
                Ok(passed) => break (order, passed),
                Err(PacketDrop::Full(full)) => full,
                Err(refusal) => return refusal.count(metrics),
            };
            // Released first: two shards that make room in each other would deadlock.
            drop(order);
            rounds += 1;
            let has_room = rounds <= ROUNDS && self.make_room(now, full, &key, scratch);
            self.tell(now, full, &key, route, has_room);
            if !has_room {
                return PacketDrop::Full(full).count(metrics);
            }
        };
        let mut head = DatagramHead::data(id);
        if !answered {
            head.open = Some(FlowOpen {
                service: route.service.id,
                port_index: index as u16,
                player,
                local: (route.service.tells_local).then(|| {
                    SocketAddr::new(local, self.service.binding.public.first() + index as u16)
                }),
            });
        }
        metrics.datagrams_in.one();
        metrics.datagram_bytes_in.add(payload.len() as u64);
        let whose = FairKey::address(self.service.binding.public.first(), player.ip());
        let redundancy = route.service.redundancy;
        (route.tunnel.datagrams).send_protected(whose, head, payload, redundancy, scratch);
    }

    /// Removes flows that are idle for too long, and applies the limits of the last declaration.
    async fn expire(self: Arc<Self>) {
        let mut route = self.service.route.subscribe();
        loop {
            if let Some(route) = &*route.borrow_and_update() {
                lock(&self.flows).table.set_limits(route.service.flows);
            }
            let due = lock(&self.flows).table.poll_timeout();
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.created.notified() => continue,
                // Never an error: the sender belongs to the service, which this shard keeps.
                _ = route.changed() => continue,
            }
            let now = Instant::now();
            let mut flows = lock(&self.flows);
            while let Some(expired) = flows.table.poll_expired(now) {
                self.forgotten(&mut flows, expired.id);
                if let Some(route) = self.service.route() {
                    RECEIVE.with_borrow_mut(|(_, scratch)| route.send_close(&expired, scratch));
                }
            }
        }
    }
}

thread_local! {
    /// Buffers for receiving a batch and for encoding, one pair for each thread. Pages that no datagram has reached take no memory.
    static RECEIVE: RefCell<(Box<[u8]>, BytesMut)> =
        RefCell::new((vec![0; BATCH_SIZE * RECEIVE_MAX].into(), BytesMut::new()));
}

/// How often room is made for one new flow. Each limit may need it, and new flows of other shards may take the room that was made.
/// 16: a packet that loses more often is one of a flood.
const ROUNDS: u32 = 16;
/// Largest datagram that is received whole: the largest that UDP has, which is also what GRO hands over at most.
const RECEIVE_MAX: usize = 65_536;
