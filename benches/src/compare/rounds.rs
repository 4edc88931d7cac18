//! Rounds: each starts everything anew and measures one thing after another on all columns in turn.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    arguments::Pace,
    column::Column,
    console,
    data::{Cell, Figures, Measured, Metric, Report, Section},
    report::ReportFile,
    running::Running,
    scenario::{Outcome, Scenario},
};
use crate::{
    process::Process,
    topology::{Loopback, Side, Topology},
    worker::Worker,
};

/// A topology that scenarios may change.
pub(super) trait Stage {
    /// Where processes run.
    fn topology(&self) -> &dyn Topology;

    /// Ahead of each measurement, before the processes that are its own.
    fn prepare(&mut self, _seed: u64) {}

    /// Makes it what a scenario wants, at the very moment.
    fn begin(&mut self, _: &Scenario) {}

    /// Adds what it has seen itself of a measurement, whether that has failed or not.
    fn after(&mut self, _: &Scenario, _: &mut Outcome) -> Result<()> {
        Ok(())
    }
}

impl Stage for Loopback {
    fn topology(&self) -> &dyn Topology {
        self
    }
}

/// What is measured on one stage.
pub(super) struct Work<'a> {
    pub(super) columns: &'a [Column],
    pub(super) scenarios: &'a [Scenario],
    pub(super) pace: Pace,
    /// Whether any failure but a peer's ends the run, as where it is about whether the test bed works.
    pub(super) strict: bool,
}

impl Work<'_> {
    /// The section with room for everything; what an earlier run has measured stays.
    pub(super) fn open(&self, report: &mut Report, empty: Section) -> Result<usize> {
        let pace = self.pace;
        let place = match report.place(&empty.name) {
            Some(place) => place,
            None => {
                report.sections.push(Section {
                    counts: true,
                    seconds: pace.seconds,
                    seed: pace.seed,
                    ..empty
                });
                report.sections.len() - 1
            }
        };
        let section = &mut report.sections[place];
        ensure!(
            section.seconds == pace.seconds && section.seed == pace.seed,
            "{} was measured with --seconds {} --seed {}: go on with the same, or choose another --out",
            section.name,
            section.seconds,
            section.seed
        );
        for scenario in self.scenarios {
            let found = section
                .scenarios
                .iter()
                .position(|one| one.name == scenario.name);
            let measured = match found {
                Some(found) => &mut section.scenarios[found],
                None => {
                    section.scenarios.push(empty_of(scenario));
                    let last = section.scenarios.len() - 1;
                    &mut section.scenarios[last]
                }
            };
            for column in self.columns.iter().filter(|column| scenario.is_for(column)) {
                if measured.cell(column.name).is_none() {
                    measured.cells.push(Cell {
                        column: column.name.to_owned(),
                        ..Cell::default()
                    });
                }
            }
        }
        Ok(place)
    }

    /// Whether an earlier run has measured all of it.
    pub(super) fn is_done(&self, section: &Section) -> bool {
        (0..self.pace.rounds).all(|round| self.is_round_done(section, round))
    }

    /// Measures what the section at `place` of the report has not yet, and writes after each round.
    pub(super) fn measure(
        &self,
        stage: &mut dyn Stage,
        file: &mut ReportFile,
        place: usize,
    ) -> Result<()> {
        let mut kept = None;
        for round in 0..self.pace.rounds {
            let section = &mut file.report.sections[place];
            if self.is_round_done(section, round) {
                continue;
            }
            let mut party = match kept.take() {
                Some(party) => party,
                None => Party::start(stage.topology(), self.columns.len())?,
            };
            self.round(round, stage, &mut party, section)?;
            if self.pace.keep {
                kept = Some(party);
            }
            file.write()?;
        }
        Ok(())
    }

    fn round(
        &self,
        round: usize,
        stage: &mut dyn Stage,
        party: &mut Party,
        section: &mut Section,
    ) -> Result<()> {
        let columns = self.columns;
        let seed = self.pace.seed + round as u64;
        for scenario in self.scenarios {
            console::progress(round, self.pace.rounds, &section.name, &scenario.title);
            // Whoever comes first finds another machine than whoever comes last: each is first in its turn.
            for turn in 0..columns.len() {
                let turn = (turn + round) % columns.len();
                let column = &columns[turn];
                let measured = section
                    .scenarios
                    .iter_mut()
                    .find(|one| one.name == scenario.name);
                let Some(cell) = measured.and_then(|one| one.cell_mut(column.name)) else {
                    continue;
                };
                if cell.rounds.len() > round {
                    continue;
                }
                let measurement = Measurement {
                    scenario,
                    column,
                    seconds: self.pace.seconds,
                };
                stage.prepare(seed);
                let result = party.measure(&measurement, turn, stage);
                let (mut outcome, mut error) = match result {
                    Ok(outcome) => (outcome, None),
                    Err(error) => (Outcome::default(), Some(error)),
                };
                if let Err(other) = stage.after(scenario, &mut outcome) {
                    error.get_or_insert(other);
                }
                record(cell, outcome);
                if let Some(error) = error {
                    let error = error.context(scenario.name.clone());
                    cell.errors.push(format!("{error:#}"));
                    self.forgive(column, &error)?;
                }
            }
        }
        Ok(())
    }

    /// Says what has failed; an error where that ends the run.
    fn forgive(&self, column: &Column, error: &anyhow::Error) -> Result<()> {
        if self.strict && !column.is_peer() {
            bail!("{}: {error:#}", column.name);
        }
        console::warn(&format!("{}: {error:#}", column.name));
        Ok(())
    }

    fn is_round_done(&self, section: &Section, round: usize) -> bool {
        self.scenarios.iter().all(|scenario| {
            let measured = section
                .scenarios
                .iter()
                .find(|one| one.name == scenario.name);
            self.columns
                .iter()
                .filter_map(|column| measured?.cell(column.name))
                .all(|cell| cell.rounds.len() > round)
        })
    }
}

/// Everything that runs while a round is measured.
struct Party {
    server: Process,
    target: SocketAddr,
    /// Of each column.
    running: Vec<Slot>,
}

/// A column's processes.
enum Slot {
    /// Nothing has asked for them yet.
    Free,
    Works(Vec<Running>),
    /// It will not work the next time either.
    Failed,
}

/// One scenario on one column.
struct Measurement<'a> {
    scenario: &'a Scenario,
    column: &'a Column,
    seconds: f64,
}

impl Party {
    fn start(topology: &dyn Topology, columns: usize) -> Result<Self> {
        let bind = topology.address(Side::Home);
        let mut server = Process::worker(topology, Side::Home, &Worker::Target { bind })?;
        let target = server.says(TARGET_PATIENCE).context("the game server")?;
        Ok(Self {
            server,
            target,
            running: (0..columns).map(|_| Slot::Free).collect(),
        })
    }

    fn measure(
        &mut self,
        measurement: &Measurement<'_>,
        turn: usize,
        stage: &mut dyn Stage,
    ) -> Result<Outcome> {
        let Measurement {
            scenario, column, ..
        } = measurement;
        if scenario.fresh && !column.is_single() {
            let mut own = Vec::new();
            self.start_as_many(measurement, stage, &mut own)?;
            return self.one(measurement, stage, &mut own);
        }
        let slot = std::mem::replace(&mut self.running[turn], Slot::Failed);
        let mut running = match slot {
            Slot::Free => Vec::new(),
            Slot::Works(running) => running,
            Slot::Failed => bail!("it did not start"),
        };
        self.start_as_many(measurement, stage, &mut running)?;
        let outcome = self.one(measurement, stage, &mut running);
        self.running[turn] = Slot::Works(running);
        outcome
    }

    /// As the scenario wants.
    fn start_as_many(
        &self,
        Measurement {
            scenario, column, ..
        }: &Measurement<'_>,
        stage: &dyn Stage,
        running: &mut Vec<Running>,
    ) -> Result<()> {
        while running.len() < scenario.tunnels {
            running.push(column.start(stage.topology(), self.target)?);
        }
        Ok(())
    }

    fn one(
        &mut self,
        measurement: &Measurement<'_>,
        stage: &mut dyn Stage,
        running: &mut [Running],
    ) -> Result<Outcome> {
        let scenario = measurement.scenario;
        stage.begin(scenario);
        let outcome = scenario.run(stage.topology(), running, self.target, measurement.seconds);
        // If one has died, that says more than what the players saw.
        for one in running {
            one.check()?;
        }
        if let Some(status) = self.server.ended()? {
            bail!("the game server has ended: {status}");
        }
        outcome
    }
}

fn record(cell: &mut Cell, outcome: Outcome) {
    let rate = |figures: &Figures| figures.get(&Metric::GbitPerSecond).copied();
    let own = rate(&outcome.figures);
    let slowest = cell.rounds.iter().filter_map(rate).reduce(f64::min);
    let is_slowest = match (outcome.figures.get(&Metric::Standstill), own, slowest) {
        (Some(_), Some(own), Some(slowest)) => own < slowest,
        _ => true,
    };
    if is_slowest && !outcome.series.is_empty() {
        cell.series = outcome.series;
    }
    cell.rounds.push(outcome.figures);
    cell.latencies.extend(outcome.latencies);
}

fn empty_of(scenario: &Scenario) -> Measured {
    Measured {
        name: scenario.name.clone(),
        title: scenario.title.clone(),
        part: scenario.part.clone(),
        shown: scenario.shown(),
        offered: scenario.offered(),
        cells: Vec::new(),
    }
}

const TARGET_PATIENCE: Duration = Duration::from_secs(10);
