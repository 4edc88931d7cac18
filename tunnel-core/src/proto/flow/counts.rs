//! How many flows there are: of an address, of a service, of a client, of all.

use std::{
    collections::{HashMap, hash_map},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{instance::FlowLimits, proto::flow::spare::spare_map, sync::lock};

/// At most `most` flows, whoever has them.
#[derive(Debug)]
pub struct FlowCap {
    most: u32,
    flows: AtomicU32,
    loose: AtomicU32,
}

impl FlowCap {
    /// At most `most` flows.
    pub const fn new(most: u32) -> Self {
        Self {
            most,
            flows: AtomicU32::new(0),
            loose: AtomicU32::new(0),
        }
    }

    /// How many there are.
    pub fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    /// How many of them make room as soon as it is needed: all but conversations that have settled.
    pub fn loose(&self) -> u32 {
        self.loose.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub const fn most(&self) -> u32 {
        self.most
    }

    /// Counts one more, unless there are as many as there may be.
    fn take(&self, most: u32) -> bool {
        let more = |flows: u32| (flows < most).then(|| flows + 1);
        let taken = (self.flows).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn give_back(&self) {
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for FlowCap {
    /// No bound.
    fn default() -> Self {
        Self::new(u32::MAX)
    }
}

/// What a service's flows are counted by: its tables, one for each of its sockets, share the caps, and so do all services
/// of its client, and all clients. A packet of a flow that is there does not come here.
#[derive(Debug, Default)]
pub struct FlowCounts {
    service: FlowCap,
    /// Flows by player's address; of IPv6 by /64, which is what one player is given.
    by_address: Mutex<HashMap<IpAddr, u32>>,
    client: Arc<FlowCap>,
    all: Arc<FlowCap>,
}

impl FlowCounts {
    /// Those of a service of this client.
    pub fn new(client: Arc<FlowCap>, all: Arc<FlowCap>) -> Self {
        Self {
            client,
            all,
            ..Self::default()
        }
    }

    /// How many flows of the service make room as soon as it is needed.
    pub fn loose(&self) -> u32 {
        self.service.loose()
    }

    /// Counts one more flow of an address, or says who has too many.
    pub(super) fn take(&self, address: IpAddr, limits: &FlowLimits) -> Result<(), FlowDrop> {
        if !self.take_address(address, limits.per_address) {
            return Err(FlowDrop::AddressFull);
        }
        let caps = [
            (&self.service, limits.per_service, FlowDrop::ServiceFull),
            (&self.client, self.client.most, FlowDrop::ClientFull),
            (&self.all, self.all.most, FlowDrop::RelayFull),
        ];
        for (at, (cap, most, full)) in caps.iter().enumerate() {
            if !cap.take(*most) {
                caps[..at].iter().for_each(|(cap, ..)| cap.give_back());
                self.give_back_address(address);
                return Err(*full);
            }
        }
        Ok(())
    }

    /// A flow of an address has ended.
    pub(super) fn give_back(&self, address: IpAddr) {
        self.give_back_address(address);
        self.caps().iter().for_each(|cap| cap.give_back());
    }

    /// Whether more flows make room than did before.
    pub(super) fn loosen(&self, more: bool) {
        for cap in self.caps() {
            if more {
                cap.loose.fetch_add(1, Ordering::Relaxed);
            } else {
                cap.loose.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn caps(&self) -> [&FlowCap; 3] {
        [&self.service, &self.client, &self.all]
    }

    fn take_address(&self, address: IpAddr, most: u32) -> bool {
        let mut counts = self.addresses();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count < most {
            counts.insert(address, count + 1);
        }
        count < most
    }

    fn give_back_address(&self, address: IpAddr) {
        let mut counts = self.addresses();
        if let hash_map::Entry::Occupied(mut count) = counts.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
                spare_map(&mut counts);
            }
        }
    }

    pub(super) fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        lock(&self.by_address)
    }
}

/// Why there is no place for a new flow. [`FlowTable::make_room`](crate::proto::flow::FlowTable::make_room) may find one; else drop the packet and count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowDrop {
    /// The player's address holds as many flows as one may.
    #[error("the player's address has too many flows")]
    AddressFull,
    /// The service holds as many flows as it may.
    #[error("the service has too many flows")]
    ServiceFull,
    /// The client's services hold as many flows as one client's may.
    #[error("the client has too many flows")]
    ClientFull,
    /// There are as many flows as there may be at all.
    #[error("there are too many flows")]
    RelayFull,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cap_is_met_for_itself_and_a_refused_flow_is_counted_nowhere() {
        let all = Arc::new(FlowCap::new(4));
        let clients = [3, 3].map(|most| Arc::new(FlowCap::new(most)));
        let service = |client: usize| FlowCounts::new(clients[client].clone(), all.clone());
        let services = [service(0), service(0), service(1)];
        let limits = FlowLimits {
            per_address: 1,
            per_service: 2,
            ..FlowLimits::default()
        };
        let held = || {
            let of = |cap: &Arc<FlowCap>| cap.flows();
            let addresses = services.each_ref().map(|it| it.addresses().len());
            (of(&clients[0]), of(&clients[1]), of(&all), addresses)
        };
        let steps = [
            (0, 1, Ok(())),
            (0, 1, Err(FlowDrop::AddressFull)),
            (0, 2, Ok(())),
            (0, 3, Err(FlowDrop::ServiceFull)),
            (1, 1, Ok(())),
            (1, 2, Err(FlowDrop::ClientFull)),
            (2, 1, Ok(())),
            (2, 2, Err(FlowDrop::RelayFull)),
        ];
        for (service, last, expected) in steps {
            let before = held();
            let address = IpAddr::from([192, 0, 2, last]);
            assert_eq!(services[service].take(address, &limits), expected);
            assert_eq!(held() == before, expected.is_err());
        }
        services[0].give_back([192, 0, 2, 2].into());
        assert_eq!(held(), (2, 1, 3, [1, 1, 1]));
        assert_eq!(services[2].take([192, 0, 2, 2].into(), &limits), Ok(()));
    }
}
