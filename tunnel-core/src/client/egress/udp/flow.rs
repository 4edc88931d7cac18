//! A flow: one player's UDP conversation with a target, over a connected socket of its own.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    client::{
        egress::udp::{ends::Ends, search::Search},
        ports::LocalPorts,
        room::{Held, Room},
        source::{HeldOrigin, Origins},
        targets::{Over, Target, leads_to},
    },
    instance::ProxyDatagrams,
    metrics::{Gauge, Metrics},
    proto::{
        datagram::FlowId,
        proxy::{self, Ends as ProxyEnds},
    },
    socket::unspecified,
    sync::lock,
};

/// What a flow is, whatever its id: how a player is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    /// The target's place in memory: it stays for as long as the flow.
    target: usize,
    /// Which port of the service's range.
    port_index: u16,
    player: SocketAddr,
}

impl FlowKey {
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
    pub(super) key: FlowKey,
    /// [`PARKED`] while no relay knows it.
    id: AtomicU64,
    pub(super) target: Arc<Target>,
    port: u16,
    pub(super) ends: ArcSwap<Ends>,
    destination: Mutex<Destination>,
    means: Means,
    metrics: Arc<Metrics>,
    /// Milliseconds from `started` to the last datagram in either direction.
    last: AtomicU64,
    /// Milliseconds from `started` to the first of the player's datagrams that no answer has followed; or [`ANSWERED`].
    waits_since: AtomicU64,
    /// Counts it for as long as its player waits in vain.
    unanswered: Mutex<Option<Unanswered>>,
    started: Instant,
    /// Whether the target has answered since the flow leads to its present addresses.
    answered: AtomicBool,
    pub(super) closed: CancellationToken,
    /// Wakes the task: the flow has another socket, or waits for an answer.
    pub(super) moved: Notify,
    /// Where its sockets leave from, whatever the service says since.
    held: HeldOrigin,
    /// What the player sent to; unknown of an old relay, and of flows that are older than the wish to know it.
    public: Option<SocketAddr>,
    /// The PROXY header, once it is wanted.
    header: OnceLock<Box<[u8]>>,
    _counted: Gauge,
    _room: [Held; 2],
    /// Last: when it is dropped, everything else has been given back.
    gone: DropGuard,
}

/// What the flows of a client have their sockets and their memory of.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) ports: Arc<LocalPorts>,
    /// Where players come from.
    pub(crate) origins: Arc<Origins>,
    /// How many ports there are, one for each flow.
    pub(crate) room: Arc<Room>,
    /// Bytes that flows may keep of what they have sent to targets that have not answered.
    memory: Arc<Semaphore>,
}

impl Means {
    pub(crate) fn new(ports: &Arc<LocalPorts>, origins: Arc<Origins>) -> Self {
        Self {
            ports: ports.clone(),
            origins,
            room: Room::new(ports.count()),
            memory: Arc::new(Semaphore::new(FIRST_DATAGRAMS)),
        }
    }
}

/// Counts a flow among those whose players wait in vain.
#[derive(Debug)]
struct Unanswered {
    target: Arc<Target>,
    _counted: Gauge,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.target.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a flow leads.
#[derive(Debug)]
struct Destination {
    remote: SocketAddr,
    /// Until one of several addresses has answered.
    search: Option<Search<OwnedSemaphorePermit>>,
}

impl Flow {
    /// A flow of this key, which leads to the first of these addresses.
    pub(super) fn open(
        (key, public): (FlowKey, Option<SocketAddr>),
        target: Arc<Target>,
        (candidates, port): (&[IpAddr], u16),
        means: &Means,
        room: [Held; 2],
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut opened = Err(io::ErrorKind::AddrNotAvailable.into());
        let held = (means.origins).of(target.source(), key.player.ip());
        let held = held.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut candidates = candidates.to_vec();
        for _ in 0..candidates.len() {
            let remote = SocketAddr::new(candidates[0], port);
            opened =
                Ends::open(&means.ports, held.origin, remote, &target).map(|ends| (ends, remote));
            if opened.is_ok() {
                break;
            }
            // It may be of a family that this machine has not got.
            candidates.rotate_left(1);
        }
        let (ends, remote) = opened?;
        Ok(Self {
            key,
            id: AtomicU64::new(PARKED),
            target,
            port,
            ends: ArcSwap::from_pointee(ends),
            destination: Mutex::new(Destination {
                remote,
                search: search(&candidates),
            }),
            means: means.clone(),
            metrics: metrics.clone(),
            last: AtomicU64::new(0),
            waits_since: AtomicU64::new(ANSWERED),
            unanswered: Mutex::default(),
            started: Instant::now(),
            answered: AtomicBool::new(false),
            closed: CancellationToken::new(),
            moved: Notify::new(),
            held,
            public,
            header: OnceLock::new(),
            _counted: Gauge::new(metrics, |m| &m.flows),
            _room: room,
            gone: CancellationToken::new().drop_guard(),
        })
    }

    /// What the relay calls it.
    pub(super) fn id(&self) -> Option<FlowId> {
        let id = self.id.load(Ordering::SeqCst);
        (id != PARKED).then_some(FlowId(id))
    }

    pub(super) fn set_id(&self, id: Option<FlowId>) {
        let id = id.map_or(PARKED, |id| id.0);
        let before = self.id.swap(id, Ordering::SeqCst);
        match (before == PARKED, id == PARKED) {
            (true, false) => drop(self.target.flows.fetch_add(1, Ordering::Relaxed)),
            (false, true) => drop(self.target.flows.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Ends its task.
    pub(super) fn end(&self) {
        self.closed.cancel();
    }

    /// Tells when it has given back what it had: its port, its descriptor and its share of both.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.token().clone()
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

    /// The player says something.
    pub(super) fn touch_sent(&self) {
        let now = self.touch();
        if self.waits_since.load(Ordering::Relaxed) == ANSWERED {
            self.waits_since.store(now, Ordering::Relaxed);
        }
    }

    /// The target does.
    pub(super) fn touch_heard(&self) {
        self.touch();
        if self.waits_since.load(Ordering::Relaxed) != ANSWERED {
            self.waits_since.store(ANSWERED, Ordering::Relaxed);
        }
    }

    fn touch(&self) -> u64 {
        let now = self.now();
        self.last.store(now, Ordering::Relaxed);
        now
    }

    /// Looks whether the player is answered. From the moment when he has waited for too long, the flow counts as one that is not,
    /// and listens for answers from elsewhere. Returns whether there is something to be said of the target.
    pub(super) fn look(&self, now: Instant) -> bool {
        // What was sent last is all that is certain: who has said a last word may have meant no answer.
        let since = self.waits_since.load(Ordering::Relaxed);
        let waited = (self.last.load(Ordering::Relaxed)).saturating_sub(since);
        let mut unanswered = lock(&self.unanswered);
        let is_here = self.unused() < GONE_AFTER;
        if waited < UNANSWERED_AFTER.as_millis() as u64 || !is_here {
            *unanswered = None;
            if is_here && since == ANSWERED && self.answered.load(Ordering::Relaxed) {
                lock(&self.target.heard).handle_served(now);
            }
            return false;
        }
        if unanswered.is_none() {
            self.target.unanswered.fetch_add(1, Ordering::Relaxed);
            *unanswered = Some(Unanswered {
                target: self.target.clone(),
                _counted: Gauge::new(&self.metrics, |m| &m.flows_unanswered),
            });
        }
        if self.ends.load().listen(&self.target) {
            self.moved.notify_one();
        }
        lock(&self.target.heard).handle_silence(now)
    }

    /// Sends to the target. Says how many datagrams were lost at it, this one among them or not.
    pub(super) fn send(&self, payload: &[u8]) -> (io::Result<usize>, usize) {
        if !self.answered.load(Ordering::Relaxed) {
            let mut destination = lock(&self.destination);
            if destination.search.is_some() {
                return self.send_searching(&mut destination, payload);
            }
        }
        let ends = self.ends.load();
        match self.pass(&ends, payload) {
            // The error is of an earlier datagram (ICMP); this one has not been sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.target.refresh();
                (self.pass(&ends, payload), 1)
            }
            sent => (sent, 0),
        }
    }

    fn send_searching(
        &self,
        destination: &mut Destination,
        payload: &[u8],
    ) -> (io::Result<usize>, usize) {
        let now = Instant::now();
        let mut lost = 0;
        let mut sent = self.pass(&self.ends.load(), payload);
        if (sent.as_ref()).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let is_lost = !self.go_on(destination, |search| search.handle_refused(now));
            lost = usize::from(is_lost);
            sent = self.pass(&self.ends.load(), payload);
        }
        if let Some(search) = &mut destination.search {
            let is_first = search.poll_timeout().is_none();
            search.handle_sent(now, payload, |bytes| {
                let memory = self.means.memory.clone();
                memory.try_acquire_many_owned(bytes as u32).ok()
            });
            if is_first {
                self.moved.notify_one();
            }
        }
        (sent, lost)
    }

    /// Nobody listens at the moment. A game server that restarts will; but where none has ever answered, the name's next
    /// address may be where the game listens. Returns whether what was sent is lost.
    pub(super) fn handle_refused(&self, at: &Arc<Ends>) -> bool {
        self.target.refresh();
        let mut destination = lock(&self.destination);
        // Otherwise it has gone on already.
        let is_here = Arc::ptr_eq(at, &self.ends.load());
        is_here
            && !self.go_on(&mut destination, |search| {
                search.handle_refused(Instant::now())
            })
    }

    pub(super) fn handle_silence(&self) {
        let mut destination = lock(&self.destination);
        self.go_on(&mut destination, |search| {
            search.handle_timeout(Instant::now())
        });
    }

    /// Sends a datagram as it is, or with who the player is in front.
    fn pass(&self, ends: &Ends, payload: &[u8]) -> io::Result<usize> {
        let is_told = match self.target.proxy_datagrams() {
            ProxyDatagrams::Off => false,
            ProxyDatagrams::First => ends.preface.take(self.now()),
            ProxyDatagrams::Every => true,
        };
        if !is_told {
            return ends.send(None, payload);
        }
        let sent = ends.send(Some(self.header()?), payload);
        if sent.is_ok() {
            self.metrics.proxy_headers_out.one();
        }
        sent
    }

    /// The PROXY header of its datagrams.
    fn header(&self) -> io::Result<&[u8]> {
        if let Some(header) = self.header.get() {
            return Ok(header);
        }
        // Where nobody has said what the player sent to, it is a public port of the service, at an address that is not known.
        let public = self.public.unwrap_or_else(|| {
            let port = self.target.service.public.first() + self.key.port_index;
            SocketAddr::new(unspecified(self.key.player.ip().to_canonical()), port)
        });
        let header = proxy::encode_v2_datagram(ProxyEnds {
            player: self.key.player,
            public,
        })?;
        Ok(self.header.get_or_init(|| header.into()))
    }

    /// Milliseconds since it was opened.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The target has answered from this address, for the first time or not.
    pub(super) fn handle_answer(&self, from: IpAddr, is_news: bool) {
        self.touch_heard();
        if self.target.proxy_datagrams() == ProxyDatagrams::First {
            self.ends.load().preface.handle_answer(self.now());
        }
        let is_first = !self.answered.swap(true, Ordering::Relaxed);
        if is_first || is_news {
            let mut destination = lock(&self.destination);
            let asked = destination.remote.ip();
            if destination.search.take().is_some() {
                self.target.handle_answer(Over::Udp, asked);
            }
            lock(&self.target.heard).handle_origin(Instant::now(), asked, from);
        }
    }

    /// When to look for another address.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.answered.load(Ordering::Relaxed) {
            return None;
        }
        let destination = lock(&self.destination);
        (destination.search.as_ref()).and_then(Search::poll_timeout)
    }

    /// Takes what was sent in vain to where the search goes on; whether that was anything.
    fn go_on(
        &self,
        destination: &mut Destination,
        next: impl FnOnce(&mut Search<OwnedSemaphorePermit>) -> Option<IpAddr>,
    ) -> bool {
        let Some(search) = &mut destination.search else {
            return false;
        };
        let Some(mut ip) = next(search) else {
            return false;
        };
        let mut left = search.count();
        while !self.lead_to(destination, SocketAddr::new(ip, self.port)) && left > 1 {
            let now = Instant::now();
            let next = (destination.search.as_mut()).and_then(|search| search.handle_refused(now));
            ip = next.unwrap_or(ip);
            left -= 1;
        }
        let again = destination.search.as_mut().map(Search::poll_again);
        let again = again.unwrap_or_default();
        for datagram in &again {
            // What is refused here, too, comes back as an answer to one of the next.
            drop(self.pass(&self.ends.load(), datagram));
        }
        self.moved.notify_one();
        !again.is_empty()
    }

    /// Returns whether the flow leads there now.
    fn lead_to(&self, destination: &mut Destination, remote: SocketAddr) -> bool {
        if destination.remote == remote {
            return true;
        }
        // Without a descriptor for the new socket, the flow stays where it is and tries again.
        let Ok(ends) = Ends::open(&self.means.ports, self.held.origin, remote, &self.target) else {
            return false;
        };
        destination.remote = remote;
        self.ends.store(Arc::new(ends));
        // The task waits on the old socket: it looks again.
        self.moved.notify_one();
        true
    }

    /// A target has come that these ports belong to.
    pub(super) fn make_way(&self, ports: &HashSet<u16>) {
        let destination = lock(&self.destination);
        let own = self.ends.load().port();
        if own.is_ok_and(|own| ports.contains(&own))
            && let Ok(ends) = Ends::open(
                &self.means.ports,
                self.held.origin,
                destination.remote,
                &self.target,
            )
        {
            self.ends.store(Arc::new(ends));
            self.moved.notify_one();
        }
    }

    /// A name that leads elsewhere takes its live flows along.
    pub(super) fn follow(&self, known: &[IpAddr]) {
        let mut destination = lock(&self.destination);
        if !leads_to(destination.remote, known)
            && let Some(ip) = known.first()
        {
            destination.search = search(known);
            self.answered.store(false, Ordering::Relaxed);
            self.lead_to(&mut destination, SocketAddr::new(*ip, self.port));
        }
    }
}

/// There is something to look for where there are several addresses.
fn search(candidates: &[IpAddr]) -> Option<Search<OwnedSemaphorePermit>> {
    (candidates.len() > 1).then(|| Search::new(candidates))
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Its service's count is right again.
        self.set_id(None);
    }
}

/// 4 MiB: 256 players at once with all that a flow keeps, or thousands with a greeting each.
const FIRST_DATAGRAMS: usize = 4 << 20;
/// No time at which a player has begun to wait.
const ANSWERED: u64 = u64::MAX;
/// A player who repeats himself for so long, and is not answered, waits in vain: 5 s, in which a client of a game tries a few times.
const UNANSWERED_AFTER: Duration = Duration::from_secs(5);
/// Who has said nothing for 30 s waits no longer.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// No id of a relay: they are below 2^62.
const PARKED: u64 = u64::MAX;
