//! Flows' way to their targets: one connected socket each.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use tokio::{
    net::UdpSocket,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        Shared,
        targets::{Target, leads_to},
    },
    metrics::Gauge,
    proto::datagram::{DatagramHead, FlowId, Kind},
    socket,
    tunnel::{
        datagrams::lock,
        fair::Whose,
        fault,
        inbound::{Inbound, Reassembled},
        lanes::DatagramHandler,
        rare::rare,
        supervise,
    },
};

/// The flows of a client. They outlive its tunnels: a game's socket stays the same while the path changes.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    by_id: Mutex<HashMap<FlowId, Arc<Flow>>>,
    /// Wakes the expiry: there is a flow again.
    added: Notify,
}

impl Flows {
    /// Whether a datagram has passed on any flow within this time.
    pub(crate) fn any_within(&self, time: Duration) -> bool {
        let flows = lock(&self.by_id);
        flows.values().any(|flow| flow.unused() <= time)
    }

    /// Ends flows that are idle for too long, all by one clock: none has a timer of its own.
    pub(crate) async fn expire(&self) {
        loop {
            match self.end_idle() {
                Some(least) => tokio::time::sleep(least.clamp(LOOK_LEAST, LOOK_MOST)).await,
                None => self.added.notified().await,
            }
        }
    }

    /// Ends what is idle for too long. Says how long the rest has at least; nothing if there is none.
    fn end_idle(&self) -> Option<Duration> {
        let flows = lock(&self.by_id);
        let left = flows.values().map(|flow| {
            let left = flow.target.idle().saturating_sub(flow.unused());
            if left.is_zero() {
                // Its task takes it out of the table, and tells the relay.
                flow.closed.cancel();
            }
            left
        });
        left.min()
    }

    /// Ends every flow.
    pub(crate) fn clear(&self) {
        for (_, flow) in lock(&self.by_id).drain() {
            flow.closed.cancel();
        }
    }
}

/// One player's conversation with a target.
#[derive(Debug)]
struct Flow {
    id: FlowId,
    target: Arc<Target>,
    port: u16,
    socket: ArcSwap<UdpSocket>,
    remote: Mutex<SocketAddr>,
    /// Milliseconds from `started` to the last datagram in either direction.
    last: AtomicU64,
    started: Instant,
    /// Whether the target has ever answered.
    answered: AtomicBool,
    closed: CancellationToken,
    /// Wakes the task: the flow has another socket.
    moved: Notify,
    _counted: Gauge,
}

/// Takes datagrams out of one transport and hands them to their flows.
pub(crate) struct Egress {
    shared: Arc<Shared>,
    inbound: Inbound,
}

impl Egress {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let inbound = Inbound::new(shared.metrics.clone());
        Self { shared, inbound }
    }
}

impl DatagramHandler for Egress {
    fn handle(&mut self, datagram: Bytes) {
        // Or one datagram would end those of every other service.
        if catch_unwind(AssertUnwindSafe(|| self.handle_one(datagram))).is_err() {
            self.shared.reporter().panicked("a datagram of a flow");
        }
    }

    fn flush(&mut self) {
        self.inbound.handle_timeout();
    }
}

impl Egress {
    fn handle_one(&mut self, datagram: Bytes) {
        if let Some(whole) = self.inbound.handle(datagram) {
            self.hand_on(whole);
        }
        while let Some(repaired) = self.inbound.next_repaired() {
            self.hand_on(repaired);
        }
    }

    fn hand_on(&self, Reassembled { head, payload }: Reassembled) {
        match head.kind {
            Kind::Data => self.shared.deliver(&head, &payload),
            Kind::Close => drop(
                lock(&self.shared.flows.by_id)
                    .remove(&head.flow)
                    .map(|flow| flow.closed.cancel()),
            ),
            _ => {}
        }
    }
}

impl Shared {
    fn deliver(self: &Arc<Self>, head: &DatagramHead, payload: &[u8]) {
        let known = lock(&self.flows.by_id).get(&head.flow).cloned();
        let flow = match known {
            Some(flow) => flow,
            None => match self.open_flow(head) {
                Some(flow) => flow,
                None => return,
            },
        };
        fault!("a datagram to {}", flow.target.service.public);
        flow.touch();
        let mut sent = flow.send(payload);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            // The error is of an earlier datagram (ICMP); this one has not been sent yet.
            self.metrics.drop_socket.one();
            flow.handle_refused();
            sent = flow.send(payload);
        }
        if sent.is_ok() {
            self.metrics.datagrams_in.one();
            self.metrics.datagram_bytes_in.add(payload.len() as u64);
        } else {
            self.metrics.drop_socket.one();
        }
    }

    /// Makes the flow that a datagram opens, if the client has that service; else counts why not.
    fn open_flow(self: &Arc<Self>, head: &DatagramHead) -> Option<Arc<Flow>> {
        let Some(open) = &head.open else {
            self.metrics.drop_unknown_flow.one();
            // The relay takes the flow for known, and would say nothing more of it.
            self.send_close(head.flow);
            return None;
        };
        let target = self.targets.load().get(&open.service).cloned();
        let port = target
            .as_ref()
            .filter(|target| target.service.protocol.udp())
            .and_then(|target| target.port(open.port_index));
        let (Some(target), Some(port)) = (target, port) else {
            self.metrics.drop_unknown_service.one();
            return None;
        };
        let Some(ip) = target.addresses().first().copied() else {
            self.metrics.drop_unresolved.one();
            target.refresh();
            return None;
        };
        let remote = SocketAddr::new(ip, port);
        let Ok(socket) = connected(remote) else {
            self.metrics.drop_no_socket.one();
            return None;
        };
        let mut flows = lock(&self.flows.by_id);
        if flows.len() >= self.limits.flows {
            self.metrics.drop_service_cap.one();
            return None;
        }
        let Entry::Vacant(place) = flows.entry(head.flow) else {
            return None;
        };
        let flow = Arc::new(Flow {
            id: head.flow,
            target,
            port,
            socket: ArcSwap::from_pointee(socket),
            remote: Mutex::new(remote),
            last: AtomicU64::new(0),
            started: Instant::now(),
            answered: AtomicBool::new(false),
            closed: CancellationToken::new(),
            moved: Notify::new(),
            _counted: Gauge::new(&self.metrics, |m| &m.flows),
        });
        place.insert(flow.clone());
        // A runtime that shuts down drops the task at once, which takes the lock again.
        drop(flows);
        self.metrics.flows_opened.one();
        self.flows.added.notify_one();
        let entered = Entered {
            shared: self.clone(),
            flow: flow.clone(),
        };
        supervise::spawn(self.reporter(), "a player's flow", entered.run());
        Some(flow)
    }

    /// Tells the relay that a flow is forgotten here: the player's next datagram opens another.
    fn send_close(&self, flow: FlowId) {
        let sender = self.sender.load();
        let Some(sender) = sender.as_ref() else {
            return;
        };
        let head = DatagramHead {
            kind: Kind::Close,
            ..DatagramHead::data(flow)
        };
        BUFFERS.with_borrow_mut(|(_, scratch)| {
            sender.send(Whose::flow(NOBODY, flow.0), head, &[], scratch)
        });
    }
}

/// Owns a flow's place in the table: whatever ends its task, the place is given back.
struct Entered {
    shared: Arc<Shared>,
    flow: Arc<Flow>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut flows = lock(&self.shared.flows.by_id);
        let is_own = |flow: &Arc<Flow>| Arc::ptr_eq(flow, &self.flow);
        // Otherwise the relay has closed it, and knows.
        if flows.get(&self.flow.id).is_some_and(is_own) {
            flows.remove(&self.flow.id);
            drop(flows);
            self.shared.send_close(self.flow.id);
        }
    }
}

/// What may happen to a flow beside its packets.
enum News {
    /// The target's name leads elsewhere.
    Addresses(Arc<[IpAddr]>),
    /// The flow has another socket.
    Moved,
    /// The flow, its service or the client ends.
    Ended,
}

impl Entered {
    /// Carries the target's answers until the flow is closed or its service ends.
    async fn run(self) {
        let flow = &self.flow;
        fault!("a flow to {}", flow.target.service.public);
        let mut addresses = flow.target.subscribe();
        loop {
            let socket = flow.socket.load_full();
            let mut news = pin!(self.news(&mut addresses));
            // Its parts have locks that flows share; an answer of the target is nothing to them.
            let mut news = rare(news.as_mut());
            let news = loop {
                tokio::select! {
                    biased;
                    news = &mut news => break news,
                    ready = socket.readable() => match ready {
                        Ok(()) => self.drain(&socket),
                        Err(_) => return,
                    },
                }
            };
            match news {
                News::Addresses(known) => self.follow(&known),
                News::Moved => {}
                News::Ended => return,
            }
        }
    }

    /// What happens to a flow beside its packets.
    async fn news(&self, addresses: &mut watch::Receiver<Arc<[IpAddr]>>) -> News {
        let flow = &self.flow;
        tokio::select! {
            changed = addresses.changed() => match changed {
                Ok(()) => News::Addresses(addresses.borrow_and_update().clone()),
                Err(_) => News::Ended,
            },
            () = flow.moved.notified() => News::Moved,
            () = flow.target.cancelled.cancelled() => News::Ended,
            () = flow.closed.cancelled() => News::Ended,
            () = self.shared.stopped.cancelled() => News::Ended,
        }
    }

    /// Sends into the tunnel what the target has answered.
    fn drain(&self, socket: &UdpSocket) {
        let metrics = &self.shared.metrics;
        BUFFERS.with_borrow_mut(|(buffer, scratch)| {
            for _ in 0..BATCH {
                match socket.try_recv(buffer) {
                    Ok(length) => {
                        self.flow.touch();
                        self.flow.answered.store(true, Ordering::Relaxed);
                        let sender = self.shared.sender.load();
                        let Some(sender) = sender.as_ref() else {
                            metrics.drop_no_tunnel.one();
                            continue;
                        };
                        metrics.datagrams_out.one();
                        metrics.datagram_bytes_out.add(length as u64);
                        let answer = buffer.get(..length).unwrap_or_default();
                        let whose =
                            Whose::flow(self.flow.target.service.public.first(), self.flow.id.0);
                        let head = DatagramHead::data(self.flow.id);
                        let redundancy = self.flow.target.redundancy();
                        sender.send_protected(whose, head, answer, redundancy, scratch);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(_) => {
                        metrics.drop_socket.one();
                        return self.flow.handle_refused();
                    }
                }
            }
        });
    }

    /// A name that leads elsewhere takes its live flows along.
    fn follow(&self, known: &[IpAddr]) {
        let remote = *lock(&self.flow.remote);
        if !leads_to(remote, known)
            && let Some(ip) = known.first()
        {
            self.flow.lead_to(SocketAddr::new(*ip, self.flow.port));
        }
    }
}

impl Flow {
    /// Sends to the target.
    fn send(&self, payload: &[u8]) -> io::Result<usize> {
        // Not through tokio, which refuses to send until it has seen a new socket's readiness: a flow's first datagram
        // would be lost.
        let socket = self.socket.load();
        socket2::SockRef::from(&**socket).send(payload)
    }

    /// Nobody listens at the moment. A game server that restarts will; but where none has ever answered, the name's
    /// next address may be where the game listens.
    fn handle_refused(&self) {
        if self.answered.load(Ordering::Relaxed) {
            return;
        }
        let known = self.target.addresses();
        let remote = *lock(&self.remote);
        let place = known.iter().position(|ip| *ip == remote.ip()).unwrap_or(0);
        if known.len() > 1
            && let Some(ip) = known.get((place + 1) % known.len())
        {
            self.lead_to(SocketAddr::new(*ip, self.port));
        }
        self.target.refresh();
    }

    fn lead_to(&self, remote: SocketAddr) {
        // Without a descriptor for the new socket, the flow stays where it is and tries again.
        if let Ok(socket) = connected(remote) {
            *lock(&self.remote) = remote;
            self.socket.store(Arc::new(socket));
            // The task waits on the old socket: it looks again.
            self.moved.notify_one();
        }
    }

    fn touch(&self) {
        self.last
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn unused(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// A socket of its own for one flow, connected, so that only the target's answers come in.
fn connected(remote: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket::bind_udp(SocketAddr::new(socket::unspecified(remote.ip()), 0))?;
    socket.connect(remote)?;
    UdpSocket::from_std(socket)
}

thread_local! {
    /// What a datagram is read into and encoded in: one pair a thread, however many flows there are.
    static BUFFERS: RefCell<(Box<[u8]>, BytesMut)> =
        RefCell::new((vec![0; DATAGRAM_MAX].into(), BytesMut::new()));
}

/// Stands for a service where a flow has none any more: no service has port 0.
const NOBODY: u16 = 0;
/// Idle flows are looked for at most once a second, whatever comes and goes.
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// And every 10 s, the least idle time that a service may have: a flow that came meanwhile is not overlooked.
const LOOK_MOST: Duration = Duration::from_secs(10);
/// Largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// Answers of one flow between two looks at the others.
const BATCH: usize = 32;
