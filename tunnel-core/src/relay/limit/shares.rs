//! Bounds how many units of something shared each key may hold at once, where a key is a client or an address.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::sync::lock;

/// How many units each key holds.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    keys: usize,
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One unit, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Each key may hold at most `most` units.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::among(usize::MAX, most)
    }

    /// At most `keys` keys may hold units at once, each at most `most`. A key that holds one may always take more up to `most`.
    pub(crate) fn among(keys: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            keys,
            most,
            held: Mutex::default(),
        })
    }

    /// One more unit for this key, if it may have it.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut held = lock(&self.held);
        if held.len() >= self.keys && !held.contains_key(&key) {
            return None;
        }
        let count = held.entry(key).or_default();
        if *count >= self.most {
            if *count == 0 {
                held.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(Share {
            shares: self.clone(),
            key,
        })
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.shares.held);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holds_so_many_and_nothing_is_kept_of_who_holds_none() {
        let shares = Shares::new(2);
        let one = shares.take(1).unwrap();
        let _two = shares.take(1).unwrap();
        assert!(shares.take(1).is_none());
        assert!(shares.take(2).is_some());
        drop(one);
        assert!(shares.take(1).is_some());
        assert_eq!(lock(&shares.held).len(), 1);
        assert!(Shares::new(0).take(1).is_none());
    }

    #[test]
    fn one_key_too_many_holds_nothing_and_those_that_hold_some_have_more() {
        let shares = Shares::among(2, 2);
        let (one, _two) = (shares.take(1).unwrap(), shares.take(2).unwrap());
        assert!(shares.take(3).is_none());
        let _more = shares.take(2).unwrap();
        drop(one);
        assert!(shares.take(3).is_some());
    }
}
