//! What becomes of each packet: no clock, no packet and no device, only times and lengths.

use std::{collections::VecDeque, time::Duration};

use super::{
    chance::{Chance, GOLDEN},
    shape::{Jitter, Loss, Pause, Shape},
};

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

/// Where a link's chance and clock begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Of everything that is drawn.
    pub(super) seed: u64,
    /// The moment.
    pub(super) at: Nanos,
    /// How far the clock of timetable, pauses and drifting jitter has gone by then.
    pub(super) clock: Nanos,
}

/// One direction's decisions.
#[derive(Debug)]
pub(super) struct Schedule {
    shape: Shape,
    start: Start,
    queue: Queue,
    /// When the last packet arrives that keeps its place.
    last: Nanos,
    chances: Chances,
}

impl Schedule {
    pub(super) fn new(shape: Shape, start: Start) -> Self {
        Self {
            shape,
            start,
            queue: Queue::default(),
            last: 0,
            chances: Chances::new(start.seed),
        }
    }

    /// Holds for the packets to come; those on their way keep their times.
    pub(super) fn set(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// What is to come meets the same fate as after the same start of another link; what is on its way keeps its own.
    pub(super) fn restart(&mut self, start: Start) {
        self.start = start;
        self.chances = Chances::new(start.seed);
    }

    /// Decides on a packet of `length` bytes that comes in `now`; calls are in the order of time.
    pub(super) fn offer(&mut self, now: Nanos, length: usize) -> Fate {
        let lost = self.chances.loses(self.shape.loss);
        let jitter = self.chances.jitter.share();
        let held = self.chances.reorder.share();
        let twice = self.chances.duplicate.share() < self.shape.duplicate;
        let Some(leaves) = self.queue.enter(&self.shape, self.start, now, length) else {
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
                self.chances.wandering(self.start.clock(leaves), most)
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
}

impl Start {
    /// What the link's clock shows then; it does not run backwards.
    const fn clock(self, then: Nanos) -> Nanos {
        self.clock + then.saturating_sub(self.at)
    }
}

/// Each draws once a packet, so that one's setting changes nothing of the others' draws.
#[derive(Debug)]
struct Chances {
    /// In a burst of losses.
    bad: bool,
    wander: u64,
    loss: Chance,
    jitter: Chance,
    reorder: Chance,
    duplicate: Chance,
}

impl Chances {
    fn new(seed: u64) -> Self {
        let mut seeds = Chance(seed);
        Self {
            bad: false,
            wander: seeds.next(),
            loss: Chance(seeds.next()),
            jitter: Chance(seeds.next()),
            reorder: Chance(seeds.next()),
            duplicate: Chance(seeds.next()),
        }
    }

    fn loses(&mut self, loss: Loss) -> bool {
        let draw = self.loss.share();
        match loss {
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
    fn enter(&mut self, shape: &Shape, start: Start, now: Nanos, length: usize) -> Option<Nanos> {
        while let Some(&(leaves, length)) = self.waiting.front()
            && leaves <= now
        {
            self.bytes -= length as u64;
            self.waiting.pop_front();
        }
        // Sending that has begun is not broken off: a pause is where the next one would begin.
        let begins = match shape.pause {
            Some(pause) => open(pause, start, now.max(self.free_at)),
            None => now.max(self.free_at),
        };
        let Some(bottleneck) = shape.bottleneck else {
            return Some(begins);
        };
        let full = self.waiting.len() >= bottleneck.queue_packets
            || self.bytes + length as u64 > bottleneck.queue_bytes;
        if full && !self.waiting.is_empty() {
            return None;
        }
        let rate = match &shape.timetable {
            Some(timetable) => timetable.rate(Duration::from_nanos(start.clock(begins))),
            None => bottleneck.rate,
        };
        if self.free_at < begins || self.rate != rate {
            self.free_at = begins;
            self.remainder = 0;
            self.rate = rate;
        }
        let parts = length as u128 * 8 * 1_000_000_000 + self.remainder;
        let rate = u128::from(rate.max(1));
        self.remainder = parts % rate;
        let sending = Nanos::try_from(parts / rate).unwrap_or(Nanos::MAX);
        self.free_at = self.free_at.saturating_add(sending);
        self.waiting.push_back((self.free_at, length));
        self.bytes += length as u64;
        Some(self.free_at)
    }
}

/// The first moment from then on that is in no pause.
fn open(pause: Pause, start: Start, then: Nanos) -> Nanos {
    let every = nanos(pause.every).max(1);
    let into = start.clock(then) % every;
    let left = every - into;
    if left <= nanos(pause.length).min(every - 1) {
        then.saturating_add(left)
    } else {
        then
    }
}

pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests;
