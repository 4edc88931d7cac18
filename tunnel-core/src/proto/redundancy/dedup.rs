//! Which numbers have come.

/// How far back numbers are remembered: 2,048 datagrams are 50 ms of a tunnel with 40,000 a second, longer than a copy
/// is held back and the path reorders.
pub const WINDOW: u16 = 2048;

/// Which numbers of a tunnel have come, so that each datagram is handed on once. 260 bytes, no heap.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// The newest number accepted.
    newest: Option<u16>,
    /// One bit for each number of the window, at the number modulo its length.
    seen: [u64; WORDS],
}

impl Default for Dedup {
    fn default() -> Self {
        Self::new()
    }
}

impl Dedup {
    /// A window that has seen nothing.
    pub const fn new() -> Self {
        Self {
            newest: None,
            seen: [0; WORDS],
        }
    }

    /// Whether a datagram is to be handed on: its number has not come before.
    ///
    /// Numbers wrap around. One that is far from the window, on either side, begins it anew: more was lost in between
    /// than it remembers, and what comes now is the game's present.
    pub fn accept(&mut self, sequence: u16) -> bool {
        let newest = *self.newest.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(newest);
        let behind = newest.wrapping_sub(sequence);
        if behind < WINDOW {
            return self.insert(sequence);
        }
        // The numbers jumped over take the places of those that left the window.
        if ahead >= WINDOW {
            self.seen = [0; WORDS];
        } else {
            for step in 1..=ahead {
                self.remove(newest.wrapping_add(step));
            }
        }
        self.newest = Some(sequence);
        self.insert(sequence)
    }

    /// Whether the number was not there before.
    fn insert(&mut self, sequence: u16) -> bool {
        let (word, bit) = place(sequence);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn remove(&mut self, sequence: u16) {
        let (word, bit) = place(sequence);
        self.seen[word] &= !bit;
    }
}

const WORDS: usize = WINDOW as usize / 64;

/// Word and bit of a number; the word is below `WORDS` for every number.
const fn place(sequence: u16) -> (usize, u64) {
    let position = sequence % WINDOW;
    ((position / 64) as usize, 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proto::testing::XorShift;

    #[test]
    fn each_number_is_accepted_once() {
        let mut dedup = Dedup::new();
        for sequence in [7, 8, 10, 9, 6, 65_535, 0] {
            assert!(dedup.accept(sequence));
            assert!(!dedup.accept(sequence));
        }
        assert!(!dedup.accept(7));
    }

    #[test]
    fn numbers_wrap_around() {
        let mut dedup = Dedup::new();
        for round in 0..3 {
            for sequence in 0..=u16::MAX {
                assert!(dedup.accept(sequence), "{round}: {sequence}");
                assert!(!dedup.accept(sequence));
                assert!(!dedup.accept(sequence.wrapping_sub(WINDOW - 1)) || round == 0);
            }
        }
    }

    #[test]
    fn however_much_is_lost_at_once_what_follows_is_accepted() {
        let mut random = XorShift::new(5);
        let mut dedup = Dedup::new();
        let mut sequence = 0_u16;
        for _ in 0..10_000 {
            for _ in 0..3 {
                sequence = sequence.wrapping_add(1);
                assert!(dedup.accept(sequence));
            }
            let most = usize::from(u16::MAX - WINDOW - 3);
            sequence = sequence.wrapping_add(random.below(most) as u16);
        }
    }

    #[test]
    fn window_agrees_with_a_set() {
        let mut random = XorShift::new(8);
        for start in [0_u16, 12_345, u16::MAX - 5000] {
            let mut dedup = Dedup::new();
            assert!(dedup.accept(start));
            let (mut newest, mut seen) = (0_u64, HashSet::from([0]));
            for _ in 0..20_000 {
                let number = if random.below(2) == 0 {
                    newest + random.below(6) as u64
                } else {
                    newest.saturating_sub(random.below(usize::from(WINDOW)) as u64)
                };
                newest = newest.max(number);
                let accepted = dedup.accept(start.wrapping_add(number as u16));
                assert_eq!(accepted, seen.insert(number), "{number} of {newest}");
            }
        }
    }
}
