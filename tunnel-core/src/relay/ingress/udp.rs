//! Public UDP ports: players' datagrams into the tunnel, and the answers back from the address they wrote to.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    instance::FlowLimits,
    key::PublicKey,
    metrics::{Gauge, Metrics},
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, Kind},
        flow::{Flow, FlowCounts, FlowDrop, FlowKey, FlowTable, Place},
        handshake::ProcessId,
    },
    relay::{
        Shared,
        ingress::{Opened, PublicService, Route, pause, tcp::canonical},
    },
    socket,
    tunnel::{
        datagrams::lock,
        fair::Whose,
        fault,
        inbound::{Inbound, Reassembled},
        lanes::DatagramHandler,
        sleep_until,
        supervise::{Reporter, supervise},
    },
};

/// A shard of one service: a socket for each of its UDP ports, and the flows that come in there. The system sees to it
/// that a player's packets always come to the same one, so shards share nothing for a packet of a known flow.
#[derive(Debug)]
pub(crate) struct UdpService {
    shared: Arc<Shared>,
    service: Arc<PublicService>,
    sockets: Vec<PublicSocket>,
    flows: Mutex<Flows>,
    /// What the service's shards are counted by together.
    counts: Arc<FlowCounts>,
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
    /// A gauge for each flow, so that whatever ends the service ends the count.
    counted: HashMap<FlowId, Gauge>,
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
}

#[derive(Debug)]
struct PublicSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// Which service a flow belongs to, for all flows of one client.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By the flow's number, so that a flow that comes or goes seldom meets a look-up.
    services: [Mutex<HashMap<FlowId, Arc<UdpService>>>; DIRECTORY_PARTS],
}

impl Directory {
    fn of(&self, flow: FlowId) -> MutexGuard<'_, HashMap<FlowId, Arc<UdpService>>> {
        lock(&self.services[flow.0 as usize % DIRECTORY_PARTS])
    }
}

/// The directories of all clients that have a tunnel or a service.
#[derive(Debug, Default)]
pub(crate) struct Directories(Mutex<HashMap<PublicKey, Weak<Directory>>>);

impl Directories {
    /// A client's directory: the same for as long as anybody has it.
    pub(crate) fn of(&self, client: PublicKey) -> Arc<Directory> {
        let mut directories = lock(&self.0);
        if let Some(directory) = directories.get(&client).and_then(Weak::upgrade) {
            return directory;
        }
        // Clients come and go for as long as the relay runs: nothing is kept of those who are gone.
        directories.retain(|_, directory| directory.strong_count() > 0);
        let directory = Arc::default();
        directories.insert(client, Arc::downgrade(&directory));
        directory
    }
}

impl UdpService {
    pub(crate) fn new(
        shared: Arc<Shared>,
        service: Arc<PublicService>,
        sockets: Vec<std::net::UdpSocket>,
        (limits, counts): (FlowLimits, Arc<FlowCounts>),
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
        Ok(Self {
            shared,
            service,
            sockets: sockets.collect::<io::Result<_>>()?,
            flows: Mutex::new(Flows {
                table: FlowTable::sharing(limits, counts.clone()).with_unanswered(unanswered),
                counted: HashMap::new(),
                process: None,
                has_ended: false,
            }),
            counts,
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
        let mut passed = self.pass(None, now, key, route);
        if matches!(passed, Err(Refusal::ServiceFull))
            && let Some(place) = self.make_room_elsewhere(route, scratch)
        {
            passed = self.pass(Some(place), now, key, route);
        }
        let (id, answered, evicted) = match passed {
            Ok(passed) => passed,
            Err(refusal) => return refusal.count(metrics),
        };
        if let Some(evicted) = evicted {
            // Or the client would keep a socket for each packet of a flood.
            route.send_close(evicted.id, scratch);
        }
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

    /// The flow of a player's packet, made if it is not there and players are taken: its id, whether the client knows
    /// it, and which made room.
    fn pass(
        self: &Arc<Self>,
        place: Option<Place>,
        now: Instant,
        key: FlowKey,
        route: &Route,
    ) -> Result<(FlowId, bool, Option<Flow>), Refusal> {
        let mut flows = lock(&self.flows);
        if flows.has_ended {
            return Err(Refusal::Ended);
        }
        flows.open_again_for(now, route.tunnel.process);
        if !route.takes_players(&self.shared) {
            let known = flows.table.handle_known_packet(now, &key);
            let flow = known.ok_or(Refusal::Draining)?;
            return Ok((flow.id, flow.open_acknowledged, None));
        }
        let metrics = &self.shared.metrics;
        let allocate = || FlowId(self.shared.next_flow());
        let admitted = match (flows.table).handle_player_packet_with(place, now, key, allocate) {
            Ok(admitted) => admitted,
            Err(FlowDrop::AddressFull) => return Err(Refusal::AddressFull),
            Err(_) => return Err(Refusal::ServiceFull),
        };
        let (id, answered, evicted) = (
            admitted.flow.id,
            admitted.flow.open_acknowledged,
            admitted.evicted,
        );
        if admitted.created {
            metrics.flows_opened.one();
            flows.counted.insert(id, Gauge::new(metrics, |m| &m.flows));
            self.directory.of(id).insert(id, self.clone());
            self.created.notify_one();
        }
        if let Some(evicted) = evicted {
            self.handle_evicted(&mut flows, &evicted);
        }
        Ok((id, answered, evicted))
    }

    /// The service is full, and none of this shard's flows can go: one of another shard's does, if it can.
    fn make_room_elsewhere(&self, route: &Route, scratch: &mut BytesMut) -> Option<Place> {
        // Or everybody who comes to a full service would stop all of its shards.
        if self.counts.unanswered() == 0 {
            return None;
        }
        let (evicted, place) = self.service.shards().find_map(|shard| {
            let mut flows = lock(&shard.flows);
            let (evicted, place) = flows.table.evict()?;
            shard.handle_evicted(&mut flows, &evicted);
            Some((evicted, place))
        })?;
        route.send_close(evicted.id, scratch);
        Some(place)
    }

    fn handle_evicted(&self, flows: &mut Flows, evicted: &Flow) {
        self.shared.metrics.flows_evicted.one();
        flows.counted.remove(&evicted.id);
        self.directory.of(evicted.id).remove(&evicted.id);
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
                flows.counted.remove(&expired.id);
                self.directory.of(expired.id).remove(&expired.id);
                if let Some(route) = self.service.route() {
                    RECEIVE.with_borrow_mut(|(_, scratch)| route.send_close(expired.id, scratch));
                }
            }
        }
    }

    /// The client has forgotten a flow.
    fn forget(&self, id: FlowId) {
        let mut flows = lock(&self.flows);
        flows.table.remove(id);
        flows.counted.remove(&id);
        self.directory.of(id).remove(&id);
    }

    /// Ends the flows of a service that is gone. The directory would otherwise keep the service alive.
    pub(crate) fn end(&self) {
        let mut flows = lock(&self.flows);
        flows.has_ended = true;
        let ids: Vec<FlowId> = flows.table.iter().map(|flow| flow.id).collect();
        for id in ids {
            flows.table.remove(id);
            flows.counted.remove(&id);
            self.directory.of(id).remove(&id);
        }
    }

    fn route_of_reply(&self, now: Instant, id: FlowId) -> Option<Destination> {
        let mut flows = lock(&self.flows);
        let flow = flows.table.handle_reply(now, id)?;
        Some(Destination {
            player: flow.key.player(),
            local: flow.key.local(),
            port: usize::from(flow.key.port_index()),
        })
    }
}

/// Why a player's packet does not pass.
enum Refusal {
    /// The service is gone.
    Ended,
    Draining,
    AddressFull,
    ServiceFull,
}

impl Refusal {
    fn count(&self, metrics: &Metrics) {
        match self {
            Self::Ended => {}
            Self::Draining => metrics.drop_draining.one(),
            Self::AddressFull => metrics.drop_address_cap.one(),
            Self::ServiceFull => metrics.drop_service_cap.one(),
        }
    }
}

impl Route {
    /// Tells the client that a flow is forgotten here.
    fn send_close(&self, flow: FlowId, scratch: &mut BytesMut) {
        let head = DatagramHead {
            kind: Kind::Close,
            ..DatagramHead::data(flow)
        };
        let whose = Whose::flow(self.service.public.first(), flow.0);
        self.tunnel.datagrams.send(whose, head, &[], scratch);
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    player: SocketAddr,
    local: IpAddr,
    port: usize,
}

/// Takes answers out of one client's transport and hands them to their players, runs to one player in one call.
pub(crate) struct Replies {
    inbound: Inbound,
    directory: Arc<Directory>,
    reporter: Reporter,
    run: Option<Run>,
    /// The datagrams of the run, one behind the other.
    gathered: BytesMut,
}

/// Answers to one player, all of one size but perhaps the last.
struct Run {
    service: Arc<UdpService>,
    to: Destination,
    segment: usize,
    count: usize,
    /// A shorter datagram ended it.
    is_closed: bool,
}

impl Replies {
    pub(crate) fn new(directory: Arc<Directory>, reporter: Reporter) -> Self {
        let inbound = Inbound::new(reporter.metrics.clone());
        Self {
            inbound,
            directory,
            reporter,
            run: None,
            gathered: BytesMut::new(),
        }
    }

    fn gather(&mut self, service: Arc<UdpService>, to: Destination, payload: &[u8]) {
        let joins = self.run.as_ref().is_some_and(|run| {
            !run.is_closed
                && run.to == to
                && Arc::ptr_eq(&run.service, &service)
                && payload.len() <= run.segment
                && run.segment <= SEGMENT_MAX
                && !payload.is_empty()
                && run.count < run.service.max_segments(to.port)
                && self.gathered.len() + payload.len() <= RUN_MAX
        });
        if !joins {
            self.send_run();
            self.run = Some(Run {
                service,
                to,
                segment: payload.len(),
                count: 0,
                is_closed: payload.is_empty(),
            });
        }
        if let Some(run) = &mut self.run {
            run.count += 1;
            run.is_closed |= payload.len() < run.segment;
        }
        self.gathered.extend_from_slice(payload);
    }

    fn send_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let contents = self.gathered.split();
        let sent = run.service.send_run(&run, &contents);
        if sent.is_err() {
            // A full socket buffer or an unreachable player: never waited for, others are behind.
            self.reporter.metrics.drop_socket.add(run.count as u64);
        }
        self.reporter.metrics.datagrams_out.add(run.count as u64);
        self.reporter
            .metrics
            .datagram_bytes_out
            .add(contents.len() as u64);
    }
}

impl DatagramHandler for Replies {
    fn handle(&mut self, datagram: Bytes) {
        // Or one datagram would end those of every other service of the client.
        if catch_unwind(AssertUnwindSafe(|| self.handle_one(datagram))).is_err() {
            self.reporter.panicked("an answer of a flow");
        }
    }

    fn flush(&mut self) {
        self.send_run();
        self.inbound.handle_timeout();
    }
}

impl Replies {
    fn handle_one(&mut self, datagram: Bytes) {
        if let Some(whole) = self.inbound.handle(datagram) {
            self.hand_on(whole);
        }
        while let Some(repaired) = self.inbound.next_repaired() {
            self.hand_on(repaired);
        }
    }

    fn hand_on(&mut self, Reassembled { head, payload }: Reassembled) {
        let service = self.directory.of(head.flow).get(&head.flow).cloned();
        match (head.kind, &service) {
            (Kind::Data, _) => {}
            (Kind::Close, Some(service)) => return service.forget(head.flow),
            _ => return,
        }
        let found = service.and_then(|service| {
            let to = service.route_of_reply(Instant::now(), head.flow)?;
            Some((service, to))
        });
        match found {
            Some((service, to)) => {
                fault!("an answer to {}", service.service.binding.public);
                self.gather(service, to, &payload);
            }
            None => self.reporter.metrics.drop_unknown_flow.one(),
        }
    }
}

impl UdpService {
    fn max_segments(&self, port: usize) -> usize {
        self.sockets
            .get(port)
            .map_or(1, |socket| socket.state.max_gso_segments())
    }

    fn send_run(&self, run: &Run, contents: &[u8]) -> io::Result<()> {
        let socket = self
            .sockets
            .get(run.to.port)
            .ok_or(io::ErrorKind::NotFound)?;
        let is_v6 = self.shared.config.public_bind.is_ipv6();
        let transmit = Transmit {
            destination: family(run.to.player, is_v6),
            ecn: None,
            contents,
            segment_size: (run.count > 1).then_some(run.segment),
            src_ip: (!run.to.local.is_unspecified())
                .then(|| family(SocketAddr::new(run.to.local, 0), is_v6).ip()),
        };
        socket.io.try_io(Interest::WRITABLE, || {
            socket.state.try_send((&socket.io).into(), &transmit)
        })
    }
}

/// An IPv4 address as a socket for both families takes it.
fn family(address: SocketAddr, is_v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) if is_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

thread_local! {
    /// What a batch is received into and encoded in: one pair a thread, however many ports there are. Pages that no
    /// datagram has reached take no memory.
    static RECEIVE: RefCell<(Box<[u8]>, BytesMut)> =
        RefCell::new((vec![0; BATCH_SIZE * RECEIVE_MAX].into(), BytesMut::new()));
}

/// 16 locks: a client's answers come one after the other, and four threads' new flows seldom meet them.
const DIRECTORY_PARTS: usize = 16;
/// Largest datagram that is received whole: the largest that UDP has, which is also what GRO hands over at most.
const RECEIVE_MAX: usize = 65_536;
/// Bytes of one run: what one GSO call carries.
const RUN_MAX: usize = 65_000;
/// Largest datagram that joins a run: 1,200 bytes pass every link, and one that has to be cut cannot be a segment.
const SEGMENT_MAX: usize = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_clients_that_are_gone() {
        let directories = Directories::default();
        let key = |n: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            PublicKey::from(key)
        };
        let stays = directories.of(key(0));
        for n in 1..1_000 {
            drop(directories.of(key(n)));
        }
        assert!(lock(&directories.0).len() <= 2);
        assert!(Arc::ptr_eq(&stays, &directories.of(key(0))));
    }
}
