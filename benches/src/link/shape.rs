//! What a link does to packets, as its user writes it.

use std::time::Duration;

use super::chance::share_of;

/// What one direction does to packets. The default passes everything on at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shape {
    /// From leaving the bottleneck to arriving.
    pub delay: Duration,
    /// On top of the delay.
    pub jitter: Option<Jitter>,
    /// Behind the bottleneck: what is lost has taken its share of the rate.
    pub loss: Loss,
    /// Of IP packets with their headers; `None` is as fast as the machine.
    pub bottleneck: Option<Bottleneck>,
    /// Rates that take the place of the bottleneck's own, by the clock. Without a bottleneck there is none to change.
    pub timetable: Option<Timetable>,
    /// Times in which nothing leaves the bottleneck: what comes in waits in its queue.
    pub pause: Option<Pause>,
    /// Packets that those behind them overtake.
    pub reorder: Option<Reorder>,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplicate: f64,
}

/// A rate, and what may wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bottleneck {
    /// Bits per second.
    pub rate: u64,
    /// Bytes that may wait, those of the packet being sent among them. An empty queue takes any packet.
    pub queue_bytes: u64,
    /// Packets that may wait, the one being sent among them.
    pub queue_packets: usize,
}

impl Bottleneck {
    /// A queue that takes `longest` to empty, however many packets that is.
    pub fn new(rate: u64, longest: Duration) -> Self {
        Self {
            rate,
            queue_bytes: (rate as f64 / 8.0 * longest.as_secs_f64()) as u64,
            queue_packets: usize::MAX,
        }
    }

    /// A queue of at most `queue` packets, whatever their length.
    pub const fn packets(rate: u64, queue: usize) -> Self {
        Self {
            rate,
            queue_bytes: u64::MAX,
            queue_packets: queue,
        }
    }
}

/// Rates one after the other; behind the last the first begins again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    steps: Vec<RateStep>,
    cycle: Duration,
}

/// A rate, and for how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateStep {
    /// Bits per second.
    pub rate: u64,
    /// Above zero.
    pub lasts: Duration,
}

impl Timetable {
    /// `None` where there is no step, or one that lasts no time.
    pub fn new(steps: Vec<RateStep>) -> Option<Self> {
        let cycle = steps
            .iter()
            .try_fold(Duration::ZERO, |sum, step| sum.checked_add(step.lasts))?;
        let lasts = !steps.is_empty() && steps.iter().all(|step| !step.lasts.is_zero());
        lasts.then_some(Self { steps, cycle })
    }

    /// How long all steps take together.
    pub const fn cycle(&self) -> Duration {
        self.cycle
    }

    /// The rate so long after the beginning. A packet has the rate of the moment at which its sending begins.
    pub fn rate(&self, at: Duration) -> u64 {
        let mut left = at.as_nanos() % self.cycle.as_nanos();
        let mut rate = 0;
        for step in &self.steps {
            rate = step.rate;
            match left.checked_sub(step.lasts.as_nanos()) {
                Some(later) => left = later,
                None => break,
            }
        }
        rate
    }
}

/// The end of each `every` is a pause of `length`, as a radio has that looks after something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// From the end of one pause to the end of the next.
    pub every: Duration,
    /// Shorter than `every`: a link that never sends is a black-out.
    pub length: Duration,
}

/// A delay that varies between nothing and `most`, evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter {
    /// The longest.
    pub most: Duration,
    /// Each packet draws its own and may overtake. Without this the delay drifts, by half a second in a second at
    /// most, so that a dense flow feels it too: draws held in order would soon all be the longest.
    pub reorders: bool,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// None.
    #[default]
    Never,
    /// This share, 0 to 1, each by itself.
    Random(f64),
    /// Gilbert and Elliott's chain, whose bad state loses everything.
    Bursts {
        /// Of all packets, below 1.
        share: f64,
        /// Packets in a burst on average, 1 or more.
        length: f64,
    },
}

/// Packets that are held back while others pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// Of all packets, 0 to 1.
    pub share: f64,
    /// How much later they arrive.
    pub by: Duration,
}

/// Both directions, and what the chance in them starts from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkConfig {
    /// From home to the outside.
    pub up: Shape,
    /// From the outside to home.
    pub down: Shape,
    /// The same packets in the same order meet the same fate again.
    pub seed: u64,
}

impl LinkConfig {
    /// The same both ways.
    pub fn symmetric(shape: Shape, seed: u64) -> Self {
        Self {
            up: shape.clone(),
            down: shape,
            seed,
        }
    }

    /// Where the clock of timetable and pauses begins for a seed: anywhere between two pauses, and within the first tenth of
    /// a timetable, so that its steps come at other moments of a transfer, and all of them do.
    pub fn offset(&self, seed: u64) -> Duration {
        let ways = [&self.up, &self.down];
        let pauses = ways.iter().filter_map(|shape| shape.pause);
        let tables = ways.iter().filter_map(|shape| shape.timetable.as_ref());
        let between = pauses.map(|pause| pause.every);
        let range = between.chain(tables.map(|table| table.cycle() / 10)).max();
        range.map_or(Duration::ZERO, |range| range.mul_f64(share_of(seed)))
    }

    /// Both delays, and in the middle of the jitter's range.
    pub fn round_trip(&self) -> Duration {
        let way = |shape: &Shape| {
            let most = shape.jitter.map_or(Duration::ZERO, |jitter| jitter.most);
            shape.delay + most / 2
        };
        way(&self.up) + way(&self.down)
    }

    /// The standard deviation of the round trip. The two ways do not know of each other.
    pub fn jitter_deviation(&self) -> Duration {
        let variance = |shape: &Shape| {
            let Some(Jitter { most, reorders }) = shape.jitter else {
                return 0.0;
            };
            // Draws are even over the range; what drifts from one to the next is nearer to the middle.
            let drifting = if reorders { 1.0 } else { 2.0 / 3.0 };
            most.as_secs_f64().powi(2) / 12.0 * drifting
        };
        Duration::from_secs_f64((variance(&self.up) + variance(&self.down)).sqrt())
    }
}
