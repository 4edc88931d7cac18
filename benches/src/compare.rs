//! Adit beside the direct path and beside other tunnels, in one run.
//!
//! Every round starts all of them as processes of their own and measures one thing after another, each on all of them
//! in turn, so that a busy moment of the machine falls on all alike. On emulated paths each measurement of a round begins
//! with the same chance.

mod arguments;
mod chart;
mod choice;
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
mod report;
mod rounds;
mod running;
pub mod scenario;
pub mod table;
pub mod targets;

use std::fs;

use anyhow::{Result, ensure};

pub use self::arguments::{Arguments, Redraw};
use self::{
    column::Column,
    data::{Report, Section},
    report::ReportFile,
    rounds::Work,
    scenario::Scenario,
};
use crate::topology::Loopback;

/// Prints the tables of an earlier run again.
pub fn redraw(arguments: &Redraw) -> Result<()> {
    let report = report::read(&arguments.report)?;
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
    let mut file = ReportFile::open(&arguments.out, arguments.resume)?;
    describe(&mut file.report, &columns);
    if !scenarios.is_empty() {
        let mut columns = columns.clone();
        columns.retain(|column| !column.for_paths || !arguments.columns.is_empty());
        let work = Work {
            columns: &columns,
            scenarios: &scenarios,
            pace: arguments.pace(),
            strict: arguments.quick,
        };
        let place = work.open(&mut file.report, Section::named("loopback"))?;
        work.measure(&mut Loopback, &mut file, place)?;
    }
    for path in paths {
        let columns = arguments.columns_on(&path, &columns);
        path::measure(&arguments, &columns, &path, &mut file)?;
    }
    console::note(&table::write(&file.report, arguments.markdown));
    console::note(&format!("\nwritten to {}", arguments.out.display()));
    Ok(())
}

/// Says how the report came about.
fn describe(report: &mut Report, columns: &[Column]) {
    report.command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let versions = columns
        .iter()
        .map(|column| (column.name.to_owned(), column.version(&Loopback)));
    report
        .versions
        .extend(versions.filter(|(_, version)| !version.is_empty()));
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
