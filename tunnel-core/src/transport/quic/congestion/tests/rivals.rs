//! Who else is on the line: the kernel's controllers, drawn with a broad brush.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::Level;

/// A congestion control in the simulation.
pub(super) trait Controls {
    fn handle_sent(&mut self, now: Instant, bytes: u64);
    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool);
    fn handle_acks_end(&mut self, now: Instant, in_flight: u64);
    fn handle_loss(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64);
    fn window_at(&self, now: Instant) -> u64;
    /// Bytes per second, where it is not the window's.
    fn pace(&self) -> Option<f64> {
        None
    }
}

impl Controls for Level {
    fn handle_sent(&mut self, now: Instant, bytes: u64) {
        Self::handle_sent(self, now, bytes);
    }

    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        Self::handle_ack(self, now, sent, bytes, app_limited);
    }

    fn handle_acks_end(&mut self, now: Instant, in_flight: u64) {
        Self::handle_acks_end(self, now, in_flight);
    }

    fn handle_loss(&mut self, now: Instant, sent: Instant, persistent: bool, bytes: u64) {
        Self::handle_loss(self, now, sent, persistent, bytes);
    }

    fn window_at(&self, now: Instant) -> u64 {
        Self::window_at(self, now)
    }
}

/// RFC 9438.
pub(super) struct Cubic {
    /// In packets.
    window: f64,
    threshold: f64,
    /// Before the last loss.
    most: f64,
    since: Option<Instant>,
    /// What Reno would have.
    reno: f64,
    rtt: Duration,
    /// Losses of packets sent before have been answered.
    answered: Option<Instant>,
}

impl Default for Cubic {
    fn default() -> Self {
        Self {
            window: 10.0,
            threshold: f64::MAX,
            most: 0.0,
            since: None,
            reno: 0.0,
            rtt: Duration::from_millis(1),
            answered: None,
        }
    }
}

impl Controls for Cubic {
    fn handle_sent(&mut self, _now: Instant, _bytes: u64) {}

    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.rtt = now - sent;
        if app_limited {
            return;
        }
        let packets = bytes as f64 / MTU;
        if self.window < self.threshold {
            self.window += packets;
            return;
        }
        let since = *self.since.get_or_insert(now);
        let time = (now - since + self.rtt).as_secs_f64();
        let start = (self.most * 0.3 / 0.4).cbrt();
        let wanted = 0.4 * (time - start).powi(3) + self.most;
        self.reno += packets * 3.0 * 0.3 / 1.7 / self.window;
        let wanted = wanted.max(self.reno);
        if wanted > self.window {
            self.window += packets * ((wanted - self.window) / self.window).min(0.5);
        }
    }

    fn handle_acks_end(&mut self, _now: Instant, _in_flight: u64) {}

    fn handle_loss(&mut self, now: Instant, sent: Instant, _persistent: bool, _bytes: u64) {
        if self.answered.is_some_and(|answered| sent < answered) {
            return;
        }
        self.answered = Some(now);
        // Fast convergence: who has less than before makes room.
        self.most = if self.window < self.most {
            self.window * 0.85
        } else {
            self.window
        };
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
        self.reno = self.window;
        self.since = None;
    }

    fn window_at(&self, _now: Instant) -> u64 {
        (self.window * MTU) as u64
    }
}

/// Version 1, as in Linux.
#[derive(Default)]
pub(super) struct Bbr {
    /// Bytes per second of the last ten rounds.
    rates: VecDeque<f64>,
    least: Option<(Duration, Instant)>,
    /// While it looks for the least: the round trips that it has seen.
    probing: Option<(Instant, Duration)>,
    round: Option<(Instant, u64)>,
    acked: u64,
    rounds: u64,
    full: Option<(f64, u8)>,
    started: bool,
    newest: Option<Instant>,
}

impl Bbr {
    fn rate(&self) -> f64 {
        let most = self.rates.iter().copied().fold(0.0, f64::max);
        if most == 0.0 { 10.0 * MTU / 0.1 } else { most }
    }

    fn product(&self) -> f64 {
        let least = self
            .least
            .map_or(Duration::from_millis(100), |(least, _)| least);
        self.rate() * least.as_secs_f64()
    }
}

impl Controls for Bbr {
    fn handle_sent(&mut self, _now: Instant, _bytes: u64) {}

    fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        let rtt = now - sent;
        self.acked += bytes;
        self.newest = self.newest.max(Some(sent));
        if let Some((until, seen)) = &mut self.probing {
            *seen = rtt.min(*seen);
            if now >= *until {
                self.least = Some((*seen, now));
                self.probing = None;
            }
        } else {
            match self.least {
                Some((least, _)) if rtt > least => {}
                _ => self.least = Some((rtt, now)),
            }
            if self
                .least
                .is_some_and(|(_, at)| now - at > Duration::from_secs(10))
            {
                self.probing = Some((now + Duration::from_millis(200).max(rtt), Duration::MAX));
            }
        }
        let (start, before) = *self.round.get_or_insert((now, 0));
        if sent >= start && now > start {
            let rate = (self.acked - before) as f64 / (now - start).as_secs_f64();
            self.round = Some((now, self.acked));
            self.rounds += 1;
            if !app_limited || rate > self.rate() {
                self.rates.push_back(rate);
                if self.rates.len() > 10 {
                    self.rates.pop_front();
                }
            }
            if !self.started {
                let (best, times) = self.full.unwrap_or((0.0, 0));
                self.full = Some(if rate > best * 1.25 {
                    (rate, 0)
                } else {
                    (best, times + 1)
                });
                self.started = times >= 3;
            }
        }
    }

    fn handle_acks_end(&mut self, _now: Instant, _in_flight: u64) {}

    fn handle_loss(&mut self, _now: Instant, _sent: Instant, _persistent: bool, _bytes: u64) {}

    fn window_at(&self, _now: Instant) -> u64 {
        if self.probing.is_some() {
            return (4.0 * MTU) as u64;
        }
        let gain = if self.started { 2.0 } else { 2.885 };
        (gain * self.product()).max(4.0 * MTU) as u64
    }

    fn pace(&self) -> Option<f64> {
        let gain = match (self.started, self.rounds % 8) {
            (false, _) => 2.885,
            (true, 0) => 1.25,
            (true, 1) => 0.75,
            (true, _) => 1.0,
        };
        Some(gain * self.rate())
    }
}

const MTU: f64 = 1452.0;
