//! What goes wrong, and when: decided before the start from a seed.

use std::time::Duration;

/// Something that is done to the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL, and a new process at once.
    KillRelay,
    /// The same to the first client; the second lives through everything.
    KillClient,
    /// Nothing gets through between the second client and the relay for this long.
    Dark(Duration),
    /// No UDP gets through there for this long: everything takes to TCP, and comes back.
    NoUdp(Duration),
    /// The second client's file changes, and SIGHUP tells it: an instance comes, or goes again.
    Change,
}

/// Everything that will be done, in order.
pub(crate) fn plan(length: Duration, seed: u64) -> Vec<(Duration, Blow)> {
    let mut random = Random(seed);
    // In time to see the last one healed.
    let end = length.saturating_sub(length / 8).as_secs_f64();
    let length = length.as_secs_f64();
    let every = (length / 20.0).clamp(3.0, 45.0);
    let mut blows = Vec::new();
    let mut at = every / 2.0;
    let mut number = 0;
    while at < end {
        // The relay dies in the first third only: after that its own curve must be long enough to be judged.
        let blow = match number % 4 {
            0 if at < length / 3.0 => Blow::KillRelay,
            1 => Blow::Dark(Duration::from_secs_f64(
                (every / 4.0).min(1.0 + 6.0 * random.unit()),
            )),
            3 if number % 8 == 3 => Blow::NoUdp(Duration::from_secs_f64(
                (every / 2.0).min(4.0 + 12.0 * random.unit()),
            )),
            _ => Blow::KillClient,
        };
        blows.push((Duration::from_secs_f64(at), blow));
        at += every * (0.6 + 0.8 * random.unit());
        number += 1;
    }
    let every = (length / 40.0).clamp(1.5, 6.0);
    let mut at = every;
    while at < end {
        blows.push((Duration::from_secs_f64(at), Blow::Change));
        at += every * (0.6 + 0.8 * random.unit());
    }
    blows.sort_by_key(|(at, _)| *at);
    blows
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_everything_and_leaves_the_relay_two_thirds() {
        for seconds in [20, 600, 36_000] {
            let length = Duration::from_secs(seconds);
            let blows = plan(length, 1);
            let has = |wanted: fn(&Blow) -> bool| blows.iter().any(|(_, blow)| wanted(blow));
            assert!(has(|blow| *blow == Blow::KillRelay));
            assert!(has(|blow| *blow == Blow::KillClient));
            assert!(has(|blow| *blow == Blow::Change));
            assert!(has(|blow| matches!(blow, Blow::Dark(_))));
            let mut relay = blows.iter().filter(|(_, blow)| *blow == Blow::KillRelay);
            assert!(relay.all(|(at, _)| *at < length / 3));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let length = Duration::from_secs(600);
        assert_eq!(plan(length, 5), plan(length, 5));
        assert_ne!(plan(length, 5), plan(length, 6));
    }
}
