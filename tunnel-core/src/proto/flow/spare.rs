//! Gives back memory that a flood has taken.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// The capacity that is kept of a table that a flood has grown: `None` while that is little, and so that giving it back costs
/// less than what went before.
pub(super) const fn spare(len: usize, capacity: usize) -> Option<usize> {
    if capacity > SPARE && capacity / 4 > len {
        Some(if len > SPARE / 2 { 2 * len } else { SPARE })
    } else {
        None
    }
}

/// Gives back what a map that was larger has no use for.
pub(crate) fn spare_map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if let Some(capacity) = spare(map.len(), map.capacity()) {
        map.shrink_to(capacity);
    }
}

/// Room for 128 entries is not worth giving back.
const SPARE: usize = 128;
