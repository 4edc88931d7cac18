//! Redundancy at work: numbers what leaves over QUIC, and sends copies and repairs of it when their time has come.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use crate::{
    instance::Redundancy,
    key::PublicKey,
    metrics::{Counter, Metrics},
    proto::{
        datagram::{DatagramHead, RedundancyHead, Scheme},
        redundancy::{
            Adaptive, Choice, KeptEvidence, PathEvidence, Probe, Prober, Protector,
            ProtectorSettings, Sample, Told,
        },
    },
    sync::lock,
    transport::blocks::make_room,
    tunnel::{
        datagram::{fair::FairKey, quic_queue::QuicQueue},
        futures::sleep_until,
    },
};

/// Protects the datagrams of one tunnel. One timer serves all of its flows.
#[derive(Debug)]
pub(crate) struct Protection {
    queue: Arc<QuicQueue>,
    metrics: Arc<Metrics>,
    protector: Mutex<Protector>,
    /// Wakes the task: it has to look sooner than it thinks.
    sooner: Notify,
    /// What adaptive services do at the moment.
    choice: AtomicU8,
    /// Bytes of adaptive services since the last sample.
    adaptive_bytes: AtomicU64,
    /// Samples are taken: adaptive services have traffic.
    is_sampled: AtomicBool,
    /// What the other side is asked.
    prober: Mutex<Prober>,
    /// Where the other side has shown that it is. Where its packets seem to come from, anybody can change who sends one of
    /// them from elsewhere, and nothing that is known of the path may hang on that.
    peer_ip: Mutex<IpAddr>,
}

/// What the tunnels of a program know of their paths, each from the one before it to the same peer.
#[derive(Debug, Clone)]
pub(crate) struct Paths(Arc<Mutex<KeptEvidence<PublicKey, PathEnds>>>);

/// The addresses of a path, ours and the other side's: where one of them changes, it is another path.
type PathEnds = (Option<IpAddr>, IpAddr);

/// What is known of the path to one peer.
#[derive(Debug)]
pub(crate) struct PathTo {
    paths: Paths,
    peer: PublicKey,
    source: Option<Source>,
}

/// Finds the address from which packets to another leave at the moment.
#[derive(Clone)]
pub(crate) struct Source(pub(crate) Arc<dyn Fn(SocketAddr) -> Option<IpAddr> + Send + Sync>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Paths {
    /// Keeps evidence of at most `most` peers.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(KeptEvidence::new(most))))
    }

    pub(crate) fn to(&self, peer: PublicKey) -> PathTo {
        PathTo {
            paths: self.clone(),
            peer,
            source: None,
        }
    }
}

impl PathTo {
    /// The same from a side that dials: its connection does not say where it leaves from.
    pub(crate) fn leaving_from(self, source: Source) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// The ends of the path that a connection to a peer at this address takes now.
    fn ends(&self, connection: &quinn::Connection, peer: IpAddr) -> PathEnds {
        let ours = connection.local_ip();
        let towards = SocketAddr::new(peer, connection.remote_address().port());
        let ours = ours.or_else(|| (self.source.as_ref()?.0)(towards));
        (ours, peer)
    }

    fn recall(&self, ends: PathEnds) -> PathEvidence {
        lock(&self.paths.0).get(Instant::now(), &self.peer, &ends)
    }

    fn keep(&self, ends: PathEnds, evidence: PathEvidence) {
        lock(&self.paths.0).keep(Instant::now(), self.peer, ends, evidence);
    }
}

impl Protection {
    /// Protects what leaves through `queue`. Its task ends with the connection.
    pub(super) fn start(queue: Arc<QuicQueue>, metrics: Arc<Metrics>, path: PathTo) -> Arc<Self> {
        // The handshake came to its end there.
        let peer_ip = queue.connection().remote_address().ip();
        let sampler = Sampler::new(path, queue.connection(), peer_ip);
        let choice = sampler.adaptive.choice();
        let protection = Arc::new(Self {
            queue,
            metrics,
            protector: Mutex::new(Protector::new(ProtectorSettings::default())),
            sooner: Notify::new(),
            choice: AtomicU8::new(choice as u8),
            adaptive_bytes: AtomicU64::new(0),
            is_sampled: AtomicBool::new(false),
            prober: Mutex::default(),
            peer_ip: Mutex::new(peer_ip),
        });
        tokio::spawn(protection.clone().run(sampler));
        protection
    }

    /// How a datagram of `length` bytes is protected, if it is. Without redundancy this is all that it costs.
    pub(super) fn scheme(&self, redundancy: Redundancy, length: usize) -> Option<Scheme> {
        match redundancy {
            Redundancy::Off => None,
            Redundancy::Duplicate => Some(Scheme::Copied),
            Redundancy::Fec => Some(Scheme::Source),
            Redundancy::Adaptive => {
                // Relaxed: a sample that misses a packet is as good.
                let before = self
                    .adaptive_bytes
                    .fetch_add(length as u64, Ordering::Relaxed);
                if !self.is_sampled.load(Ordering::Relaxed) {
                    self.is_sampled.store(true, Ordering::Relaxed);
                    self.sooner.notify_one();
                }
                let choice = self.choice.load(Ordering::Relaxed);
                let choices = [Choice::Off, Choice::Duplicate, Choice::Fec];
                choices
                    .get(usize::from(choice))?
                    .scheme(before + length as u64)
            }
        }
    }

    /// Sends one datagram, and sees to it that its copy or a repair follows.
    pub(super) fn send(
        &self,
        whose: FairKey,
        mut head: DatagramHead,
        scheme: Scheme,
        payload: &[u8],
        scratch: &mut BytesMut,
    ) {
        let now = Instant::now();
        let mut protector = lock(&self.protector);
        let before = protector.poll_timeout();
        let sequence = protector.sequence(scheme);
        head.redundancy = Some(RedundancyHead { sequence, scheme });
        make_room(scratch, head.encoded_len() + payload.len());
        head.encode(scratch);
        scratch.put_slice(payload);
        let datagram = scratch.split().freeze();
        match scheme {
            Scheme::Copied => protector.handle_copied(now, datagram.clone()),
            Scheme::Source | Scheme::Repair(_) => {
                protector.handle_source(now, sequence, &datagram);
            }
        }
        let due = protector.poll_timeout();
        drop(protector);
        self.queue.look(now);
        self.queue.send(whose, datagram, &self.metrics);
        match due {
            // Sooner than a timer could: at thousands of packets a second repairs go by the packets.
            Some(due) if due <= now => drop(self.send_due(now, scratch)),
            Some(due) if before.is_none_or(|before| due < before) => self.sooner.notify_one(),
            _ => {}
        }
    }

    /// Sends what is due; yields when there is more to do.
    fn send_due(&self, now: Instant, scratch: &mut BytesMut) -> Option<Instant> {
        let mut protector = lock(&self.protector);
        // Looked at once, for what is sent here fills QUIC's queue as well.
        let settings = ProtectorSettings::default();
        let mut has_flowed = None;
        while let Some(copy) = protector.poll_copy(now) {
            let has_flowed = *has_flowed
                .get_or_insert_with(|| self.queue.has_flowed(now, settings.copy_age_least()));
            self.send_beside(copy, has_flowed, &self.metrics.copies_sent);
        }
        let mut has_flowed = None;
        make_room(scratch, REPAIR_MAX);
        while protector.poll_repair(now, scratch) {
            let has_flowed =
                *has_flowed.get_or_insert_with(|| self.queue.has_flowed(now, settings.ripe));
            let repair = scratch.split().freeze();
            self.send_beside(repair, has_flowed, &self.metrics.repairs_sent);
            make_room(scratch, REPAIR_MAX);
        }
        protector.poll_timeout()
    }

    /// Sends what the game can do without: not while anything waits that it cannot, for a full path is not helped by
    /// more, and what is still here would share the packet of what protects it.
    fn send_beside(&self, datagram: Bytes, has_flowed: bool, counter: &Counter) {
        if has_flowed && self.queue.send_if_idle(datagram) {
            counter.one();
        }
    }

    /// A probe came, and `arrived` datagrams before it.
    pub(super) fn handle_probe(&self, payload: &[u8], arrived: u32) {
        match Probe::decode(payload) {
            Some(Probe::Question(id)) => self.send_probe(Probe::Answer(id, arrived)),
            Some(Probe::Answer(id, arrived)) => lock(&self.prober).handle_answer(id, arrived),
            None => {}
        }
    }

    /// The other side has shown that it is at this address.
    pub(super) fn handle_moved(&self, to: IpAddr) {
        *lock(&self.peer_ip) = to;
    }

    /// Asks the other side what has come of what was sent until now.
    fn ask(&self) {
        let question = lock(&self.prober).ask(self.queue.sent());
        self.send_probe(question);
    }

    /// Dropping it is safe where something waits: the next one counts for it as well.
    fn send_probe(&self, probe: Probe) {
        let mut out = BytesMut::new();
        probe.encode(&mut out);
        self.queue.send_if_idle(out.freeze());
    }

    async fn run(self: Arc<Self>, mut sampler: Sampler) {
        let mut scratch = BytesMut::new();
        let connection = self.queue.connection().clone();
        let closed = connection.closed();
        tokio::pin!(closed);
        loop {
            let due = self.send_due(Instant::now(), &mut scratch);
            if self.is_sampled.load(Ordering::Relaxed) {
                self.sample(&mut sampler, &connection);
            }
            tokio::select! {
                () = sleep_until(due.into_iter().chain(sampler.next).min()) => {}
                () = self.sooner.notified() => {}
                _ = &mut closed => return,
            }
        }
    }

    /// Takes a sample if it is time, and stops where nothing moves: an idle tunnel has no timer.
    fn sample(&self, sampler: &mut Sampler, connection: &quinn::Connection) {
        let now = Instant::now();
        match sampler.next {
            None => sampler.resume(now, connection),
            Some(next) if next > now => return,
            Some(_) => {
                let bytes = self.adaptive_bytes.swap(0, Ordering::Relaxed);
                if bytes == 0 {
                    sampler.next = None;
                    self.is_sampled.store(false, Ordering::Relaxed);
                    return;
                }
                let told = lock(&self.prober).take();
                let peer_ip = *lock(&self.peer_ip);
                sampler.take(now, bytes, told, connection, peer_ip);
                if sampler.adaptive.is_in_doubt() {
                    self.ask();
                } else {
                    lock(&self.prober).pause();
                }
            }
        }
        let choice = sampler.adaptive.choice();
        if self.choice.swap(choice as u8, Ordering::Relaxed) != choice as u8 {
            tracing::debug!(?choice, "datagrams of adaptive services");
        }
    }
}

/// What QUIC has measured up to the last sample.
#[derive(Debug)]
struct Sampler {
    adaptive: Adaptive,
    path: PathTo,
    ends: PathEnds,
    since: Instant,
    sent: u64,
    lost: u64,
    /// When the next sample is due; `None` while nothing moves.
    next: Option<Instant>,
}

impl Sampler {
    fn new(path: PathTo, connection: &quinn::Connection, peer: IpAddr) -> Self {
        let ends = path.ends(connection, peer);
        Self {
            adaptive: Adaptive::new(path.recall(ends)),
            path,
            ends,
            since: Instant::now(),
            sent: 0,
            lost: 0,
            next: None,
        }
    }

    /// Something moves again. What QUIC has sent and lost meanwhile was not looked at in time to prove anything.
    fn resume(&mut self, now: Instant, connection: &quinn::Connection) {
        let age = now.saturating_duration_since(self.since);
        self.adaptive.handle_silence(age);
        let path = connection.stats().path;
        (self.sent, self.lost) = (path.sent_packets, path.lost_packets);
        self.since = now;
        self.next = Some(now + SAMPLE);
    }

    fn take(
        &mut self,
        now: Instant,
        bytes: u64,
        told: Told,
        connection: &quinn::Connection,
        peer: IpAddr,
    ) {
        let ends = self.path.ends(connection, peer);
        if ends != self.ends {
            self.ends = ends;
            self.adaptive = Adaptive::new(self.path.recall(ends));
        }
        let path = connection.stats().path;
        let sample = Sample {
            time: now.saturating_duration_since(self.since),
            // A new path counts from zero.
            sent: path.sent_packets.saturating_sub(self.sent),
            lost: path.lost_packets.saturating_sub(self.lost),
            bytes,
            told,
        };
        (self.sent, self.lost) = (path.sent_packets, path.lost_packets);
        self.since = now;
        self.next = Some(now + SAMPLE);
        self.adaptive.handle_sample(sample);
        self.path.keep(ends, self.adaptive.evidence());
    }
}

/// How often loss is looked at: twice a second, as often as a player's first losses tell anything.
const SAMPLE: Duration = Duration::from_millis(500);
/// Room for a repair: its symbol and head.
const REPAIR_MAX: usize = 1_500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::SecretKey,
        proto::{datagram::FlowId, handshake::Suite},
        transport::quic::{congestion, tests::pair},
        tunnel::datagram::{inbound::Inbound, limits::QueueLimits},
    };

    fn protection(connection: &quinn::Connection) -> Arc<Protection> {
        let queue = Arc::new(QuicQueue::new(connection.clone(), QueueLimits::default()));
        let path = Paths::new(1).to(SecretKey::generate().unwrap().public_key());
        Protection::start(queue, Arc::default(), path)
    }

    /// Reads what comes over a connection, but for the datagram in this place.
    async fn read(connection: quinn::Connection, protection: Arc<Protection>, but: usize) {
        let mut inbound = Inbound::over_quic(Arc::default(), Some(protection));
        for place in 0.. {
            let Ok(datagram) = connection.read_datagram().await else {
                return;
            };
            if place != but {
                inbound.handle(datagram);
            }
        }
    }

    #[tokio::test]
    async fn the_other_side_tells_what_has_come() {
        let (connection, _, peer, _endpoints) = pair(Suite::Aes256Gcm).await;
        let peer = peer.connection;
        let (ours, theirs) = (protection(&connection), protection(&peer));
        tokio::spawn(read(peer, theirs, 7));
        tokio::spawn(read(connection, ours.clone(), usize::MAX));
        let told = async || {
            ours.ask();
            loop {
                let told = lock(&ours.prober).take();
                if told != Told::default() {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let hang = Duration::from_secs(30);
        for (sent, lost) in [(10, 1), (11, 0)] {
            for _ in 0..10 {
                let head = DatagramHead::data(FlowId(1));
                let whose = FairKey::flow(1, 1);
                ours.send(whose, head, Scheme::Source, b"move", &mut BytesMut::new());
            }
            // Beside them one question was sent, and repairs perhaps.
            let told = tokio::time::timeout(hang, told()).await.unwrap();
            assert!(told.sent >= sent && told.lost == lost, "{told:?}");
        }
    }

    #[tokio::test]
    async fn what_is_known_of_a_path_stays_until_the_peer_has_shown_that_it_is_elsewhere() {
        let (client, _, accepted, [endpoint, _relay]) = pair(Suite::Aes256Gcm).await;
        let relay = accepted.connection;
        let (paths, peer) = (Paths::new(1), SecretKey::generate().unwrap().public_key());
        let [home, away] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let mut clean = Adaptive::default();
        while clean.choice() != Choice::Off {
            clean.handle_sample(Sample {
                time: SAMPLE,
                sent: 200,
                lost: 0,
                bytes: 0,
                told: Told::default(),
            });
        }
        let path = paths.to(peer);
        path.keep(path.ends(&relay, home), clean.evidence());
        let queue = Arc::new(QuicQueue::new(relay.clone(), QueueLimits::default()));
        let protection = Protection::start(queue, Arc::default(), paths.to(peer));
        let mut sampler = Sampler::new(path, &relay, home);
        let mut sample = || {
            // As adaptive services with traffic would have it.
            sampler.next = Some(Instant::now());
            protection.adaptive_bytes.store(1, Ordering::Relaxed);
            protection.sample(&mut sampler, &relay);
            protection.choice.load(Ordering::Relaxed)
        };
        assert_eq!(sample(), Choice::Off as u8);
        endpoint
            .rebind(std::net::UdpSocket::bind((away, 0)).unwrap())
            .unwrap();
        let moved = async {
            while relay.remote_address().ip() != away {
                client
                    .send_datagram(Bytes::from_static(b"from elsewhere"))
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let hang = Duration::from_secs(30);
        tokio::time::timeout(hang, moved).await.unwrap();
        assert_eq!(sample(), Choice::Off as u8, "packets alone prove nothing");
        protection.handle_moved(away);
        assert_eq!(sample(), Choice::Duplicate as u8);
    }

    #[tokio::test]
    async fn a_copy_is_not_sent_while_its_original_waits_for_the_window() {
        let (connection, _, peer, _endpoints) = pair(Suite::Aes256Gcm).await;
        let queue = Arc::new(QuicQueue::new(connection.clone(), QueueLimits::default()));
        let metrics = Arc::<Metrics>::default();
        let path = Paths::new(1).to(SecretKey::generate().unwrap().public_key());
        let protection = Protection::start(queue.clone(), metrics.clone(), path);
        let mut scratch = BytesMut::new();
        let mut send = |payload: &[u8]| {
            let head = DatagramHead::data(FlowId(7));
            protection.send(
                FairKey::flow(1, 1),
                head,
                Scheme::Copied,
                payload,
                &mut scratch,
            );
        };
        congestion::choke(&connection, true);
        send(b"first");
        tokio::task::yield_now().await;
        // There is room in QUIC's queue, and nothing waits in ours.
        let due = Instant::now() + Duration::from_millis(10);
        assert_eq!(protection.send_due(due, &mut BytesMut::new()), None);
        congestion::choke(&connection, false);
        send(b"second");
        let mut came = Vec::new();
        for _ in 0..3 {
            let datagram =
                tokio::time::timeout(Duration::from_secs(30), peer.connection.read_datagram());
            let (_, payload) = DatagramHead::decode(datagram.await.unwrap().unwrap()).unwrap();
            came.push(payload);
        }
        assert_eq!(came, ["first", "second", "second"]);
        assert_eq!(metrics.snapshot().copies_sent, 1);
        // Heads of 1 flow and of 3 for redundancy at most.
        let sent = queue.take_metered();
        assert!(sent > 3 * 80 + 17 && sent <= 3 * (80 + 8) + 17, "{sent}");
    }
}
