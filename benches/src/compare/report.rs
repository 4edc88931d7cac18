//! The files of a report, which a run writes and a later one goes on with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    data::{Machine, Report, load_average},
    html,
};

/// A report, and the directory that it is written to.
#[derive(Debug)]
pub(super) struct ReportFile {
    pub(super) report: Report,
    directory: PathBuf,
}

impl ReportFile {
    /// With `resume` the report that an earlier run has left there; a new one where there is none.
    pub(super) fn open(directory: &Path, resume: bool) -> Result<Self> {
        let file = directory.join(JSON);
        let report = if resume && file.exists() {
            read(&file)?
        } else {
            Report {
                machine: Machine::here(),
                ..Report::default()
            }
        };
        Ok(Self {
            report,
            directory: directory.to_owned(),
        })
    }

    /// After each round, so that a run that is cut short keeps what it has.
    pub(super) fn write(&mut self) -> Result<()> {
        let Self { report, directory } = self;
        report.machine.load_after = load_average();
        fs::create_dir_all(&*directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let json = serde_json::to_string(report)?;
        // A run that is cut short while it writes keeps what it had written before.
        let half = directory.join("report.json.new");
        fs::write(&half, json)?;
        fs::rename(half, directory.join(JSON))?;
        fs::write(directory.join("report.html"), html::page(report))?;
        Ok(())
    }
}

/// The report in a file.
pub(super) fn read(file: &Path) -> Result<Report> {
    let json =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&json).with_context(|| format!("{} is no report", file.display()))
}

const JSON: &str = "report.json";
