//! What the services of a client share of the machine, so that a flood of one leaves something to the others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A bounded number of something. A service may hold three times as many as are free: one alone gets three quarters, two get three
/// sevenths each, and however many are flooded, the next one finds something.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    held: AtomicUsize,
}

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Arc<Room>);

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The service holds its share.
    Share,
    /// None is left at all.
    Full,
}

impl Room {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: AtomicUsize::new(0),
        })
    }

    /// One more for a service that holds `own` already.
    pub(crate) fn take(self: &Arc<Self>, own: usize) -> Result<Held, NoRoom> {
        let more = |held: usize| {
            let free = self.most.saturating_sub(held);
            (own < free * FREE_TIMES).then(|| held + 1)
        };
        match (self.held).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Held(self.clone())),
            Err(held) if held >= self.most => Err(NoRoom::Full),
            Err(_) => Err(NoRoom::Share),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Three quarters for one: what `max_flows` gives a service fits into the ports that Linux has, and a quarter serves the others.
const FREE_TIMES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as a service gets that wants all.
    fn flood(room: &Arc<Room>) -> Vec<Held> {
        let mut held = Vec::new();
        while let Ok(one) = room.take(held.len()) {
            held.push(one);
        }
        held
    }

    #[test]
    fn one_gets_three_quarters_and_whoever_comes_next_finds_something() {
        let room = Room::new(1_000);
        let all: Vec<_> = (0..4).map(|_| flood(&room)).collect();
        let counts: Vec<_> = all.iter().map(Vec::len).collect();
        assert_eq!(counts, [750, 188, 47, 12]);
        assert_eq!(room.take(750).err(), Some(NoRoom::Share));
        drop(all);
        assert_eq!(flood(&room).len(), 750);
    }

    #[test]
    fn what_is_all_taken_is_full() {
        let room = Room::new(2);
        let _both = [room.take(0).unwrap(), room.take(0).unwrap()];
        assert_eq!(room.take(0).err(), Some(NoRoom::Full));
        assert_eq!(Room::new(0).take(0).err(), Some(NoRoom::Full));
    }
}
