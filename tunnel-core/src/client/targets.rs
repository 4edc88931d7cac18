//! Where services lead: the targets of the client's own configuration, and nothing else.

mod heard;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::targets::heard::Heard,
    instance::{Host, InstanceId, ProxyDatagrams, ProxyProtocol, Redundancy, Service, Source},
    proto::message::ServiceId,
    sync::lock,
    tunnel::{
        fault,
        supervise::{Reporter, supervise},
    },
};

/// The services that the relay may name, by id.
pub(crate) type Targets = HashMap<ServiceId, Arc<Target>>;

/// A service and the present addresses of its target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    /// As it was when players came to it first: what may change since without ending them stands beside it.
    pub(crate) service: Service,
    /// Idle time of its flows, in seconds.
    idle: AtomicU64,
    /// The number of how its datagrams are protected.
    redundancy: AtomicU8,
    /// The numbers of how it is told who its players are.
    proxy: AtomicU8,
    proxy_datagrams: AtomicU8,
    /// The number of where its players come from.
    source: AtomicU8,
    /// Ends everything that leads here.
    pub(crate) cancelled: CancellationToken,
    addresses: watch::Sender<Arc<[IpAddr]>>,
    /// Which of them answered last, over TCP and over UDP.
    good: [Mutex<Option<IpAddr>>; 2],
    wanted: Notify,
    /// Sockets of its players: of flows that the relay knows, and of streams.
    pub(crate) flows: AtomicUsize,
    pub(crate) streams: AtomicUsize,
    /// Where connections queue that find no local port.
    pub(crate) queue: tokio::sync::Mutex<()>,
    /// Places of datagrams that wait for what their flows need: addresses, a port, a descriptor.
    pub(crate) waiting: Arc<Semaphore>,
    /// What is known of its answers over UDP.
    pub(crate) heard: Mutex<Heard>,
    /// Places of flows that listen for answers from other addresses.
    pub(crate) listening: Arc<Semaphore>,
    /// Flows whose players wait for an answer.
    pub(crate) unanswered: AtomicUsize,
}

/// What a target is asked by; behind one name, another address may answer to each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over {
    Tcp,
    Udp,
}

impl Target {
    /// A target; if it is a name, a task keeps its addresses until it is cancelled.
    pub(crate) fn new(instance: InstanceId, service: Service, reporter: &Reporter) -> Arc<Self> {
        let known: Arc<[IpAddr]> = match &service.target.host {
            Host::Ip(ip) => Arc::new([*ip]),
            Host::Name(_) => Arc::new([]),
        };
        let target = Arc::new(Self {
            instance,
            idle: AtomicU64::new(service.flows.idle.as_secs()),
            redundancy: AtomicU8::new(service.redundancy as u8),
            proxy: AtomicU8::new(service.proxy as u8),
            proxy_datagrams: AtomicU8::new(service.proxy_datagrams as u8),
            source: AtomicU8::new(service.source as u8),
            service,
            cancelled: CancellationToken::new(),
            addresses: watch::Sender::new(known),
            good: Default::default(),
            wanted: Notify::new(),
            flows: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            queue: tokio::sync::Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MOST)),
            heard: Mutex::default(),
            listening: Arc::new(Semaphore::new(LISTENING_MOST)),
            unanswered: AtomicUsize::new(0),
        });
        if let Host::Name(name) = &target.service.target.host {
            let (resolved, name) = (target.clone(), name.clone());
            supervise(
                reporter.clone(),
                target.cancelled.clone(),
                format!("resolving {name}"),
                move || resolve(resolved.clone(), name.clone()),
            );
        }
        target
    }

    /// Whether a service of this instance leads its players here, whatever else has changed.
    fn is_same(&self, instance: &InstanceId, service: &Service) -> bool {
        self.instance == *instance
            && self.service.public == service.public
            && self.service.protocol == service.protocol
            && self.service.target == service.target
    }

    /// Idle time after which a flow is forgotten.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle.load(Ordering::Relaxed))
    }

    /// How datagrams on their way to players are protected.
    pub(crate) fn redundancy(&self) -> Redundancy {
        let number = self.redundancy.load(Ordering::Relaxed);
        Redundancy::ALL[usize::from(number) % Redundancy::ALL.len()]
    }

    /// The header in front of its connections.
    pub(crate) fn proxy(&self) -> ProxyProtocol {
        let number = self.proxy.load(Ordering::Relaxed);
        ProxyProtocol::ALL[usize::from(number) % ProxyProtocol::ALL.len()]
    }

    /// In front of which datagrams there is one.
    pub(crate) fn proxy_datagrams(&self) -> ProxyDatagrams {
        if self.proxy() != ProxyProtocol::V2 {
            return ProxyDatagrams::Off;
        }
        let number = self.proxy_datagrams.load(Ordering::Relaxed);
        ProxyDatagrams::ALL[usize::from(number) % ProxyDatagrams::ALL.len()]
    }

    /// Which address the sockets of its players leave from.
    pub(crate) fn source(&self) -> Source {
        let number = self.source.load(Ordering::Relaxed);
        Source::ALL[usize::from(number) % Source::ALL.len()]
    }

    /// What may change under players who are there: how long their flows live, how datagrams are protected, and whether
    /// the target is told who they are.
    pub(crate) fn follow(&self, service: &Service) {
        let idle = service.flows.idle.as_secs();
        self.idle.store(idle, Ordering::Relaxed);
        let redundancy = service.redundancy as u8;
        self.redundancy.store(redundancy, Ordering::Relaxed);
        self.proxy.store(service.proxy as u8, Ordering::Relaxed);
        let datagrams = service.proxy_datagrams as u8;
        self.proxy_datagrams.store(datagrams, Ordering::Relaxed);
        self.source.store(service.source as u8, Ordering::Relaxed);
    }

    /// The addresses known now, in the resolver's order of preference; none if the name does not resolve.
    pub(crate) fn addresses(&self) -> Arc<[IpAddr]> {
        self.addresses.borrow().clone()
    }

    /// The same in the order in which to try them: the one that answered last comes first, so that one that is dead costs the
    /// first player alone.
    pub(crate) fn candidates(&self, over: Over) -> Arc<[IpAddr]> {
        let known = self.addresses();
        let good = *lock(&self.good[over as usize]);
        match known.iter().position(|ip| Some(*ip) == good) {
            None | Some(0) => known,
            Some(place) => {
                let mut ordered = known.to_vec();
                ordered[..=place].rotate_right(1);
                ordered.into()
            }
        }
    }

    /// One of its addresses has answered.
    pub(crate) fn handle_answer(&self, over: Over, from: IpAddr) {
        *lock(&self.good[over as usize]) = Some(from);
    }

    /// The addresses as [`candidates`](Self::candidates) orders them, waiting for them if none is known yet.
    pub(crate) async fn resolved(&self, over: Over) -> Arc<[IpAddr]> {
        let mut addresses = self.addresses.subscribe();
        if addresses.borrow().is_empty() {
            self.refresh();
            let known = addresses.wait_for(|known| !known.is_empty());
            // Without an answer in time, none is known.
            drop(tokio::time::timeout(RESOLVE_PATIENCE, known).await);
        }
        self.candidates(over)
    }

    /// Tells when the addresses change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<[IpAddr]>> {
        self.addresses.subscribe()
    }

    /// Something leads nowhere: the name is resolved again soon.
    pub(crate) fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// How many sockets its players have.
    pub(crate) fn sockets(&self) -> usize {
        self.flows.load(Ordering::Relaxed) + self.streams.load(Ordering::Relaxed)
    }

    /// The target's port for a place in the range; `None` if the relay named one that is not there.
    pub(crate) fn port(&self, index: u16) -> Option<u16> {
        let ports = self.service.target.ports;
        (index < ports.count()).then(|| ports.first() + index)
    }
}

/// Whether a socket address leads to one of these.
pub(crate) fn leads_to(address: SocketAddr, known: &[IpAddr]) -> bool {
    known.contains(&address.ip())
}

/// The targets that a session knows now. What stays the same is not touched; what is gone is ended.
pub(crate) fn update<'a>(
    targets: &ArcSwap<Targets>,
    services: impl Iterator<Item = (ServiceId, &'a InstanceId, &'a Service)>,
    reporter: &Reporter,
) {
    let old = targets.load_full();
    let mut new = Targets::new();
    for (id, instance, service) in services {
        let target = match old.get(&id) {
            Some(target) => target.clone(),
            None => old
                .values()
                .find(|target| target.is_same(instance, service))
                .cloned()
                .inspect(|target| target.follow(service))
                .unwrap_or_else(|| Target::new(instance.clone(), service.clone(), reporter)),
        };
        new.insert(id, target);
    }
    keep_last_ids(&old, &mut new);
    let new = Arc::new(new);
    targets.store(new.clone());
    for target in old.values() {
        if !new.values().any(|kept| Arc::ptr_eq(kept, target)) {
            target.cancelled.cancel();
        }
    }
}

/// Lets ids that a change has replaced go on leading to services that live on: the relay's word that it uses the new ones
/// may overtake players' streams and datagrams that left with the old ones.
fn keep_last_ids(old: &Targets, new: &mut Targets) {
    let mut replaced: Vec<_> = old.iter().filter(|(id, _)| !new.contains_key(id)).collect();
    // Ids rise: the highest are those replaced last.
    replaced.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(**id));
    let mut kept: HashMap<*const Target, usize> = new
        .values()
        .map(|target| (Arc::as_ptr(target), 0))
        .collect();
    for (id, target) in replaced {
        if let Some(count) = kept.get_mut(&Arc::as_ptr(target))
            && *count < LAST_IDS
        {
            *count += 1;
            new.insert(*id, target.clone());
        }
    }
}

/// Resolves a target's name again and again. A name that stops resolving keeps its last addresses.
async fn resolve(target: Arc<Target>, name: Box<str>) {
    loop {
        fault!("resolving {name} for {}", target.service.public);
        if let Ok(found) =
            tokio::net::lookup_host((&*name, target.service.target.ports.first())).await
        {
            let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            found.dedup();
            target.addresses.send_if_modified(|known| {
                let changed = **known != *found && !found.is_empty();
                if changed {
                    *known = found.into();
                }
                changed
            });
        }
        let pause = async {
            // A name that is asked for all the time is still not resolved more often than this.
            tokio::time::sleep(RESOLVE_LEAST).await;
            drop(
                tokio::time::timeout(RESOLVE_EVERY - RESOLVE_LEAST, target.wanted.notified()).await,
            );
        };
        tokio::select! {
            () = pause => {}
            () = target.cancelled.cancelled() => return,
        }
    }
}

/// Names are resolved again every 5 s: a recreated container's players wait no longer, and a local resolver does not
/// notice.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// Least time between two resolutions of a name, however many ask: half a second.
const RESOLVE_LEAST: Duration = Duration::from_millis(500);
/// How long a player's connection waits for a name: below what players wait, above a slow resolver's second try.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams of one service that wait: the first ones of 64 players, 96 KB at most.
const WAITING_MOST: usize = 64;
/// Flows of one service that listen for answers from other addresses: one of the first four players is answered, if anybody is.
const LISTENING_MOST: usize = 4;
/// Replaced ids of a service that still lead to it: eight changes within the time that a datagram is on its way.
const LAST_IDS: usize = 8;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        event::EventSink,
        instance::{Instance, Protocol, Service},
    };

    /// The target of an instance with a single service, which leads to this port of the machine.
    pub(crate) fn target(id: &str, protocol: Protocol, port: u16) -> Arc<Target> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let game = Service::new("game", protocol, address).unwrap();
        let instance = Instance::new(id, [game]).unwrap();
        let reporter = Reporter {
            events: EventSink::new(),
            metrics: Arc::default(),
        };
        let service = instance.services()[0].clone();
        Target::new(instance.id().clone(), service, &reporter)
    }

    #[tokio::test]
    async fn the_address_that_answered_last_is_tried_first_and_the_others_keep_their_order() {
        let target = target("game", Protocol::Tcp, 1);
        let all = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        target.addresses.send_replace(all.into());
        target.handle_answer(Over::Tcp, all[2]);
        assert_eq!(*target.candidates(Over::Tcp), [all[2], all[0], all[1]]);
        assert_eq!(*target.resolved(Over::Udp).await, all);
        // It is not the target's any more.
        target.handle_answer(Over::Udp, [192, 0, 2, 9].into());
        assert_eq!(*target.candidates(Over::Udp), all);
    }

    #[test]
    fn replaced_ids_lead_to_a_service_that_lives_on_and_to_no_other() {
        let [stays, goes] = ["stays", "goes"].map(|id| target(id, Protocol::Tcp, 1));
        let mut now = Targets::from([(ServiceId(1), stays.clone()), (ServiceId(2), goes)]);
        for id in 3..100 {
            let mut next = Targets::from([(ServiceId(id), stays.clone())]);
            keep_last_ids(&now, &mut next);
            assert!(next.values().all(|target| Arc::ptr_eq(target, &stays)));
            assert!(next.len() <= 1 + LAST_IDS, "no more than are of use");
            let before = if id == 3 { 1 } else { id - 1 };
            assert!(next.contains_key(&ServiceId(before)));
            now = next;
        }
        let mut none = Targets::new();
        keep_last_ids(&now, &mut none);
        assert!(none.is_empty());
    }
}
