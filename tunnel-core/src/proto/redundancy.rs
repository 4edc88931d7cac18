//! Datagrams that come more than once (`docs/protocol.md` §7, REDUNDANCY): the receiver's side.

/// How far back a flow's sequence numbers are remembered: 256 packets are 250 ms of a game at 1,000 packets/s,
/// more than any two paths of one tunnel differ by. What comes later than that no game wants any more.
pub const WINDOW: u32 = 256;

/// Which sequence numbers of one flow have come, so that each is handed on once. 40 bytes, no heap.
#[derive(Clone, Debug, Default)]
pub struct Dedup {
    /// The highest number accepted, in the order that wraps around.
    highest: Option<u32>,
    /// One bit for each number of the window, at the number modulo 256.
    seen: [u64; WORDS],
}

impl Dedup {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a packet is to be handed on: its number is new, and not older than the window.
    pub fn accept(&mut self, sequence: u32) -> bool {
        let highest = *self.highest.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(highest);
        if ahead == 0 || ahead > u32::MAX / 2 {
            let behind = highest.wrapping_sub(sequence);
            return behind < WINDOW && self.insert(sequence);
        }
        // The numbers jumped over take the places of those that left the window.
        if ahead >= WINDOW {
            self.seen = [0; WORDS];
        } else {
            for step in 1..ahead {
                self.remove(highest.wrapping_add(step));
            }
            self.remove(sequence);
        }
        self.highest = Some(sequence);
        self.insert(sequence)
    }

    /// Whether the number was not there before.
    fn insert(&mut self, sequence: u32) -> bool {
        let (word, bit) = place(sequence);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn remove(&mut self, sequence: u32) {
        let (word, bit) = place(sequence);
        self.seen[word] &= !bit;
    }
}

const WORDS: usize = WINDOW as usize / 64;

/// Word and bit of a number; the word is below `WORDS` for every number.
const fn place(sequence: u32) -> (usize, u64) {
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
        for sequence in [7, 8, 10, 9, 6] {
            assert!(dedup.accept(sequence));
            assert!(!dedup.accept(sequence));
        }
        assert!(!dedup.accept(7));
    }

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let mut dedup = Dedup::new();
        assert!(dedup.accept(1000));
        assert!(dedup.accept(1000 - 255));
        assert!(!dedup.accept(1000 - 256));
        assert!(dedup.accept(1255));
        assert!(!dedup.accept(1000), "still in the window, and seen");
        assert!(!dedup.accept(999), "not in it");
        assert!(dedup.accept(1 << 30), "a jump empties the window");
        assert!(dedup.accept((1 << 30) - 255));
    }

    #[test]
    fn numbers_wrap_around() {
        let mut dedup = Dedup::new();
        for sequence in (u32::MAX - 300..=u32::MAX).chain(0..300) {
            assert!(dedup.accept(sequence));
            assert!(!dedup.accept(sequence));
        }
    }

    #[test]
    fn window_agrees_with_a_set() {
        let mut random = XorShift::new(8);
        for start in [0, 12_345, u32::MAX - 5000] {
            let mut dedup = Dedup::new();
            let mut highest = start;
            let mut seen = HashSet::new();
            for _ in 0..20_000 {
                let step = match random.below(100) {
                    0 => random.below(600),
                    _ => random.below(4),
                };
                let back = random.below(300);
                let sequence = if random.below(2) == 0 {
                    highest.wrapping_add(step as u32)
                } else {
                    highest.wrapping_sub(back as u32)
                };
                // The first number sets the place of the window.
                let within = seen.is_empty() || highest.wrapping_sub(sequence) as i32 <= 255;
                if seen.is_empty() || sequence.wrapping_sub(highest) as i32 > 0 {
                    highest = sequence;
                }
                assert_eq!(dedup.accept(sequence), within && seen.insert(sequence));
            }
        }
    }
}
