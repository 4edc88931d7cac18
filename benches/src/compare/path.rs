//! Scenarios on an emulated path: where the link is checked first, and shown as not counting where it fails.

mod emulated;
mod stage;
mod table;

use anyhow::{Context, Result};

use self::stage::PathStage;
pub use self::{emulated::EmulatedPath, table::all};
use super::{
    Arguments,
    column::Column,
    console::{note, warn},
    data::{Report, Section},
    lines,
    rounds::Work,
};
use crate::link;

/// Measures one path. A machine that can have none says so, and that is no error.
pub(super) fn measure(
    arguments: &Arguments,
    columns: &[Column],
    path: &EmulatedPath,
    report: &mut Report,
) -> Result<()> {
    if let Some(reason) = link::unavailable() {
        warn(&format!("{}: {reason}", path.title));
        return Ok(());
    }
    let columns = arguments.columns_on(path, columns);
    let work = Work {
        columns: &columns,
        scenarios: &path.scenarios,
        pace: match &path.line {
            Some(line) => arguments.pace_on_lines(line.family),
            None => arguments.pace(),
        },
    };
    match measure_one(arguments, &work, path, report) {
        Err(error) if arguments.quick => Err(error),
        Err(error) => {
            warn(&format!("{}: {error:#}", path.title));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn measure_one(
    arguments: &Arguments,
    work: &Work<'_>,
    path: &EmulatedPath,
    report: &mut Report,
) -> Result<()> {
    let empty = Section {
        line: path.line.clone(),
        ..Section::named(&path.title)
    };
    let place = work.open(report, empty)?;
    if work.is_done(&report.sections[place]) {
        return Ok(());
    }
    let mut stage = PathStage::start(path, work.pace)?;
    let check = stage.lab.check().context("the check of the link")?;
    note(&format!("{}: {check}", path.title));
    let section = &mut report.sections[place];
    section.counts &= check.faults().is_empty();
    section.notes.push(format!("The direct path: {check}."));
    arguments.measure(&mut stage, work, report, place)?;
    let late = stage.late_share() * 100.0;
    let section = &mut report.sections[place];
    section.notes.push(format!(
        "The kernel's default congestion control: {}; {late:.2} % of the packets were delivered more than a millisecond late.",
        path.congestion_control
    ));
    arguments.write(report)?;
    if let Some(line) = &path.line {
        note(&lines::print::one(report, line, arguments.markdown));
    }
    Ok(())
}
