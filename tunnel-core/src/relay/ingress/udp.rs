//! Public UDP ports: players' datagrams into the tunnel, and the answers back from the address they wrote to.

pub(crate) mod directory;
pub(crate) mod replies;
mod room;

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use self::directory::Directory;
use crate::{
    instance::FlowLimits,
    metrics::{Level, Metrics},
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, Kind},
        flow::{Flow, FlowDrop, FlowKey, FlowTable},
        handshake::ProcessId,
    },
    relay::{
        Shared,
        ingress::{Opened, PublicService, Route, pause},
    },
    socket::{self, canonical},
    sync::lock,
    tunnel::{datagram::Whose, fault, futures::sleep_until, supervise::supervise},
};

/// A shard of one service: a socket for each of its UDP ports, and the flows that come in there. The system sees to it
/// that a player's packets always come to the same one, so shards share nothing for a packet of a known flow.
#[derive(Debug)]
pub(crate) struct UdpService {
    shared: Arc<Shared>,
    service: Arc<PublicService>,
    sockets: Vec<PublicSocket>,
    flows: Mutex<Flows>,
    /// Held from a packet's look-up until it is sent: another shard that closes a flow must not overtake its opening.
    order: Mutex<()>,
    /// Where the answers to this client's flows are looked up.
    directory: Arc<Directory>,
    /// Wakes the expiry: a flow came, and one never answered ends soon.
    created: tokio::sync::Notify,
    /// Behind the sockets: dropped when they are closed.
    _open: Arc<Opened>,
}

#[derive(Debug)]
struct Flows {
    table: FlowTable,
    /// How many there are; whatever ends the service ends the count.
    counted: Level,
    /// Which process of the client knows the flows.
    process: Option<ProcessId>,
    /// The service is gone: a flow that came now would never be forgotten.
    has_ended: bool,
}

impl Flows {
    /// A client's new process knows none of the flows that the one before it did.
    fn open_again_for(&mut self, now: Instant, process: ProcessId) {
        if self.process.replace(process) != Some(process) {
            self.table.handle_client_changed(now);
        }
    }

    fn count(&mut self) {
        self.counted.set(self.table.len() as u64);
    }
}

#[derive(Debug)]
struct PublicSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl UdpService {
    pub(crate) fn new(
        shared: Arc<Shared>,
        service: Arc<PublicService>,
        sockets: Vec<std::net::UdpSocket>,
        limits: FlowLimits,
        open: Arc<Opened>,
    ) -> io::Result<Self> {
        let directory = shared.directory(service.owner);
        let unanswered = shared.config.limits.unanswered_flow_time;
        let is_v6 = shared.config.public_bind.is_ipv6();
        let sockets = sockets.into_iter().map(|socket| {
            let state = UdpSocketState::new((&socket).into())?;
            socket::allow_fragments(&socket, is_v6)?;
            Ok(PublicSocket {
                io: UdpSocket::from_std(socket)?,
                state,
            })
        });
        let table = FlowTable::sharing(limits, service.flows.clone());
        let counted = Level::new(&shared.metrics, |m| &m.flows);
        Ok(Self {
            shared,
            service,
            sockets: sockets.collect::<io::Result<_>>()?,
            flows: Mutex::new(Flows {
                table: table.with_unanswered(unanswered),
                counted,
                process: None,
                has_ended: false,
            }),
            order: Mutex::default(),
            directory,
            created: tokio::sync::Notify::new(),
            _open: open,
        })
    }

    /// Serves every port, and forgets flows, until the service is cancelled.
    pub(crate) async fn start(self: &Arc<Self>, name: &str) {
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
            let full = match self.pass(now, key, route) {
                Ok(passed) => break (order, passed),
                Err(Refusal::Full(full)) => full,
                Err(refusal) => return refusal.count(metrics),
            };
            // Or two shards would wait for each other.
            drop(order);
            rounds += 1;
            let has_room = rounds <= ROUNDS && self.make_room(now, full, &key, scratch);
            self.tell(now, full, &key, route, has_room);
            if !has_room {
                return Refusal::Full(full).count(metrics);
            }
        };
        let mut head = DatagramHead::data(id);
        if !answered {
            head.open = Some(FlowOpen {
                service: route.service.id,
                port_index: index as u16,
                player,
            });
        }
        metrics.datagrams_in.one();
        metrics.datagram_bytes_in.add(payload.len() as u64);
        let whose = Whose::address(self.service.binding.public.first(), player.ip());
        let redundancy = route.service.redundancy;
        (route.tunnel.datagrams).send_protected(whose, head, payload, redundancy, scratch);
    }

    /// The flow of a player's packet, made if it is not there and players are taken: its id, and whether the client knows
    /// it.
    fn pass(
        self: &Arc<Self>,
        now: Instant,
        key: FlowKey,
        route: &Route,
    ) -> Result<(FlowId, bool), Refusal> {
        let mut flows = lock(&self.flows);
        if flows.has_ended {
            return Err(Refusal::Ended);
        }
        flows.open_again_for(now, route.tunnel.process);
        if !route.takes_players(&self.shared) {
            let known = flows.table.handle_known_packet(now, &key);
            let flow = known.ok_or(Refusal::Draining)?;
            return Ok((flow.id, flow.open_acknowledged));
        }
        let allocate = || FlowId(self.shared.next_flow());
        let admitted = (flows.table).handle_player_packet(now, key, allocate);
        let admitted = admitted.map_err(Refusal::Full)?;
        let (id, answered) = (admitted.flow.id, admitted.flow.open_acknowledged);
        if admitted.created {
            self.shared.metrics.flows_opened.one();
            flows.count();
            self.directory.insert(id, self.clone());
            self.created.notify_one();
        }
        Ok((id, answered))
    }

    /// A flow has left the table.
    fn forgotten(&self, flows: &mut Flows, id: FlowId) {
        flows.count();
        self.directory.remove(id);
    }

    /// Whether a datagram of some player has passed since then.
    pub(crate) fn is_alive_since(&self, then: Instant) -> bool {
        lock(&self.flows).table.is_alive_since(then)
    }

    /// Forgets flows that are idle for too long, and sees to it that the limits are those declared last.
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
                // The sender is the service's own, and lives as long as this.
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

    /// Ends the flows of a service that is gone. The directory would otherwise keep the service alive.
    pub(crate) fn end(&self) {
        let mut flows = lock(&self.flows);
        flows.has_ended = true;
        let ids: Vec<FlowId> = flows.table.iter().map(|flow| flow.id).collect();
        for id in ids {
            flows.table.remove(id);
            self.forgotten(&mut flows, id);
        }
    }
}

/// Why a player's packet does not pass.
enum Refusal {
    /// The service is gone.
    Ended,
    Draining,
    Full(FlowDrop),
}

impl Refusal {
    fn count(&self, metrics: &Metrics) {
        match self {
            Self::Ended => {}
            Self::Draining => metrics.drop_draining.one(),
            Self::Full(FlowDrop::AddressFull) => metrics.drop_address_cap.one(),
            Self::Full(FlowDrop::ServiceFull) => metrics.drop_service_cap.one(),
            Self::Full(FlowDrop::ClientFull) => metrics.drop_client_cap.one(),
            Self::Full(_) => metrics.drop_limit.one(),
        }
    }
}

impl Route {
    /// Tells the client that a flow is forgotten here.
    fn send_close(&self, flow: &Flow, scratch: &mut BytesMut) {
        let head = DatagramHead {
            kind: Kind::Close,
            ..DatagramHead::data(flow.id)
        };
        // In the player's own place, or it would overtake what the flow has sent before.
        let whose = Whose::address(self.service.public.first(), flow.key.player().ip());
        self.tunnel.datagrams.send(whose, head, &[], scratch);
    }
}

thread_local! {
    /// What a batch is received into and encoded in: one pair a thread, however many ports there are. Pages that no
    /// datagram has reached take no memory.
    static RECEIVE: RefCell<(Box<[u8]>, BytesMut)> =
        RefCell::new((vec![0; BATCH_SIZE * RECEIVE_MAX].into(), BytesMut::new()));
}

/// How often room is made for one new flow: of its address, its service, its client and the relay, one after the other,
/// where newcomers of other shards may take each place before it. 16: who loses so often is one of a flood.
const ROUNDS: u32 = 16;
/// Largest datagram that is received whole: the largest that UDP has, which is also what GRO hands over at most.
const RECEIVE_MAX: usize = 65_536;
