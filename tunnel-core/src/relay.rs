//! The public side: accepts players, owns public ports, and sends everything through its clients' tunnels.

mod accept;
mod address;
mod authority;
mod client_address;
mod further;
mod ingress;
mod limits;
mod listen;
mod pace;
mod pending;
pub(crate) mod registry;
mod resume;
mod session;
mod shares;
mod supervisor;
mod tunnel;
mod unadmitted;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use authority::{Admission, Authority, Denial, StaticAuthority};
pub use limits::RelayLimits;

use crate::{
    event::{Event, EventSink, Events, Limit},
    instance::{InstanceId, PortSet},
    key::{self, KeyError, PublicKey, SecretKey},
    metrics::{Metrics, Snapshot},
    proto::{handshake::ProcessId, message::ServiceDeclaration, stream::frame::ResetCode},
    socket,
    transport::{
        Transport,
        admission::{self, Source},
        mem, quic,
    },
    tunnel::{
        datagram::Paths,
        lane::Granted,
        notices::Notices,
        stream::{Memory, StreamEnd},
        supervise::Reporter,
    },
};
use authority::Guarded;
use further::FurtherLanes;
use ingress::udp::directory::{Directories, Directory};
use pending::Pending;
use resume::LaneStreams;
use shares::Shares;
use supervisor::{Command, Supervisor};

/// A relay that runs. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in peace.
///
/// ```
/// use std::sync::Arc;
/// use tunnel_core::{key::{Psk, SecretKey}, relay::{Relay, StaticAuthority}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = SecretKey::generate()?.public_key();
/// let authority = StaticAuthority::new().client("node-1", node, Psk::generate()?, "7777".parse()?);
/// let relay = Relay::builder(SecretKey::generate()?, Arc::new(authority))
///     .listen("127.0.0.1:0".parse()?)
///     .start()
///     .await?;
/// println!("listening on {:?}", relay.local_addr());
/// relay.shutdown(std::time::Duration::ZERO).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    local_addr: Option<SocketAddr>,
    public_key: PublicKey,
}

/// How a relay is set up; from [`Relay::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct RelayBuilder {
    secret_key: SecretKey,
    authority: Arc<dyn Authority>,
    listen: Option<SocketAddr>,
    mem: Option<mem::Network>,
    config: Config,
}

impl Relay {
    /// A relay with this identity, whose clients and their rights `authority` knows.
    pub fn builder(secret_key: SecretKey, authority: Arc<dyn Authority>) -> RelayBuilder {
        RelayBuilder {
            secret_key,
            authority,
            listen: None,
            mem: None,
            config: Config {
                public_bind: Ipv4Addr::UNSPECIFIED.into(),
                ports: PortSet::all(),
                limits: RelayLimits::default(),
            },
        }
    }

    /// Where it listens for clients, on UDP and TCP alike; `None` if it runs in memory only.
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Who it is: what its clients need to know.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// What happens from now on; the first to ask also hears what has happened since the start.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// The counters at this moment.
    pub fn metrics(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Who is connected, and what is bound.
    pub async fn status(&self) -> RelayStatus {
        let (reply, status) = oneshot::channel();
        self.send(Command::Status(reply)).await;
        status.await.unwrap_or_default()
    }

    /// Asks the authority again about every client: the revoked are ended, changed permissions take effect.
    pub async fn recheck(&self) {
        let (done, checked) = oneshot::channel();
        self.send(Command::Recheck(done)).await;
        // The relay has ended: nobody is connected any more.
        drop(checked.await);
    }

    /// Changes which ports the relay gives out. What is bound outside of them is unbound.
    pub async fn set_ports(&self, ports: PortSet) {
        self.send(Command::SetPorts(ports)).await;
    }

    /// Takes no new players, tells the clients so, waits at most `grace` for those who are there, says goodbye and ends.
    ///
    /// A player is there as long as the connection is open, or a datagram has passed in the last seconds. New
    /// connections are refused, new flows dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown { grace, done }).await;
        drop(ended.await);
        self.shared.stopped.cancel();
        // The goodbyes and the closes behind them leave while somebody still runs the sockets.
        tokio::time::sleep(LINGER).await;
    }

    async fn send(&self, command: Command) {
        // The supervisor has ended: so has the relay.
        drop(self.shared.commands.send(command).await);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

impl RelayBuilder {
    /// Listens for clients here: QUIC on UDP and lanes on TCP, the same number.
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Listens for clients on a network in memory; for tests.
    pub fn mem(mut self, network: &mem::Network) -> Self {
        self.mem = Some(network.clone());
        self
    }

    /// The address on which public ports are opened; every IPv4 address by default, `::` for both families.
    pub const fn public_bind(mut self, address: IpAddr) -> Self {
        self.config.public_bind = address;
        self
    }

    /// The ports that clients may be given at all; every port by default.
    pub fn ports(mut self, ports: PortSet) -> Self {
        self.config.ports = ports;
        self
    }

    /// Other bounds than the default ones.
    pub const fn limits(mut self, limits: RelayLimits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Opens the sockets and runs. Needs a tokio runtime with I/O and time.
    ///
    /// Where the system has no IPv6, `::` is every IPv4 address, and a warning says so.
    pub async fn start(mut self) -> Result<Relay, RelayStartError> {
        let public_key = self.secret_key.public_key();
        let wanted = self.config.public_bind;
        self.config.public_bind =
            address::local(wanted).map_err(|error| RelayStartError::PublicBind {
                address: wanted,
                error,
            })?;
        let mut without_v6 = self.config.public_bind != wanted;
        if let Some(listen) = &mut self.listen
            && let Ok(served) = address::local(listen.ip())
        {
            without_v6 |= served != listen.ip();
            listen.set_ip(served);
        }
        let (commands, received) = mpsc::channel(COMMANDS);
        let process = ProcessId::from(key::random::<16>()?);
        let (metrics, events) = (Arc::<Metrics>::default(), EventSink::new());
        let reporter = Reporter {
            events: events.clone(),
            metrics: metrics.clone(),
        };
        let configured = self.config.limits.streams_per_client;
        self.config.limits = self.config.limits.within(socket::descriptors_for_players());
        let limits = &self.config.limits;
        let (streams, per_client) = (limits.streams, limits.streams_per_client);
        let directories = Directories::new(limits);
        let proven = accept::pending(limits);
        let memory = Memory::new(limits.stream_memory);
        let shared = Arc::new(Shared {
            stream_permits: permits(limits.streams),
            streams_by_client: Shares::new(limits.streams_per_client),
            streams_by_address: Shares::new(limits.streams_per_address),
            tunnels_by_client: Shares::among(
                limits.tunnels,
                limits.tunnels_per_client.saturating_add(TAKING_OVER),
            ),
            paths: Paths::new(PATHS_KEPT),
            admission: admission::Admission::shared(limits.admission()),
            config: self.config,
            authority: Guarded::new(self.authority, reporter),
            secret_key: self.secret_key,
            process,
            metrics,
            events,
            spare: socket::Spare::new(),
            granted: Granted::default(),
            further: Arc::default(),
            strangers: Arc::default(),
            directories,
            notices: Notices::default(),
            deaf: Notices::default(),
            proven,
            memory,
            lane_streams: Arc::default(),
            next_flow: AtomicU64::new(1),
            next_stream: Arc::new(AtomicU64::new(first_stream(process))),
            next_tunnel: AtomicU64::new(1),
            commands,
            players: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        if without_v6 {
            let text = "this system has no IPv6: [::] is every IPv4 address";
            shared.emit(Event::Warning(text.into()));
        }
        if per_client < configured {
            let text = format!(
                "the limit of open descriptors allows no more than streams = {streams} and streams_per_client = {per_client}"
            );
            shared.emit(Event::Warning(text));
        }
        let local_addr = match self.listen {
            Some(address) => Some(accept::listen(&shared, address)?),
            None => None,
        };
        if let Some(network) = self.mem {
            let accept = network
                .listen()
                .map_err(|_| RelayStartError::NetworkInUse)?;
            accept::listen_mem(shared.clone(), accept);
        }
        tokio::spawn(Supervisor::new(shared.clone()).run(received));
        Ok(Relay {
            shared,
            local_addr,
            public_key,
        })
    }
}

/// Who is connected to a relay, and what is bound.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Clients that are connected, or whose ports are held.
    pub clients: Vec<ClientStatus>,
    /// The counters.
    pub counters: Snapshot,
    /// The congestion control that the kernel gives to lanes, once there was one: `bbr` is what they want.
    pub lane_congestion: Option<String>,
}

/// One client, seen from its relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub key: PublicKey,
    /// Where it connects from, if it is connected over a network.
    pub peer: Option<SocketAddr>,
    /// What its tunnel runs on; `None` while that is lost and its ports are held.
    pub transport: Option<Transport>,
    /// Round trip of its QUIC connection.
    pub rtt: Option<Duration>,
    /// What is bound for it.
    pub instances: Vec<InstanceStatus>,
}

/// One bound instance, seen from the relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Which.
    pub id: InstanceId,
    /// Its services, all of them bound.
    pub services: Vec<ServiceDeclaration>,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayStartError {
    /// A socket for clients could not be opened.
    #[error("cannot listen on {protocol} {address}: {error}")]
    Listen {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Public ports could not be opened on their address.
    #[error("no public port can be opened on {address}: {error}")]
    PublicBind {
        /// Which.
        address: IpAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another relay has that network in memory.
    #[error("another relay has this network in memory")]
    NetworkInUse,
    /// No randomness was to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl RelayStartError {
    /// Whether an address is not this machine's, or not yet: it may come up, as at boot.
    pub fn is_not_there_yet(&self) -> bool {
        matches!(
            self,
            Self::Listen { error, .. } | Self::PublicBind { error, .. }
                if error.kind() == io::ErrorKind::AddrNotAvailable
        )
    }
}

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
    /// Of so many clients, and of each so many, from its proof on, so that none takes all.
    pub(crate) tunnels_by_client: Arc<Shares<PublicKey>>,
    /// What is known of the paths to clients, from one tunnel to the next.
    pub(crate) paths: Paths,
    /// What strangers may cost, over QUIC and TCP together.
    pub(crate) admission: admission::Shared,
    pub(crate) spare: socket::Spare,
    pub(crate) further: Arc<FurtherLanes>,
    /// What the tunnel's socket dropped unread.
    pub(crate) strangers: Arc<quic::Drops>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// What the kernel granted lanes.
    pub(crate) granted: Granted,
    /// Streams of players, from the moment when they go to a client.
    pub(crate) players: TaskTracker,
    /// The relay takes no new players.
    pub(crate) draining: CancellationToken,
    /// Ends everything.
    pub(crate) stopped: CancellationToken,
    pub(crate) directories: Directories,
    /// Which limits were met, by whom and at which port.
    pub(crate) notices: Notices<(Limit, Option<IpAddr>, u16)>,
    /// Who has proved itself and is not let in.
    pub(crate) proven: Arc<Pending>,
    /// What the streams of all tunnels hold.
    pub(crate) memory: Arc<Memory>,
    /// Listeners that accept nothing.
    pub(crate) deaf: Notices<SocketAddr>,
    /// Streams that are on lanes.
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
    pub(crate) limits: RelayLimits,
}

/// The first stream's id: other processes of the relay begin elsewhere, so that what is late of one is no stream of another.
/// 61 bits, which leaves as many ids above it.
fn first_stream(process: ProcessId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *process.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 3
}

impl Shared {
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

    pub(crate) fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// Where replies to a client's flows are looked up. It lives as long as a tunnel or a service of the client.
    pub(crate) fn directory(&self, client: PublicKey) -> Arc<Directory> {
        self.directories.of(client)
    }

    /// A flow id that no flow of this relay ever had.
    pub(crate) fn next_flow(&self) -> u64 {
        self.next_flow.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells the tunnels of this relay apart.
    pub(crate) fn next_tunnel(&self) -> u64 {
        self.next_tunnel.fetch_add(1, Ordering::Relaxed)
    }

    /// Where stream ids come from: none is used twice.
    pub(crate) fn next_stream(&self) -> Arc<AtomicU64> {
        self.next_stream.clone()
    }

    /// Counts why a client reset a stream.
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

fn permits(most: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
}

/// Tunnels of a client beyond those that it may keep: one that comes up, and one that goes.
const TAKING_OVER: usize = 2;
/// Clients whose paths are remembered: 1,024 are 200 KiB, and whoever is forgotten is protected for some seconds without need.
const PATHS_KEPT: usize = 1_024;
/// 256 commands: every instance of a large node declared at once.
const COMMANDS: usize = 256;
/// How long a relay that shuts down keeps its sockets after the goodbyes.
const LINGER: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests;
