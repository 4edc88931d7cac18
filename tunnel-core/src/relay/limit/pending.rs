//! Who has not proved itself yet: so many at a time, so many of one source. Where all places are taken the oldest goes,
//! for a client needs a place no longer than its round trip, and who only wants to hold one needs it for ever.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;

use crate::{sync::lock, transport::admission::Source};

/// Places for those who have not proved themselves.
#[derive(Debug)]
pub(crate) struct Pending {
    most: usize,
    per_source: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// By age.
    taken: BTreeMap<u64, Taken>,
    by_source: HashMap<Source, usize>,
    /// Evicted, and not gone yet.
    leaving: usize,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    evicted: CancellationToken,
}

/// A place, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Arc<Pending>,
    number: u64,
    evicted: CancellationToken,
}

impl Pending {
    /// So many places, so many of them for one source.
    pub(crate) fn new(most: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            per_source,
            places: Mutex::default(),
        })
    }

    /// Takes a place, and says whether another had to leave for it. `None` while as many are leaving as may stay: those
    /// who come faster than that are turned away.
    pub(crate) fn enter(self: &Arc<Self>, source: Source) -> Option<(Place, bool)> {
        let mut places = lock(&self.places);
        if places.leaving >= self.most.max(1) || self.most == 0 {
            return None;
        }
        let own = places.by_source.get(&source).copied().unwrap_or_default();
        let victim = if own >= self.per_source {
            let mut own = places
                .taken
                .iter()
                .filter(|(_, taken)| taken.source == source);
            own.next().map(|(number, _)| *number)
        } else if places.taken.len() >= self.most {
            places.taken.keys().next().copied()
        } else {
            None
        };
        if let Some(victim) = victim {
            places.evict(victim);
        }
        let number = places.next;
        places.next += 1;
        let evicted = CancellationToken::new();
        places.taken.insert(
            number,
            Taken {
                source,
                evicted: evicted.clone(),
            },
        );
        *places.by_source.entry(source).or_default() += 1;
        let place = Place {
            pending: self.clone(),
            number,
            evicted,
        };
        Some((place, victim.is_some()))
    }

    /// How many places are taken.
    pub(crate) fn count(&self) -> usize {
        lock(&self.places).taken.len()
    }
}

impl Places {
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

impl Place {
    /// Comes when another needs the place.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.pending.places);
        if places.remove(self.number).is_none() {
            places.leaving -= 1;
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
        let places = lock(&pending.places);
        assert!(places.by_source.is_empty() && places.leaving == 0);
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
        let mut places = Vec::new();
        for number in 0..6 {
            places.push(pending.enter(source(number)).unwrap().0);
        }
        assert!(pending.enter(source(99)).is_none());
        places.remove(0);
        assert!(pending.enter(source(99)).is_some());
    }
}
