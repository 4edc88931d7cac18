//! What a link does to packets, as its user writes it.

use std::time::Duration;

/// What one direction does to packets. The default passes everything on at once.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shape {
    /// From leaving the bottleneck to arriving.
    pub delay: Duration,
    /// On top of the delay.
    pub jitter: Option<Jitter>,
    /// Behind the bottleneck: what is lost has taken its share of the rate.
    pub loss: Loss,
    /// Of IP packets with their headers; `None` is as fast as the machine.
    pub bottleneck: Option<Bottleneck>,
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
#[derive(Debug, Clone, Copy, PartialEq, Default)]
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
            up: shape,
            down: shape,
            seed,
        }
    }
}
