//! One player's conversation with a target: a connected socket, and the task that carries its answers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    net::UdpSocket,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use super::{BUFFERS, send_close};
use crate::{
    client::{
        Shared,
        targets::{Target, leads_to},
    },
    metrics::{Gauge, Metrics},
    proto::datagram::{DatagramHead, FlowId},
    socket,
    tunnel::{datagrams::lock, fair::Whose, fault, rare::rare},
};

/// What a flow is, whatever its id: how a player is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seat {
    /// The target's place in memory: it stays for as long as the flow.
    target: usize,
    /// Which port of the service's range.
    port_index: u16,
    player: SocketAddr,
}

impl Seat {
    pub(super) fn new(target: &Arc<Target>, port_index: u16, player: SocketAddr) -> Self {
        Self {
            target: Arc::as_ptr(target).addr(),
            port_index,
            player,
        }
    }
}

/// One player's conversation with a target.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) seat: Seat,
    /// [`PARKED`] while no relay knows it.
    id: AtomicU64,
    pub(super) target: Arc<Target>,
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

impl Flow {
    /// A flow of this seat, which leads to an address of its target.
    pub(super) fn open(
        seat: Seat,
        target: Arc<Target>,
        remote: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        Ok(Self {
            seat,
            id: AtomicU64::new(PARKED),
            target,
            port: remote.port(),
            socket: ArcSwap::from_pointee(connected(remote)?),
            remote: Mutex::new(remote),
            last: AtomicU64::new(0),
            started: Instant::now(),
            answered: AtomicBool::new(false),
            closed: CancellationToken::new(),
            moved: Notify::new(),
            _counted: Gauge::new(metrics, |m| &m.flows),
        })
    }

    /// What the relay calls it.
    pub(super) fn id(&self) -> Option<FlowId> {
        let id = self.id.load(Ordering::SeqCst);
        (id != PARKED).then_some(FlowId(id))
    }

    pub(super) fn set_id(&self, id: Option<FlowId>) {
        let id = id.map_or(PARKED, |id| id.0);
        self.id.store(id, Ordering::SeqCst);
    }

    /// Ends its task.
    pub(super) fn end(&self) {
        self.closed.cancel();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// How long it has been since its last datagram.
    pub(super) fn unused(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// How long it lives at least, if nothing passes.
    pub(super) fn left(&self) -> Duration {
        self.target.idle().saturating_sub(self.unused())
    }

    pub(super) fn touch(&self) {
        self.last
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Sends to the target.
    pub(super) fn send(&self, payload: &[u8]) -> io::Result<usize> {
        // Not through tokio, which refuses to send until it has seen a new socket's readiness: a flow's first datagram
        // would be lost.
        let socket = self.socket.load();
        socket2::SockRef::from(&**socket).send(payload)
    }

    /// Nobody listens at the moment. A game server that restarts will; but where none has ever answered, the name's
    /// next address may be where the game listens.
    pub(super) fn handle_refused(&self) {
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
}

/// A flow's task. It owns the flow's place in the table: whatever ends it, the place is given back.
pub(super) struct Entered {
    pub(super) shared: Arc<Shared>,
    pub(super) flow: Arc<Flow>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // First the way, then the id, as for answers.
        let sender = self.shared.sender.load();
        if let (Some(id), Some(sender)) = (self.shared.flows.leave(&self.flow), sender.as_ref()) {
            send_close(sender, id);
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
    pub(super) async fn run(self) {
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
                        // First the way, then the id: the way to another process of the relay is opened after its
                        // predecessor's ids have been taken away, so that none of them goes there.
                        let sender = self.shared.sender.load();
                        let Some(id) = self.flow.id() else {
                            metrics.drop_parked.one();
                            continue;
                        };
                        let Some(sender) = sender.as_ref() else {
                            metrics.drop_no_tunnel.one();
                            continue;
                        };
                        metrics.datagrams_out.one();
                        metrics.datagram_bytes_out.add(length as u64);
                        let answer = buffer.get(..length).unwrap_or_default();
                        let whose = Whose::flow(self.flow.target.service.public.first(), id.0);
                        let head = DatagramHead::data(id);
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

/// A socket of its own for one flow, connected, so that only the target's answers come in.
fn connected(remote: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket::bind_udp(SocketAddr::new(socket::unspecified(remote.ip()), 0))?;
    socket.connect(remote)?;
    socket::grow_buffers(&socket, socket::FLOW_BUFFER);
    UdpSocket::from_std(socket)
}

/// No id of a relay: they are below 2^62.
const PARKED: u64 = u64::MAX;
/// Answers of one flow between two looks at the others.
const BATCH: usize = 32;
