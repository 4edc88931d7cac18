//! Whether the other side lives.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::proto::message::Message;

/// Whether the other side answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It answered the last heartbeat, or has time left to.
    Alive,
    /// A heartbeat is overdue, or the word that ours was heard: a new path may be raced beside this one.
    Suspect,
    /// That has lasted so long that the tunnel is given up.
    Dead,
}

/// Heartbeats of one tunnel: whether the other side is heard, and whether it hears us. A path may fail in one direction alone,
/// and what still comes in on it says nothing of what goes out.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    next_ping: Instant,
    number: u64,
    /// PINGs without an answer, and when they left.
    outstanding: VecDeque<(u64, Instant)>,
    last_heard: Instant,
    /// The other side's newest PING.
    heard: Option<u64>,
    /// When the first PING left of which no word has come.
    unanswered_since: Option<Instant>,
    last_answer: Instant,
    /// When the newest PING left that was answered.
    answered: Option<Instant>,
    /// The transport has noticed that what is sent does not arrive.
    is_unheard: bool,
    /// How long an answer may take.
    grace: Duration,
    liveness: Liveness,
    rtt: Option<Duration>,
}

impl Heartbeat {
    pub(crate) fn new(now: Instant, interval: Duration) -> Self {
        Self {
            interval,
            next_ping: now + interval,
            number: 0,
            outstanding: VecDeque::new(),
            last_heard: now,
            heard: None,
            unanswered_since: None,
            last_answer: now,
            answered: None,
            is_unheard: false,
            grace: SUSPECT_GRACE,
            liveness: Liveness::Alive,
            rtt: None,
        }
    }

    /// A message came from the other side. Returns whether that ends a suspicion.
    pub(crate) fn handle_message(&mut self, now: Instant, message: &Message) -> bool {
        self.last_heard = now;
        match message {
            Message::Ping { number, heard } => {
                self.heard = self.heard.max(Some(*number));
                if let Some(heard) = heard {
                    self.handle_answer(now, *heard);
                }
            }
            Message::Pong { number } => {
                if let Some(at) = self.handle_answer(now, *number) {
                    self.rtt = Some(now.saturating_duration_since(at));
                }
            }
            // Behind many of these a PONG may be late.
            Message::Bound { .. } | Message::Refused { .. } => self.answered(now),
            _ => {}
        }
        self.liveness == Liveness::Suspect && self.look(now) == Liveness::Alive && {
            self.liveness = Liveness::Alive;
            true
        }
    }

    /// The other side has heard this PING. Returns when it left, if that was news.
    fn handle_answer(&mut self, now: Instant, number: u64) -> Option<Instant> {
        let answered = (self.outstanding.iter()).position(|(sent, _)| *sent == number)?;
        let (_, at) = self.outstanding.drain(..=answered).next_back()?;
        self.unanswered_since = self.outstanding.front().map(|(_, at)| *at);
        self.answered = Some(at);
        self.answered(now);
        Some(at)
    }

    const fn answered(&mut self, now: Instant) {
        self.last_answer = now;
        self.is_unheard = false;
        self.grace = SUSPECT_GRACE;
    }

    /// What is sent does not arrive, as far as the transport can see. Returns whether that is news.
    pub(crate) const fn handle_unheard(&mut self, now: Instant) -> bool {
        self.is_unheard = true;
        self.next_ping = now;
        let is_news = matches!(self.liveness, Liveness::Alive);
        if is_news {
            self.liveness = Liveness::Suspect;
        }
        is_news
    }

    /// The next PING is due at once.
    pub(crate) const fn ask(&mut self, now: Instant) {
        self.next_ping = now;
    }

    /// The path has changed: the next PING is due at once, so that the other side learns of it, and its answer soon.
    pub(crate) const fn handle_path_changed(&mut self, now: Instant) {
        self.next_ping = now;
        self.grace = DOUBT_GRACE;
    }

    /// Returns a PING that is due and a liveness that changed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> (Option<Message>, Option<Liveness>) {
        let liveness = self.look(now);
        let changed = (liveness != self.liveness).then_some(liveness);
        self.liveness = liveness;
        // A path that comes back is found soon.
        let interval = if liveness == Liveness::Suspect {
            self.interval / SUSPECT_PACE
        } else {
            self.interval
        };
        self.next_ping = self.next_ping.min(now + interval);
        let ping = (now >= self.next_ping).then(|| {
            self.next_ping = now + interval;
            self.ping(now)
        });
        (ping, changed)
    }

    fn ping(&mut self, now: Instant) -> Message {
        self.number += 1;
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((self.number, now));
        self.unanswered_since.get_or_insert(now);
        Message::Ping {
            number: self.number,
            heard: self.heard,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let (silent, unheard) = match self.liveness {
            Liveness::Alive => (self.interval + SUSPECT_GRACE, self.grace),
            Liveness::Suspect | Liveness::Dead => (DEAD_AFTER, DEAD_AFTER),
        };
        let due = self.next_ping.min(self.last_heard + silent);
        match self.unheard_since() {
            Some(since) => due.min(since + unheard),
            None => due,
        }
    }

    /// When the newest PING left that was answered: the other side has lived since.
    pub(crate) const fn lived_at(&self) -> Option<Instant> {
        self.answered
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    fn look(&self, now: Instant) -> Liveness {
        let silent = now.saturating_duration_since(self.last_heard);
        let unheard = (self.unheard_since())
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if silent.max(unheard) >= DEAD_AFTER {
            Liveness::Dead
        } else if self.is_unheard
            || silent >= self.interval + SUSPECT_GRACE
            || unheard >= self.grace
        {
            Liveness::Suspect
        } else {
            Liveness::Alive
        }
    }

    /// Since when word is awaited that the other side hears us.
    fn unheard_since(&self) -> Option<Instant> {
        self.unanswered_since
            .map(|since| since.max(self.last_answer))
    }
}

/// Interval of heartbeats. 1 s: a relay that was restarted is found within it also by a client to which nobody speaks, a
/// dead path is suspected in 2.5 s, and an idle tunnel costs 200 B/s.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long after a missed heartbeat, or one that was not answered, a path is suspect: 1.5 s covers the round trip of any
/// usable path and one loss.
pub const SUSPECT_GRACE: Duration = Duration::from_millis(1500);
/// The same right after the path has changed: half a second, a long round trip.
pub(super) const DOUBT_GRACE: Duration = Duration::from_millis(500);
/// PINGs that may be answered yet: 128, all that a suspect path is sent until it is given up.
const OUTSTANDING: usize = 128;
/// How many times as often a suspect path is tried: four times a second.
const SUSPECT_PACE: u32 = 4;
/// Silence after which a tunnel and its streams end.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);
