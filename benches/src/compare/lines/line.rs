//! A line, as it is emulated and as verdicts see it.

use crate::{
    compare::data::{Family, LineFacts},
    link::{LinkConfig, Shape},
    load::CongestionControl,
};

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// On the command line.
    pub(super) name: &'static str,
    /// What it is like.
    pub(super) words: &'static str,
    pub(super) up: Shape,
    pub(super) down: Shape,
}

impl Line {
    pub(super) fn facts(&self, family: Family, control: CongestionControl) -> LineFacts {
        let link = self.link();
        let rate = |shape: &Shape| shape.bottleneck.map_or(0.0, |one| one.rate as f64 / 1e6);
        LineFacts {
            name: self.name.to_owned(),
            words: self.words.to_owned(),
            family,
            congestion_control: control.name().to_owned(),
            round_trip: link.round_trip().as_secs_f64() * 1e3,
            deviation: link.jitter_deviation().as_secs_f64() * 1e3,
            up: rate(&link.up),
            down: rate(&link.down),
        }
    }

    /// Chance begins anew before each transfer.
    pub(super) fn link(&self) -> LinkConfig {
        LinkConfig {
            up: self.up.clone(),
            down: self.down.clone(),
            seed: 0,
        }
    }
}
