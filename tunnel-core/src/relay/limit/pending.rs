//! Slots for handshakes under way: a bounded number, and a bounded number for each source address.
//!
//! Where all slots are taken, the oldest handshake is evicted. An honest client needs its slot for a round trip, an attacker who
//! wants to exhaust them for ever, so the oldest one is most likely the attacker's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;

use crate::{sync::lock, transport::admission::Source};

/// The slots, and who has them.
#[derive(Debug)]
pub(crate) struct Pending {
    most: usize,
    per_source: usize,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    /// By age.
    taken: BTreeMap<u64, Taken>,
    by_source: HashMap<Source, usize>,
    /// How many were evicted whose tasks have not ended yet.
    leaving: usize,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    evicted: CancellationToken,
}

/// A slot, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct HandshakeSlot {
    pending: Arc<Pending>,
    number: u64,
    evicted: CancellationToken,
}

impl Pending {
    /// `most` slots, of which one source may have `per_source`.
    pub(crate) fn new(most: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            per_source,
            slots: Mutex::default(),
        })
    }

    /// Takes a slot, and says whether another one was evicted for it. `None` while as many evicted ones have not ended as there are
    /// slots.
    pub(crate) fn enter(self: &Arc<Self>, source: Source) -> Option<(HandshakeSlot, bool)> {
        let mut slots = lock(&self.slots);
        if slots.leaving >= self.most.max(1) || self.most == 0 {
            return None;
        }
        let own = slots.by_source.get(&source).copied().unwrap_or_default();
        let victim = if own >= self.per_source {
            let mut own = slots
                .taken
                .iter()
                .filter(|(_, taken)| taken.source == source);
            own.next().map(|(number, _)| *number)
        } else if slots.taken.len() >= self.most {
            slots.taken.keys().next().copied()
        } else {
            None
        };
        if let Some(victim) = victim {
            slots.evict(victim);
        }
        let number = slots.next;
        slots.next += 1;
        let evicted = CancellationToken::new();
        slots.taken.insert(
            number,
            Taken {
                source,
                evicted: evicted.clone(),
            },
        );
        *slots.by_source.entry(source).or_default() += 1;
        let slot = HandshakeSlot {
            pending: self.clone(),
            number,
            evicted,
        };
        Some((slot, victim.is_some()))
    }

    /// How many slots are taken.
    pub(crate) fn count(&self) -> usize {
        lock(&self.slots).taken.len()
    }
}

impl Slots {
    fn evict(&mut self, number: u64) {
        if let Some(taken) = self.remove(number) {
            taken.evicted.cancel();
            self.leaving += 1;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Taken> {
        let taken = self.taken.remove(&number)?;
        if let Some(count) = self.by_source.get_mut(&taken.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&taken.source);
            }
        }
        Some(taken)
    }
}

impl HandshakeSlot {
    /// Completes when the slot was given to another.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        let mut slots = lock(&self.pending.slots);
        if slots.remove(self.number).is_none() {
            slots.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[test]
    fn the_oldest_makes_room() {
        let pending = Pending::new(2, 2);
        let (first, _) = pending.enter(source(1)).unwrap();
        let (second, evicted) = pending.enter(source(2)).unwrap();
        assert!(!evicted);
        let (third, evicted) = pending.enter(source(3)).unwrap();
        assert!(evicted && first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        assert_eq!(pending.count(), 2);
        drop((first, second, third));
        assert_eq!(pending.count(), 0);
        let slots = lock(&pending.slots);
        assert!(slots.by_source.is_empty() && slots.leaving == 0);
    }

    #[test]
    fn a_source_at_its_cap_displaces_only_itself() {
        let pending = Pending::new(10, 2);
        let (other, _) = pending.enter(source(9)).unwrap();
        let (first, _) = pending.enter(source(1)).unwrap();
        let (second, _) = pending.enter(source(1)).unwrap();
        let (_third, evicted) = pending.enter(source(1)).unwrap();
        assert!(evicted && first.evicted.is_cancelled());
        assert!(!other.evicted.is_cancelled() && !second.evicted.is_cancelled());
    }

    #[test]
    fn those_who_do_not_leave_are_bounded_too() {
        let pending = Pending::new(3, 3);
        let mut slots = Vec::new();
        for number in 0..6 {
            slots.push(pending.enter(source(number)).unwrap().0);
        }
        assert!(pending.enter(source(99)).is_none());
        slots.remove(0);
        assert!(pending.enter(source(99)).is_some());
    }
}
