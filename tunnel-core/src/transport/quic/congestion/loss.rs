//! Tells congestion from the path's own loss.

use std::time::{Duration, Instant};

/// Tells congestion from the path's own loss.
#[derive(Debug, Clone, Default)]
pub(super) struct Loss {
    acked: u64,
    lost: u64,
    /// Losses of packets sent before this belong to a window that has already been corrected.
    since: Option<Instant>,
    /// Judgements above the limit in a row.
    strikes: u8,
    /// The loss for which the window shrank, until it is known whether that helped.
    trial: Option<f64>,
    /// A loss that shrinking did not lower, and until when it is borne.
    borne: Option<(f64, Instant)>,
    /// The window that fits a path that drops instead of queueing, and until when it is believed.
    cap: Option<(u64, Instant)>,
}

/// What a sample of losses means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Nothing for the window.
    Bearable,
    /// Shrinking did not lower it, so it is the path's own.
    Borne,
    /// This share is lost because more is sent than fits.
    TooFull(f64),
}

impl Loss {
    pub(super) fn handle_ack(&mut self, bytes: u64) {
        self.acked += bytes;
    }

    /// `bytes` are lost; the newest of them was sent at `sent`.
    pub(super) fn handle_loss(&mut self, sent: Instant, bytes: u64) {
        if self.since.is_none_or(|since| sent >= since) {
            self.lost += bytes;
        }
    }

    /// The window has shrunk to `fits` for a loss of `rate`.
    pub(super) fn handle_shrunk(&mut self, now: Instant, fits: u64, rate: f64) {
        self.trial = Some(rate);
        self.cap = Some((fits, now + CAP_HOLD));
    }

    /// Judges what was lost since the last time, once enough packets of `mtu` were sent.
    pub(super) fn judge(&mut self, now: Instant, mtu: u64) -> Option<Verdict> {
        let sent = self.acked + self.lost;
        if sent < LOSS_SAMPLE * mtu {
            return None;
        }
        let rate = self.lost as f64 / sent as f64;
        self.restart();
        if self
            .trial
            .take()
            .is_some_and(|before| rate > before * UNMOVED)
        {
            self.borne = Some((rate, now + BORNE_HOLD));
            self.cap = None;
            self.strikes = 0;
            return Some(Verdict::Borne);
        }
        let borne = self.borne.filter(|&(_, until)| now < until);
        let limit = borne.map_or(LOSS_LIMIT, |(rate, _)| LOSS_LIMIT.max(rate * BORNE_MARGIN));
        if rate <= limit {
            self.strikes = 0;
            return Some(Verdict::Bearable);
        }
        self.strikes += 1;
        if self.strikes < LOSS_STRIKES {
            return Some(Verdict::Bearable);
        }
        self.strikes = 0;
        Some(Verdict::TooFull(rate))
    }

    /// Whether the last judgement was above the limit: no time to grow.
    pub(super) fn suspicious(&self) -> bool {
        self.strikes > 0
    }

    /// The window that is known to fit.
    pub(super) fn cap(&mut self, now: Instant) -> Option<u64> {
        self.cap = self.cap.filter(|&(_, until)| now < until);
        self.cap.map(|(window, _)| window)
    }

    /// Forgets what has been counted, not what has been learnt.
    pub(super) fn restart(&mut self) {
        self.acked = 0;
        self.lost = 0;
    }

    /// The same, and ignores what was sent before `since`.
    pub(super) fn restart_at(&mut self, since: Instant) {
        self.restart();
        self.since = Some(since);
    }
}

/// Loss above which a path is thought too full. A radio link at its worst loses 5 %, in bursts; a
/// policer passed by a fifth loses 17 %.
const LOSS_LIMIT: f64 = 0.15;

/// Full packets' worth of bytes before losses are judged: at 5 % random loss, 15 % of 100 happens
/// once in 10,000 judgements.
const LOSS_SAMPLE: u64 = 100;

/// Judgements above the limit in a row that shrink the window: a burst fills one, not two.
const LOSS_STRIKES: u8 = 2;

/// Share of a loss above which it counts as not lowered: a window cut to what arrived would leave
/// next to nothing of a loss of our own.
const UNMOVED: f64 = 0.6;

/// A borne loss may rise by half before it is put to the test again.
const BORNE_MARGIN: f64 = 1.5;

/// How long the window stays at what a policer lets through. The next climb costs half a second of
/// up to 15 % loss, which over this time is about 1 %.
const CAP_HOLD: Duration = Duration::from_secs(4);

/// How long a loss that shrinking did not lower is borne before it is put to the test again: the
/// test costs about a second of reduced rate.
const BORNE_HOLD: Duration = Duration::from_secs(30);
