//! When to dial the relay, and with which strategy: what each fault of the path leads to.
//!
//! | the client's tunnel | what it does |
//! |---|---|
//! | none | dials until one stands, with growing pauses |
//! | on QUIC, answers | nothing |
//! | on a lane, answers | now and then tries QUIC alone, and goes over to it |
//! | suspect: a heartbeat is overdue | dials again and again beside it; whichever answers first is the tunnel |

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    client::policy::{attempt::Strategy, damper::Damper},
    proto::{
        backoff::Backoff,
        session::{DEAD_AFTER, Liveness},
    },
    transport::Transport,
};

/// What the executor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start an attempt beside those that run; of more than [`ATTEMPTS_MAX`] the second oldest is dropped.
    Dial(Strategy),
    /// Drop all attempts.
    GiveUp,
    /// Lanes have been silent for as long as the path, and their kernels repeat ever more slowly what they sent: streams
    /// go on elsewhere.
    LeaveLanes,
}

/// The state of a client's path to its relay.
///
/// The executor reports what happens through `handle_*` and does what [`poll_action`](Self::poll_action) yields.
/// `random` is 64 random bits for the jitter of a pause.
#[derive(Debug)]
pub(crate) struct DialPolicy {
    tunnel: Tunnel,
    /// Attempts that run.
    attempts: usize,
    /// They are for QUIC alone, beside a lane that works.
    is_upgrade: bool,
    dial_at: Option<Instant>,
    /// Since when a heartbeat is overdue.
    suspect_since: Option<Instant>,
    /// The last tunnel that the relay let in was on a lane.
    was_on_lane: bool,
    /// Pauses between attempts without a tunnel.
    reconnect: Backoff,
    /// Pauses after tunnels that were lost as soon as they stood.
    flapping: Backoff,
    /// Pauses between attempts beside a suspect path.
    racing: Backoff,
    /// Pauses between attempts at QUIC beside a lane.
    upgrade: Backoff,
    damper: Damper,
    actions: VecDeque<Action>,
}

/// The tunnel in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    None,
    /// The relay has not let the client in yet.
    Connected(Transport),
    Welcome(Transport, Instant),
}

impl Tunnel {
    const fn transport(self) -> Option<Transport> {
        match self {
            Self::None => None,
            Self::Connected(transport) | Self::Welcome(transport, _) => Some(transport),
        }
    }
}

impl DialPolicy {
    /// A client that has no tunnel yet and dials at once.
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            tunnel: Tunnel::None,
            attempts: 0,
            is_upgrade: false,
            dial_at: Some(now),
            suspect_since: None,
            was_on_lane: false,
            reconnect: Backoff::new(RECONNECT_LEAST, RECONNECT_MOST),
            flapping: Backoff::new(RECONNECT_LEAST, FLAPPING_MOST),
            racing: Backoff::new(RACE_PACE, RACE_PACE),
            upgrade: Backoff::new(UPGRADE_LEAST, UPGRADE_MOST),
            damper: Damper::new(),
            actions: VecDeque::new(),
        }
    }

    /// An attempt has established a tunnel, which is the one in use from now on.
    pub(crate) fn handle_connected(&mut self, transport: Transport, is_same_relay: bool) {
        // Whichever comes later than the first is too late.
        self.give_up();
        self.dial_at = None;
        self.tunnel = Tunnel::Connected(transport);
        if !is_same_relay {
            self.damper.handle_other_relay();
        }
    }

    /// The relay has let the client in. Returns whether lanes carry everything from now on, if that has changed.
    pub(crate) fn handle_welcome(&mut self, now: Instant, random: u64) -> Option<bool> {
        self.reconnect.reset();
        self.suspect_since = None;
        let transport = self.tunnel.transport()?;
        self.tunnel = Tunnel::Welcome(transport, now);
        let is_lane = transport == Transport::Lane;
        self.damper.handle_up(now, is_lane);
        let was_lane = std::mem::replace(&mut self.was_on_lane, is_lane);
        self.plan_upgrade(now, random);
        (was_lane != is_lane).then_some(is_lane)
    }

    /// The relay answers, or does not any more.
    pub(crate) fn handle_liveness(&mut self, now: Instant, liveness: Liveness, random: u64) {
        self.suspect_since = (liveness == Liveness::Suspect).then_some(now);
        match liveness {
            Liveness::Alive => {
                self.plan_upgrade(now, random);
                if self.tunnel.transport() == Some(Transport::Quic) {
                    // QUIC has repaired itself already.
                    self.give_up();
                    self.actions.push_back(Action::LeaveLanes);
                } else if self.attempts > 0 {
                    // The whole tunnel was on lanes, and goes on elsewhere.
                    self.dial(now);
                }
            }
            Liveness::Suspect => {
                self.end_upgrade();
                self.handle_due(now, random);
            }
            // The executor closes the tunnel, which is lost then.
            Liveness::Dead => {}
        }
    }

    /// The tunnel in use is gone. Returns how long the next attempt waits; nothing where it is made at once.
    pub(crate) fn handle_lost(&mut self, now: Instant, random: u64) -> Option<Duration> {
        self.end_upgrade();
        match std::mem::replace(&mut self.tunnel, Tunnel::None) {
            Tunnel::None => None,
            Tunnel::Connected(_) => Some(self.reconnect(now, random)),
            Tunnel::Welcome(_, at) if now.saturating_duration_since(at) >= STOOD => {
                // Most losses are a relay that restarts or an address that changed.
                self.reconnect.reset();
                self.flapping.reset();
                self.dial_at = Some(now);
                None
            }
            Tunnel::Welcome(..) => {
                // Otherwise a relay that ends what it has just let in would keep both busy for ever.
                let pause = self.flapping.next(random);
                self.dial_at = Some(now + pause);
                Some(pause)
            }
        }
    }

    /// An attempt has failed. Returns how long the next one waits, where that is news.
    pub(crate) fn handle_failed(&mut self, now: Instant, random: u64) -> Option<Duration> {
        self.attempts = self.attempts.saturating_sub(1);
        if self.is_suspect(now) || self.attempts > 0 {
            // The next one is due anyhow, or runs.
            return None;
        }
        if matches!(self.tunnel, Tunnel::Welcome(..)) {
            self.plan_upgrade(now, random);
            return None;
        }
        Some(self.reconnect(now, random))
    }

    /// The relay shuts down: no better path to it is worth looking for.
    pub(crate) fn handle_drain(&mut self, now: Instant) {
        if !self.is_suspect(now) {
            self.dial_at = None;
        }
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant, random: u64) {
        if self.poll_timeout(now).is_some_and(|at| at <= now) {
            self.handle_due(now, random);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (self.dial_at).filter(|_| self.is_suspect(now) || self.attempts == 0)
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// An attempt is due. A suspect path is raced by one after another.
    fn handle_due(&mut self, now: Instant, random: u64) {
        self.dial_at = None;
        if self.is_suspect(now) {
            self.dial(now);
            self.dial_at = Some(now + self.racing.next(random));
        } else if self.attempts == 0 {
            self.dial(now);
        }
    }

    fn dial(&mut self, now: Instant) {
        let is_suspect = self.is_suspect(now);
        let strategy = if self.is_on_lane() && !is_suspect && self.attempts == 0 {
            Strategy::QuicOnly
        } else if self.was_on_lane {
            Strategy::Together
        } else if is_suspect {
            Strategy::Hurried
        } else {
            Strategy::QuicFirst
        };
        self.is_upgrade = strategy == Strategy::QuicOnly;
        self.attempts = (self.attempts + 1).min(ATTEMPTS_MAX);
        self.actions.push_back(Action::Dial(strategy));
    }

    fn reconnect(&mut self, now: Instant, random: u64) -> Duration {
        let pause = self.reconnect.next(random);
        self.dial_at = Some(now + pause);
        pause
    }

    /// UDP may come back: QUIC is tried again while lanes carry everything.
    fn plan_upgrade(&mut self, now: Instant, random: u64) {
        self.dial_at = None;
        if self.is_on_lane() {
            let next = now + self.upgrade.next(random);
            self.dial_at = self.damper.until().max(Some(next));
        } else {
            self.upgrade.reset();
        }
    }

    /// An attempt at QUIC alone, which may stay silent for long, must not keep a client waiting whose lanes have gone.
    fn end_upgrade(&mut self) {
        if self.is_upgrade {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.is_upgrade = false;
        if std::mem::take(&mut self.attempts) > 0 {
            self.actions.push_back(Action::GiveUp);
        }
    }

    const fn is_on_lane(&self) -> bool {
        matches!(self.tunnel, Tunnel::Welcome(Transport::Lane, _))
    }

    /// Whether a new path is looked for beside one that may be gone; a tunnel that is lost meanwhile changes nothing in that.
    fn is_suspect(&self, now: Instant) -> bool {
        (self.suspect_since)
            .is_some_and(|since| now.saturating_duration_since(since) < SUSPECT_MOST)
    }
}

/// Attempts that run side by side. Four: at two a second, each but the oldest has two seconds, of which a handshake over a
/// long path takes one.
pub(crate) const ATTEMPTS_MAX: usize = 4;
/// For how long a suspect path is raced: as long as its streams wait for another.
const SUSPECT_MOST: Duration = DEAD_AFTER;
/// How long a tunnel must have stood for the next one to be dialled at once.
const STOOD: Duration = Duration::from_secs(1);
/// Between two attempts beside a suspect path: half a second at most, so that a path that is back is found within it,
/// and a handshake later everybody is on it. Two first messages a second are no burden for a relay.
const RACE_PACE: Duration = Duration::from_millis(500);
/// First wait before the relay is tried again.
const RECONNECT_LEAST: Duration = Duration::from_millis(250);
/// Longest wait: a relay that comes back is found within this.
const RECONNECT_MOST: Duration = Duration::from_secs(15);
/// Longest wait after tunnels that stood for a moment only: one a second keeps nobody busy, and a relay that is restarted
/// again and again is found within it each time.
const FLAPPING_MOST: Duration = Duration::from_secs(1);
/// First wait before QUIC is tried again while lanes carry everything: after a black-out it is often back at once.
const UPGRADE_LEAST: Duration = Duration::from_secs(2);
/// Longest such wait: where UDP is blocked for good, two attempts a minute cost nothing.
const UPGRADE_MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
