//! Scenarios on an emulated path: where the link is checked first, and shown as not counting where it fails.

mod emulated;
mod stage;
mod table;

use anyhow::{Context, Result};

use self::stage::PathStage;
pub use self::{emulated::EmulatedPath, table::all};
use super::{
    arguments::Arguments,
    column::Column,
    console::{note, warn},
    data::Section,
    lines,
    report::ReportFile,
    rounds::Work,
};
use crate::link;

/// Measures one path. A machine that can have none says so, and that is no error.
pub(super) fn measure(
    arguments: &Arguments,
    columns: &[Column],
    path: &EmulatedPath,
    file: &mut ReportFile,
) -> Result<()> {
    if let Some(reason) = link::unavailable() {
        warn(&format!("{}: {reason}", path.title));
        return Ok(());
    }
    let work = Work {
        columns,
        scenarios: &path.scenarios,
        pace: match &path.line {
            Some(line) => arguments.pace_on_lines(line.family),
            None => arguments.pace(),
        },
        strict: arguments.quick,
    };
    match measure_one(arguments, &work, path, file) {
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
    file: &mut ReportFile,
) -> Result<()> {
    let empty = Section {
        line: path.line.clone(),
        ..Section::named(&path.title)
    };
    let place = work.open(&mut file.report, empty)?;
    if work.is_done(&file.report.sections[place]) {
        return Ok(());
    }
    let mut stage = PathStage::start(path, work.pace)?;
    let check = stage.lab.check().context("the check of the link")?;
    note(&format!("{}: {check}", path.title));
    let section = &mut file.report.sections[place];
    section.counts &= check.faults().is_empty();
    section.notes.push(format!("The direct path: {check}."));
    work.measure(&mut stage, file, place)?;
    let late = stage.late_share() * 100.0;
    let section = &mut file.report.sections[place];
    section.notes.push(format!(
        "The kernel's default congestion control: {}; {late:.2} % of the packets were delivered more than a millisecond late.",
        path.congestion_control
    ));
    file.write()?;
    if let Some(line) = &path.line {
        note(&lines::print::one(&file.report, line, arguments.markdown));
    }
    Ok(())
}
