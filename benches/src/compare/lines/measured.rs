//! What a report has of a line, for every family.

use crate::compare::data::{Cell, Figures, LineFacts, Metric, Report, Section};

/// The sections of one line in one family, in the order of the report.
pub(super) fn sections<'a>(
    report: &'a Report,
    line: &'a LineFacts,
) -> impl Iterator<Item = (&'a Section, &'a LineFacts)> {
    let facts = |section: &'a Section| Some((section, section.line.as_ref()?));
    let all = report.sections.iter().filter_map(facts);
    all.filter(move |(_, one)| one.name == line.name && one.family == line.family)
}

/// A figure of each round; `missing` where the round has failed.
pub(super) fn figures(cell: &Cell, metric: Metric, missing: f64) -> impl Iterator<Item = f64> {
    let figure = move |round: &Figures| round.get(&metric).copied();
    cell.rounds
        .iter()
        .map(move |round| figure(round).unwrap_or(missing))
}

/// How many rounds have failed: they lack what every other one has.
pub(super) fn failed(cell: &Cell, metric: Metric) -> usize {
    let lacks = |round: &&Figures| !round.contains_key(&metric);
    cell.rounds.iter().filter(lacks).count()
}

/// For people.
pub(super) fn count(all: usize, failed: usize) -> String {
    match failed {
        0 => all.to_string(),
        failed => format!("{all} ({failed} failed)"),
    }
}
