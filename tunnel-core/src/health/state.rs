//! What is known of a service's health.

use std::{fmt, time::Instant};

/// The verdict on a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// None yet: it has just been started, or is within its start period.
    Starting,
    /// It answers.
    Healthy,
    /// It does not, or not as it should.
    Unhealthy,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// What a target has said of itself, as far as it is asked by a protocol that has that. Texts are empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name of the server.
    pub name: String,
    /// Players who are there.
    pub players: Option<u32>,
    /// Players who may be.
    pub max: Option<u32>,
    /// Version of the game.
    pub version: String,
    /// Map, level or world.
    pub map: String,
}

impl Report {
    /// The same with texts that can be shown in one line, of at most [`REPORT_TEXT_MAX`] bytes each.
    #[must_use]
    pub fn bounded(self) -> Self {
        let plain = |text: String| plain(&text, REPORT_TEXT_MAX);
        Self {
            name: plain(self.name),
            version: plain(self.version),
            map: plain(self.map),
            ..self
        }
    }
}

/// The health of a service at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// Since when it is that.
    pub since: Instant,
    /// New players are refused meanwhile.
    pub refuses: bool,
    /// Why it is unhealthy, or the last check has failed; empty otherwise.
    pub reason: String,
    /// What the target has said last.
    pub report: Report,
}

impl Health {
    /// A verdict that stands since then.
    pub fn new(state: HealthState, since: Instant) -> Self {
        Self {
            state,
            since,
            refuses: false,
            reason: String::new(),
            report: Report::default(),
        }
    }
}

/// A text in one line of at most `max` bytes.
pub(crate) fn plain(text: &str, max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if kept.len() + c.len_utf8() > max {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Longest text of a [`Report`], in bytes. 256: a line of a server list shows a quarter of it.
pub const REPORT_TEXT_MAX: usize = 256;
/// Longest reason, in bytes.
pub const REASON_MAX: usize = 256;
