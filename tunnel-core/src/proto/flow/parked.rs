//! What is kept of flows whose relay has gone, until their players come back through another.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Instant,
};

use crate::proto::flow::spare::spare_map;

/// Flows without an id, by what their players will be known by again. Each waits for so long; the first to come is the
/// first to go.
#[derive(Debug)]
pub struct Parked<K, T> {
    by_key: HashMap<K, Waiting<T>>,
    order: BTreeMap<Turn, K>,
    next: u64,
}

/// When a flow is given up; of several at one moment, in the order in which they came.
type Turn = (Instant, u64);

#[derive(Debug)]
struct Waiting<T> {
    flow: T,
    turn: Turn,
}

impl<K, T> Default for Parked<K, T> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, T> Parked<K, T> {
    /// Keeps a flow until then. Returns the one of the same key that was there: it is not found again.
    pub fn park(&mut self, until: Instant, key: K, flow: T) -> Option<T> {
        let turn = (until, self.next);
        self.next += 1;
        self.order.insert(turn, key);
        let before = self.by_key.insert(key, Waiting { flow, turn })?;
        self.order.remove(&before.turn);
        Some(before.flow)
    }

    /// The player of a flow is back.
    pub fn take(&mut self, key: &K) -> Option<T> {
        self.take_if(key, |_| true)
    }

    /// The same if the flow is the one that is meant.
    pub fn take_if(&mut self, key: &K, is_meant: impl FnOnce(&T) -> bool) -> Option<T> {
        if !is_meant(&self.by_key.get(key)?.flow) {
            return None;
        }
        let waiting = self.by_key.remove(key)?;
        spare_map(&mut self.by_key);
        self.order.remove(&waiting.turn);
        Some(waiting.flow)
    }

    /// The first that goes where room is needed.
    pub fn give_up(&mut self) -> Option<T> {
        let (_, key) = self.order.first_key_value()?;
        self.take(&key.clone())
    }

    /// When the next one is given up: call [`poll_expired`](Self::poll_expired) then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((until, _), _)| *until)
    }

    /// One whose player has not come back in time; call until `None`.
    pub fn poll_expired(&mut self, now: Instant) -> Option<T> {
        self.poll_timeout().filter(|until| *until <= now)?;
        self.give_up()
    }

    /// Those who wait, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_key.values().map(|waiting| &waiting.flow)
    }

    /// Every one that is left.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        let left = std::mem::take(self);
        left.by_key.into_values().map(|waiting| waiting.flow)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flow_is_found_once_by_its_own_key_alone_until_its_time_is_over() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut parked = Parked::default();
        assert_eq!(parked.poll_timeout(), None);
        for (key, until) in [("a", 60), ("b", 60), ("c", 61), ("d", 62)] {
            assert_eq!(parked.park(at(until), key, key), None);
        }
        assert_eq!(parked.take(&"e"), None);
        assert_eq!(parked.take_if(&"b", |it| *it == "x"), None);
        assert_eq!(parked.take(&"b"), Some("b"));
        assert_eq!(parked.take(&"b"), None);
        assert_eq!(parked.poll_timeout(), Some(at(60)));
        assert_eq!(parked.poll_expired(at(59)), None);
        assert_eq!(parked.poll_expired(at(61)), Some("a"));
        assert_eq!(parked.poll_expired(at(61)), Some("c"));
        assert_eq!(parked.poll_expired(at(61)), None);
        assert_eq!(parked.drain().collect::<Vec<_>>(), ["d"]);
        assert!(parked.is_empty() && parked.poll_timeout().is_none());
    }

    #[test]
    fn the_first_to_come_makes_room_first_and_of_one_key_the_last_is_kept() {
        let until = Instant::now();
        let mut parked = Parked::default();
        for (key, flow) in [(1, "old"), (2, "other"), (1, "new")] {
            let before = parked.park(until, key, flow);
            assert_eq!(before, (flow == "new").then_some("old"));
        }
        assert_eq!(parked.len(), 2);
        assert_eq!(parked.give_up(), Some("other"));
        assert_eq!(parked.give_up(), Some("new"));
        assert_eq!(parked.give_up(), None);
        assert_eq!((parked.order.len(), parked.len()), (0, 0));
    }

    #[test]
    fn what_a_crowd_took_is_given_back() {
        let until = Instant::now();
        let mut parked = Parked::default();
        for key in 0..10_000 {
            parked.park(until, key, key);
        }
        while parked.give_up().is_some() {}
        assert!(parked.by_key.capacity() < 1_000);
    }
}
