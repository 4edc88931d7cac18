//! The state that all tasks of one relay share: its configuration and identity, its counters, and its limits across clients.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    event::{Event, EventSink, Limit},
    instance::PortSet,
    key::{self, KeyError, PublicKey, SecretKey},
    metrics::{Metrics, Snapshot},
    proto::{handshake::ProcessId, stream::frame::ResetCode},
    relay::{
        authority::{Authority, Guarded},
        clients::Serial,
        command::Command,
        directory::{Directories, Directory},
        further::FurtherLanes,
        lane_streams::LaneStreams,
        limit::{
            pending::{HandshakeSlot, Pending},
            shares::Shares,
        },
        limits::{RelayLimits, permits},
        trusted::TrustedProxy,
    },
    socket,
    sync::lock,
    transport::{
        admission::{self, Source},
        quic,
    },
    tunnel::{
        datagram::Paths,
        lane::Granted,
        notices::Notices,
        stream::{Memory, StreamEnd},
        supervise::Reporter,
    },
};

/// What the relay's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) authority: Guarded,
    pub(crate) secret_key: SecretKey,
    pub(crate) process: ProcessId,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: EventSink,
    pub(crate) stream_permits: Arc<Semaphore>,
    pub(crate) streams_by_client: Arc<Shares<PublicKey>>,
    pub(crate) streams_by_address: Arc<Shares<Source>>,
    /// Tunnels of each client, counted from the proof of its key on, so that no client takes every tunnel that there may be.
    pub(crate) tunnels_by_client: Arc<Shares<PublicKey>>,
    /// What is known of the network paths to clients; it outlives their tunnels.
    pub(crate) paths: Paths,
    /// The CPU time that handshakes of strangers may take, over QUIC and TCP together.
    pub(crate) admission: admission::Shared,
    pub(crate) spare: socket::Spare,
    pub(crate) further: Arc<FurtherLanes>,
    /// Counts the packets that the QUIC socket drops before they are opened.
    pub(crate) strangers: Arc<quic::Drops>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Which socket options the kernel has granted to lanes.
    pub(crate) granted: Granted,
    /// Counts the streams of players. A shutdown waits for them.
    pub(crate) players: TaskTracker,
    /// Cancelled when a shutdown begins: from then on no new players are taken.
    pub(crate) draining: CancellationToken,
    /// Cancelled when everything ends.
    pub(crate) stopped: CancellationToken,
    pub(crate) directories: Directories,
    /// When it was last reported that a limit was met, for each limit, address and port.
    pub(crate) notices: Notices<(Limit, Option<IpAddr>, u16)>,
    /// Front ends whose connections begin with a PROXY header.
    pub(crate) trusted_proxies: ArcSwap<Vec<TrustedProxy>>,
    /// When it was last reported that a front end sends none.
    pub(crate) front_ends: Notices<IpAddr>,
    /// Slots for clients that have proved a key and are not let in yet.
    pub(crate) proven: Arc<Pending>,
    /// Bounds the bytes that the streams of all tunnels hold together.
    pub(crate) memory: Arc<Memory>,
    /// When it was last reported that a listener cannot accept connections.
    pub(crate) deaf: Notices<SocketAddr>,
    /// The streams that run on lanes.
    pub(crate) lane_streams: Arc<LaneStreams>,
    next_flow: AtomicU64,
    next_stream: Arc<AtomicU64>,
    next_tunnel: AtomicU64,
}

/// How a relay is set up.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) public_bind: IpAddr,
    pub(crate) ports: PortSet,
    /// At the start; what is in force stands in [`Shared`].
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
    pub(crate) limits: RelayLimits,
    /// How long a message may wait for a client that does not read. Its heartbeats are not answered meanwhile.
    pub(crate) send_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_bind: Ipv4Addr::UNSPECIFIED.into(),
            ports: PortSet::all(),
            trusted_proxies: Vec::new(),
            limits: RelayLimits::default(),
            send_patience: Duration::from_secs(30),
        }
    }
}

impl Shared {
    /// The state of a relay that starts. The supervisor receives what is sent to `commands`.
    pub(super) fn new(
        config: Config,
        authority: Arc<dyn Authority>,
        secret_key: SecretKey,
        commands: mpsc::Sender<Command>,
    ) -> Result<Arc<Self>, KeyError> {
        let process = ProcessId::from(key::random::<16>()?);
        let (metrics, events) = (Arc::<Metrics>::default(), EventSink::new());
        let reporter = Reporter {
            events: events.clone(),
            metrics: metrics.clone(),
        };
        let limits = &config.limits;
        Ok(Arc::new(Self {
            stream_permits: permits(limits.streams),
            streams_by_client: Shares::new(limits.streams_per_client),
            streams_by_address: Shares::new(limits.streams_per_address),
            tunnels_by_client: Shares::among(
                limits.tunnels,
                limits.tunnels_per_client.saturating_add(TAKING_OVER),
            ),
            paths: Paths::new(PATHS_KEPT),
            admission: admission::Admission::shared(limits.admission()),
            directories: Directories::new(limits),
            trusted_proxies: ArcSwap::from_pointee(config.trusted_proxies.clone()),
            front_ends: Notices::default(),
            proven: limits.pending(),
            memory: Memory::new(limits.stream_memory),
            config,
            authority: Guarded::new(authority, reporter),
            secret_key,
            process,
            metrics,
            events,
            spare: socket::Spare::new(),
            granted: Granted::default(),
            further: Arc::default(),
            strangers: Arc::default(),
            notices: Notices::default(),
            deaf: Notices::default(),
            lane_streams: Arc::default(),
            next_flow: AtomicU64::new(1),
            next_stream: Arc::new(AtomicU64::new(first_stream(process))),
            next_tunnel: AtomicU64::new(1),
            commands,
            players: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
        }))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counted = self.metrics.snapshot();
        Snapshot {
            strangers: self.strangers.strangers(),
            handshakes_ignored: counted.handshakes_ignored + self.strangers.counts().unopened,
            ..counted
        }
    }

    pub(crate) fn reporter(&self) -> Reporter {
        Reporter {
            events: self.events.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Whether a connection from there begins with a PROXY header.
    pub(crate) fn is_front_end(&self, address: IpAddr) -> bool {
        let trusted = self.trusted_proxies.load();
        trusted.iter().any(|network| network.contains(address))
    }

    pub(crate) fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// The directory of a client's flows. It lives as long as a tunnel or a service of the client.
    pub(crate) fn directory(&self, client: PublicKey) -> Arc<Directory> {
        self.directories.of(client)
    }

    /// A flow id that no flow of this relay process has had.
    pub(crate) fn next_flow(&self) -> u64 {
        self.next_flow.fetch_add(1, Ordering::Relaxed)
    }

    /// A serial number that no tunnel of this relay process has had.
    pub(crate) fn next_tunnel(&self) -> Serial {
        Serial(self.next_tunnel.fetch_add(1, Ordering::Relaxed))
    }

    /// The counter from which stream ids are drawn.
    pub(crate) fn next_stream(&self) -> Arc<AtomicU64> {
        self.next_stream.clone()
    }

    /// Takes a slot, and counts whose slot was taken away for it. `None`, which is counted too, where none is to be had.
    pub(super) fn enter(&self, pending: &Arc<Pending>, source: Source) -> Option<HandshakeSlot> {
        match pending.enter(source) {
            Some((place, evicted)) => {
                if evicted {
                    self.metrics.handshakes_evicted.one();
                }
                Some(place)
            }
            None => {
                self.metrics.handshakes_ignored.one();
                None
            }
        }
    }

    /// Notes that a client was let in from an address: its next handshakes are not those of a stranger. The proof of a revoked key
    /// does not count.
    pub(super) fn let_in_from(&self, address: Option<SocketAddr>) {
        if let Some(address) = address {
            lock(&self.admission).let_in(Source::of(address.ip()));
        }
    }

    /// Counts the reason for which a client has reset a stream.
    pub(crate) fn count_reset(&self, end: &StreamEnd) {
        let StreamEnd::PeerReset(code) = end else {
            return;
        };
        match code {
            ResetCode::Refused => self.metrics.stream_target_refused.one(),
            ResetCode::Unreachable | ResetCode::Timeout => {
                self.metrics.stream_target_unreachable.one()
            }
            ResetCode::Unresolved => self.metrics.stream_unresolved.one(),
            ResetCode::NoService => self.metrics.stream_no_service.one(),
            ResetCode::Limit => self.metrics.stream_limit.one(),
            _ => self.metrics.stream_reset.one(),
        }
    }
}

/// The id of the first stream. Each process of the relay begins at another one, so that a late frame for a stream of one process
/// never names a stream of another. 61 bits, which leaves as many ids above it.
fn first_stream(process: ProcessId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *process.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 3
}

/// Tunnels of a client beyond those that it may keep: one that comes up, and one that ends.
const TAKING_OVER: usize = 2;
/// Clients whose paths are remembered. 1,024 take 200 KiB; datagrams of a client that was forgotten are protected for some
/// seconds without need.
const PATHS_KEPT: usize = 1_024;
