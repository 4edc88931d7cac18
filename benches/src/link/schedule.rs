//! What becomes of each packet: no clock, no packet and no device, only times and lengths.

use std::{collections::VecDeque, time::Duration};

use super::shape::{Bottleneck, Jitter, Loss, Shape};

/// Nanoseconds since the link began.
pub(super) type Nanos = u64;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives then, perhaps twice.
    Arrives { due: Nanos, twice: bool },
    /// By chance.
    Lost,
    /// The bottleneck's queue had no room.
    QueueFull,
}

/// One direction's decisions.
#[derive(Debug)]
pub(super) struct Schedule {
    shape: Shape,
    queue: Queue,
    /// In a burst of losses.
    bad: bool,
    /// When the last packet arrives that keeps its place.
    last: Nanos,
    wander: u64,
    loss: Chance,
    jitter: Chance,
    reorder: Chance,
    duplicate: Chance,
}

impl Schedule {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        // Each chance draws once a packet, so that one's setting changes nothing of the others' draws.
        let mut seeds = Chance(seed);
        Self {
            shape,
            queue: Queue::default(),
            bad: false,
            last: 0,
            wander: seeds.next(),
            loss: Chance(seeds.next()),
            jitter: Chance(seeds.next()),
            reorder: Chance(seeds.next()),
            duplicate: Chance(seeds.next()),
        }
    }

    /// Holds for the packets to come; those on their way keep their times.
    pub(super) fn set(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// Decides on a packet of `length` bytes that comes in `now`; calls are in the order of time.
    pub(super) fn offer(&mut self, now: Nanos, length: usize) -> Fate {
        let lost = self.loses();
        let jitter = self.jitter.share();
        let held = self.reorder.share();
        let twice = self.duplicate.share() < self.shape.duplicate;
        let Some(leaves) = self.queue.enter(self.shape.bottleneck, now, length) else {
            return Fate::QueueFull;
        };
        if lost {
            return Fate::Lost;
        }
        let mut due = leaves + nanos(self.shape.delay);
        let mut in_order = true;
        if let Some(Jitter { most, reorders }) = self.shape.jitter {
            let share = if reorders {
                jitter
            } else {
                self.wandering(leaves, most)
            };
            due += (nanos(most) as f64 * share) as Nanos;
            in_order = !reorders;
        }
        if let Some(reorder) = self.shape.reorder
            && held < reorder.share
        {
            due += nanos(reorder.by);
            in_order = false;
        }
        if in_order {
            // A delay that was cut while packets were on their way lets none overtake.
            due = due.max(self.last);
            self.last = due;
        }
        Fate::Arrives { due, twice }
    }

    fn loses(&mut self) -> bool {
        let draw = self.loss.share();
        match self.shape.loss {
            Loss::Never => false,
            Loss::Random(share) => draw < share,
            Loss::Bursts { share, length } => {
                let turns = if self.bad {
                    1.0 / length
                } else {
                    share / (length * (1.0 - share))
                };
                self.bad ^= draw < turns;
                self.bad
            }
        }
    }

    /// A line between points of chance, two of the longest delays apart: it falls too slowly for a packet to overtake.
    fn wandering(&self, at: Nanos, most: Duration) -> f64 {
        let step = (2 * nanos(most)).max(1);
        let point = |place: u64| Chance(self.wander ^ place.wrapping_mul(GOLDEN)).share();
        let (before, along) = (at / step, (at % step) as f64 / step as f64);
        point(before) * (1.0 - along) + point(before + 1) * along
    }
}

/// The bottleneck's.
#[derive(Debug, Default)]
struct Queue {
    /// When everything in it will have left, and what division has left of a nanosecond, in parts of the rate.
    free_at: Nanos,
    remainder: u128,
    rate: u64,
    /// When each leaves, and its length.
    waiting: VecDeque<(Nanos, usize)>,
    bytes: u64,
}

impl Queue {
    /// When a packet will have left the bottleneck; `None` where there is no room.
    fn enter(
        &mut self,
        bottleneck: Option<Bottleneck>,
        now: Nanos,
        length: usize,
    ) -> Option<Nanos> {
        while let Some(&(leaves, length)) = self.waiting.front()
            && leaves <= now
        {
            self.bytes -= length as u64;
            self.waiting.pop_front();
        }
        let Some(bottleneck) = bottleneck else {
            return Some(now.max(self.free_at));
        };
        let full = self.waiting.len() >= bottleneck.queue_packets
            || self.bytes + length as u64 > bottleneck.queue_bytes;
        if full && !self.waiting.is_empty() {
            return None;
        }
        if self.free_at < now || self.rate != bottleneck.rate {
            self.free_at = self.free_at.max(now);
            self.remainder = 0;
            self.rate = bottleneck.rate;
        }
        let parts = length as u128 * 8 * 1_000_000_000 + self.remainder;
        let rate = u128::from(bottleneck.rate.max(1));
        self.remainder = parts % rate;
        let sending = Nanos::try_from(parts / rate).unwrap_or(Nanos::MAX);
        self.free_at = self.free_at.saturating_add(sending);
        self.waiting.push_back((self.free_at, length));
        self.bytes += length as u64;
        Some(self.free_at)
    }
}

/// SplitMix64.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests;
