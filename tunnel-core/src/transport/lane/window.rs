//! Which lane numbers have been used. Pure.

/// Accepts each number once, those far below the highest never.
///
/// 128 bytes, however many numbers pass.
#[derive(Debug, Clone)]
pub(crate) struct LaneWindow {
    /// The highest number accepted. 0 at first: lanes count from 1, so that it is used from the start.
    highest: u64,
    /// Whether a number of the window below `highest` was accepted, at the number modulo the window's size.
    used: [u64; WORDS],
}

impl LaneWindow {
    /// Nothing accepted yet but 0.
    pub(crate) const fn new() -> Self {
        Self {
            highest: 0,
            used: [0; WORDS],
        }
    }

    /// Takes `number` if it is above the highest, or one of the 1,024 below it and not taken yet.
    pub(crate) fn accept(&mut self, number: u64) -> Result<(), NumberError> {
        if number > self.highest {
            self.advance(number);
            return Ok(());
        }
        let below = self.highest - number;
        if below > WINDOW {
            return Err(NumberError::TooOld(number));
        }
        if below == 0 || self.is_used(number) {
            return Err(NumberError::Used(number));
        }
        self.set(number, true);
        Ok(())
    }

    fn advance(&mut self, number: u64) {
        let ahead = number - self.highest;
        if ahead > WINDOW {
            self.used = [0; WORDS];
        } else {
            // The places of the numbers in between are those of numbers that now fall out of the window.
            for skipped in self.highest + 1..number {
                self.set(skipped, false);
            }
            self.set(self.highest, true);
        }
        self.highest = number;
    }

    const fn is_used(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.used[word] & bit != 0
    }

    const fn set(&mut self, number: u64, used: bool) {
        let (word, bit) = place(number);
        if used {
            self.used[word] |= bit;
        } else {
            self.used[word] &= !bit;
        }
    }
}

/// Why a lane's number was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NumberError {
    /// It was accepted before: a replay.
    #[error("lane number {0} was used before")]
    Used(u64),
    /// It is so far below the highest that nobody remembers.
    #[error("lane number {0} is too old")]
    TooOld(u64),
}

const fn place(number: u64) -> (usize, u64) {
    let index = number % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

/// Four times the lanes that a relay asks for (256), so that openings which overtake each other on their way fit.
const WINDOW: u64 = 1_024;
const WORDS: usize = (WINDOW / 64) as usize;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proto::testing::XorShift;

    #[test]
    fn each_number_is_accepted_once_and_zero_never() {
        let mut window = LaneWindow::new();
        assert_eq!(window.accept(0), Err(NumberError::Used(0)));
        for number in [1, 2, 5, 3, 4] {
            assert_eq!(window.accept(number), Ok(()));
            assert_eq!(window.accept(number), Err(NumberError::Used(number)));
        }
        assert_eq!(window.accept(0), Err(NumberError::Used(0)));
    }

    #[test]
    fn the_window_is_1_024_below_the_highest() {
        let mut window = LaneWindow::new();
        assert_eq!(window.accept(10_000), Ok(()));
        assert_eq!(window.accept(8_976), Ok(()));
        assert_eq!(window.accept(8_976), Err(NumberError::Used(8_976)));
        assert_eq!(window.accept(8_975), Err(NumberError::TooOld(8_975)));
        assert_eq!(window.accept(9_999), Ok(()));
        // The highest and the oldest share a place; neither shadows the other.
        assert_eq!(window.accept(10_000), Err(NumberError::Used(10_000)));
        assert_eq!(window.accept(10_001), Ok(()));
        assert_eq!(window.accept(8_977), Ok(()));
        assert_eq!(window.accept(8_976), Err(NumberError::TooOld(8_976)));
    }

    #[test]
    fn far_jumps_forget_nothing_that_counts() {
        let mut window = LaneWindow::new();
        for number in [1_023, 1_024, 1_025, 2_049, 2_050, 4_000, u64::MAX] {
            assert_eq!(window.accept(number), Ok(()), "{number}");
            assert_eq!(window.accept(number), Err(NumberError::Used(number)));
        }
        assert_eq!(window.accept(u64::MAX - 1_024), Ok(()));
        assert!(window.accept(4_000).is_err());
    }

    #[test]
    fn it_agrees_with_a_list_of_all_numbers() {
        for seed in 0..20 {
            let mut random = XorShift::new(seed);
            let (mut window, mut used, mut highest) = (LaneWindow::new(), HashSet::from([0]), 0u64);
            for _ in 0..20_000 {
                let step = [3, 40, 1_500, 3_000][random.below(4)];
                let number = (highest + random.below(step) as u64)
                    .saturating_sub(random.below(1_200) as u64);
                let fresh = number + 1_024 >= highest && !used.contains(&number);
                assert_eq!(
                    window.accept(number).is_ok(),
                    fresh,
                    "{number} at {highest}"
                );
                if fresh {
                    used.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
