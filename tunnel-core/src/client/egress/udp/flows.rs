//! The flows of a client: by their ids, and those whose player is waited for.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        egress::udp::flow::{Flow, FlowKey},
        limits::ClientLimits,
        targets::Target,
    },
    metrics::{Level, Metrics},
    proto::{
        datagram::FlowId,
        flow::{Parked, spare_map},
        handshake::ProcessId,
    },
    sync::lock,
};

/// The flows of a client. They outlive its tunnels: a game's socket stays the same while the path changes. They outlive
/// the relay's process, too: its ids mean nothing to the next one, but a flow is kept for a while, without one, until its
/// player comes back.
#[derive(Debug)]
pub(crate) struct Flows {
    /// By the flow's number, so that the readers of several lanes seldom meet.
    parts: [Mutex<Part>; PARTS],
    /// Locked after a part, never before one.
    parked: Mutex<Waiting>,
    /// How many have a slot, the parked ones among them.
    held: AtomicUsize,
    most: usize,
    /// How long a player is waited for.
    patience: Duration,
    /// Wakes the expiry: there is a flow again.
    added: Notify,
}

/// Some of the flows that have an id.
#[derive(Debug, Default)]
struct Part {
    /// The process of the relay that the ids are of.
    relay: Option<ProcessId>,
    by_id: HashMap<FlowId, Held>,
    /// When to look at which of them, so that no look costs more than what it finds.
    looks: BTreeSet<(Instant, FlowId)>,
}

#[derive(Debug)]
struct Held {
    flow: Arc<Flow>,
    look: Instant,
}

#[derive(Debug)]
struct Waiting {
    flows: Parked<FlowKey, Arc<Flow>>,
    counted: Level,
}

/// What an id of one process of the relay leads to.
#[derive(Debug)]
pub(super) enum Found {
    Flow(Arc<Flow>),
    /// No flow has it yet, or none has it any more.
    Unknown,
    /// The process is not, or no longer, the one that the ids are of.
    Stale,
}

/// A slot among the flows, free again unless it is used.
#[derive(Debug)]
pub(super) struct FlowSlot<'a>(Option<&'a Flows>);

impl Drop for FlowSlot<'_> {
    fn drop(&mut self) {
        if let Some(flows) = self.0 {
            flows.give_back();
        }
    }
}

impl Flows {
    pub(crate) fn new(limits: &ClientLimits, metrics: &Arc<Metrics>) -> Self {
        Self {
            parts: Default::default(),
            parked: Mutex::new(Waiting {
                flows: Parked::default(),
                counted: Level::new(metrics, |m| &m.flows_parked),
            }),
            held: AtomicUsize::new(0),
            most: limits.flows,
            patience: limits.parked_flow_time,
            added: Notify::new(),
        }
    }

    /// Whether a datagram has passed within this time on any flow whose player is here.
    pub(crate) fn any_within(&self, time: Duration) -> bool {
        self.parts.iter().any(|part| {
            let part = lock(part);
            part.by_id.values().any(|held| held.flow.unused() <= time)
        })
    }

    /// Whether the ids are of this process of the relay.
    pub(crate) fn is_led_to(&self, relay: ProcessId) -> bool {
        self.parts
            .iter()
            .all(|part| lock(part).relay == Some(relay))
    }

    /// Tunnels lead to this process of the relay from now on. The ids of the one before it mean nothing to it: every flow is
    /// parked.
    pub(crate) fn lead_to(&self, relay: ProcessId, now: Instant) {
        let mut orphans = Vec::new();
        for part in &self.parts {
            let mut part = lock(part);
            part.relay = Some(relay);
            part.looks.clear();
            orphans.extend(part.by_id.drain().map(|(_, held)| held.flow));
            spare_map(&mut part.by_id);
        }
        // Who was silent for longest goes first where room is needed.
        orphans.sort_by_cached_key(|flow| std::cmp::Reverse(flow.unused()));
        let until = now + self.patience;
        let mut parked = lock(&self.parked);
        for flow in orphans {
            flow.set_id(None);
            let given_up = if self.patience.is_zero() || flow.has_ended() {
                Some(flow)
            } else {
                parked.flows.park(until, flow.key, flow)
            };
            given_up.into_iter().for_each(|flow| self.end(&flow));
        }
        parked.count();
    }

    pub(super) fn find(&self, relay: ProcessId, id: FlowId) -> Found {
        let part = lock(self.part(id));
        if part.relay != Some(relay) {
            return Found::Stale;
        }
        match part.by_id.get(&id) {
            Some(held) => Found::Flow(held.flow.clone()),
            None => Found::Unknown,
        }
    }

    /// The parked flow of a player who is back: it has this id from now on.
    pub(super) fn resume(&self, relay: ProcessId, id: FlowId, key: &FlowKey) -> Option<Arc<Flow>> {
        let mut part = lock(self.part(id));
        if part.relay != Some(relay) || part.by_id.contains_key(&id) {
            return None;
        }
        let mut parked = lock(&self.parked);
        let flow = parked.flows.take(key)?;
        parked.count();
        if flow.has_ended() {
            self.end(&flow);
            return None;
        }
        // While the lock is held: a flow that ends now is looked for here first, and then by its id.
        flow.set_id(Some(id));
        drop(parked);
        part.insert(id, flow.clone());
        drop(part);
        self.added.notify_one();
        Some(flow)
    }

    /// A slot for one more flow. A parked one makes room where there is none.
    pub(super) fn reserve(&self) -> Option<FlowSlot<'_>> {
        let more = |held: usize| (held < self.most).then(|| held + 1);
        loop {
            let taken = (self.held).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            if taken.is_ok() {
                return Some(FlowSlot(Some(self)));
            }
            self.give_one_up()?;
        }
    }

    /// Ends the parked flow that goes first, if there is one. Tells when it has given back what it had.
    pub(super) fn give_one_up(&self) -> Option<CancellationToken> {
        let mut parked = lock(&self.parked);
        let given_up = parked.flows.give_up();
        parked.count();
        let flow = given_up?;
        self.end(&flow);
        Some(flow.gone())
    }

    /// Gives a new flow its slot. Another reader may have opened it meanwhile: then that one is the flow.
    pub(super) fn insert(
        &self,
        relay: ProcessId,
        id: FlowId,
        flow: Arc<Flow>,
        mut slot: FlowSlot<'_>,
    ) -> Found {
        let mut part = lock(self.part(id));
        if part.relay != Some(relay) {
            return Found::Stale;
        }
        if let Some(held) = part.by_id.get(&id) {
            return Found::Flow(held.flow.clone());
        }
        flow.set_id(Some(id));
        part.insert(id, flow);
        slot.0 = None;
        drop(part);
        self.added.notify_one();
        Found::Unknown
    }

    /// The relay has forgotten a flow.
    pub(super) fn close(&self, relay: ProcessId, id: FlowId) {
        let mut part = lock(self.part(id));
        if part.relay == Some(relay)
            && let Some(flow) = part.remove(id, |_| true)
        {
            self.end(&flow);
        }
    }

    /// A flow has ended by itself. Returns the id by which the relay is to be told; none of a parked one, nor of one that
    /// the relay has closed.
    pub(super) fn leave(&self, flow: &Arc<Flow>) -> Option<FlowId> {
        // Whoever parks or resumes it from now on finds it ended.
        flow.end();
        let is_own = |other: &Arc<Flow>| Arc::ptr_eq(other, flow);
        // It may be resumed between the two looks.
        for _ in 0..2 {
            if let Some(id) = flow.id()
                && lock(self.part(id)).remove(id, is_own).is_some()
            {
                self.give_back();
                return Some(id);
            }
            let mut parked = lock(&self.parked);
            if parked.flows.take_if(&flow.key, is_own).is_some() {
                parked.count();
                self.give_back();
                return None;
            }
        }
        None
    }

    /// Ends flows that are idle for too long and those whose players have not come back, all by one clock: none has a
    /// timer of its own. Tells of the targets that do not answer.
    pub(crate) async fn expire(&self, tell_silent: impl Fn(&Target)) {
        let mut silent = Vec::new();
        loop {
            let next = self.end_idle(Instant::now(), &mut silent);
            (silent.drain(..)).for_each(|target: Arc<Target>| tell_silent(&target));
            match next {
                Some(next) => {
                    let pause = next.saturating_duration_since(Instant::now());
                    tokio::time::sleep(pause.clamp(LOOK_LEAST, LOOK_MOST)).await;
                }
                None => self.added.notified().await,
            }
        }
    }

    /// Ends what is idle for too long. Says when to look again, nothing if nothing is left; and of which targets there is something to be
    /// said.
    fn end_idle(&self, now: Instant, silent: &mut Vec<Arc<Target>>) -> Option<Instant> {
        let look = |part: &Mutex<Part>| lock(part).look(now, silent);
        let next = self.parts.iter().filter_map(look).min();
        let mut parked = lock(&self.parked);
        while let Some(flow) = parked.flows.poll_expired(now) {
            self.end(&flow);
        }
        parked.count();
        next.into_iter().chain(parked.flows.poll_timeout()).min()
    }

    /// These ports belong to a target now: flows that have them get others.
    pub(crate) fn make_way(&self, ports: &HashSet<u16>) {
        for part in &self.parts {
            for held in lock(part).by_id.values() {
                held.flow.make_way(ports);
            }
        }
        for flow in lock(&self.parked).flows.iter() {
            flow.make_way(ports);
        }
    }

    /// A flow has left the table.
    fn end(&self, flow: &Flow) {
        flow.end();
        self.give_back();
    }

    fn give_back(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    fn part(&self, id: FlowId) -> &Mutex<Part> {
        &self.parts[id.0 as usize % PARTS]
    }
}

impl Part {
    fn insert(&mut self, id: FlowId, flow: Arc<Flow>) {
        let look = Instant::now() + flow.left().min(LOOK_MOST);
        self.looks.insert((look, id));
        self.by_id.insert(id, Held { flow, look });
    }

    fn remove(
        &mut self,
        id: FlowId,
        is_meant: impl FnOnce(&Arc<Flow>) -> bool,
    ) -> Option<Arc<Flow>> {
        if !is_meant(&self.by_id.get(&id)?.flow) {
            return None;
        }
        let held = self.by_id.remove(&id)?;
        spare_map(&mut self.by_id);
        self.looks.remove(&(held.look, id));
        Some(held.flow)
    }

    /// Looks at the flows whose turn it is. Says when the next one's is.
    fn look(&mut self, now: Instant, silent: &mut Vec<Arc<Target>>) -> Option<Instant> {
        loop {
            let &(look, id) = self.looks.first()?;
            if look > now {
                return Some(look);
            }
            self.looks.pop_first();
            if let Some(held) = self.by_id.get_mut(&id) {
                let left = held.flow.left();
                if held.flow.look(now) {
                    silent.push(held.flow.target.clone());
                }
                if left.is_zero() {
                    // Its task takes it out of the table, and tells the relay.
                    held.flow.end();
                }
                held.look = now + left.clamp(LOOK_LEAST, LOOK_MOST);
                self.looks.insert((held.look, id));
            }
        }
    }
}

impl Waiting {
    fn count(&mut self) {
        self.counted.set(self.flows.len() as u64);
    }
}

/// 16 locks, as on the relay: four lanes' readers seldom meet.
const PARTS: usize = 16;
/// A flow is looked at no more than once a second.
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// The longest: 10 s, the least idle time that a service may have. What is shortened under it is not overlooked.
const LOOK_MOST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
