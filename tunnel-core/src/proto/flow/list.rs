//! Nodes in a row without gaps, each of which hangs in several lists, ordered by when it was hung there.

use std::{
    num::NonZeroU32,
    ops::{Index, IndexMut},
};

use crate::proto::flow::spare::spare;

/// Where a node is. A node that goes is replaced by the last one, so that a place is good until the next removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(NonZeroU32);

impl At {
    /// Rows longer than what 32 bits count are cut off by the caps long before.
    fn new(index: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    const fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

/// Which of its lists a node is asked about: it hangs in one of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// By the last packet: which one ends next.
    Age,
    /// By who makes room for another, in the whole table.
    Table,
    /// By the same, among those of one address.
    Address,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    older: Option<At>,
    newer: Option<At>,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    links: [Link; 3],
}

/// The ends of a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    pub(super) oldest: Option<At>,
    pub(super) newest: Option<At>,
}

/// The nodes.
#[derive(Debug)]
pub(super) struct Row<T>(Vec<Node<T>>);

impl<T> Row<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) const fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Adds a node, which hangs in no list yet.
    pub(super) fn push(&mut self, value: T) -> At {
        self.0.push(Node {
            value,
            links: Default::default(),
        });
        At::new(self.0.len() - 1)
    }

    /// The last node: the one that takes the place of whichever is removed.
    pub(super) fn last(&self) -> Option<At> {
        self.0.len().checked_sub(1).map(At::new)
    }

    /// Removes a node that hangs in no list. The last one is at its place then; memory that a flood took is given back.
    pub(super) fn swap_remove(&mut self, at: At) -> T {
        let node = self.0.swap_remove(at.index());
        if let Some(capacity) = spare(self.0.len(), self.0.capacity()) {
            self.0.shrink_to(capacity);
        }
        node.value
    }

    /// Hangs a node in at the young end.
    pub(super) fn hang(&mut self, list: &mut List, hook: Hook, at: At) {
        let newest = list.newest.replace(at);
        match newest {
            Some(newest) => self.link(hook, newest).newer = Some(at),
            None => list.oldest = Some(at),
        }
        *self.link(hook, at) = Link {
            older: newest,
            newer: None,
        };
    }

    /// Takes a node out of its list.
    pub(super) fn unhang(&mut self, list: &mut List, hook: Hook, at: At) {
        let Link { older, newer } = *self.link(hook, at);
        self.join(list, hook, older, newer);
    }

    /// The node that hangs in this list at `from` is going to be at `to`, with its links.
    pub(super) fn follow(&mut self, list: &mut List, hook: Hook, from: At, to: At) {
        let Link { older, newer } = *self.link(hook, from);
        self.join(list, hook, older, Some(to));
        self.join(list, hook, Some(to), newer);
    }

    /// Makes these two neighbours; `None` is the list's end.
    fn join(&mut self, list: &mut List, hook: Hook, older: Option<At>, newer: Option<At>) {
        match older {
            Some(older) => self.link(hook, older).newer = newer,
            None => list.oldest = newer,
        }
        match newer {
            Some(newer) => self.link(hook, newer).older = older,
            None => list.newest = older,
        }
    }

    fn link(&mut self, hook: Hook, at: At) -> &mut Link {
        &mut self.0[at.index()].links[hook as usize]
    }

    /// A list's nodes from the oldest on.
    #[cfg(test)]
    pub(super) fn listed(&self, list: &List, hook: Hook) -> impl Iterator<Item = At> {
        std::iter::successors(list.oldest, move |at| {
            self.0[at.index()].links[hook as usize].newer
        })
    }
}

impl<T> Index<At> for Row<T> {
    type Output = T;

    fn index(&self, at: At) -> &T {
        &self.0[at.index()].value
    }
}

impl<T> IndexMut<At> for Row<T> {
    fn index_mut(&mut self, at: At) -> &mut T {
        &mut self.0[at.index()].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::XorShift;

    /// Lists beside plain vectors: whatever is hung, taken out and moved, each keeps its order.
    #[test]
    fn lists_agree_with_vectors() {
        let mut random = XorShift::new(7);
        let mut row = Row::<u32>::new();
        let mut lists = [List::default(); 2];
        let mut model: [Vec<u32>; 2] = Default::default();
        let find = |row: &Row<u32>, value| (0..row.len()).map(At::new).find(|at| row[*at] == value);
        for value in 0..5_000 {
            let which = random.below(2);
            match random.below(5) {
                0..3 => {
                    let at = row.push(value);
                    row.hang(&mut lists[which], Hook::Table, at);
                    model[which].push(value);
                }
                3 => {
                    // Another list, or the young end of the same.
                    let from = random.below(2);
                    let Some(place) = random.below(40).checked_rem(model[from].len()) else {
                        continue;
                    };
                    let moved = model[from].remove(place);
                    model[which].push(moved);
                    let at = find(&row, moved).unwrap();
                    row.unhang(&mut lists[from], Hook::Table, at);
                    row.hang(&mut lists[which], Hook::Table, at);
                }
                _ => {
                    let Some(place) = random.below(40).checked_rem(model[which].len()) else {
                        continue;
                    };
                    let gone = model[which].remove(place);
                    let at = find(&row, gone).unwrap();
                    row.unhang(&mut lists[which], Hook::Table, at);
                    let last = row.last().unwrap();
                    if last != at {
                        let list = usize::from(model[1].contains(&row[last]));
                        row.follow(&mut lists[list], Hook::Table, last, at);
                    }
                    assert_eq!(row.swap_remove(at), gone);
                }
            }
            for (list, model) in lists.iter().zip(&model) {
                let listed = row.listed(list, Hook::Table).map(|at| row[at]);
                assert!(listed.eq(model.iter().copied()));
                assert_eq!(list.newest.map(|at| row[at]), model.last().copied());
            }
        }
        assert_eq!(row.len(), model[0].len() + model[1].len());
    }
}
