//! The relay's table of one service's flows: which player is which [`FlowId`], and for how long.
//!
//! A packet costs a look-up and touches one entry; nothing is allocated, and no flow has a timer of its own:
//! entries hang in two lists by the time of their last packet, and only the lists' ends are looked at.
//!
//! ```
//! use std::time::Instant;
//! use tunnel_core::{
//!     instance::FlowLimits,
//!     proto::{datagram::FlowId, flow::{FlowKey, FlowTable}},
//! };
//!
//! let mut next = 0;
//! let mut table = FlowTable::new(FlowLimits::default());
//! let key = FlowKey::new("192.0.2.1:50000".parse()?, "198.51.100.1".parse()?, 0);
//! let now = Instant::now();
//! let admitted = table.handle_player_packet(now, key, || {
//!     next += 1;
//!     FlowId(next)
//! })?;
//! assert!(admitted.created && !admitted.flow.open_acknowledged);
//!
//! let flow = table.handle_reply(now, FlowId(1)).expect("it is there");
//! assert!(flow.open_acknowledged);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    collections::{HashMap, hash_map},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{instance::FlowLimits, proto::datagram::FlowId};

/// How long a flow lives that nothing ever came back on. 10 s: longer than any game waits for its server's first
/// packet, and short enough that a flood from forged addresses does not keep what it takes.
pub const UNANSWERED: Duration = Duration::from_secs(10);

/// How exact the clock of an answered or unanswered flow is: a flow lives up to this much longer, so that a packet
/// moves its flow in its list at most once a second.
pub const GRANULARITY: Duration = Duration::from_secs(1);

/// What a player's packets have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    player: SocketAddr,
    local: IpAddr,
    port_index: u16,
}

impl FlowKey {
    /// A player at one port of the service. IPv4-mapped addresses count as IPv4, and IPv6 flow labels do not count.
    pub fn new(player: SocketAddr, local: IpAddr, port_index: u16) -> Self {
        let player = match (player, player.ip().to_canonical()) {
            (SocketAddr::V6(mut v6), IpAddr::V6(_)) => {
                v6.set_flowinfo(0);
                v6.into()
            }
            (_, ip) => SocketAddr::new(ip, player.port()),
        };
        Self {
            player,
            local: local.to_canonical(),
            port_index,
        }
    }

    /// The player: where replies go.
    pub const fn player(&self) -> SocketAddr {
        self.player
    }

    /// The relay's address that the player sent to: where replies come from.
    pub const fn local(&self) -> IpAddr {
        self.local
    }

    /// Which port of the service's range, from 0.
    pub const fn port_index(&self) -> u16 {
        self.port_index
    }
}

/// A flow of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What the tunnel calls it.
    pub id: FlowId,
    /// Whose it is.
    pub key: FlowKey,
    /// A packet came back: the client knows the flow, and OPEN need not be sent any more.
    pub open_acknowledged: bool,
}

/// What became of a player's packet that may pass.
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The packet's flow.
    pub flow: &'a Flow,
    /// Whether the flow is new.
    pub created: bool,
    /// The flow, never answered, whose place the new one took. The client is to be told.
    pub evicted: Option<Flow>,
}

/// Why a player's packet may not pass. Drop it and count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowDrop {
    /// The player's address holds as many flows as one may.
    #[error("the player's address has too many flows")]
    AddressFull,
    /// The service holds as many flows as it may, all of them answered.
    #[error("the service has too many flows")]
    ServiceFull,
}

/// What a service's flows are counted by: its tables, one for each of its sockets, share the caps. A packet of a flow
/// that is there does not come here.
#[derive(Debug, Default)]
pub struct FlowCounts {
    flows: AtomicU32,
    unanswered: AtomicU32,
    /// Flows by player's address; of IPv6 by /64, which is what one player is given.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl FlowCounts {
    /// Flows that could make room for others.
    pub fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Counts one more flow, unless there are so many.
    fn take(&self, most: u32) -> bool {
        let more = |flows: u32| (flows < most).then_some(flows + 1);
        let taken = (self.flows).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn give_back(&self) {
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more flow of an address, unless it has so many.
    fn take_address(&self, address: IpAddr, most: u32) -> bool {
        let mut counts = self.addresses();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count < most {
            counts.insert(address, count + 1);
        }
        count < most
    }

    fn give_back_address(&self, address: IpAddr) {
        if let hash_map::Entry::Occupied(mut count) = self.addresses().entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        // Whole between operations, whoever panicked.
        (self.by_address.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow's place among those of its service, free when dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<FlowCounts>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            counts.give_back();
        }
    }
}

/// The flows of one service, or those that come in at one of its sockets.
#[derive(Debug)]
pub struct FlowTable {
    limits: FlowLimits,
    unanswered_life: Duration,
    by_key: HashMap<FlowKey, usize>,
    by_id: HashMap<FlowId, usize>,
    counts: Arc<FlowCounts>,
    nodes: Vec<Node>,
    /// Nodes that hold no flow.
    free: Vec<usize>,
    unanswered: List,
    answered: List,
}

impl FlowTable {
    /// An empty table.
    pub fn new(limits: FlowLimits) -> Self {
        Self::sharing(limits, Arc::default())
    }

    /// An empty table that is one of several of its service.
    pub fn sharing(limits: FlowLimits, counts: Arc<FlowCounts>) -> Self {
        Self {
            limits,
            unanswered_life: UNANSWERED,
            by_key: HashMap::new(),
            by_id: HashMap::new(),
            counts,
            nodes: Vec::new(),
            free: Vec::new(),
            unanswered: List::default(),
            answered: List::default(),
        }
    }

    /// The same with flows that live so long without an answer, instead of [`UNANSWERED`].
    #[must_use]
    pub const fn with_unanswered(mut self, life: Duration) -> Self {
        self.unanswered_life = life;
        self
    }

    /// Other limits from now on. Flows past a lowered cap stay until they end by themselves.
    pub const fn set_limits(&mut self, limits: FlowLimits) {
        self.limits = limits;
    }

    /// A packet came from a player. A flow that is not there yet is made, with an id from `allocate`.
    ///
    /// Where the service is full, the flow that was silent for longest of this table's never answered ones makes room.
    pub fn handle_player_packet(
        &mut self,
        now: Instant,
        key: FlowKey,
        allocate: impl FnOnce() -> FlowId,
    ) -> Result<Admitted<'_>, FlowDrop> {
        self.handle_player_packet_with(None, now, key, allocate)
    }

    /// The same with a place that another table of the service has given up.
    pub fn handle_player_packet_with(
        &mut self,
        place: Option<Place>,
        now: Instant,
        key: FlowKey,
        allocate: impl FnOnce() -> FlowId,
    ) -> Result<Admitted<'_>, FlowDrop> {
        let (at, created, evicted) = if let Some(&at) = self.by_key.get(&key) {
            self.touch(now, at);
            (at, false, None)
        } else {
            let evicted = self.make_room(place, key)?;
            (self.insert(now, key, allocate()), true, evicted)
        };
        Ok(Admitted {
            flow: &self.nodes[at].flow,
            created,
            evicted,
        })
    }

    /// A packet came from a player while no new ones are taken. `None` for a player who has no flow.
    pub fn handle_known_packet(&mut self, now: Instant, key: &FlowKey) -> Option<&Flow> {
        let at = *self.by_key.get(key)?;
        self.touch(now, at);
        Some(&self.nodes[at].flow)
    }

    /// Whether a packet passed on any flow since then, give or take [`GRANULARITY`].
    pub fn is_alive_since(&self, then: Instant) -> bool {
        let newest = [&self.unanswered, &self.answered].map(|list| list.newest);
        let mut newest = newest.into_iter().flatten();
        newest.any(|at| self.nodes[at].touched >= then)
    }

    /// A packet came back on a flow. `None` for a flow that is not there: drop the packet and count it.
    pub fn handle_reply(&mut self, now: Instant, id: FlowId) -> Option<&Flow> {
        let at = *self.by_id.get(&id)?;
        if self.nodes[at].flow.open_acknowledged {
            self.touch(now, at);
        } else {
            self.unlink(at);
            self.nodes[at].flow.open_acknowledged = true;
            self.link(now, at);
        }
        Some(&self.nodes[at].flow)
    }

    /// Another process of the client took over: it knows none of the flows, and each has to be opened again.
    pub fn handle_client_changed(&mut self, now: Instant) {
        while let Some(at) = self.answered.oldest {
            self.unlink(at);
            self.nodes[at].flow.open_acknowledged = false;
            self.link(now, at);
        }
    }

    /// When a flow may have expired: call [`poll_expired`](Self::poll_expired) then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ends = [&self.unanswered, &self.answered].map(|list| self.expiry(list));
        ends.into_iter().flatten().min()
    }

    /// Removes a flow whose time is over; call until `None`. The client is to be told.
    pub fn poll_expired(&mut self, now: Instant) -> Option<Flow> {
        let at = [&self.unanswered, &self.answered]
            .into_iter()
            .filter(|list| self.expiry(list).is_some_and(|end| end <= now))
            .find_map(|list| list.oldest)?;
        Some(self.remove_at(at))
    }

    /// Removes a flow: the client closed it, or does not know it.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let at = *self.by_id.get(&id)?;
        Some(self.remove_at(at))
    }

    /// The flow of an id.
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.by_id.get(&id).map(|at| &self.nodes[*at].flow)
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.by_id.values().map(|at| &self.nodes[*at].flow)
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Ends the flow that was silent for longest of those never answered: another table of the service needs its place.
    pub fn evict(&mut self) -> Option<(Flow, Place)> {
        let oldest = self.unanswered.oldest?;
        Some((self.detach(oldest), Place(Some(self.counts.clone()))))
    }

    /// Takes a place for one more flow of this key: the one given, a free one, or that of the flow that is returned.
    fn make_room(&mut self, place: Option<Place>, key: FlowKey) -> Result<Option<Flow>, FlowDrop> {
        let address = by_prefix(key.player.ip());
        if !self.counts.take_address(address, self.limits.per_address) {
            return Err(FlowDrop::AddressFull);
        }
        if let Some(mut place) = place {
            place.0 = None;
            return Ok(None);
        }
        if self.counts.take(self.limits.per_service) {
            return Ok(None);
        }
        let Some(oldest) = self.unanswered.oldest else {
            self.counts.give_back_address(address);
            return Err(FlowDrop::ServiceFull);
        };
        // Its place passes on, and does not become free for another table in between.
        Ok(Some(self.detach(oldest)))
    }

    fn insert(&mut self, now: Instant, key: FlowKey, id: FlowId) -> usize {
        let node = Node {
            flow: Flow {
                id,
                key,
                open_acknowledged: false,
            },
            touched: now,
            older: None,
            newer: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.by_key.insert(key, at);
        self.by_id.insert(id, at);
        self.link(now, at);
        at
    }

    fn remove_at(&mut self, at: usize) -> Flow {
        self.counts.give_back();
        self.detach(at)
    }

    /// Removes a flow, whose place among the service's stays taken.
    fn detach(&mut self, at: usize) -> Flow {
        self.unlink(at);
        let flow = self.nodes[at].flow;
        self.free.push(at);
        self.by_key.remove(&flow.key);
        self.by_id.remove(&flow.id);
        self.counts
            .give_back_address(by_prefix(flow.key.player.ip()));
        flow
    }

    /// The flow is alive. Most packets only read the entry.
    fn touch(&mut self, now: Instant, at: usize) {
        if now.saturating_duration_since(self.nodes[at].touched) >= GRANULARITY {
            self.unlink(at);
            self.link(now, at);
        }
    }

    /// When the list's oldest flow ends: its last packet came less than [`GRANULARITY`] after `touched`.
    fn expiry(&self, list: &List) -> Option<Instant> {
        let node = &self.nodes[list.oldest?];
        let life = if node.flow.open_acknowledged {
            self.limits.idle
        } else {
            self.unanswered_life
        };
        node.touched.checked_add(life.saturating_add(GRANULARITY))
    }

    /// Hangs a node in at the young end of its list.
    fn link(&mut self, now: Instant, at: usize) {
        let list = if self.nodes[at].flow.open_acknowledged {
            &mut self.answered
        } else {
            self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            &mut self.unanswered
        };
        let newest = list.newest.replace(at);
        if newest.is_none() {
            list.oldest = Some(at);
        }
        if let Some(newest) = newest {
            self.nodes[newest].newer = Some(at);
        }
        let node = &mut self.nodes[at];
        node.touched = now;
        node.older = newest;
        node.newer = None;
    }

    fn unlink(&mut self, at: usize) {
        let node = &self.nodes[at];
        let (older, newer) = (node.older, node.newer);
        let list = if node.flow.open_acknowledged {
            &mut self.answered
        } else {
            self.counts.unanswered.fetch_sub(1, Ordering::Relaxed);
            &mut self.unanswered
        };
        match older {
            Some(older) => self.nodes[older].newer = newer,
            None => list.oldest = newer,
        }
        match newer {
            Some(newer) => self.nodes[newer].older = older,
            None => list.newest = older,
        }
    }
}

/// A flow in its list. Indices are the table's own, never a peer's.
#[derive(Debug)]
struct Node {
    flow: Flow,
    touched: Instant,
    older: Option<usize>,
    newer: Option<usize>,
}

/// The ends of a list of nodes, by the time of their last packet.
#[derive(Debug, Default)]
struct List {
    oldest: Option<usize>,
    newest: Option<usize>,
}

/// An address as flows are counted by.
pub(crate) fn by_prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests;
