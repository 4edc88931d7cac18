//! The table itself: flows by key and by id, in lists by age and by standing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    instance::FlowLimits,
    proto::{
        datagram::FlowId,
        flow::{
            counts::{FlowCounts, FlowDrop},
            key::FlowKey,
            list::{At, Hook, List, Row},
            spare::spare_map,
            standing::{Among, GRANULARITY, Rank, Standing, Talk, rank},
        },
    },
};

/// How long a flow lives that nothing ever came back on. 10 s: longer than any game waits for its server's first
/// packet, and short enough that a flood from forged addresses does not keep what it takes.
pub const UNANSWERED: Duration = Duration::from_secs(10);

/// A flow of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What the tunnel calls it.
    pub id: FlowId,
    /// Whose it is.
    pub key: FlowKey,
    /// A packet came back: the client knows the flow, and OPEN need not be sent any more.
    pub open_acknowledged: bool,
    /// The player has sent something after it was answered: the address is not a forged one, unless who forges it goes on blindly.
    pub is_proved: bool,
    /// When its first packet came.
    pub began: Instant,
    /// Bytes of the player's packets.
    pub received: u64,
    /// Bytes of the game's answers that may pass.
    pub sent: u64,
}

/// Why an answer may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyDrop {
    /// There is no such flow.
    #[error("there is no such flow")]
    Unknown,
    /// It is more than an address is sent that has not proved to be the player's: see [`UNPROVED_FACTOR`].
    #[error("more than an address is sent that has not proved to be the player's")]
    Unproved,
}

/// Bytes that an address may be sent for each byte of its packets until it has been answered and has sent again. RFC 9000
/// allows as much before an address is validated. Whoever forges a player's address must gain little by it.
pub const UNPROVED_FACTOR: u64 = 3;

/// What became of a player's packet that may pass.
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The packet's flow.
    pub flow: &'a Flow,
    /// Whether the flow is new.
    pub created: bool,
}

/// The flows of one service, or those that come in at one of its sockets.
#[derive(Debug)]
pub struct FlowTable {
    limits: FlowLimits,
    unanswered_life: Duration,
    /// Bytes beyond [`UNPROVED_FACTOR`] times its own that an unproved address may be sent.
    unproved: u64,
    by_key: HashMap<FlowKey, At>,
    by_id: HashMap<FlowId, At>,
    counts: Arc<FlowCounts>,
    entries: Row<Entry>,
    /// Flows by their last packet: those that the client may not know, and those that it knows.
    ages: [List; 2],
    /// All flows by their standing, each list by who was silent for longest.
    standings: Standings,
    /// The same of each address.
    by_address: HashMap<IpAddr, Standings>,
}

type Standings = [List; Standing::COUNT];

/// A flow in its lists.
#[derive(Debug)]
struct Entry {
    flow: Flow,
    /// Its last packet, give or take [`GRANULARITY`].
    touched: Instant,
    talk: Talk,
    /// Under which standing it hangs, and since when: its last answer, or the player's last packet if there was none.
    standing: Standing,
    since: Instant,
}

impl FlowTable {
    /// An empty table.
    pub fn new(limits: FlowLimits) -> Self {
        Self::sharing(limits, Arc::default())
    }

    /// An empty table that is one of several that share these caps.
    pub fn sharing(limits: FlowLimits, counts: Arc<FlowCounts>) -> Self {
        Self {
            limits,
            unanswered_life: UNANSWERED,
            unproved: u64::MAX,
            by_key: HashMap::new(),
            by_id: HashMap::new(),
            counts,
            entries: Row::new(),
            ages: Default::default(),
            standings: Standings::default(),
            by_address: HashMap::new(),
        }
    }

    /// The same with flows that live so long without an answer, instead of [`UNANSWERED`].
    #[must_use]
    pub const fn with_unanswered(mut self, life: Duration) -> Self {
        self.unanswered_life = life;
        self
    }

    /// The same with at most so many bytes for an address that has not proved to be the player's, beside [`UNPROVED_FACTOR`]
    /// times what it sent; otherwise there is no bound.
    #[must_use]
    pub const fn with_unproved(mut self, bytes: u64) -> Self {
        self.unproved = bytes;
        self
    }

    /// Other limits from now on. Flows past a lowered cap stay until they end by themselves or make room.
    pub const fn set_limits(&mut self, limits: FlowLimits) {
        self.limits = limits;
    }

    /// A packet of `len` bytes came from a player. A flow that is not there yet is made, with an id from `allocate`.
    pub fn handle_player_packet(
        &mut self,
        now: Instant,
        key: FlowKey,
        len: usize,
        allocate: impl FnOnce() -> FlowId,
    ) -> Result<Admitted<'_>, FlowDrop> {
        let (at, created) = if let Some(&at) = self.by_key.get(&key) {
            (at, false)
        } else {
            self.counts.take(key.address(), &self.limits)?;
            (self.insert(now, key, allocate()), true)
        };
        self.handle_question(now, at, len);
        Ok(Admitted {
            flow: &self.entries[at].flow,
            created,
        })
    }

    /// A packet came from a player while no new ones are taken. `None` for a player who has no flow.
    pub fn handle_known_packet(
        &mut self,
        now: Instant,
        key: &FlowKey,
        len: usize,
    ) -> Option<&Flow> {
        let at = *self.by_key.get(key)?;
        self.handle_question(now, at, len);
        Some(&self.entries[at].flow)
    }

    /// A packet of `len` bytes came back on a flow. Where it may not pass, drop it and count it.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        id: FlowId,
        len: usize,
    ) -> Result<&Flow, ReplyDrop> {
        let at = *self.by_id.get(&id).ok_or(ReplyDrop::Unknown)?;
        self.touch(now, at, true);
        let entry = &mut self.entries[at];
        let flow = &mut entry.flow;
        let sent = flow.sent.saturating_add(len as u64);
        let most = (flow.received.saturating_mul(UNPROVED_FACTOR)).saturating_add(self.unproved);
        if !flow.is_proved && sent > most {
            return Err(ReplyDrop::Unproved);
        }
        flow.sent = sent;
        if entry.talk.handle_reply() {
            let standing = entry.talk.standing();
            if standing != entry.standing || is_due(now, entry.since) {
                self.stand(now, at, standing);
            }
        }
        Ok(&self.entries[at].flow)
    }

    /// Which of this table's flows would make room for one of this key that has no place; the least of several tables'
    /// goes first. `None`: all are live.
    pub fn victim(&self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<Rank> {
        self.choose(now, full, key).map(|(rank, _)| rank)
    }

    /// Ends that flow. The client is to be told.
    ///
    /// For an address that has too many, it is one of the same address: never answered, or silent for longest. Else it is
    /// one that was never answered, then a query that is over, and last a conversation that has ended.
    pub fn make_room(&mut self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<Flow> {
        let (_, at) = self.choose(now, full, key)?;
        Some(self.remove_at(at))
    }

    /// Whether a packet passed on any flow since then, give or take [`GRANULARITY`].
    pub fn is_alive_since(&self, then: Instant) -> bool {
        let mut newest = self.ages.iter().filter_map(|list| list.newest);
        newest.any(|at| self.entries[at].touched >= then)
    }

    /// Another process of the client took over: it knows none of the flows, and each has to be opened again.
    pub fn handle_client_changed(&mut self, now: Instant) {
        while let Some(at) = self.ages[usize::from(true)].oldest {
            self.leave_age(at);
            self.entries[at].flow.open_acknowledged = false;
            self.enter_age(now, at);
        }
    }

    /// When a flow may have expired: call [`poll_expired`](Self::poll_expired) then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ages.iter().filter_map(|list| self.expiry(list)).min()
    }

    /// Removes a flow whose time is over; call until `None`. The client is to be told.
    pub fn poll_expired(&mut self, now: Instant) -> Option<Flow> {
        let at = (self.ages.iter())
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
        self.by_id.get(&id).map(|at| &self.entries[*at].flow)
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.by_id.values().map(|at| &self.entries[*at].flow)
    }

    /// How many flows there are.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// The player has said something.
    fn handle_question(&mut self, now: Instant, at: At, len: usize) {
        let entry = &mut self.entries[at];
        entry.flow.is_proved |= entry.talk.is_answered();
        entry.flow.received = entry.flow.received.saturating_add(len as u64);
        entry.talk.handle_question();
        if entry.standing == Standing::Unanswered && is_due(now, entry.since) {
            self.stand(now, at, Standing::Unanswered);
        }
        self.touch(now, at, false);
    }

    /// The flow is alive, and the client may have shown that it knows it. Most packets only read the entry.
    fn touch(&mut self, now: Instant, at: At, is_reply: bool) {
        let entry = &self.entries[at];
        let is_news = is_reply && !entry.flow.open_acknowledged;
        if is_news || is_due(now, entry.touched) {
            self.leave_age(at);
            self.entries[at].flow.open_acknowledged |= is_reply;
            self.enter_age(now, at);
        }
    }

    fn insert(&mut self, now: Instant, key: FlowKey, id: FlowId) -> At {
        let at = self.entries.push(Entry {
            flow: Flow {
                id,
                key,
                open_acknowledged: false,
                is_proved: false,
                began: now,
                received: 0,
                sent: 0,
            },
            touched: now,
            talk: Talk::default(),
            standing: Standing::Unanswered,
            since: now,
        });
        self.by_key.insert(key, at);
        self.by_id.insert(id, at);
        self.enter_age(now, at);
        self.rehang(at, None, Some(Standing::Unanswered));
        at
    }

    fn remove_at(&mut self, at: At) -> Flow {
        self.leave_age(at);
        self.rehang(at, Some(self.entries[at].standing), None);
        let flow = self.entries[at].flow;
        let address = flow.key.address();
        if let Some(standings) = self.by_address.get(&address)
            && standings.iter().all(|list| list.oldest.is_none())
        {
            self.by_address.remove(&address);
            spare_map(&mut self.by_address);
        }
        self.by_key.remove(&flow.key);
        spare_map(&mut self.by_key);
        self.by_id.remove(&flow.id);
        spare_map(&mut self.by_id);
        if let Some(last) = self.entries.last().filter(|last| *last != at) {
            self.follow(last, at);
        }
        self.entries.swap_remove(at);
        self.counts.give_back(address);
        flow
    }

    /// The entry at `from` is going to be at `to`, where no other is.
    fn follow(&mut self, from: At, to: At) {
        let Entry { flow, standing, .. } = &self.entries[from];
        let (flow, standing) = (*flow, *standing as usize);
        self.by_key.insert(flow.key, to);
        self.by_id.insert(flow.id, to);
        let list = &mut self.ages[usize::from(flow.open_acknowledged)];
        self.entries.follow(list, Hook::Age, from, to);
        let list = &mut self.standings[standing];
        self.entries.follow(list, Hook::Table, from, to);
        if let Some(standings) = self.by_address.get_mut(&flow.key.address()) {
            let list = &mut standings[standing];
            self.entries.follow(list, Hook::Address, from, to);
        }
    }

    /// When the list's oldest flow ends: its last packet came less than [`GRANULARITY`] after `touched`.
    fn expiry(&self, list: &List) -> Option<Instant> {
        let entry = &self.entries[list.oldest?];
        let life = if entry.flow.open_acknowledged {
            self.limits.idle
        } else {
            self.unanswered_life
        };
        entry.touched.checked_add(life.saturating_add(GRANULARITY))
    }

    fn enter_age(&mut self, now: Instant, at: At) {
        let entry = &mut self.entries[at];
        entry.touched = now;
        let list = &mut self.ages[usize::from(entry.flow.open_acknowledged)];
        self.entries.hang(list, Hook::Age, at);
    }

    fn leave_age(&mut self, at: At) {
        let list = &mut self.ages[usize::from(self.entries[at].flow.open_acknowledged)];
        self.entries.unhang(list, Hook::Age, at);
    }

    /// The flow has shown once more what it is.
    fn stand(&mut self, now: Instant, at: At, standing: Standing) {
        let entry = &mut self.entries[at];
        let before = std::mem::replace(&mut entry.standing, standing);
        entry.since = now;
        self.rehang(at, Some(before), Some(standing));
    }

    /// Hangs a flow of one standing under another; `None` is where it comes from, and where it goes.
    fn rehang(&mut self, at: At, before: Option<Standing>, after: Option<Standing>) {
        let address = self.entries[at].flow.key.address();
        let of_address = self.by_address.entry(address).or_default();
        let of_table = &mut self.standings;
        for (hook, lists) in [(Hook::Table, of_table), (Hook::Address, of_address)] {
            if let Some(before) = before {
                self.entries.unhang(&mut lists[before as usize], hook, at);
            }
            if let Some(after) = after {
                self.entries.hang(&mut lists[after as usize], hook, at);
            }
        }
        let [was_loose, is_loose] = [before, after].map(|it| it.is_some_and(Standing::is_loose));
        if was_loose != is_loose {
            self.counts.loosen(is_loose);
        }
    }

    fn choose(&self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<(Rank, At)> {
        let (among, standings) = match full {
            FlowDrop::AddressFull => (Among::Address, self.by_address.get(&key.address())?),
            _ => (Among::All, &self.standings),
        };
        let oldest = standings.iter().filter_map(|list| list.oldest);
        let ranked = oldest.filter_map(|at| {
            let entry = &self.entries[at];
            Some((rank(among, entry.standing, entry.since, now)?, at))
        });
        ranked.min_by_key(|(rank, _)| *rank)
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        // Otherwise they would count against all others for ever.
        while let Some(at) = self.entries.last() {
            self.remove_at(at);
        }
    }
}

/// Whether an entry that was moved then is to be moved again.
fn is_due(now: Instant, then: Instant) -> bool {
    now.saturating_duration_since(then) >= GRANULARITY
}

#[cfg(test)]
mod tests;
