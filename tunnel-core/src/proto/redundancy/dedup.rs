//! Which numbers have come.

/// How far back numbers are remembered: 2,048 datagrams are 50 ms of a tunnel with 40,000 a second, longer than a copy
/// is held back and the path reorders.
pub const WINDOW: u16 = 2048;

/// Which numbers of a tunnel have come, so that each datagram is handed on once. 264 bytes, no heap.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// The newest number accepted.
    newest: Option<u16>,
    /// One bit for each number of the window, at the number modulo its length.
    seen: [u64; WORDS],
    /// The newest of numbers that seemed too old, and how many came in a row.
    old: (u16, u8),
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
            old: (0, 0),
        }
    }

    /// Whether a datagram is to be handed on: its number has not come before.
    ///
    /// Numbers wrap around: up to half of them ahead is new, and behind is old. Old ones beyond the window are
    /// refused, for nobody knows whether they came, unless eight in a row go upwards with nothing else between:
    /// then more than half was lost at once, and what comes now is the game's present.
    pub fn accept(&mut self, sequence: u16) -> bool {
        let newest = *self.newest.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(newest);
        let behind = newest.wrapping_sub(sequence);
        if behind >= WINDOW && behind <= ahead {
            if !self.is_lost_long(sequence) {
                return false;
            }
            self.seen = [0; WORDS];
            self.newest = Some(sequence);
            return self.insert(sequence);
        }
        self.old.1 = 0;
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

    /// Takes note of a number that seems too old. Returns whether it is the sender's present.
    fn is_lost_long(&mut self, sequence: u16) -> bool {
        let (last, count) = self.old;
        let step = sequence.wrapping_sub(last);
        if count > 0 && (step == 0 || step > u16::MAX - WINDOW) {
            // A copy, or reordered: it says nothing of where the sender is.
            return false;
        }
        let count = if step < WINDOW { count } else { 0 };
        self.old = (sequence, (count + 1) % OLD_MOST);
        self.old.1 == 0
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

/// Old numbers in a row after which they are the present. 8: what comes so late comes between others, and who has heard
/// nothing for half a round of numbers loses no more than seven beside.
const OLD_MOST: u8 = 8;

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
    fn however_much_is_lost_at_once_what_follows_is_accepted_soon() {
        let mut random = XorShift::new(5);
        let mut dedup = Dedup::new();
        let mut sequence = 0_u16;
        assert!(dedup.accept(sequence));
        for round in 0..10_000 {
            let lost = random.below(usize::from(u16::MAX - WINDOW)) as u16;
            let most = usize::from(OLD_MOST);
            for step in 0..most + 3 {
                sequence = sequence.wrapping_add(if step == 0 { 1 + lost } else { 1 });
                let is_expected = lost < u16::MAX / 2 || step + 1 >= most;
                assert_eq!(
                    dedup.accept(sequence),
                    is_expected,
                    "{round}: {lost}, {step}"
                );
                assert!(!dedup.accept(sequence), "{round}: {lost}, {step}");
            }
        }
    }

    #[test]
    fn however_late_it_comes_nothing_is_accepted_twice() {
        let mut random = XorShift::new(11);
        for start in [0_u16, 40_000, u16::MAX - 5] {
            let mut dedup = Dedup::new();
            assert!(dedup.accept(start));
            let (mut newest, mut seen) = (0_u64, HashSet::from([0]));
            let mut late = 0;
            for _ in 0..200_000 {
                let is_late = random.below(3) == 0 && late + 1 < OLD_MOST;
                late = if is_late { late + 1 } else { 0 };
                let number = if is_late {
                    newest.saturating_sub(random.below(usize::from(u16::MAX / 2)) as u64)
                } else {
                    let most = [2, 60, 5_000, 30_000][random.below(100) / 33];
                    newest + 1 + random.below(most) as u64
                };
                newest = newest.max(number);
                let accepted = dedup.accept(start.wrapping_add(number as u16));
                if newest - number < u64::from(WINDOW) {
                    assert_eq!(accepted, seen.insert(number), "{number} of {newest}");
                } else {
                    assert!(!accepted, "{number} of {newest}");
                }
            }
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
