//! What the tests of several protocols share.

use crate::{Answer, Query, ReadError};

/// Bytes as hexadecimal digits, with spaces where they help.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// Xorshift: the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1))
            .map(|_| self.next() as u8)
            .collect()
    }

    /// A plain text of at most `max` characters, as an [`Answer`] has it.
    pub(crate) fn text(&mut self, max: usize) -> String {
        const LETTERS: &[char] = &['a', 'Z', '0', ' ', '-', 'ä', '語', '"', '\\', '|', '🎮'];
        let text: String = (0..self.below(max + 1))
            .map(|_| LETTERS[self.below(LETTERS.len())])
            .collect();
        crate::answer::plain(&text)
    }
}

/// Every beginning of a datagram, and the datagram with each byte changed to some others: a query takes all of them.
pub(crate) fn mangled(datagram: &[u8], mut handle: impl FnMut(&[u8])) {
    for end in 0..=datagram.len() {
        handle(&datagram[..end]);
    }
    let mut changed = datagram.to_vec();
    for at in 0..datagram.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
            changed[at] = byte;
            handle(&changed);
        }
        changed[at] = datagram[at];
    }
}

/// Asks a function that stands for a server, datagram by datagram.
pub(crate) fn ask(
    mut query: Query,
    mut server: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Option<Answer>, ReadError> {
    while let Some(datagram) = query.poll_transmit() {
        let Some(reply) = server(&datagram) else {
            return Ok(None);
        };
        if let Some(answer) = query.handle_input(&reply)? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}
