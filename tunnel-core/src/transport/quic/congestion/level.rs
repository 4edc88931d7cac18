//! How the window is steered: what each acknowledgement, each loss and each round trip does to it.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::LevelConfig;
use super::loss::Loss;
use super::model::{FLOOR_RATE, MAX_GAME_RTT, Model, SMALL_GAME, bytes_in};
use super::rival::Rival;
use super::samples::{Batch, Recent, Round, Silence};

/// Keeps the bottleneck's queue level: see the module's description.
#[derive(Debug, Clone)]
pub struct Level {
    pub(super) model: Model,
    /// Bytes that may be in flight, before the floor and the credit of a black-out.
    pub(super) window: u64,
    /// Where the window goes, by what is acknowledged.
    goal: u64,
    phase: Phase,
    round: Round,
    /// How long the round before took: what arrives in a round was sent in the one before.
    sending: Duration,
    batch: Batch,
    /// Lowest round trip of the last few batches, so that a search ends before its round does.
    recent: Recent,
    loss: Loss,
    /// The first search is over.
    has_searched: bool,
    /// The best round of a search, in bytes per second, and how many since have brought nothing more.
    found: (f64, u8),
    /// Rounds in a row with a queue of more than twice the target.
    long: u8,
    /// What the path carried before them, in bytes per second, and the queue in the third.
    carried_before: f64,
    queue_then: Duration,
    /// Rounds in a row with hardly a queue.
    short: u8,
    /// Rounds to come in which the window does not grow.
    hold: u8,
    /// When the queue last ran dry by intent.
    drained: Instant,
    silence: Silence,
}

/// What the window does with the next acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubles each round trip.
    Search,
    /// Goes where the model says.
    Cruise,
    /// Falls to below the empty path, so that the queue runs dry.
    Drain,
    /// The round after that, which shows the path's delay: the samples of a drain are of packets sent before it ended.
    Settle,
}

impl Level {
    /// Starts on a path of which nothing is known but its packet size.
    pub(super) fn new(config: Arc<LevelConfig>, now: Instant, mtu: u16) -> Self {
        Self {
            model: Model::new(config, now, mtu),
            window: INITIAL_WINDOW,
            goal: INITIAL_WINDOW,
            phase: Phase::Search,
            round: Round::new(now),
            sending: Duration::ZERO,
            batch: Batch::default(),
            recent: Recent::default(),
            loss: Loss::default(),
            has_searched: false,
            found: (0.0, 0),
            long: 0,
            carried_before: 0.0,
            queue_then: Duration::ZERO,
            short: 0,
            hold: 0,
            drained: now,
            silence: Silence::new(now),
        }
    }

    /// `bytes` left for the path.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64) {
        self.silence.handle_sent(now, bytes, self.model.patience());
    }

    /// A packet of `bytes`, sent at `sent`, arrived.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
    ) {
        let rtt = now.saturating_duration_since(sent);
        self.batch.rtt = self.batch.rtt.min(rtt);
        self.batch.newest = self.batch.newest.max(Some(sent));
        self.batch.acked += bytes;
        if !app_limited {
            self.batch.limited += bytes;
        }
    }

    /// All packets of one acknowledgement have been handled; `in_flight` bytes remain.
    pub(super) fn handle_acks_end(&mut self, now: Instant, in_flight: u64) {
        let batch = mem::take(&mut self.batch);
        let Some(newest) = batch.newest else { return };
        self.silence.handle_ack(now);
        self.model.empty.handle_sample(now, batch.rtt);
        self.model.smoothed = match self.model.smoothed {
            Duration::ZERO => batch.rtt,
            smoothed => (smoothed * 7 + batch.rtt) / 8,
        };
        let peak = in_flight + batch.acked;
        self.round.handle_batch(&batch, peak);
        self.loss.handle_ack(batch.acked);
        self.model.carried.handle_ack(now, batch.acked);
        match self.phase {
            Phase::Search => self.search(now, &batch, peak),
            Phase::Cruise | Phase::Drain | Phase::Settle => self.follow(batch.acked),
        }
        let has_come_round = newest >= self.round.start && self.round.acked > 0;
        if has_come_round && now.saturating_duration_since(self.round.start) >= ROUND {
            self.end_round(now);
        }
    }

    /// `bytes` are lost; the newest of them was sent at `sent`. All sent for long if `persistent`.
    pub(super) fn handle_loss(
        &mut self,
        now: Instant,
        sent: Instant,
        persistent: bool,
        bytes: u64,
    ) {
        if persistent {
            // A black-out says nothing about the rate. The path behind it may be another one, so
            // half the window and a search, which needs a round trip or two to be back.
            self.window /= 2;
            self.phase = Phase::Search;
            self.start_round(now);
            self.loss.restart();
            self.model.rival = None;
        } else if bytes == 0 {
            self.handle_mark(now);
        } else {
            self.loss.handle_loss(sent, bytes);
            if let Some(rival) = &mut self.model.rival
                && self
                    .model
                    .full
                    .is_near(self.model.smoothed, self.model.empty.rtt())
            {
                rival.handle_loss(now, sent, self.window, self.model.smoothed);
            }
        }
    }

    /// The network marked a packet instead of dropping it: congestion by its own word.
    fn handle_mark(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Search | Phase::Cruise) {
            self.phase = Phase::Drain;
            self.has_searched = true;
            self.goal = (self.window as f64 * MARKED) as u64;
            self.goal = self.goal.max(self.model.floor());
            self.model.rates.scale(MARKED);
            self.hold = HOLD;
            self.drained = now;
            self.start_round(now);
        }
    }

    /// Grows until it finds a queue.
    fn search(&mut self, now: Instant, batch: &Batch, peak: u64) {
        let limited = batch.limited * 2 > batch.acked;
        if !limited || self.window > peak * 2 {
            return;
        }
        // Somebody who feels the queue feels the search's last step too.
        self.window += match self.model.config.is_felt() {
            true => batch.acked / 2,
            false => batch.acked,
        };
        let target = match self.has_searched {
            true => self.model.target(),
            false => self.model.first_target(),
        };
        if let Some(rtt) = self.recent.handle_sample(batch.rtt)
            && rtt > self.model.empty.rtt() + target
        {
            // What has arrived in this round so far is what the path carries.
            if self.round.acked > 4 * self.model.mtu {
                self.model
                    .rates
                    .handle_round(self.round.rate(now, self.sending));
            }
            self.drain(now);
        }
    }

    /// Lets the queue run dry.
    fn drain(&mut self, now: Instant) {
        self.has_searched = true;
        self.found = (0.0, 0);
        self.phase = Phase::Drain;
        self.drained = now;
        let empty = self.model.empty.rtt();
        let below = (DRY + empty / 64).min(empty / 10);
        let dry = self
            .model
            .product(empty + self.model.jitter.allowance() - below);
        // Whether somebody else keeps a queue is worth a round trip at half the rate.
        self.goal = (if self.model.rival.is_some() {
            dry / 2
        } else {
            dry
        })
        .max(self.window / MAX_SHRINK)
        .max(self.model.floor());
        self.start_round(now);
    }

    /// The window goes to its goal: up by no more than arrives, so that it at most doubles in a round, and down by a part of
    /// it, for a window that drops below what is in flight would stop the game along with the bulk.
    fn follow(&mut self, acked: u64) {
        self.window = if self.window > self.goal {
            (self.window)
                .saturating_sub(acked * DRAIN.0 / DRAIN.1)
                .max(self.goal)
        } else {
            // What is sent at once queues at once.
            let is_near = self.window > self.goal / 4 * 3;
            let grown = if is_near { acked / 6 } else { acked };
            (self.window + grown).min(self.goal)
        };
    }

    fn start_round(&mut self, now: Instant) {
        self.round = Round::new(now);
        self.recent = Recent::default();
    }

    /// Decides once per round trip.
    fn end_round(&mut self, now: Instant) {
        let round = mem::replace(&mut self.round, Round::new(now));
        let rate = round.rate(now, self.sending);
        self.sending = now.saturating_duration_since(round.start);
        let is_idle = round.app_limited() || round.peak * 2 < self.window;
        if !is_idle || rate > self.model.rates.most() {
            self.model.rates.handle_round(rate);
        }
        if !is_idle {
            // Who sends little has its acknowledgements delayed.
            self.model.jitter.handle_round(&round);
            self.model.full.handle_round(now, round.mean());
        }
        let queue = self.model.queue(&round);
        if self.heed_loss(now, &round, queue) && self.phase == Phase::Search {
            return self.drain(now);
        }
        if is_idle {
            return self.idle(&round);
        }
        match self.phase {
            Phase::Search => self.judge_search(now, rate),
            Phase::Drain => {
                if self.window <= self.goal {
                    self.phase = Phase::Settle;
                }
            }
            Phase::Settle => {
                self.handle_dry(now, &round, queue);
                self.phase = Phase::Cruise;
                self.steer(now, rate, queue);
            }
            Phase::Cruise => {
                let is_short = queue < self.model.target() / 4;
                self.short = if is_short {
                    self.short.saturating_add(1)
                } else {
                    0
                };
                self.steer(now, rate, queue);
            }
        }
    }

    /// Learns where the queue overflows, and whether somebody else fills it. Returns whether it overflowed.
    fn heed_loss(&mut self, now: Instant, round: &Round, queue: Duration) -> bool {
        let Some(share) = self.loss.judge(self.model.mtu) else {
            return false;
        };
        // Filled by somebody else, where we have left room.
        let is_foreign = self.model.full.is_bound() && queue > self.model.target() * 2;
        let is_near = self
            .model
            .full
            .is_near(round.mean(), self.model.empty.rtt());
        let overflows = self.model.full.handle_loss(now, share, queue, is_near);
        if overflows && is_foreign && self.model.rival.is_none() && self.phase != Phase::Search {
            self.model.rival = Some(Rival::new(now, queue, self.model.rates.most()));
        }
        if overflows && let Some(rival) = &mut self.model.rival {
            rival.handle_loss(now, round.start, self.window, self.model.smoothed);
        }
        overflows
    }

    /// The path had nothing to say about the window, and a game that idles between its packets cannot fill a queue: it may
    /// have its rate at whatever the round trip is. Bulk that begins beside it begins with what the path is known to carry.
    fn idle(&mut self, round: &Round) {
        let is_declared = self.model.config.game_rate().is_some();
        if self.model.config.is_felt() && is_declared {
            let known = self.model.product(self.model.empty.rtt()).max(IDLE_WINDOW);
            self.window = self
                .window
                .min(known.max(round.peak * 2))
                .max(self.model.floor());
            self.goal = self.window;
        } else {
            let game = bytes_in(FLOOR_RATE, round.rtt.min(MAX_GAME_RTT));
            self.window = self.window.max(game).max(self.model.floor());
            self.goal = self.goal.max(self.window);
        }
    }

    /// Ends a search when three rounds have brought nothing more: where the queue is shorter than the target, or another
    /// bottleneck of this machine's, no queue tells.
    fn judge_search(&mut self, now: Instant, rate: f64) {
        let (best, flat) = self.found;
        self.found = match rate > best * SEARCH_GROWTH {
            true => (rate, 0),
            false => (best, flat + 1),
        };
        if self.found.1 >= SEARCH_FLAT {
            self.drain(now);
        }
    }

    /// The queue has run dry, if it is ours.
    fn handle_dry(&mut self, now: Instant, round: &Round, queue: Duration) {
        let above = round.mean().saturating_sub(self.model.empty.rtt());
        self.model.jitter.handle_drained(above);
        self.model.standing = self.model.empty.rtt() + self.model.jitter.allowance();
        let is_gone = queue <= self.model.target();
        match &mut self.model.rival {
            Some(rival) if is_gone && rival.is_quiet(now) => self.model.rival = None,
            Some(rival) => rival.handle_drained(queue),
            None => {}
        }
    }

    /// Sets the goal by the model, unless it is time to look for more room or for the empty path.
    fn steer(&mut self, now: Instant, rate: f64, queue: Duration) {
        self.yield_to(now, rate, queue);
        if self.short >= SHORT && self.model.rates.is_growing() {
            self.short = 0;
            self.phase = Phase::Search;
            return self.start_round(now);
        }
        let every = match self.model.rival {
            Some(_) => RIVAL_LOOK,
            None => DRY_EVERY,
        };
        if now.saturating_duration_since(self.drained) > every.max(self.model.smoothed * 10) {
            return self.drain(now);
        }
        let goal = self.model.window(now);
        self.goal = if self.hold > 0 {
            goal.min(self.goal)
        } else {
            goal
        };
        self.hold = self.hold.saturating_sub(1);
    }

    /// A long queue: the path carries less than it did, or it is not ours.
    fn yield_to(&mut self, now: Instant, rate: f64, queue: Duration) {
        if queue <= self.model.target() * 2 {
            self.long = 0;
            return;
        }
        self.long = self.long.saturating_add(1);
        if self.long == 1 {
            self.carried_before = self.model.rates.most();
        }
        let has_halved = self.long == 1 && rate < self.carried_before / 2.0;
        if has_halved || self.long == 2 {
            // What the path carried before the queue came may be more than it carries now.
            self.model.rates.forget_but(self.long.into());
        }
        if self.long == FOREIGN - 2 {
            self.queue_then = queue;
        }
        let stays = queue > self.queue_then / 4 * 3;
        // At the floor nothing was yielded.
        let has_yielded = self.window > self.model.floor();
        if self.long >= FOREIGN && stays && has_yielded && self.model.rival.is_none() {
            self.model.rival = Some(Rival::new(now, queue, self.carried_before));
            // Yielding was wrong.
            self.model
                .rates
                .handle_round(self.carried_before.min(rate * 2.0));
        }
    }

    /// The window, given the time.
    pub(super) fn window_at(&self, now: Instant) -> u64 {
        let silent = now.saturating_duration_since(self.silence.since);
        let credited = silent
            .saturating_sub(self.model.patience())
            .min(MAX_SILENCE);
        let rate = self
            .model
            .config
            .game_rate()
            .map_or(FLOOR_RATE, |rate| rate.min(SMALL_GAME) / 2 * 3);
        self.window
            .max(self.model.floor())
            .saturating_add(bytes_in(rate, credited))
    }
}

/// What bulk begins with beside a game, on a path of which nothing is known: ten packets, as TCP, and the game's own.
const IDLE_WINDOW: u64 = 20_000;

/// Before the first round trip is known: the floor of a path of 100 ms.
pub(super) const INITIAL_WINDOW: u64 = FLOOR_RATE / 10;

/// Rounds with a queue of twice the target that make it somebody else's: in the second the window follows what arrives now,
/// in the third and fourth that has an effect, if the queue is ours.
const FOREIGN: u8 = 5;

/// A round takes at least 10 ms, some slices of a scheduler: on a path of less, round trips tell of the processes at its ends.
const ROUND: Duration = Duration::from_millis(10);

/// Growth of a round that makes a search worth going on, and rounds without it that end it, as BBR has them.
const SEARCH_GROWTH: f64 = 1.25;
const SEARCH_FLAT: u8 = 3;

/// Rounds without a queue that start a search, if each brought more than the one before.
const SHORT: u8 = 4;

/// How far below the empty path a drain goes, and a 64th of the round trip: what is left out once leaves a gap as long in every round
/// after, beside which the rest queues.
const DRY: Duration = Duration::from_millis(2);

/// How often the queue runs dry, to see what the path's delay is.
const DRY_EVERY: Duration = Duration::from_secs(3);

/// The same beside somebody else's queue, to see whether it has gone.
const RIVAL_LOOK: Duration = Duration::from_secs(5);

/// A drain takes the window down by 3/4 of what arrives: the rest keeps a game's packets leaving,
/// and a queue of 10 ms is gone in 13.
const DRAIN: (u64, u64) = (3, 4);

/// One drain takes the window to a quarter at most: a single stall must not cost more than two
/// doublings. A path that lost more than that of its rate takes a second drain.
const MAX_SHRINK: u64 = 4;

/// A marked packet (ECN) costs 15 %, about what a full queue of the target costs at 40 ms.
const MARKED: f64 = 0.85;

/// Rounds that a mark holds the window down.
const HOLD: u8 = 4;

/// Silence that still adds to the window: beyond quinn's idle timeout there is no connection.
const MAX_SILENCE: Duration = Duration::from_secs(30);
