//! Adit beside the direct path and beside other tunnels, in one run.
//!
//! Every round starts all of them as processes of their own and measures one thing after another, each on all of them
//! in turn, so that a busy moment of the machine falls on all alike. On emulated paths each measurement of a round begins
//! with the same chance.

mod chart;
pub mod column;
pub mod console;
mod cost;
pub mod data;
pub mod html;
mod layout;
pub mod lines;
pub mod path;
mod peers;
mod ports;
mod rounds;
mod running;
pub mod scenario;
pub mod table;
pub mod targets;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::{
    column::Column,
    data::{Machine, Report, Section},
    lines::Way,
    path::EmulatedPath,
    peers::{Peer, WIREGUARD},
    rounds::{Pace, Work},
    scenario::Scenario,
};
use crate::{load::CongestionControl, topology::Loopback};

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
    /// Seconds of each measurement: 2 without this, 10 on lines; games take longer.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Only scenarios whose name contains one of these; those that fill in take --all or their whole name, those on lines
    /// are named at least by `lines`.
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub only: Vec<String>,
    /// Transfers of each kind on each line, instead of 10.
    #[arg(long, value_name = "COUNT")]
    pub transfers: Option<usize>,
    /// Where the chance of emulated paths begins: with it for the first round or transfer, with the next number for the
    /// next. Thus --seed N --transfers 1 repeats the transfer that had seed N.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// On lines, only what goes this way: up is from the game server's home.
    #[arg(long)]
    pub direction: Option<Way>,
    /// On lines, only with this as the kernel's default.
    #[arg(long, value_name = "NAME")]
    pub congestion_control: Option<CongestionControl>,
    /// On lines, all transfers of a column go through one tunnel, as through one that runs for long; without this each has
    /// a tunnel of its own, so that it can be repeated.
    #[arg(long)]
    pub keep: bool,
    /// Goes on with the report that is in --out: what it has measured is not measured again.
    #[arg(long)]
    pub resume: bool,
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
    let report = read(&arguments.report)?;
    if let Some(page) = &arguments.html {
        fs::write(page, html::page(&report))?;
    }
    console::note(&table::write(&report, arguments.markdown));
    Ok(())
}

/// Compares, prints and writes.
pub fn run(mut arguments: Arguments) -> Result<()> {
    raise_limits();
    if arguments.quick {
        arguments.rounds = 1;
        arguments.transfers.get_or_insert(1);
        arguments.seconds.get_or_insert(QUICK_SECONDS);
    }
    arguments.check()?;
    let columns = arguments.choose_columns(Column::found(&Loopback))?;
    let scenarios = arguments.choose(Scenario::loopback());
    let paths = arguments.paths();
    if arguments.list {
        let on_paths = paths.into_iter().flat_map(|path| path.scenarios);
        let all: Vec<_> = scenarios.into_iter().chain(on_paths).collect();
        console::note(&table::choice(&columns, &all));
        return Ok(());
    }
    ensure!(
        !scenarios.is_empty() || !paths.is_empty(),
        "--only leaves no scenario"
    );
    let mut report = arguments.open_report(&columns)?;
    if !scenarios.is_empty() {
        let mut columns = columns.clone();
        columns.retain(|column| !column.for_paths || !arguments.columns.is_empty());
        let work = Work {
            columns: &columns,
            scenarios: &scenarios,
            pace: arguments.pace(),
        };
        let place = work.open(&mut report, Section::named("loopback"))?;
        arguments.measure(&mut Loopback, &work, &mut report, place)?;
    }
    for path in paths {
        path::measure(&arguments, &columns, &path, &mut report)?;
    }
    console::note(&table::write(&report, arguments.markdown));
    console::note(&format!("\nwritten to {}", arguments.out.display()));
    Ok(())
}

impl Arguments {
    fn check(&self) -> Result<()> {
        ensure!(self.rounds > 0, "--rounds: at least one");
        ensure!(self.transfers != Some(0), "--transfers: at least one");
        if let Some(seconds) = self.seconds {
            ensure!(
                (0.05..=3600.0).contains(&seconds),
                "--seconds: 0.05 to 3600"
            );
        }
        Ok(())
    }

    /// The earlier run's, or a new one.
    fn open_report(&self, columns: &[Column]) -> Result<Report> {
        let file = self.out.join(REPORT);
        let mut report = if self.resume && file.exists() {
            read(&file)?
        } else {
            Report {
                machine: Machine::here(),
                ..Report::default()
            }
        };
        report.command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let versions = columns
            .iter()
            .map(|column| (column.name.to_owned(), column.version(&Loopback)));
        report
            .versions
            .extend(versions.filter(|(_, version)| !version.is_empty()));
        Ok(report)
    }

    /// That of everything but lines.
    fn pace(&self) -> Pace {
        Pace {
            rounds: self.rounds,
            seconds: self.seconds.unwrap_or(SECONDS),
            seed: self.seed,
            keep: false,
        }
    }

    fn choose_columns(&self, mut found: Vec<Column>) -> Result<Vec<Column>> {
        for wanted in &self.columns {
            let known = found.iter().any(|column| column.name == wanted);
            let why = (wanted == WIREGUARD).then(Peer::no_wireguard).flatten();
            ensure!(
                known,
                "no column called {wanted}{}; there are: {}",
                why.map_or_else(String::new, |why| format!(": {why}")),
                table::names(&found)
            );
        }
        let peers = self.columns.is_empty() && !self.quick;
        if peers && let Some(why) = Peer::no_wireguard() {
            console::warn(&format!("the column {WIREGUARD} is skipped: {why}"));
        }
        if !self.columns.is_empty() {
            found.retain(|column| self.columns.iter().any(|wanted| wanted == column.name));
        } else if self.quick {
            found.retain(|column| !column.is_peer());
        }
        Ok(found)
    }

    /// Those on which a chosen scenario runs, with no others.
    fn paths(&self) -> Vec<EmulatedPath> {
        if self.loopback || (self.quick && self.only.is_empty()) {
            return Vec::new();
        }
        let mut paths = path::all(self.seconds.unwrap_or(SECONDS));
        paths.extend(lines::all(self));
        for path in &mut paths {
            path.scenarios = self.choose(std::mem::take(&mut path.scenarios));
        }
        paths.retain(|path| !path.scenarios.is_empty());
        paths
    }

    fn choose(&self, mut scenarios: Vec<Scenario>) -> Vec<Scenario> {
        let named = |scenario: &Scenario| self.only.contains(&scenario.name);
        let meant = |scenario: &Scenario| {
            let part = |part: &String| {
                part.starts_with(scenario.family) && scenario.name.contains(part.as_str())
            };
            self.only.is_empty() && scenario.family.is_empty() || self.only.iter().any(part)
        };
        scenarios.retain(|one| meant(one) && (self.all || !one.extra || named(one)));
        if self.quick {
            scenarios.iter_mut().for_each(Scenario::shrink);
        }
        scenarios
    }

    /// After each round, so that a run that is cut short keeps what it has.
    fn write(&self, report: &mut Report) -> Result<()> {
        report.machine.load_after = data::load_average();
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let json = serde_json::to_string(report)?;
        // A run that is cut short while it writes keeps what it had written before.
        let half = self.out.join("report.json.new");
        fs::write(&half, json)?;
        fs::rename(half, self.out.join(REPORT))?;
        fs::write(self.out.join("report.html"), html::page(report))?;
        Ok(())
    }
}

fn read(file: &std::path::Path) -> Result<Report> {
    let json =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&json).with_context(|| format!("{} is no report", file.display()))
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
const REPORT: &str = "report.json";
/// Of an ordinary measurement.
const SECONDS: f64 = 2.0;
const QUICK_SECONDS: f64 = 0.2;

const EXAMPLES: &str = "\
Examples:
  benches compare                                       everything that is here, two hours
  benches compare --loopback                            without the emulated paths
  benches compare --rounds 3 --only bulk,trips          three rounds of what is about TCP
  benches compare --columns direct,adit-auto,rathole    three columns
  benches compare --loopback                            nothing that takes root
  benches compare --only path-home,path-dark            some of what runs on emulated paths
  benches compare --quick                               whether it works, in seconds
  benches compare --only lines                          bulk on every line, ten times each: some five hours
  benches compare --only lines-dsl                      on one line
  benches compare --only lines-dsl-up-bbr --columns direct,adit-auto,adit-latency
  benches compare --only lines --direction up --congestion-control bbr --transfers 3 --seconds 5
  benches compare --only lines --resume                 what is not measured yet
  benches compare --only lines-dsl-up-bbr --seed 7 --transfers 1      the transfer with seed 7 again

Peers (rathole, frps and frpc, chisel, bore, boringtun-cli) are found on PATH, or where ADIT_BENCH_RATHOLE,
ADIT_BENCH_FRPS, ADIT_BENCH_FRPC, ADIT_BENCH_CHISEL, ADIT_BENCH_BORE and ADIT_BENCH_BORINGTUN say. boringtun-cli is
userspace WireGuard; its column takes root, wg (Debian's wireguard-tools) and nft (nftables) besides.";

#[cfg(test)]
impl Arguments {
    /// As of a command line with these flags.
    fn of(flags: &[&str]) -> Self {
        use clap::Parser;

        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            arguments: Arguments,
        }
        Cli::parse_from(["compare"].iter().chain(flags)).arguments
    }
}
