//! Congestion control of the tunnel's QUIC connection: games first, bulk beside them.
//!
//! A game's datagrams and bulk streams share one connection, so they share one window. quinn puts
//! datagrams before stream data in every packet; what is left to the controller is to keep the
//! *bottleneck's* queue short, and never to hold the game back. [`Level`] steers by delay:
//!
//! - **Search** (at first, and when there is suddenly more room): the window grows by half each
//!   round trip, until the queue is as long as it may be.
//! - **Cruise**: the window climbs in steps that double while the queue is short, and drains to
//!   below the empty path once it is long. Equal steps up and proportional drains let several
//!   `Level` flows meet at equal shares, and each drain shows all of them the path's true delay.
//! - **Loss is not a signal** until it is plainly ours: more than 15 %, twice running. A
//!   policer or a shallow queue shows nothing else.
//! - **What does not yield is not ours**: a queue that stays while the window falls to half is
//!   somebody else's (or a longer route) and becomes the new empty path; a loss that stays is the
//!   path's, and is borne.
//! - **Below the floor the window never goes**, and time without any acknowledgement adds to it, so
//!   that a game's packets keep leaving through a black-out and the first ones after it go at once.
//!
//! quinn has no separate pacing rate: it paces at 1.25 windows per smoothed round trip, from a
//! bucket of 2 ms worth (10 packets at least, 256 at most). The window is the only lever.

mod empty;
mod loss;
mod samples;

use std::any::Any;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use self::empty::{EmptyPath, Stubborn};
use self::loss::{Loss, Verdict};
use self::samples::{Batch, Carried, Recent, Round, Silence};

/// Declares to a connection how many bytes of datagrams it sends each second, headers included, or that nobody
/// knows. Holds for its present path: to be repeated.
pub(crate) fn declare(connection: &quinn::Connection, bytes_per_second: Option<u64>) {
    // A copy of the controller, with the same settings.
    let controller = connection.congestion_state().into_any();
    if let Ok(level) = controller.downcast::<Level>() {
        match bytes_per_second {
            Some(rate) => level.config.set_game_rate(rate),
            None => level.config.game_rate.store(UNDECLARED, Ordering::Relaxed),
        }
    }
}

/// What is declared to a connection.
#[cfg(test)]
pub(crate) fn declared(connection: &quinn::Connection) -> Option<u64> {
    let controller = connection.congestion_state().into_any();
    controller.downcast::<Level>().unwrap().config.game_rate()
}

/// Shuts a connection's window, or lets it be as it is.
#[cfg(test)]
pub(crate) fn choke(connection: &quinn::Connection, is_choked: bool) {
    let controller = connection.congestion_state().into_any();
    let level = controller.downcast::<Level>().unwrap();
    level.config.is_choked.store(is_choked, Ordering::Relaxed);
}

/// Makes a [`Level`] for each path of a connection, with settings of its own.
#[derive(Debug)]
pub struct LevelConfig {
    /// Bytes per second of datagrams, [`UNDECLARED`] until the tunnel says.
    game_rate: AtomicU64,
    /// Where [`Level::window`] gets the time from; virtual in tests.
    clock: fn() -> Instant,
    /// Nothing may leave.
    #[cfg(test)]
    is_choked: std::sync::atomic::AtomicBool,
}

impl LevelConfig {
    /// Declares how many bytes of datagrams the connection sends each second, headers included.
    ///
    /// From then on the floor follows the game instead of standing at 12.5 Mbit/s: lower on an
    /// uplink that is narrower than that, and high enough when strangers fill the bottleneck's
    /// queue. Takes effect within a round trip.
    pub fn set_game_rate(&self, bytes_per_second: u64) {
        // Half of the range is no limit and leaves room for the half more that a floor adds.
        let rate = bytes_per_second.min(UNDECLARED / 2);
        self.game_rate.store(rate, Ordering::Relaxed);
    }

    /// The declared rate, in bytes per second.
    fn game_rate(&self) -> Option<u64> {
        let rate = self.game_rate.load(Ordering::Relaxed);
        (rate != UNDECLARED).then_some(rate)
    }
}

impl Default for LevelConfig {
    fn default() -> Self {
        Self {
            game_rate: AtomicU64::new(UNDECLARED),
            clock: Instant::now,
            #[cfg(test)]
            is_choked: false.into(),
        }
    }
}

impl ControllerFactory for LevelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        // The declared rate belongs to the datagrams of one connection.
        let own = Self {
            game_rate: AtomicU64::new(UNDECLARED),
            clock: self.clock,
            #[cfg(test)]
            is_choked: false.into(),
        };
        Box::new(Level::new(Arc::new(own), now, current_mtu))
    }
}

/// Keeps the bottleneck's queue level: see the module's description.
#[derive(Debug, Clone)]
pub struct Level {
    config: Arc<LevelConfig>,
    /// Bytes of a full packet on the current path.
    mtu: u64,
    /// Bytes that may be in flight, before the floor and the credit of a black-out.
    window: u64,
    phase: Phase,
    /// The window before it was last shrunk: well above it is new ground.
    mark: u64,
    /// Packets added to the window after the next round with a short queue.
    step: u64,
    empty: EmptyPath,
    /// Average round trip, queue included.
    smoothed: Duration,
    round: Round,
    batch: Batch,
    /// Lowest round trip of the last few batches, so that a search ends before its round does.
    recent: Recent,
    /// The queue that shrinking has not yet removed.
    stubborn: Option<Stubborn>,
    /// Whether the window is halved, past the floor, to see if the queue goes with it.
    testing: bool,
    next_test: Option<Instant>,
    loss: Loss,
    carried: Carried,
    silence: Silence,
}

/// What the window does with the next acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Grows by half each round trip.
    Search,
    /// Moves once a round.
    Cruise,
    /// Falls by part of what is acknowledged until it has reached `to`. It falls gradually because
    /// a window that drops below what is in flight would stop the game along with the bulk.
    Drain { to: u64 },
    /// The round after a drain: its samples are of packets sent before it ended.
    Settle,
}

impl Level {
    /// Starts on a path of which nothing is known but its packet size.
    fn new(config: Arc<LevelConfig>, now: Instant, mtu: u16) -> Self {
        Self {
            config,
            mtu: mtu.into(),
            window: INITIAL_WINDOW,
            phase: Phase::Search,
            mark: INITIAL_WINDOW,
            step: 1,
            empty: EmptyPath::default(),
            smoothed: Duration::ZERO,
            round: Round::new(now),
            batch: Batch::default(),
            recent: Recent::default(),
            stubborn: None,
            testing: false,
            next_test: None,
            loss: Loss::default(),
            carried: Carried::new(now),
            silence: Silence::new(now),
        }
    }

    /// `bytes` left for the path.
    fn handle_sent(&mut self, now: Instant, bytes: u64) {
        self.silence.handle_sent(now, bytes, self.patience());
    }

    /// A packet of `bytes`, sent at `sent`, arrived.
    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        let rtt = now.saturating_duration_since(sent);
        self.batch.rtt = self.batch.rtt.min(rtt);
        self.batch.newest = self.batch.newest.max(Some(sent));
        self.batch.acked += bytes;
        if !app_limited {
            self.batch.limited += bytes;
        }
    }

    /// All packets of one acknowledgement have been handled; `in_flight` bytes remain.
    fn handle_acks_end(&mut self, now: Instant, in_flight: u64) {
        let batch = mem::take(&mut self.batch);
        let Some(newest) = batch.newest else { return };
        self.silence.handle_ack(now);
        self.empty.handle_sample(batch.rtt);
        self.smoothed = match self.smoothed {
            Duration::ZERO => batch.rtt,
            smoothed => (smoothed * 7 + batch.rtt) / 8,
        };
        let peak = in_flight + batch.acked;
        self.round.handle_batch(&batch, peak);
        self.loss.handle_ack(batch.acked);
        self.carried.handle_ack(now, batch.acked);
        match self.phase {
            Phase::Search => self.search(now, &batch, peak),
            Phase::Drain { to } => return self.drain(now, to, batch.acked),
            Phase::Cruise | Phase::Settle => {}
        }
        if newest >= self.round.start && self.round.acked > 0 {
            self.end_round(now);
        }
    }

    /// `bytes` are lost; the newest of them was sent at `sent`. All sent for long if `persistent`.
    fn handle_loss(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64) {
        if persistent {
            // A black-out says nothing about the rate. The path behind it may be another one, so
            // half the window and a search, which needs two round trips to be back.
            self.window /= 2;
            self.phase = Phase::Search;
            self.start_round(now);
            self.loss.restart();
            self.stubborn = None;
            self.testing = false;
        } else if bytes == 0 {
            self.handle_mark(now);
        } else {
            self.loss.handle_loss(sent, bytes);
        }
    }

    /// The network marked a packet instead of dropping it: congestion by its own word.
    fn handle_mark(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Search | Phase::Cruise) {
            self.start_drain(now, self.window * MARK_DRAIN.0 / MARK_DRAIN.1);
        }
    }

    /// Grows until it finds a queue.
    fn search(&mut self, now: Instant, batch: &Batch, peak: u64) {
        let limited = batch.limited * 2 > batch.acked;
        if !limited || self.window > peak * 2 {
            return;
        }
        if !self.loss.suspicious() {
            self.window += batch.acked / 2;
        }
        if let Some(rtt) = self.recent.handle_sample(batch.rtt)
            && rtt > self.empty.rtt + self.target()
        {
            self.shorten_queue(now, rtt);
        }
    }

    /// Lets the window follow what arrives down to `to`.
    fn drain(&mut self, now: Instant, to: u64, acked: u64) {
        self.window = self
            .window
            .saturating_sub(acked * DRAIN.0 / DRAIN.1)
            .max(to);
        if self.window == to || self.round.app_limited() {
            self.window = to;
            self.phase = Phase::Settle;
            self.start_round(now);
        }
    }

    fn start_drain(&mut self, now: Instant, to: u64) {
        let to = to.max(self.window / MAX_SHRINK).max(self.floor());
        self.mark = self.window;
        self.step = 1;
        self.phase = Phase::Drain {
            to: to.min(self.window),
        };
        self.loss.restart_at(now);
        self.start_round(now);
    }

    fn start_round(&mut self, now: Instant) {
        self.round = Round::new(now);
        self.recent = Recent::default();
    }

    /// Decides once per round trip.
    fn end_round(&mut self, now: Instant) {
        let round = mem::replace(&mut self.round, Round::new(now));
        self.empty.forget_adopted(now);
        let queue = round.rtt.saturating_sub(self.empty.rtt);
        if self.phase == Phase::Settle {
            self.phase = Phase::Cruise;
            self.loss.restart_at(round.start);
        } else if round.app_limited() || round.peak * 2 < self.window {
            // The path had nothing to say about the window, and a game that idles between its
            // packets cannot fill a queue: it may have its rate at whatever the round trip is.
            let game = bytes_in(FLOOR_RATE, round.rtt.min(MAX_GAME_RTT));
            self.window = self.window.max(game);
        } else if queue > self.target() {
            self.shorten_queue(now, round.rtt);
        } else {
            self.stubborn = None;
            self.testing = false;
            if !self.heed_loss(now) {
                self.grow(now, &round, queue);
            }
        }
        self.window = self.window.max(self.floor());
    }

    /// The queue is longer than it may be: drains it, or learns that it is not ours to drain.
    fn shorten_queue(&mut self, now: Instant, rtt: Duration) {
        let window = self.window;
        let tested = mem::take(&mut self.testing);
        let stubborn = self.stubborn.get_or_insert_default();
        if tested && stubborn.is_foreign(self.empty.rtt, window, rtt) {
            self.empty.adopt(now, rtt);
            self.stubborn = None;
            self.phase = Phase::Search;
            self.start_round(now);
            return;
        }
        stubborn.handle_drain(window, rtt);
        let goal = if stubborn.drains > STUBBORN && self.next_test.is_none_or(|at| now >= at) {
            self.testing = true;
            self.next_test = Some(now + TEST_GAP);
            window / 2
        } else {
            // A little below the empty path, so that the queue runs dry and shows the path's delay.
            // On a path shorter than the target that would throw away most of the window.
            let wanted = (self.empty.rtt / 20 * 19).max(self.target() / 4);
            // The samples are a round trip old, and a search has grown by half since.
            let then = if self.phase == Phase::Search {
                window / 3 * 2
            } else {
                window
            };
            (then as f64 * wanted.as_secs_f64() / rtt.as_secs_f64()) as u64
        };
        self.start_drain(now, goal);
    }

    /// Shrinks or searches if the losses say so; true if the window must not grow now.
    fn heed_loss(&mut self, now: Instant) -> bool {
        match self.loss.judge(now, self.mtu) {
            Some(Verdict::TooFull(rate)) => {
                // A little less than what arrived.
                let fits = (self.window as f64 * (1.0 - rate) * 0.95) as u64;
                self.start_drain(now, fits);
                self.loss.handle_shrunk(now, fits.max(self.floor()), rate);
                true
            }
            Some(Verdict::Borne) => {
                self.phase = Phase::Search;
                true
            }
            Some(Verdict::Bearable) | None => self.loss.suspicious(),
        }
    }

    /// One step up, and a search once the window is well above where it was last too large.
    fn grow(&mut self, now: Instant, round: &Round, queue: Duration) {
        let cap = self.loss.cap(now).unwrap_or(u64::MAX);
        if self.phase == Phase::Search || self.window > round.peak * 2 || self.window >= cap {
            return;
        }
        let short = queue <= self.target() / 2;
        self.step = if short { self.step * 2 } else { 1 };
        // No step takes more than half of the room that is left.
        let room = (self.target() - queue).as_secs_f64() / round.rtt.as_secs_f64() / 2.0;
        let most = (self.window as f64 * room.min(MAX_STEP)) as u64 / self.mtu;
        self.step = self.step.min(most.max(1));
        self.window = (self.window + self.step * self.mtu).min(cap);
        if short && self.window > self.mark / 4 * 5 {
            self.phase = Phase::Search;
        }
    }

    /// The queueing delay above which the window shrinks.
    fn target(&self) -> Duration {
        MIN_TARGET.max(self.empty.rtt / TARGET_SHARE)
    }

    /// The window that a game needs whatever the path seems to say.
    fn floor(&self) -> u64 {
        let wanted = match self.config.game_rate() {
            Some(rate) => {
                // At the current round trip, for if the game fits the path this cannot build a queue.
                let small = rate.min(SMALL_GAME);
                let small = bytes_in(small / 2 * 3, self.smoothed.min(MAX_GAME_RTT));
                // Of a larger one only what fits, and through a pause of the processes at either end alone.
                let large = rate.min(self.carried.rate());
                let empty = self.empty.lowest().min(MAX_GAME_RTT);
                let paused = self.smoothed.clamp(empty + MIN_TARGET, empty + MAX_PAUSE);
                small.max(bytes_in(large / 2 * 3, paused))
            }
            // At the empty path's: a window that grew with the queue would grow the queue.
            None => {
                let rate = if self.testing {
                    FLOOR_RATE / 2
                } else {
                    FLOOR_RATE
                };
                bytes_in(rate, self.empty.lowest().min(MAX_GAME_RTT) + MIN_TARGET)
            }
        };
        wanted.max(MIN_WINDOW * self.mtu)
    }

    /// How long acknowledgements may stay away before that counts as a black-out.
    fn patience(&self) -> Duration {
        MIN_PATIENCE.max(self.smoothed * 2)
    }

    /// The window, given the time.
    fn window_at(&self, now: Instant) -> u64 {
        let silent = now.saturating_duration_since(self.silence.since);
        let credited = silent.saturating_sub(self.patience()).min(MAX_SILENCE);
        let rate = self
            .config
            .game_rate()
            .map_or(FLOOR_RATE, |rate| rate.min(SMALL_GAME) / 2 * 3);
        self.window
            .max(self.floor())
            .saturating_add(bytes_in(rate, credited))
    }
}

impl Controller for Level {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.handle_sent(now, bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.handle_ack(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _app_limited: bool, _: Option<u64>) {
        self.handle_acks_end(now, in_flight);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.handle_loss(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        #[cfg(test)]
        if self.config.is_choked.load(Ordering::Relaxed) {
            return 0;
        }
        self.window_at((self.config.clock)())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Bytes that `rate` bytes per second send in `time`.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    (rate as f64 * time.as_secs_f64()) as u64
}

/// [`LevelConfig::game_rate`] before anything is declared.
const UNDECLARED: u64 = u64::MAX;

/// Bytes per second that a window at the floor carries over an empty path: 12.5 Mbit/s, which is a
/// game of 10 Mbit/s, or of 10,000 packets/s of 115 bytes, with 40 bytes of headers on each. Where
/// the path is narrower and bulk fills the window, the queue can reach `12.5 / rate - 1` round
/// trips: 10 ms at 10 Mbit/s and 40 ms, 60 ms at 5. There the rate should be declared.
const FLOOR_RATE: u64 = 12_500_000 / 8;

/// Bytes per second of a game that is never doubted to fit: with the half that the floor adds, the 12.5 Mbit/s that are
/// granted when nothing is declared.
const SMALL_GAME: u64 = FLOOR_RATE / 3 * 2;

/// How long a process may wait for its turn on a busy machine without the game being held back for it: some slices of
/// the kernel's scheduler, 3 to 4 ms each. A game that does not fit its path is worth so much of a queue at most.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Packets that always fit: a pacing bucket holds ten, two packets start it, and at 1 Mbit/s eight
/// are already 93 ms.
const MIN_WINDOW: u64 = 8;

/// Before the first round trip is known: the floor of a path of 100 ms.
const INITIAL_WINDOW: u64 = FLOOR_RATE / 10;

/// Round trips longer than this do not raise the floor further: what waits longer is useless to a
/// game, and a window must not follow a queue without end.
const MAX_GAME_RTT: Duration = Duration::from_millis(500);

/// Queueing delay aimed at on paths up to 80 ms. Players do not feel 5 ms, CoDel uses the same
/// figure, and it stands clear of the millisecond of jitter of timers and schedulers.
const MIN_TARGET: Duration = Duration::from_millis(5);

/// On longer paths the target is the sixteenth of the round trip, which is what one round of the
/// fastest climb adds.
const TARGET_SHARE: u32 = 16;

/// A climb adds at most this share of the window each round, the target's share of a long path's
/// round trip, so that it overshoots by no more than the target.
const MAX_STEP: f64 = 1.0 / 16.0;

/// Drains that a queue may outlive before the window is halved to see whether it is ours: two, for
/// after a fall of the path's rate the first one drains too little, its samples being too old.
const STUBBORN: u8 = 2;

/// A drain takes the window down by 3/4 of what arrives: the rest keeps a game's packets leaving,
/// and a queue of 10 ms is gone in 13.
const DRAIN: (u64, u64) = (3, 4);

/// One drain takes the window to a quarter at most: a single stall must not cost more than two
/// doublings. A path that lost more than that of its rate takes a second drain.
const MAX_SHRINK: u64 = 4;

/// A marked packet (ECN) costs 15 %, about what a full queue of the target costs at 40 ms.
const MARK_DRAIN: (u64, u64) = (17, 20);

/// Time between such tests: they hold back a game of more than half the floor for a round trip.
const TEST_GAP: Duration = Duration::from_secs(30);

/// Least silence that counts as a black-out: a delayed acknowledgement takes 25 ms, a stalled
/// radio link up to 100.
const MIN_PATIENCE: Duration = Duration::from_millis(100);

/// Silence that still adds to the window: beyond quinn's idle timeout there is no connection.
const MAX_SILENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
