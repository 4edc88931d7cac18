//! Which service a flow belongs to, for all flows of a client; and which service is to make room where they are too many.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

use bytes::BytesMut;

use crate::{
    key::PublicKey,
    proto::{
        datagram::FlowId,
        flow::{FlowCap, FlowCounts, FlowDrop, FlowKey, Rank, spare_map},
        handshake::ProcessId,
    },
    relay::limits::RelayLimits,
    sync::lock,
};

/// One shard of a service's UDP ports, as its flows' answers and those who make room see it.
pub(crate) trait FlowShard: Send + Sync + fmt::Debug {
    /// Where an answer of this process of the client goes; nowhere if the flow is another process' by now.
    fn destination(&self, now: Instant, process: ProcessId, flow: FlowId) -> Option<Destination>;

    /// This process of the client has forgotten a flow.
    fn forget(&self, process: ProcessId, flow: FlowId);

    /// How many datagrams of one size a port sends in one call.
    fn max_segments(&self, port: usize) -> usize;

    /// Sends datagrams to a player, each of `segment` bytes but perhaps the last, or a single one.
    fn send(&self, to: &Destination, contents: &[u8], segment: Option<usize>) -> io::Result<()>;

    /// Whether a datagram of some player has passed since then.
    fn is_alive_since(&self, then: Instant) -> bool;

    /// Which flow would make room for one of this key; the least of several shards' goes first.
    fn victim(&self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<Rank>;

    /// Ends that flow; whether there was one.
    fn give_way(&self, now: Instant, full: FlowDrop, key: &FlowKey, scratch: &mut BytesMut)
    -> bool;
}

/// A service that has flows.
pub(crate) trait FlowService: Send + Sync + fmt::Debug {
    /// How many of its flows could make room.
    fn loose(&self) -> u32;

    /// Ends the flow of this service that is to go first for one of this key; whether there was one that could go.
    fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool;
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) player: SocketAddr,
    pub(crate) local: IpAddr,
    pub(crate) port: usize,
}

/// One client's flows.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By the flow's number, so that a flow that comes or goes seldom meets a look-up.
    services: [Mutex<HashMap<FlowId, Arc<dyn FlowShard>>>; PARTS],
    /// How many there may be.
    cap: Arc<FlowCap>,
    /// The services that have them.
    public: Mutex<Vec<Weak<dyn FlowService>>>,
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

    /// A service of the client has opened its ports.
    pub(crate) fn note(&self, service: Weak<dyn FlowService>) {
        let mut public = lock(&self.public);
        public.retain(|known| known.strong_count() > 0);
        public.push(service);
    }

    /// Who makes room where the client has too many flows and a new one comes to `own`: the service that has most of those
    /// that can.
    pub(crate) fn fattest(&self, own: &Arc<dyn FlowService>) -> Arc<dyn FlowService> {
        let public = lock(&self.public);
        // A flood meets its own service here, and no other is looked at.
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
    /// How many flows each client may have.
    each: u32,
    /// And all of them together.
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

    /// A client's directory: the same for as long as anybody has it.
    pub(crate) fn of(&self, client: PublicKey) -> Arc<Directory> {
        let mut clients = lock(&self.clients);
        if let Some(directory) = clients.get(&client).and_then(Weak::upgrade) {
            return directory;
        }
        // Clients come and go for as long as the relay runs: nothing is kept of those who are gone.
        clients.retain(|_, directory| directory.strong_count() > 0);
        let directory = Arc::new(Directory {
            cap: Arc::new(FlowCap::new(self.each)),
            ..Directory::default()
        });
        clients.insert(client, Arc::downgrade(&directory));
        directory
    }

    /// What the flows of a service of this client are counted by.
    pub(crate) fn counts(&self, client: &Directory) -> FlowCounts {
        FlowCounts::new(client.cap.clone(), self.all.clone())
    }

    /// Who makes room where there are too many flows and a new one comes to `own`: the client that has most of those that
    /// can, and of its services the one that has.
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

/// 16 locks: a client's answers come one after the other, and four threads' new flows seldom meet them.
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
