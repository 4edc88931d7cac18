//! Chance that a seed repeats.

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A share, from 0 to 1, that a seed stands for.
pub(super) fn share_of(seed: u64) -> f64 {
    Chance(seed).share()
}

pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
