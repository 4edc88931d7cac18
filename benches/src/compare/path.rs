//! Scenarios on an emulated path: where the link is checked first, and shown as not counting where it fails.

mod table;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Arguments, Stage,
    column::Column,
    data::{Figures, Metric, Section},
    scenario::Scenario,
    table::{note, warn},
};
use crate::{
    link::{self, Direction, Lab, LinkConfig},
    place::Place,
};

/// A link, and what is measured on it.
#[derive(Debug, Clone)]
pub struct Path {
    /// Its section in the report.
    pub title: String,
    /// What it does to packets.
    pub link: LinkConfig,
    /// What the kernel gives TCP connections that ask for none: `bbr` or `cubic`.
    pub congestion_control: &'static str,
    /// In this order.
    pub scenarios: Vec<Scenario>,
}

impl Path {
    /// All of them. What is about time (black-outs) knows how long an ordinary measurement takes.
    pub fn all(seconds: f64) -> Vec<Self> {
        table::all(seconds)
    }
}

/// Measures one path. A machine that can have none says so, and that is no error.
pub(super) fn measure(
    arguments: &Arguments,
    columns: &[Column],
    path: &Path,
) -> Result<Option<Section>> {
    if let Some(reason) = link::unavailable() {
        warn(&format!("{}: {reason}", path.title));
        return Ok(None);
    }
    match measure_one(arguments, columns, path) {
        Ok(section) => Ok(Some(section)),
        Err(error) if arguments.quick => Err(error),
        Err(error) => {
            warn(&format!("{}: {error:#}", path.title));
            Ok(None)
        }
    }
}

fn measure_one(arguments: &Arguments, columns: &[Column], path: &Path) -> Result<Section> {
    let mut stage = PathStage::start(path, arguments.seconds)?;
    let check = stage.lab.check().context("the check of the link")?;
    note(&format!("{}: {check}", path.title));
    let mut section = arguments.measure(&path.title, &mut stage, columns, &path.scenarios)?;
    section.counts = check.faults().is_empty();
    section.notes.push(format!("The direct path: {check}."));
    section.notes.push(format!(
        "The kernel's default congestion control: {}.",
        path.congestion_control
    ));
    let late = stage.late_share() * 100.0;
    section.notes.push(format!(
        "{late:.2} % of the packets were delivered more than a millisecond late."
    ));
    Ok(section)
}

/// A link on which scenarios run.
struct PathStage {
    lab: Arc<Lab>,
    seconds: f64,
    /// Bytes that had come into the link before the scenario.
    before: u64,
    dark: Option<JoinHandle<()>>,
}

impl PathStage {
    fn start(path: &Path, seconds: f64) -> Result<Self> {
        let lab = Lab::start(&path.link)?;
        lab.set_congestion_control(path.congestion_control)?;
        Ok(Self {
            lab: Arc::new(lab),
            seconds,
            before: 0,
            dark: None,
        })
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
        loop {
            let before = self.total(|counts| counts.taken);
            thread::sleep(SETTLE_STEP);
            let more = self.total(|counts| counts.taken) - before;
            if more <= SETTLED || Instant::now() > until {
                return;
            }
        }
    }

    fn late_share(&self) -> f64 {
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
    fn place(&self) -> &dyn Place {
        &*self.lab
    }

    fn before(&mut self, scenario: &Scenario) -> Result<()> {
        // That of a measurement that has failed.
        self.end_black_out();
        self.settle();
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
        Ok(())
    }

    fn after(&mut self, scenario: &Scenario, figures: &mut Figures) -> Result<()> {
        self.end_black_out();
        let bytes = self.total(|counts| counts.taken_bytes) - self.before;
        let seconds = self.seconds * scenario.longer;
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
