//! A bounded queue in which a flood crowds out only itself.

use std::collections::{HashMap, VecDeque};

/// What waits, by whose it is: each has its turn, and a full queue drops what the longest part of it holds longest.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    parts: HashMap<u16, VecDeque<T>>,
    /// Whose part holds something, in the order of their turns.
    turns: VecDeque<u16>,
    len: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            parts: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Fair<T> {
    /// Adds to the part of `whose`. Returns what had to go, if there were `most` already.
    pub(crate) fn push(&mut self, whose: u16, item: T, most: usize) -> Option<T> {
        let dropped = if self.len >= most.max(1) {
            self.make_room(whose)
        } else {
            None
        };
        let part = self.parts.entry(whose).or_default();
        if part.is_empty() {
            self.turns.push_back(whose);
        }
        part.push_back(item);
        self.len += 1;
        dropped
    }

    /// Takes the oldest of the part whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let whose = self.turns.pop_front()?;
        let part = self.parts.get_mut(&whose)?;
        let item = part.pop_front()?;
        self.len -= 1;
        if part.is_empty() {
            self.forget(whose);
        } else {
            self.turns.push_back(whose);
        }
        Some(item)
    }

    fn make_room(&mut self, whose: u16) -> Option<T> {
        let own = self.parts.get(&whose).map_or(0, VecDeque::len);
        // A flood meets its own part here, and no other is looked at.
        let fattest = if own > self.len / self.turns.len().max(1) {
            whose
        } else {
            let lens = self.turns.iter().map(|it| (self.parts[it].len(), *it));
            lens.max()?.1
        };
        let part = self.parts.get_mut(&fattest)?;
        let dropped = part.pop_front();
        self.len -= 1;
        if part.is_empty() {
            self.turns.retain(|it| *it != fattest);
            self.forget(fattest);
        }
        dropped
    }

    /// An empty part keeps its room for the next packet, as long as there are few.
    fn forget(&mut self, whose: u16) {
        if self.parts.len() > PARTS_KEPT {
            self.parts.remove(&whose);
        }
    }
}

/// Empty parts kept, so that a packet costs no allocation: 64, more services than most nodes have.
const PARTS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_drops_only_its_own_and_waits_its_turn() {
        let mut queue = Fair::default();
        for n in 0..1000 {
            let dropped = queue.push(7, (7, n), 100);
            assert_eq!(dropped.is_some(), n >= 100);
        }
        // A player of another service comes to a full queue.
        for n in 0..20 {
            assert!(matches!(queue.push(8, (8, n), 100), Some((7, _))));
        }
        let first: Vec<_> = (0..40).map(|_| queue.pop().unwrap()).collect();
        let theirs: Vec<_> = first.iter().filter(|(whose, _)| *whose == 8).collect();
        assert_eq!(theirs.len(), 20, "each has its turn");
        assert!(theirs.is_sorted(), "in order");
        assert_eq!(first[0], (7, 920), "the oldest of a flood is dropped first");
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 60);
    }

    #[test]
    fn the_bound_holds_for_any_number_of_services() {
        let mut queue = Fair::default();
        let mut held = 0_usize;
        for n in 0..50_000_u32 {
            held += 1;
            held -= usize::from(
                queue
                    .push((n.wrapping_mul(2_654_435_761) >> 20) as u16, n, 64)
                    .is_some(),
            );
            if n % 3 == 0 {
                held -= usize::from(queue.pop().is_some());
            }
            assert!(held <= 64 && queue.len == held);
        }
        assert!(queue.parts.len() <= PARTS_KEPT + 64);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), held);
        assert!(queue.pop().is_none() && queue.turns.is_empty());
    }

    #[test]
    fn a_queue_of_nothing_holds_one() {
        let mut queue = Fair::default();
        assert_eq!(queue.push(1, 'a', 0), None);
        assert_eq!(queue.push(1, 'b', 0), Some('a'));
        assert_eq!(queue.push(2, 'c', 0), Some('b'));
        assert_eq!(queue.pop(), Some('c'));
    }
}
