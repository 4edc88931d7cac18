//! The two memories of what was used: numbers of protected datagrams, numbers of a tunnel's lanes.

use std::collections::HashSet;

use tunnel_core::{
    fuzz_support,
    proto::redundancy::{self, Dedup},
};

use crate::input::Input;

/// Each number is accepted once, as a set that forgets nothing says; no lane's that is too old.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mut dedup = Dedup::new();
    let mut window = fuzz_support::Window::new();
    // A datagram's numbers wrap around: the model counts on, far from its own ends.
    let origin = 1_u64 << 40;
    let start = input.long() as u16;
    let (mut last, mut seen) = (origin, HashSet::new());
    let (mut highest, mut used) = (0_u64, HashSet::from([0]));
    while !input.is_empty() {
        let step = match input.below(4) {
            0 => 1,
            1 => input.below(4),
            2 => input.below(600),
            _ => input.below(65_536),
        } as u64;
        if input.flag() {
            // Within the window's length of its newest, as a path loses and reorders.
            let step = step % u64::from(redundancy::WINDOW);
            let back = input.flag() && !seen.is_empty();
            let number = if back { last - step } else { last + step };
            let accepted = dedup.accept(start.wrapping_add(number.wrapping_sub(origin) as u16));
            last = last.max(number);
            assert_eq!(accepted, seen.insert(number), "number {number}");
        } else {
            let number = match input.below(16) {
                0 => input.long(),
                1 => u64::MAX - step,
                even if even % 2 == 0 => highest.saturating_add(step),
                _ => highest.saturating_sub(step),
            };
            let accepted = window.accept(number);
            let held = number > highest || highest - number <= 1_024;
            assert_eq!(accepted, held && used.insert(number), "lane {number}");
            highest = highest.max(number);
        }
    }
}
