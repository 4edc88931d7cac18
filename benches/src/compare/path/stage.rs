//! A link as the stage of scenarios.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::emulated::EmulatedPath;
use crate::{
    compare::{
        arguments::Pace,
        data::Metric,
        rounds::Stage,
        scenario::{Outcome, Scenario},
    },
    link::{self, Direction, Lab},
    load::now,
    topology::Topology,
};

/// A link on which scenarios run.
pub(super) struct PathStage {
    pub(super) lab: Arc<Lab>,
    pace: Pace,
    /// Of the measurement at hand.
    start: Start,
    /// Bytes that had come into the link before the scenario.
    before: u64,
    dark: Option<JoinHandle<()>>,
}

/// Where a measurement's chance and clock begin.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    seed: u64,
    /// What the link's clock showed at the moment.
    clock: Duration,
    /// On the clock that all processes share.
    moment: Duration,
}

impl PathStage {
    pub(super) fn start(path: &EmulatedPath, pace: Pace) -> Result<Self> {
        let lab = Lab::start(&path.link)?;
        lab.set_congestion_control(path.congestion_control)?;
        Ok(Self {
            lab: Arc::new(lab),
            pace,
            start: Start::default(),
            before: 0,
            dark: None,
        })
    }

    fn restart(&mut self) {
        self.lab.restart(self.start.seed, self.start.clock);
        self.start.moment = now();
    }

    fn total(&self, count: impl Fn(link::Counts) -> u64) -> u64 {
        let directions = [Direction::Up, Direction::Down];
        directions
            .map(|way| count(self.lab.counts(way)))
            .iter()
            .sum()
    }

    /// Until what the last one left behind has drained: full queues are not this one's.
    fn settle(&self) {
        let until = Instant::now() + SETTLE_AT_MOST;
        // What is under way shows within a round trip.
        let step = SETTLE_STEP.max(self.lab.config().round_trip());
        loop {
            let before = self.total(|counts| counts.taken);
            thread::sleep(step);
            let more = self.total(|counts| counts.taken) - before;
            if more <= SETTLED || Instant::now() > until {
                return;
            }
        }
    }

    pub(super) fn late_share(&self) -> f64 {
        let delivered = self.total(|counts| counts.delivered).max(1);
        self.total(|counts| counts.late) as f64 / delivered as f64
    }

    fn end_black_out(&mut self) {
        if let Some(dark) = self.dark.take() {
            // It does nothing that could fail.
            drop(dark.join());
        }
    }
}

impl Stage for PathStage {
    fn topology(&self) -> &dyn Topology {
        &*self.lab
    }

    fn prepare(&mut self, seed: u64) {
        // That of a measurement that has failed.
        self.end_black_out();
        self.settle();
        let clock = self.lab.config().offset(seed);
        self.start = Start {
            seed,
            clock,
            ..Start::default()
        };
        self.restart();
    }

    fn begin(&mut self, scenario: &Scenario) {
        self.settle();
        self.restart();
        self.before = self.total(|counts| counts.taken_bytes);
        if let Some(dark) = scenario.dark {
            let lab = self.lab.clone();
            self.dark = Some(thread::spawn(move || {
                thread::sleep(DARK_AFTER);
                lab.set_dark(true);
                thread::sleep(dark);
                lab.set_dark(false);
            }));
        }
    }

    fn after(&mut self, scenario: &Scenario, outcome: &mut Outcome) -> Result<()> {
        self.end_black_out();
        let Outcome {
            figures, started, ..
        } = outcome;
        let Start {
            seed,
            clock,
            moment,
        } = self.start;
        let later = started.map_or(Duration::ZERO, |started| started.saturating_sub(moment));
        let offset = (clock + later).as_secs_f64();
        let measured = !figures.is_empty();
        figures.insert(Metric::Seed, seed as f64);
        figures.insert(Metric::Offset, offset * 1e3);
        if !measured {
            return Ok(());
        }
        let bytes = self.total(|counts| counts.taken_bytes) - self.before;
        let seconds = self.pace.seconds * scenario.longer;
        figures.insert(Metric::WirePerSecond, bytes as f64 / 1e3 / seconds);
        if let Some(dark) = scenario.dark {
            // UDP: how long nothing came. TCP: the trip that was under way, or the first to wait.
            let metric = if scenario.is_tcp() {
                Metric::Longest
            } else {
                Metric::Silence
            };
            let longest = figures.get(&metric).context("nothing came back")?;
            let recovery = longest / 1e3 - dark.as_secs_f64();
            figures.insert(Metric::Recovery, recovery.max(0.0));
        }
        Ok(())
    }
}

impl Drop for PathStage {
    fn drop(&mut self) {
        self.end_black_out();
    }
}

/// When it becomes dark: players have begun by then, at the latest.
const DARK_AFTER: Duration = Duration::from_secs(3);
const SETTLE_STEP: Duration = Duration::from_millis(100);
/// Packets in a step that idle tunnels may send: a dozen of them keep their paths open.
const SETTLED: u64 = 30;
const SETTLE_AT_MOST: Duration = Duration::from_secs(5);
