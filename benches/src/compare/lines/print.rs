//! The lines' tables, for a terminal or in Markdown.

use super::verdict::{self, Row, Verdict};
use crate::compare::{
    data::{Family, LineFacts, Report},
    table::layout,
};

/// All that was measured on one line so far.
pub fn one(report: &Report, line: &LineFacts, markdown: bool) -> String {
    match line.family {
        Family::Bulk => bulk(report, line, markdown),
    }
}

/// All lines of a report, and how many of their bounds hold; empty where there are none.
pub fn all(report: &Report, markdown: bool) -> String {
    let mut text = String::new();
    for line in lines(report) {
        text += &one(report, line, markdown);
    }
    text + &summary(report)
}

/// Each line once, in the order of the report.
fn lines(report: &Report) -> Vec<&LineFacts> {
    let mut lines: Vec<&LineFacts> = Vec::new();
    for line in report
        .sections
        .iter()
        .filter_map(|section| section.line.as_ref())
    {
        let known = |one: &&LineFacts| one.name == line.name && one.family == line.family;
        if !lines.iter().any(known) {
            lines.push(line);
        }
    }
    lines
}

fn bulk(report: &Report, line: &LineFacts, markdown: bool) -> String {
    let mut text = title(&format!("lines-{}", line.name), &line.words, markdown);
    let rows = verdict::rows(report, &line.name);
    text += &layout(&table(&rows), markdown);
    let ways = super::Way::BOTH.map(super::Way::name);
    let bare: Vec<String> = ways
        .into_iter()
        .filter_map(|way| {
            let mbit = verdict::bare(report, &line.name, way)?;
            Some(format!("{mbit:.1} Mbit/s {way}"))
        })
        .collect();
    if !bare.is_empty() {
        text += &format!(
            "Bare TCP with the better kernel, median: {}.\n",
            bare.join(", ")
        );
    }
    text + &errors(report, line)
}

/// What went wrong on a line, each once.
fn errors(report: &Report, line: &LineFacts) -> String {
    let mut text = String::new();
    for (section, _) in verdict::sections(report, &line.name, line.family) {
        if !section.counts {
            text += &format!("{}: the machine was not equal to it.\n", section.name);
        }
        for cell in section.scenarios.iter().flat_map(|one| &one.cells) {
            for error in cell.distinct_errors() {
                text += &format!("{}: {error}\n", cell.column);
            }
        }
    }
    text
}

fn title(name: &str, words: &str, markdown: bool) -> String {
    if markdown {
        format!("\n**{words}** (`{name}`)\n\n")
    } else {
        format!("\n{name}: {words}\n")
    }
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
    for row in rows {
        let mbit = |value: f64| format!("{value:.1}");
        let transfers = match row.failed {
            0 => row.transfers.to_string(),
            failed => format!("{} ({failed} failed)", row.transfers),
        };
        let ratio = match row.verdict {
            Verdict::Compared {
                slowest, median, ..
            } => format!("{slowest:.2} / {median:.2}"),
            _ => String::new(),
        };
        lines.push(vec![
            row.way.clone(),
            row.congestion_control.clone(),
            row.column.clone(),
            transfers,
            mbit(row.rate.low),
            mbit(row.rate.median),
            mbit(row.rate.high),
            format!("{:.0}", row.standstill),
            format!("{} at {:.0} ms", row.slowest.seed, row.slowest.offset),
            ratio,
            row.verdict.words(),
        ]);
    }
    lines
}

fn summary(report: &Report) -> String {
    let (mut met, mut short) = (0, Vec::new());
    for line in lines(report) {
        for row in verdict::rows(report, &line.name) {
            match row.verdict.holds() {
                Some(true) => met += 1,
                Some(false) => short.push(format!(
                    "lines-{}-{}-{} {}",
                    line.name, row.way, row.congestion_control, row.column
                )),
                None => {}
            }
        }
    }
    let judged = met + short.len();
    if judged == 0 {
        return String::new();
    }
    let mut text = format!("\nOf {judged} rows on lines {met} hold every bound.");
    if !short.is_empty() {
        text += &format!(" Short: {}.", short.join("; "));
    }
    text + "\n"
}

const HEAD: [&str; 11] = [
    "way",
    "kernel",
    "column",
    "transfers",
    "min",
    "median",
    "max, Mbit/s",
    "longest standstill, ms",
    "slowest: seed",
    "× bare: min / median",
    "verdict",
];
