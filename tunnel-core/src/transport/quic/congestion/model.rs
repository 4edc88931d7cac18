//! What is known of the path, and the window that it comes to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::LevelConfig;
use super::path::{EmptyPath, Full, Jitter, Rates};
use super::rival::Rival;
use super::samples::{Carried, Round};

/// What is measured of a path, and declared to its controller.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) config: Arc<LevelConfig>,
    /// Bytes of a full packet on the current path.
    pub(super) mtu: u64,
    pub(super) empty: EmptyPath,
    pub(super) jitter: Jitter,
    pub(super) rates: Rates,
    /// Average round trip, queue included.
    pub(super) smoothed: Duration,
    /// Average round trip of the last rounds, where jitter hides the queue from a single one.
    pub(super) standing: Duration,
    pub(super) full: Full,
    pub(super) rival: Option<Rival>,
    pub(super) carried: Carried,
}

impl Model {
    /// Of a path of which nothing is known but its packet size.
    pub(super) fn new(config: Arc<LevelConfig>, now: Instant, mtu: u16) -> Self {
        Self {
            config,
            mtu: mtu.into(),
            empty: EmptyPath::new(now),
            jitter: Jitter::default(),
            rates: Rates::default(),
            smoothed: Duration::ZERO,
            standing: Duration::ZERO,
            full: Full::default(),
            rival: None,
            carried: Carried::new(now),
        }
    }

    /// The window that carries what the path can, with the queue that it may have.
    pub(super) fn window(&mut self, now: Instant) -> u64 {
        let target = self.target();
        let alone = self.empty.rtt() + self.jitter.allowance();
        // Whole packets leave: a small window that is always rounded down never grows.
        let mut window = self.product(alone + target) + self.mtu / 2;
        // Where somebody else's queue overflows is not ours to say.
        let beside = match self.config.is_felt() {
            true => target,
            false => self.bulk_target(),
        };
        if let Some(rival) = &mut self.rival {
            let queue = rival.accepted(self.empty.rtt()) + beside;
            let cubic = rival.window(now, self.smoothed, self.mtu);
            window = window.max(cubic.unwrap_or_else(|| self.product(alone + queue)));
        }
        // More than that in flight brings no more.
        let most = self.product(self.smoothed * 2);
        window.min(most).max(self.floor())
    }

    /// What the path carries in `time`.
    pub(super) fn product(&self, time: Duration) -> u64 {
        // What is lost on the way has to be in flight too.
        (self.rates.most() * time.as_secs_f64() / (1.0 - self.full.base())) as u64
    }

    /// The queue that a round has shown.
    pub(super) fn queue(&mut self, round: &Round) -> Duration {
        let allowance = self.jitter.allowance();
        if allowance < STEADY {
            self.standing = round.mean();
            return round.rtt.saturating_sub(self.empty.rtt());
        }
        let weight = MIN_TARGET.as_secs_f64() / (MIN_TARGET + allowance).as_secs_f64();
        self.standing = self.standing.mul_f64(1.0 - weight) + round.mean().mul_f64(weight);
        self.standing.saturating_sub(self.empty.rtt() + allowance)
    }

    /// The queueing delay that the window aims at.
    pub(super) fn target(&self) -> Duration {
        // Nobody feels how much of somebody else's queue is ours, once it is sure that it is.
        let is_foreign = self.rival.as_ref().is_some_and(Rival::has_overflowed);
        let target = if self.config.is_felt() && !is_foreign {
            MIN_TARGET.max((self.empty.rtt() / TARGET_SHARE).min(MIN_TARGET * 2))
                + self.jitter.allowance() / 3
        } else {
            self.bulk_target()
        };
        self.shared(target)
    }

    /// The queue that ends a path's first search. Bulk begins before anybody knows whether somebody will feel it, and a queue
    /// as long as it may have then takes a game's first second to go. A shorter one costs it nothing where it is a fair part
    /// of the round trip, for jitter that is not known yet is no longer than that.
    pub(super) fn first_target(&self) -> Duration {
        let part = MIN_TARGET.max(self.empty.rtt() / FIRST_SHARE);
        let first = self.shared(part + self.jitter.allowance() / 3);
        first.min(self.target())
    }

    /// A queue that others on the path agree to. The bound is the same for all who share it; only below it can who has more
    /// make room.
    fn shared(&self, target: Duration) -> Duration {
        let fair = self.fair();
        let bound = (self.full).bound(target.mul_f64(fair.max(1.0)), self.empty.rtt());
        bound.mul_f64(fair.min(1.0))
    }

    /// The same while nobody would feel it.
    fn bulk_target(&self) -> Duration {
        BULK_TARGET.max(self.empty.rtt() / 4 * 3)
    }

    /// How much longer a queue than another of the same path is borne, for having less of it.
    fn fair(&self) -> f64 {
        let rate = self.rates.most().max(1.0);
        (FAIR_RATE / rate).sqrt().sqrt().clamp(0.4, 2.4)
    }

    /// The window that a game needs whatever the path seems to say.
    pub(super) fn floor(&self) -> u64 {
        let wanted = match self.config.game_rate() {
            Some(rate) => {
                // At the current round trip, for if the game fits the path this cannot build a queue.
                let small = rate.min(SMALL_GAME);
                let small = bytes_in(small / 2 * 3, self.smoothed.min(MAX_GAME_RTT));
                // Of a larger one only what fits, and through a pause of the processes at either end alone.
                let large = rate.min(self.carried.rate());
                let empty = self.empty.rtt().min(MAX_GAME_RTT);
                let paused = self.smoothed.clamp(empty + MIN_TARGET, empty + MAX_PAUSE);
                small.max(bytes_in(large / 2 * 3, paused))
            }
            // At the empty path's: a window that grew with the queue would grow the queue.
            None => bytes_in(FLOOR_RATE, self.empty.rtt().min(MAX_GAME_RTT) + MIN_TARGET),
        };
        wanted.max(MIN_WINDOW * self.mtu)
    }

    /// How long acknowledgements may stay away before that counts as a black-out.
    pub(super) fn patience(&self) -> Duration {
        MIN_PATIENCE.max(self.smoothed * 2)
    }
}

/// Bytes that `rate` bytes per second send in `time`.
pub(super) fn bytes_in(rate: u64, time: Duration) -> u64 {
    (rate as f64 * time.as_secs_f64()) as u64
}

/// Bytes per second that a window at the floor carries over an empty path: 12.5 Mbit/s, which is a
/// game of 10 Mbit/s, or of 10,000 packets/s of 115 bytes, with 40 bytes of headers on each. Where
/// the path is narrower and bulk fills the window, the queue can reach `12.5 / rate - 1` round
/// trips: 10 ms at 10 Mbit/s and 40 ms, 60 ms at 5. There the rate should be declared.
pub(super) const FLOOR_RATE: u64 = 12_500_000 / 8;

/// Bytes per second of a game that is never doubted to fit: with the half that the floor adds, the 12.5 Mbit/s that are
/// granted when nothing is declared.
pub(super) const SMALL_GAME: u64 = FLOOR_RATE / 3 * 2;

/// How long a process may wait for its turn on a busy machine without the game being held back for it: some slices of
/// the kernel's scheduler, 3 to 4 ms each. A game that does not fit its path is worth so much of a queue at most.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Packets that always fit: a pacing bucket holds ten, two packets start it, and at 1 Mbit/s eight
/// are already 93 ms.
const MIN_WINDOW: u64 = 8;

/// Round trips longer than this do not raise the floor further: what waits longer is useless to a
/// game, and a window must not follow a queue without end.
pub(super) const MAX_GAME_RTT: Duration = Duration::from_millis(500);

/// Queueing delay aimed at on paths up to 100 ms, of 20 Mbit/s. Players do not feel it, and it stands clear of the millisecond of
/// jitter of timers and schedulers.
const MIN_TARGET: Duration = Duration::from_millis(4);

/// On paths longer than 120 ms the target is this part of the round trip: what a path carries is known to a few per cent.
const TARGET_SHARE: u32 = 24;

/// A first search ends at a queue of this part of the round trip: jitter of a third of it still passes for none.
const FIRST_SHARE: u32 = 4;

/// Declared rate at which the target is neither longer nor shorter, in bytes per second: 20 Mbit/s. Who has less of a line bears a
/// longer queue (by the fourth root), and so gets more of it from who has more, until all have the same.
const FAIR_RATE: f64 = 20e6 / 8.0;

/// Queueing delay aimed at while nobody would feel it, on paths up to 40 ms: what radio links and Wi-Fi keep packets for.
const BULK_TARGET: Duration = Duration::from_millis(30);

/// Jitter below which the lowest round trip of a round tells of the queue.
const STEADY: Duration = Duration::from_millis(2);

/// Least silence that counts as a black-out: a delayed acknowledgement takes 25 ms, a stalled
/// radio link up to 100.
const MIN_PATIENCE: Duration = Duration::from_millis(100);
