//! Which player has which address of 127/8. Pure: no socket, no clock.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

use crate::proto::flow::spare_map;

/// An address of 127.64.0.0/10 for each player: the same for all of its sockets, and for no other player's.
#[derive(Debug)]
pub(super) struct Loopback {
    /// Nobody outside knows it, or players could choose addresses whose places are all taken.
    seed: u64,
    by_player: HashMap<IpAddr, Ipv4Addr>,
    lent: HashMap<Ipv4Addr, Lent>,
    /// Where targets listen.
    targets: HashSet<Ipv4Addr>,
}

#[derive(Debug)]
struct Lent {
    player: IpAddr,
    sockets: usize,
}

impl Loopback {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            by_player: HashMap::new(),
            lent: HashMap::new(),
            targets: HashSet::new(),
        }
    }

    /// The address of a player, for one more socket. It is the one that the player had before, if nobody else has it now.
    pub(super) fn take(&mut self, player: IpAddr) -> Option<Ipv4Addr> {
        let own = match self.by_player.get(&player) {
            Some(own) if !self.targets.contains(own) => *own,
            _ => self.choose(player)?,
        };
        self.by_player.insert(player, own);
        let lent = self.lent.entry(own).or_insert(Lent { player, sockets: 0 });
        lent.sockets += 1;
        Some(own)
    }

    /// A socket that had this address is gone.
    pub(super) fn give_back(&mut self, own: Ipv4Addr) {
        let Some(lent) = self.lent.get_mut(&own) else {
            return;
        };
        lent.sockets -= 1;
        if lent.sockets > 0 {
            return;
        }
        let player = lent.player;
        self.lent.remove(&own);
        // It may have another since, for a target has this one.
        if self.by_player.get(&player) == Some(&own) {
            self.by_player.remove(&player);
        }
        spare_map(&mut self.lent);
        spare_map(&mut self.by_player);
    }

    /// Lends none of these from now on. Who has one keeps it for the sockets that are there.
    pub(super) fn keep_off(&mut self, targets: HashSet<Ipv4Addr>) {
        self.targets = targets;
    }

    /// Whether somebody has this address.
    #[cfg(test)]
    pub(super) fn has(&self, own: Ipv4Addr) -> bool {
        self.lent.contains_key(&own)
    }

    fn choose(&self, player: IpAddr) -> Option<Ipv4Addr> {
        if self.lent.len() >= PLAYERS_MOST {
            return None;
        }
        let places = (0..TRIES).map(|attempt| {
            let mut hasher = DefaultHasher::new();
            (self.seed, player, attempt).hash(&mut hasher);
            Ipv4Addr::from_bits(FIRST + (hasher.finish() % u64::from(COUNT)) as u32)
        });
        let mut free =
            places.filter(|own| !self.lent.contains_key(own) && !self.targets.contains(own));
        free.next()
    }
}

/// 127.64.0.0/10: far from 127.0.0.1, whom servers trust, from the resolvers at 127.0.0.53 and the names at 127.0.1.1, and without a
/// broadcast address.
const FIRST: u32 = Ipv4Addr::new(127, 64, 0, 0).to_bits();
const COUNT: u32 = 1 << 22;
/// A million players at once, more than a client has descriptors for: each takes some 100 bytes, and of the addresses a quarter is taken.
const PLAYERS_MOST: usize = 1 << 20;
/// Where a quarter is taken, 64 tries are all taken once in 10^38 times.
const TRIES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn player(number: u32) -> IpAddr {
        match number % 2 {
            0 => Ipv4Addr::from_bits(number).into(),
            _ => std::net::Ipv6Addr::from_bits(u128::from(number) << 64).into(),
        }
    }

    #[test]
    fn live_players_have_an_address_each_and_it_stays_theirs() {
        let mut loopback = Loopback::new(7);
        let mut seen = HashMap::new();
        for number in 0..50_000 {
            let own = loopback.take(player(number)).unwrap();
            assert!(seen.insert(own, number).is_none(), "{own} twice");
            assert_eq!(own.octets()[0], 127);
            assert!((64..128).contains(&own.octets()[1]), "{own}");
        }
        for (own, number) in &seen {
            assert_eq!(loopback.take(player(*number)), Some(*own));
        }
        for (own, number) in &seen {
            loopback.give_back(*own);
            assert_eq!(
                loopback.take(player(*number)),
                Some(*own),
                "one socket stays"
            );
        }
        for own in seen.keys() {
            loopback.give_back(*own);
            loopback.give_back(*own);
            assert!(!loopback.has(*own));
        }
        assert!(loopback.lent.is_empty() && loopback.by_player.is_empty());
        // Who comes back has what it had, if nobody else has it now.
        for number in 0..1_000 {
            let own = loopback.take(player(number)).unwrap();
            loopback.give_back(own);
            assert_eq!(loopback.take(player(number)), Some(own));
            loopback.give_back(own);
        }
    }

    #[test]
    fn no_target_has_a_players_address() {
        let mut loopback = Loopback::new(7);
        let before = loopback.take(player(1)).unwrap();
        loopback.keep_off(HashSet::from([before]));
        let after = loopback.take(player(1)).unwrap();
        assert_ne!(before, after);
        assert!(loopback.has(before), "the socket that was there keeps it");
        loopback.give_back(before);
        assert!(!loopback.has(before));
        assert_eq!(loopback.take(player(1)), Some(after));
        loopback.give_back(after);
        loopback.give_back(after);
        loopback.keep_off(HashSet::new());
        assert_eq!(loopback.take(player(1)), Some(before));
    }

    #[test]
    fn what_is_given_back_twice_or_was_never_lent_is_nobodys() {
        let mut loopback = Loopback::new(7);
        let own = loopback.take(player(1)).unwrap();
        loopback.give_back(own);
        loopback.give_back(own);
        loopback.give_back(Ipv4Addr::LOCALHOST);
        assert_eq!(loopback.take(player(1)), Some(own));
    }

    #[test]
    fn players_are_bounded() {
        let mut loopback = Loopback::new(7);
        for number in 0..PLAYERS_MOST as u32 {
            loopback.lent.insert(
                Ipv4Addr::from_bits(number),
                Lent {
                    player: player(number),
                    sockets: 1,
                },
            );
        }
        assert_eq!(loopback.take(player(u32::MAX)), None);
    }
}
