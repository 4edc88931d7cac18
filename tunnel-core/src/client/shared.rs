//! What the tasks of a client share.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    client::{
        egress::udp::{Flows, Means},
        limits::ClientLimits,
        machine::source_problems,
        ports::LocalPorts,
        room::Room,
        source::Origins,
        streams::Streams,
        targets::{Target, Targets},
    },
    event::{Crowded, Event, EventSink, Limit},
    instance::{Instance, Source},
    key::{self, KeyError},
    metrics::Metrics,
    proto::stream::frame::ResetCode,
    socket,
    sync::lock,
    tunnel::{
        datagram::{DatagramSender, Paths},
        notices::Notices,
        stream::{Budget, Memory},
        supervise::{self, Reporter},
    },
};

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
    /// What streams may hold, whichever tunnel carries them.
    pub(crate) budget: Arc<Budget>,
    /// The players' connections, from the moment when the relay names one.
    pub(crate) players: TaskTracker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: EventSink,
    /// What was said, and of which port.
    notices: Notices<(Notice, u16)>,
    /// What was said of this machine.
    warned: Mutex<HashSet<String>>,
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
    /// Somebody else than the target sends to their ports.
    Foreign,
}

impl Shared {
    /// What a client of these limits shares; an error if no randomness is to be had.
    pub(crate) fn new(limits: ClientLimits, ports: &Arc<LocalPorts>) -> Result<Self, KeyError> {
        let metrics = Arc::<Metrics>::default();
        let streams = limits.streams.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            stream_permits: Arc::new(Semaphore::new(streams)),
            flows: Flows::new(&limits, &metrics),
            means: Means::new(ports, Origins::new()?),
            warned: Mutex::default(),
            descriptors: Room::new(socket::descriptors_for_players()),
            budget: Arc::new(Budget::new(
                Memory::new(limits.stream_memory),
                limits.tunnel_memory,
            )),
            limits,
            targets: ArcSwap::default(),
            sender: ArcSwapOption::empty(),
            streams: Streams::default(),
            players: TaskTracker::new(),
            metrics,
            events: EventSink::new(),
            notices: Notices::default(),
            stopped: CancellationToken::new(),
            paths: Paths::new(1),
            random: AtomicU64::new(u64::from_le_bytes(key::random::<8>()?)),
        })
    }

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
        self.warn(target, &format!("{text}; its players are lost"));
    }

    /// Says that a target answers none of its players.
    pub(crate) fn tell_silent(&self, target: &Target) {
        let (place, waiting) = (
            &target.service.target,
            target.unanswered.load(Ordering::Relaxed),
        );
        self.warn(
            target,
            &format!(
                "{place} has answered nobody's datagrams for 5 s or more, and {waiting} of its players wait; \
                 is that where the game listens, and answers from?"
            ),
        );
    }

    /// Says once a minute that somebody else than a target sends to its players' local ports.
    pub(crate) fn tell_foreign(&self, target: &Target, from: SocketAddr) {
        let about = (Notice::Foreign, target.service.public.first());
        if self.notices.is_due(Instant::now(), about) {
            let place = &target.service.target;
            self.warn(
                target,
                &format!(
                    "datagrams of {from} are dropped, for players speak to {place}; \
                     if that is the game, make the address that it answers from the target"
                ),
            );
        }
    }

    fn warn(&self, target: &Target, text: &str) {
        let (instance, service) = (&target.instance, &target.service.name);
        let port = target.service.public.first();
        self.emit(Event::Warning(format!(
            "instance {instance}, service {service} (port {port}): {text}"
        )));
    }

    /// Looks in the background whether this machine can do what services ask of players' addresses, and says once of each what is missing.
    pub(crate) fn look_at_machine<'a>(
        self: &Arc<Self>,
        instances: impl Iterator<Item = &'a Instance>,
    ) {
        let asks = |instance: &&Instance| {
            let mut services = instance.services().iter();
            services.any(|service| service.source() != Source::Default)
        };
        let asking: Vec<Instance> = instances.filter(asks).cloned().collect();
        if asking.is_empty() {
            return;
        }
        let shared = self.clone();
        supervise::spawn(self.reporter(), "a look at this machine", async move {
            let look = tokio::task::spawn_blocking(move || source_problems(&asking));
            for problem in look.await.unwrap_or_default() {
                let is_news = {
                    let mut warned = lock(&shared.warned);
                    if warned.len() >= WARNED_MOST {
                        warned.clear();
                    }
                    warned.insert(problem.clone())
                };
                if is_news {
                    shared.emit(Event::Warning(problem));
                }
            }
        });
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

/// Remarks on the machine that are remembered: 256, a few for each of as many services as a large node changes in an hour.
const WARNED_MOST: usize = 256;
