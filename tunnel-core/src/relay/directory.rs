//! The flows of each client: which shard of which service a flow belongs to, and which service gives up a flow where there are too
//! many.
//!
//! Answers come out of a tunnel, and public sockets are on the other side of the relay. The traits here are what the one needs of
//! the other.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::Add,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Instant,
};

use bytes::BytesMut;

use crate::{
    key::PublicKey,
    proto::{
        datagram::FlowId,
        flow::{Flow, FlowCap, FlowCounts, FlowDrop, FlowKey, Rank, ReplyDrop, spare_map},
        handshake::ProcessId,
    },
    relay::limits::RelayLimits,
    sync::lock,
    tunnel::stream::Budget,
};

/// One shard of a service's UDP ports: some of its sockets, and the flows that came in by them.
pub(crate) trait FlowShard: Send + Sync + fmt::Debug {
    /// Where an answer of `len` bytes to a flow goes. There is no such flow where another process of the client has taken it over.
    fn destination(
        &self,
        now: Instant,
        process: ProcessId,
        flow: FlowId,
        len: usize,
    ) -> Result<Destination, ReplyDrop>;

    /// All flows.
    fn list(&self) -> Vec<Flow>;

    /// Ends a flow, and tells the client. Returns whether there was one.
    fn end_flow(&self, flow: FlowId) -> bool;

    /// How many flows there are, and what has passed on all that there ever were.
    fn totals(&self) -> FlowTotals;

    /// Removes a flow that this process of the client has forgotten.
    fn forget(&self, process: ProcessId, flow: FlowId);

    /// Most datagrams of one size that a port sends in one system call.
    fn max_segments(&self, port: usize) -> usize;

    /// Sends datagrams to a player in one system call: `contents` cut into pieces of `segment` bytes, or as a single one.
    fn send(&self, to: &Destination, contents: &[u8], segment: Option<usize>) -> io::Result<()>;

    /// Whether a datagram of some player has passed since then.
    fn is_alive_since(&self, then: Instant) -> bool;

    /// How readily this shard gives up a flow for one of this key. The shard with the least rank goes first; `None` if all of
    /// its flows are in use.
    fn victim(&self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<Rank>;

    /// Gives up that flow. Returns whether there was one.
    fn give_way(&self, now: Instant, full: FlowDrop, key: &FlowKey, scratch: &mut BytesMut)
    -> bool;
}

/// A service that has UDP ports.
pub(crate) trait FlowService: Send + Sync + fmt::Debug {
    /// How many of its flows could be given up.
    fn loose(&self) -> u32;

    /// Gives up one flow of this service for one of this key. Returns whether there was one.
    fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool;
}

/// The flows of a shard together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FlowTotals {
    pub(crate) flows: usize,
    /// Bytes from players.
    pub(crate) received: u64,
    /// Bytes to players.
    pub(crate) sent: u64,
}

impl Add for FlowTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            received: self.received + other.received,
            sent: self.sent + other.sent,
        }
    }
}

/// Where an answer goes: the player, and the public address and port that it has to leave from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) player: SocketAddr,
    pub(crate) local: IpAddr,
    pub(crate) port: usize,
}

/// One client's flows.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// In parts by the flow's id, so that adding or removing a flow seldom delays a look-up.
    services: [Mutex<HashMap<FlowId, Arc<dyn FlowShard>>>; PARTS],
    /// Counts and bounds them.
    cap: Arc<FlowCap>,
    /// The client's services.
    public: Mutex<Vec<Weak<dyn FlowService>>>,
    /// What its streams may hold, whichever of its tunnels carries them.
    budget: OnceLock<Arc<Budget>>,
}

impl Directory {
    pub(crate) fn get(&self, flow: FlowId) -> Option<Arc<dyn FlowShard>> {
        lock(self.part(flow)).get(&flow).cloned()
    }

    pub(crate) fn insert(&self, flow: FlowId, service: Arc<dyn FlowShard>) {
        lock(self.part(flow)).insert(flow, service);
    }

    pub(crate) fn remove(&self, flow: FlowId) {
        let mut part = lock(self.part(flow));
        part.remove(&flow);
        spare_map(&mut part);
    }

    /// What its streams may hold: the same for all of its tunnels, so that a change of tunnels gives them no more.
    pub(crate) fn budget(&self, make: impl FnOnce() -> Budget) -> Arc<Budget> {
        self.budget.get_or_init(|| Arc::new(make())).clone()
    }

    /// Adds a service that has opened its ports.
    pub(crate) fn note(&self, service: Weak<dyn FlowService>) {
        let mut public = lock(&self.public);
        public.retain(|known| known.strong_count() > 0);
        public.push(service);
    }

    /// Which service gives up a flow when the client has too many and a new one comes to `own`: the one that has most of those that
    /// can be given up.
    pub(crate) fn fattest(&self, own: &Arc<dyn FlowService>) -> Arc<dyn FlowService> {
        let public = lock(&self.public);
        // A flood stops at its own service here, without a look at the others.
        if own.loose() > self.cap.loose() / public.len().max(1) as u32 {
            return own.clone();
        }
        let services = public.iter().filter_map(Weak::upgrade);
        let fattest = services.max_by_key(|service| service.loose());
        fattest
            .filter(|it| it.loose() > 0)
            .unwrap_or_else(|| own.clone())
    }

    fn part(&self, flow: FlowId) -> &Mutex<HashMap<FlowId, Arc<dyn FlowShard>>> {
        &self.services[flow.0 as usize % PARTS]
    }
}

/// The directories of all clients that have a tunnel or a service.
#[derive(Debug)]
pub(crate) struct Directories {
    clients: Mutex<HashMap<PublicKey, Weak<Directory>>>,
    /// Most flows of each client.
    each: u32,
    /// Counts and bounds the flows of all clients together.
    all: Arc<FlowCap>,
}

impl Directories {
    pub(crate) fn new(limits: &RelayLimits) -> Self {
        let [each, all] = [limits.flows_per_client, limits.flows]
            .map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        Self {
            clients: Mutex::default(),
            each,
            all: Arc::new(FlowCap::new(all)),
        }
    }

    /// A client's directory: the same one for as long as anything holds it.
    pub(crate) fn of(&self, client: PublicKey) -> Arc<Directory> {
        let mut clients = lock(&self.clients);
        if let Some(directory) = clients.get(&client).and_then(Weak::upgrade) {
            return directory;
        }
        // Clients come and go for as long as the relay runs, so nothing is kept of those that are gone.
        clients.retain(|_, directory| directory.strong_count() > 0);
        let directory = Arc::new(Directory {
            cap: Arc::new(FlowCap::new(self.each)),
            ..Directory::default()
        });
        clients.insert(client, Arc::downgrade(&directory));
        directory
    }

    /// Counters for the flows of one more service of a client.
    pub(crate) fn counts(&self, client: &Directory) -> FlowCounts {
        FlowCounts::new(client.cap.clone(), self.all.clone())
    }

    /// Which service gives up a flow when the relay has too many and a new one comes to `own`: of the client with most flows that
    /// can be given up, the service with most of them.
    pub(crate) fn fattest(
        &self,
        directory: &Arc<Directory>,
        own: &Arc<dyn FlowService>,
    ) -> Arc<dyn FlowService> {
        let fattest = {
            let clients = lock(&self.clients);
            if directory.cap.loose() > self.all.loose() / clients.len().max(1) as u32 {
                directory.clone()
            } else {
                let known = clients.values().filter_map(Weak::upgrade);
                let fattest = known.max_by_key(|known| known.cap.loose());
                fattest.unwrap_or_else(|| directory.clone())
            }
        };
        fattest.fattest(own)
    }
}

/// 16 locks: the answers of one client come one after the other, and new flows of four threads seldom meet them.
const PARTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_clients_that_are_gone() {
        let directories = Directories::new(&RelayLimits::default());
        let key = |n: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            PublicKey::from(key)
        };
        let stays = directories.of(key(0));
        for n in 1..1_000 {
            drop(directories.of(key(n)));
        }
        assert!(lock(&directories.clients).len() <= 2);
        assert!(Arc::ptr_eq(&stays, &directories.of(key(0))));
    }
}
