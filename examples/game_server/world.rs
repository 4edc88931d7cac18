//! The game itself, without a socket: everybody digs, and what is found belongs to all.

use std::{collections::HashMap, hash::Hash};

/// How often the world goes on and is told to its players: 20 times a second.
pub(crate) const TICKS_PER_SECOND: u64 = 20;
/// Who says nothing for 5 s has left.
const SILENCE: u64 = 5 * TICKS_PER_SECOND;
/// More is not believed.
const STRENGTH: u32 = 100;

/// The world of a game whose players are known by `P`, such as an address.
#[derive(Debug)]
pub(crate) struct World<P> {
    tick: u64,
    found: u64,
    /// Who plays, and in which tick he was heard last.
    players: HashMap<P, u64>,
}

impl<P: Copy + Eq + Hash> World<P> {
    /// Nobody plays yet.
    pub(crate) fn new() -> Self {
        Self {
            tick: 0,
            found: 0,
            players: HashMap::new(),
        }
    }

    /// Takes in what a player says: `dig 5`. What is nothing of the kind changes nothing.
    pub(crate) fn hears(&mut self, player: P, said: &[u8]) {
        let Some(strength) = parse(said) else { return };
        self.players.insert(player, self.tick);
        self.found += u64::from(strength);
    }

    /// Goes on by one tick, and returns the state that all are told.
    pub(crate) fn advance(&mut self) -> String {
        self.tick += 1;
        let tick = self.tick;
        self.players.retain(|_, heard| tick - *heard <= SILENCE);
        format!(
            "tick {tick} found {} players {}",
            self.found,
            self.players.len()
        )
    }

    /// Who plays.
    pub(crate) fn players(&self) -> impl Iterator<Item = P> {
        self.players.keys().copied()
    }
}

fn parse(said: &[u8]) -> Option<u32> {
    let strength = std::str::from_utf8(said).ok()?.strip_prefix("dig ")?;
    strength
        .trim_end()
        .parse()
        .ok()
        .filter(|strength| *strength <= STRENGTH)
}
