//! Adit beside the direct path and beside other tunnels, in one run.
//!
//! Every round starts all of them as processes of their own and measures one thing after another, each on all of them
//! in turn, so that a busy moment of the machine falls on all alike.

mod chart;
pub mod column;
pub mod data;
pub mod html;
pub mod path;
mod peers;
mod ports;
pub mod scenario;
pub mod table;
pub mod targets;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::{
    column::{Column, Running},
    data::{Cell, Figures, Machine, Measured, Report, Section},
    path::Path,
    scenario::{Outcome, Scenario},
};
use crate::{
    place::{Loopback, Place, Side},
    process::Process,
    role::Role,
};

/// What to compare.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Less of everything, once: whether it works, not how fast. Without peers, unless --columns names them.
    #[arg(long)]
    pub quick: bool,
    /// Rounds; tables show their medians.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each measurement; games take twice as long.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only scenarios whose name contains one of these; those that fill in take --all or their whole name.
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub only: Vec<String>,
    /// Only these columns.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub columns: Vec<String>,
    /// Scenarios that fill in between the others, too.
    #[arg(long)]
    pub all: bool,
    /// Without the scenarios on emulated paths, which take root.
    #[arg(long)]
    pub loopback: bool,
    /// Where report.json and report.html go.
    #[arg(long, default_value = "target/compare", value_name = "DIR")]
    pub out: PathBuf,
    /// Prints the tables in Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Names scenarios and columns, and measures nothing.
    #[arg(long)]
    pub list: bool,
}

/// What to make of an earlier run.
#[derive(Debug, Clone, Args)]
pub struct Redraw {
    /// The report.json of that run.
    pub report: PathBuf,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Prints the tables in Markdown.
    #[arg(long)]
    pub markdown: bool,
}

/// Prints the tables of an earlier run again.
pub fn redraw(arguments: &Redraw) -> Result<()> {
    let json = fs::read_to_string(&arguments.report)
        .with_context(|| format!("cannot read {}", arguments.report.display()))?;
    let report: Report = serde_json::from_str(&json)?;
    if let Some(page) = &arguments.html {
        fs::write(page, html::page(&report))?;
    }
    table::print(&report, arguments.markdown);
    Ok(())
}

/// A place that scenarios may change.
pub trait Stage {
    /// Where processes run.
    fn place(&self) -> &dyn Place;

    /// Makes it what a scenario wants, before each measurement.
    fn before(&mut self, _: &Scenario) -> Result<()> {
        Ok(())
    }

    /// Adds what it has seen itself of a measurement.
    fn after(&mut self, _: &Scenario, _: &mut Figures) -> Result<()> {
        Ok(())
    }
}

impl Stage for Loopback {
    fn place(&self) -> &dyn Place {
        self
    }
}

/// Compares, prints and writes.
pub fn run(mut arguments: Arguments) -> Result<()> {
    raise_limits();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, QUICK_SECONDS);
    }
    ensure!(arguments.rounds > 0, "--rounds: at least one");
    ensure!(
        (0.05..=3600.0).contains(&arguments.seconds),
        "--seconds: 0.05 to 3600"
    );
    let columns = arguments.choose_columns(Column::found(&Loopback))?;
    let scenarios = arguments.choose(Scenario::loopback());
    if arguments.list {
        let paths = arguments
            .paths()
            .into_iter()
            .flat_map(|path| path.scenarios);
        let all: Vec<_> = scenarios.into_iter().chain(paths).collect();
        table::print_choice(&columns, &all);
        return Ok(());
    }
    let mut report = Report {
        machine: Machine::here(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        versions: columns
            .iter()
            .map(|column| (column.name.to_owned(), column.version(&Loopback)))
            .filter(|(_, version)| !version.is_empty())
            .collect(),
        sections: Vec::new(),
    };
    let paths = arguments.paths();
    ensure!(
        !scenarios.is_empty() || !paths.is_empty(),
        "--only leaves no scenario"
    );
    if !scenarios.is_empty() {
        let mut columns = columns.clone();
        columns.retain(|column| !column.for_paths || !arguments.columns.is_empty());
        let loopback = arguments.measure("loopback", &mut Loopback, &columns, &scenarios)?;
        report.sections.push(loopback);
        arguments.write(&mut report)?;
    }
    for path in paths {
        report
            .sections
            .extend(path::measure(&arguments, &columns, &path)?);
        arguments.write(&mut report)?;
    }
    table::print(&report, arguments.markdown);
    table::note(&format!("\nwritten to {}", arguments.out.display()));
    Ok(())
}

impl Arguments {
    /// Runs scenarios on a stage.
    pub fn measure(
        &self,
        name: &str,
        stage: &mut dyn Stage,
        columns: &[Column],
        scenarios: &[Scenario],
    ) -> Result<Section> {
        let mut section = Section {
            name: name.to_owned(),
            counts: true,
            notes: Vec::new(),
            scenarios: scenarios
                .iter()
                .map(|scenario| empty(scenario, columns))
                .collect(),
        };
        for round in 0..self.rounds {
            self.round(round, stage, columns, scenarios, &mut section)?;
        }
        Ok(section)
    }

    /// Starts everything anew, and measures everything once.
    fn round(
        &self,
        round: usize,
        stage: &mut dyn Stage,
        columns: &[Column],
        scenarios: &[Scenario],
        section: &mut Section,
    ) -> Result<()> {
        let place = stage.place();
        let bind = place.address(Side::Home);
        let mut server = Process::role(place, Side::Home, &Role::Target { bind })?;
        let target = server.says(TARGET_PATIENCE).context("the game server")?;
        let mut running = Vec::new();
        for column in columns {
            running.push(match column.start(place, target) {
                Ok(running) => Some(running),
                Err(error) => {
                    self.forgive(column, &error)?;
                    None
                }
            });
        }
        for (scenario, measured) in scenarios.iter().zip(&mut section.scenarios) {
            table::progress(round, self.rounds, &section.name, &scenario.title);
            // Whoever comes first finds another machine than whoever comes last: each is first in its turn.
            for turn in 0..columns.len() {
                let turn = (turn + round) % columns.len();
                let column = &columns[turn];
                let Some(cell) = cell_of(measured, column.name) else {
                    continue;
                };
                let outcome = if scenario.fresh && !column.is_single() {
                    let started = column.start(stage.place(), target);
                    started.and_then(|mut own| self.one(scenario, stage, &mut own, target))
                } else {
                    let running = running[turn].as_mut().context("it did not start");
                    running.and_then(|running| self.one(scenario, stage, running, target))
                };
                match outcome {
                    Ok(outcome) => {
                        cell.rounds.push(outcome.figures);
                        cell.latencies.extend(outcome.latencies);
                        cell.series = outcome.series;
                    }
                    Err(error) => {
                        let error = error.context(scenario.name.clone());
                        cell.rounds.push(Figures::new());
                        cell.errors.push(format!("{error:#}"));
                        self.forgive(column, &error)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One scenario on one column.
    fn one(
        &self,
        scenario: &Scenario,
        stage: &mut dyn Stage,
        running: &mut Running,
        target: SocketAddr,
    ) -> Result<Outcome> {
        stage.before(scenario)?;
        let outcome = scenario.run(stage.place(), running, target, self.seconds);
        // If it has died, that says more than what the players saw.
        running.check()?;
        let mut outcome = outcome?;
        stage.after(scenario, &mut outcome.figures)?;
        Ok(outcome)
    }

    /// Where it is about whether the laboratory works, only peers may fail.
    fn forgive(&self, column: &Column, error: &anyhow::Error) -> Result<()> {
        if self.quick && !column.is_peer() {
            bail!("{}: {error:#}", column.name);
        }
        table::warn(&format!("{}: {error:#}", column.name));
        Ok(())
    }

    fn choose_columns(&self, mut found: Vec<Column>) -> Result<Vec<Column>> {
        for wanted in &self.columns {
            ensure!(
                found.iter().any(|column| column.name == wanted),
                "no column called {wanted}; there are: {}",
                table::names(&found)
            );
        }
        if !self.columns.is_empty() {
            found.retain(|column| self.columns.iter().any(|wanted| wanted == column.name));
        } else if self.quick {
            found.retain(|column| !column.is_peer());
        }
        Ok(found)
    }

    /// Those on which a chosen scenario runs, with no others.
    fn paths(&self) -> Vec<Path> {
        if self.loopback || (self.quick && self.only.is_empty()) {
            return Vec::new();
        }
        let mut paths = Path::all(self.seconds);
        for path in &mut paths {
            path.scenarios = self.choose(std::mem::take(&mut path.scenarios));
        }
        paths.retain(|path| !path.scenarios.is_empty());
        paths
    }

    fn choose(&self, mut scenarios: Vec<Scenario>) -> Vec<Scenario> {
        let named = |scenario: &Scenario| self.only.contains(&scenario.name);
        let meant = |scenario: &Scenario| {
            let part = |part: &String| scenario.name.contains(part.as_str());
            self.only.is_empty() || self.only.iter().any(part)
        };
        scenarios.retain(|one| meant(one) && (self.all || !one.extra || named(one)));
        if self.quick {
            scenarios.iter_mut().for_each(Scenario::shrink);
        }
        scenarios
    }

    /// After each place, so that a run that is cut short keeps what it has.
    fn write(&self, report: &mut Report) -> Result<()> {
        report.machine.load_after = data::load_average();
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let json = serde_json::to_string(report)?;
        fs::write(self.out.join("report.json"), json)?;
        fs::write(self.out.join("report.html"), html::page(report))?;
        Ok(())
    }
}

fn empty(scenario: &Scenario, columns: &[Column]) -> Measured {
    let applies = |column: &&Column| {
        if scenario.is_tcp() {
            column.tcp
        } else {
            column.udp
        }
    };
    Measured {
        name: scenario.name.clone(),
        title: scenario.title.clone(),
        shown: scenario.shown(),
        offered: scenario.offered(),
        cells: columns
            .iter()
            .filter(applies)
            .map(|column| Cell {
                column: column.name.to_owned(),
                ..Cell::default()
            })
            .collect(),
    }
}

fn cell_of<'a>(measured: &'a mut Measured, column: &str) -> Option<&'a mut Cell> {
    measured.cells.iter_mut().find(|cell| cell.column == column)
}

/// 10,000 connections are 20,000 descriptors of a relay that holds a lane for each.
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    if setrlimit(Resource::Nofile, limit).is_err() {
        // That takes a privilege; what is allowed may do.
        adit_daemon::runtime::raise_descriptor_limit();
    }
}

const DESCRIPTORS: u64 = 1 << 17;
const QUICK_SECONDS: f64 = 0.2;
const TARGET_PATIENCE: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  benches compare                                       everything that is here, two hours
  benches compare --loopback                            without the emulated paths
  benches compare --rounds 3 --only bulk,trips          three rounds of what is about TCP
  benches compare --columns direct,adit-auto,rathole    three columns
  benches compare --loopback                            nothing that takes root
  benches compare --only path-home,path-dark            some of what runs on emulated paths
  benches compare --quick                               whether it works, in seconds

Peers (rathole, frps and frpc, chisel, bore) are found on PATH, or where ADIT_BENCH_RATHOLE,
ADIT_BENCH_FRPS, ADIT_BENCH_FRPC, ADIT_BENCH_CHISEL and ADIT_BENCH_BORE say.";
