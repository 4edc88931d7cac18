//! The control conversation of a tunnel: who is welcome, which instances are bound, and whether the other side lives.
//!
//! Both sides are driven alike: `handle_*` takes what happened, `poll_message` and `poll_event` yield what to send and
//! what to do, `poll_timeout` says when `handle_timeout` is due.

pub mod client;
pub mod relay;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::proto::message::Message;

/// What a peer did wrong in the control conversation; it ends the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionMisbehaved {
    /// A message that only the other side may send.
    #[error("the peer sent {0}, which is not its to send")]
    WrongDirection(&'static str),
    /// Two services of one declaration share an id, or an id was used before.
    #[error("the peer used a service id twice")]
    ServiceIdTwice,
    /// WELCOME came twice.
    #[error("the relay sent WELCOME twice")]
    WelcomeTwice,
}

/// Whether the other side answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It answered the last heartbeat, or has time left to.
    Alive,
    /// A heartbeat is overdue: a new path may be raced beside this one.
    Suspect,
    /// Nothing came for so long that the tunnel is given up.
    Dead,
}

/// Heartbeats of one tunnel.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    next_ping: Instant,
    number: u64,
    /// PINGs without an answer, and when they left: the newest few.
    outstanding: VecDeque<(u64, Instant)>,
    last_heard: Instant,
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
            liveness: Liveness::Alive,
            rtt: None,
        }
    }

    /// Anything came from the other side. Returns whether that ends a suspicion.
    pub(crate) fn handle_heard(&mut self, now: Instant) -> bool {
        self.last_heard = now;
        std::mem::replace(&mut self.liveness, Liveness::Alive) == Liveness::Suspect
    }

    pub(crate) fn handle_pong(&mut self, now: Instant, number: u64) {
        let answered = (self.outstanding.iter()).position(|(sent, _)| *sent == number);
        let answered = answered.and_then(|place| self.outstanding.drain(..=place).next_back());
        if let Some((_, at)) = answered {
            self.rtt = Some(now.saturating_duration_since(at));
        }
    }

    /// The path has changed: the next PING is due at once, so that the other side learns of it.
    pub(crate) const fn handle_path_changed(&mut self, now: Instant) {
        self.next_ping = now;
    }

    /// Returns a PING that is due and a liveness that changed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> (Option<Message>, Option<Liveness>) {
        let silent = now.saturating_duration_since(self.last_heard);
        let liveness = if silent >= DEAD_AFTER {
            Liveness::Dead
        } else if silent >= self.interval + SUSPECT_GRACE {
            Liveness::Suspect
        } else {
            Liveness::Alive
        };
        let changed = (liveness != self.liveness).then_some(liveness);
        self.liveness = liveness;
        // A path that comes back is found soon.
        let interval = if liveness == Liveness::Suspect {
            self.interval / SUSPECT_PACE
        } else {
            self.interval
        };
        self.next_ping = self.next_ping.min(now + interval);
        let mut ping = None;
        if now >= self.next_ping {
            self.number += 1;
            self.next_ping = now + interval;
            if self.outstanding.len() == OUTSTANDING {
                self.outstanding.pop_front();
            }
            self.outstanding.push_back((self.number, now));
            ping = Some(Message::Ping {
                number: self.number,
            });
        }
        (ping, changed)
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let liveness = match self.liveness {
            Liveness::Alive => self.last_heard + self.interval + SUSPECT_GRACE,
            Liveness::Suspect | Liveness::Dead => self.last_heard + DEAD_AFTER,
        };
        self.next_ping.min(liveness)
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }
}

/// Interval of heartbeats. 1 s: a relay that was restarted is found within it also by a client to which nobody speaks, a
/// dead path is suspected in 2.5 s, and an idle tunnel costs 200 B/s.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long after a missed heartbeat a path is suspect: 1.5 s covers the round trip of any usable path and one loss.
pub const SUSPECT_GRACE: Duration = Duration::from_millis(1500);
/// PINGs that may be answered yet: eight, two seconds of them on a suspect path.
const OUTSTANDING: usize = 8;
/// How many times as often a suspect path is tried: four times a second.
const SUSPECT_PACE: u32 = 4;
/// Silence after which a tunnel and its streams end.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
