//! The node side: holds a tunnel to a relay and connects the relay's players to local targets.

mod addresses;
mod dial;
mod driver;
mod egress;
mod enrol;
mod limits;
mod link;
mod offers;
mod path;
mod ports;
mod race;
mod room;
mod streams;
mod targets;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use enrol::{EnrolError, Enrolled, enrol, enrol_mem};
pub use limits::ClientLimits;

use crate::{
    event::{Crowded, Event, EventSink, Events, Limit},
    instance::{HostPort, Instance, InstanceId},
    key::{self, KeyError, Psk, PublicKey, SecretKey},
    metrics::{Metrics, Snapshot},
    proto::{
        handshake::ProcessId, message::Code, session::client::InstanceState,
        stream::frame::ResetCode,
    },
    socket,
    transport::{Transport, mem},
    tunnel::{
        datagram::{DatagramSender, Paths},
        notices::Notices,
        stream::Memory,
        supervise::{Reporter, caught, supervise},
    },
};
use addresses::Addresses;
use dial::{Dialer, Place};
use driver::{Change, Command, Driver};
use egress::udp::{Flows, Means};
use ports::LocalPorts;
use room::Room;
use streams::Streams;
use targets::{Target, Targets};

/// A client that runs. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in peace.
///
/// ```no_run
/// use tunnel_core::{client::{Client, ClientIdentity}, instance::{Instance, RawInstance, RawService}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = ClientIdentity {
///     relay: "relay.example.net:4433".parse()?,
///     relay_public_key: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".parse()?,
///     secret_key: std::fs::read_to_string("client.key")?.parse()?,
///     psk: std::fs::read_to_string("client.psk")?.parse()?,
/// };
/// let game = RawService {
///     name: "game".into(),
///     protocol: "both".into(),
///     target: "127.0.0.1:7777".into(),
///     ..RawService::default()
/// };
/// let instance = Instance::try_from(&RawInstance { id: "srv_123".into(), services: vec![game] })?;
/// let client = Client::builder(identity).instances([instance]).start()?;
/// client.bound().await;
/// println!("players may come");
/// println!("{}", client.finished().await);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    finished: watch::Receiver<Option<ClientEnd>>,
    bound: watch::Receiver<bool>,
}

/// Who a client is, and which relay it belongs to.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// Where the relay listens.
    pub relay: HostPort,
    /// Who the relay is.
    pub relay_public_key: PublicKey,
    /// Who the client is.
    pub secret_key: SecretKey,
    /// The key that client and relay share.
    pub psk: Psk,
}

/// How a client is set up; from [`Client::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct ClientBuilder {
    identity: ClientIdentity,
    instances: Vec<Instance>,
    mem: Option<mem::Network>,
    limits: ClientLimits,
    udp: bool,
}

impl Client {
    /// A client with this identity.
    pub fn builder(identity: ClientIdentity) -> ClientBuilder {
        ClientBuilder {
            identity,
            instances: Vec::new(),
            mem: None,
            limits: ClientLimits::default(),
            udp: true,
        }
    }

    /// Makes the instances these: adds, changes and removes what differs, and touches nothing else. Does not wait for
    /// the relay: [`bound`](Self::bound) does.
    pub async fn set_instances(&self, instances: impl IntoIterator<Item = Instance>) {
        self.change(Change::Set(instances.into_iter().collect()))
            .await;
    }

    /// Adds an instance, or changes the one of that id.
    pub async fn insert(&self, instance: Instance) {
        self.change(Change::Insert(instance)).await;
    }

    /// Removes an instance: its ports are closed and its players ended.
    pub async fn remove(&self, id: InstanceId) {
        self.change(Change::Remove(id)).await;
    }

    /// The tunnel, and what became of each instance.
    pub async fn status(&self) -> ClientStatus {
        let (reply, status) = oneshot::channel();
        self.send(Command::Status(reply)).await;
        status.await.unwrap_or_default()
    }

    /// Waits until every instance is bound.
    pub async fn bound(&self) {
        // An error says that the client has ended: it will never be.
        if self.bound.clone().wait_for(|bound| *bound).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the client has ended, and says why. Losing the relay does not end it.
    pub async fn finished(&self) -> ClientEnd {
        let mut finished = self.finished.clone();
        let ended = finished.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|end| end.clone())
            .unwrap_or(ClientEnd::Stopped)
    }

    /// What happens from now on; the first to ask also hears what has happened since the start.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// The counters at this moment.
    pub fn metrics(&self) -> Snapshot {
        self.shared.metrics.snapshot()
    }

    /// Takes no new players, tells the relay so, waits at most `grace` for those who are there, says goodbye and ends. The
    /// relay gives the ports back at once.
    ///
    /// A player is there as long as the connection is open, or a datagram has passed in the last seconds.
    pub async fn shutdown(&self, grace: Duration) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown { grace, done }).await;
        // It has ended already.
        drop(ended.await);
    }

    async fn change(&self, change: Change) {
        let (done, changed) = oneshot::channel();
        self.send(Command::Change(change, done)).await;
        // The client has ended: nothing of it is bound any more.
        drop(changed.await);
    }

    async fn send(&self, command: Command) {
        // The driver has ended: `finished` says why.
        drop(self.commands.send(command).await);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

impl ClientBuilder {
    /// The instances from the start.
    pub fn instances(mut self, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.instances = instances.into_iter().collect();
        self
    }

    /// Other bounds than the default ones.
    pub const fn limits(mut self, limits: ClientLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Uses lanes alone, as if UDP were blocked; for measurements.
    #[doc(hidden)]
    pub const fn without_udp(mut self) -> Self {
        self.udp = false;
        self
    }

    /// Connects over a network in memory instead of the relay's address; for tests.
    pub fn mem(mut self, network: &mem::Network) -> Self {
        self.mem = Some(network.clone());
        self
    }

    /// Runs. Needs a tokio runtime with I/O and time. It tries to reach the relay for ever, so a relay or a network
    /// that is not there yet is no error.
    pub fn start(self) -> Result<Client, ClientStartError> {
        let ClientIdentity {
            relay,
            relay_public_key,
            secret_key,
            psk,
        } = self.identity;
        let process = ProcessId::from(key::random::<16>()?);
        let place = match self.mem {
            Some(network) => Place::Mem(network),
            None => Place::Net(Addresses::new(relay)),
        };
        let streams = self.limits.streams.min(Semaphore::MAX_PERMITS);
        let metrics = Arc::<Metrics>::default();
        let ports = Arc::new(LocalPorts::of_system());
        let memory = Memory::new(self.limits.stream_memory);
        let shared = Arc::new(Shared {
            stream_permits: Arc::new(Semaphore::new(streams)),
            flows: Flows::new(&self.limits, &metrics),
            means: Means::new(&ports),
            descriptors: Room::new(socket::descriptors_for_players()),
            limits: self.limits,
            targets: ArcSwap::default(),
            sender: ArcSwapOption::empty(),
            streams: Streams::default(),
            memory,
            players: TaskTracker::new(),
            metrics,
            events: EventSink::new(),
            notices: Notices::default(),
            stopped: CancellationToken::new(),
            paths: Paths::new(1),
            random: AtomicU64::new(u64::from_le_bytes(key::random::<8>()?)),
        });
        let (commands, received) = mpsc::channel(COMMANDS);
        let (finish, finished) = watch::channel(None);
        let (all_bound, bound) = watch::channel(false);
        let dialer = Dialer::new(
            place,
            relay_public_key,
            secret_key,
            process,
            Some(shared.events.clone()),
            self.udp,
            ports,
        );
        let reporting = shared.clone();
        let driver = Driver::new(shared.clone(), dialer, psk, self.instances, all_bound);
        let expiring = shared.clone();
        let stopped = shared.stopped.clone();
        supervise(
            shared.reporter(),
            stopped,
            "flow expiry".into(),
            move || {
                let shared = expiring.clone();
                async move { shared.flows.expire().await }
            },
        );
        tokio::spawn(async move {
            let end = caught(driver.run(received)).await.unwrap_or_else(|_| {
                reporting.reporter().panicked("the client's main task");
                reporting.stopped.cancel();
                ClientEnd::Panicked
            });
            finish.send_replace(Some(end));
        });
        Ok(Client {
            shared,
            commands,
            finished,
            bound,
        })
    }
}

/// Why a client has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientEnd {
    /// It was shut down or dropped.
    #[error("stopped")]
    Stopped,
    /// Another process with the same key has connected. This one stays away, or the two would fight for ever.
    #[error("another process with this client's key has taken the tunnel over")]
    Superseded,
    /// Its main task panicked: a bug. Another start helps.
    #[error("the client's main task panicked")]
    Panicked,
    /// The relay does not let it in, and trying again would not help.
    #[error("the relay refused this client ({code}): {text}")]
    Rejected {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
}

/// Why a client did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientStartError {
    /// No randomness was to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A client's tunnel and instances at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Its name at the relay, once it was let in.
    pub name: Option<String>,
    /// What its tunnel runs on; `None` while there is none.
    pub transport: Option<Transport>,
    /// Round trip of the control stream's last heartbeat.
    pub rtt: Option<Duration>,
    /// The congestion control that the kernel gives to lanes, once there was one: `bbr` is what they want.
    pub lane_congestion: Option<String>,
    /// The relay shuts down: it takes no new players.
    pub relay_drains: bool,
    /// No lane can be opened beside QUIC at the moment: TCP to the relay does not get through.
    pub lanes_blocked: bool,
    /// Every instance, and what became of it, sorted by id.
    pub instances: Vec<(Instance, InstanceState)>,
}

/// What the client's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: ClientLimits,
    pub(crate) stream_permits: Arc<Semaphore>,
    /// What the relay may name.
    pub(crate) targets: ArcSwap<Targets>,
    /// The way answers of flows leave; `None` without a tunnel.
    pub(crate) sender: ArcSwapOption<DatagramSender>,
    pub(crate) flows: Flows,
    /// What flows have their sockets and their memory of.
    pub(crate) means: Means,
    /// Players' sockets, one descriptor each.
    pub(crate) descriptors: Arc<Room>,
    pub(crate) streams: Streams,
    /// What the streams of all tunnels hold.
    pub(crate) memory: Arc<Memory>,
    /// The players' connections, from the moment when the relay names one.
    pub(crate) players: TaskTracker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: EventSink,
    /// What was said, and of which port.
    notices: Notices<(Notice, u16)>,
    /// Ends everything.
    pub(crate) stopped: CancellationToken,
    /// What is known of the path to the relay, from one tunnel to the next.
    pub(crate) paths: Paths,
    random: AtomicU64,
}

/// What is said once a minute of a service.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Notice {
    /// Players have met this limit.
    Limit(Limit),
    /// They do not reach the target, for this reason.
    Target(ResetCode),
}

impl Shared {
    pub(crate) fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// Says once a minute that players of a service are refused by a limit of this client.
    pub(crate) fn tell_crowded(&self, target: &Target, limit: Limit, most: usize) {
        let port = target.service.public.first();
        if self
            .notices
            .is_due(Instant::now(), (Notice::Limit(limit), port))
        {
            self.emit(Event::Crowded(Crowded {
                instance: target.instance.clone(),
                service: Some(target.service.name.clone()),
                port,
                limit,
                most,
                address: None,
                refuses: true,
            }));
        }
    }

    /// Says once a minute that players of a service do not reach its target, and why.
    pub(crate) fn tell_unserved(&self, target: &Target, why: ResetCode) {
        let port = target.service.public.first();
        if !(self.notices).is_due(Instant::now(), (Notice::Target(why), port)) {
            return;
        }
        let place = &target.service.target;
        let text = match why {
            ResetCode::Refused => format!("nothing listens at {place}"),
            ResetCode::Unresolved => format!("the name {} does not resolve", place.host),
            ResetCode::Limit => format!("no socket is to be had for {place}"),
            _ => format!("{place} does not answer"),
        };
        let (instance, service) = (&target.instance, &target.service.name);
        self.emit(Event::Warning(format!(
            "instance {instance}, service {service} (port {port}): {text}; its players are lost"
        )));
    }

    pub(crate) fn reporter(&self) -> Reporter {
        Reporter {
            events: self.events.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// 64 bits for jitter: spread, not secret (SplitMix64, Steele et al. 2014).
    pub(crate) fn random(&self) -> u64 {
        let state = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// 64 commands: an orchestrator that starts a node's game servers at once.
const COMMANDS: usize = 64;

#[cfg(test)]
mod tests;
