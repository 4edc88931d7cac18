//! Tables, for a terminal or in Markdown.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures"
)]

use super::{
    column::{Column, DIRECT},
    data::{Cell, Measured, Metric, Report, Spread},
    lines,
    peers::RATHOLE,
    scenario::Scenario,
    targets,
};

/// What could be measured.
pub(super) fn print_choice(columns: &[Column], scenarios: &[Scenario]) {
    println!("columns: {}", names(columns));
    for scenario in scenarios {
        println!("{:<40} {}", scenario.name, scenario.title);
    }
}

pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.name).collect();
    names.join(", ")
}

pub(super) fn progress(round: usize, rounds: usize, place: &str, title: &str) {
    eprintln!("round {} of {rounds}, {place}: {title}", round + 1);
}

/// Says what went wrong.
pub fn warn(what: &str) {
    eprintln!("{what}");
}

pub(super) fn note(what: &str) {
    println!("{what}");
}

/// All tables.
pub fn print(report: &Report, markdown: bool) {
    println!("{}", write(report, markdown));
}

/// All tables, as text.
pub fn write(report: &Report, markdown: bool) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    text += &format!(
        "{}; {}, {} cores, {:.0} GiB; Linux {}, {} by default, {} descriptors; load {} before, {} after\n",
        machine.date,
        machine.processor,
        machine.cores,
        machine.memory,
        machine.kernel,
        machine.congestion_control,
        machine.descriptors,
        machine.load_before,
        machine.load_after
    );
    let versions: Vec<_> = report
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    text += &format!("{}\n", versions.join(", "));
    if report.has_targets() {
        text += "Medians of the rounds (lowest–highest); × is the ratio to the direct path and to rathole's plaintext.\n";
        text += &judgements(report, markdown);
    }
    text += &lines::print::all(report, markdown);
    for section in report.sections.iter().filter(|one| one.line.is_none()) {
        for scenario in &section.scenarios {
            let title = format!("{}: {}", section.name, scenario.title);
            text += &if markdown {
                format!("\n**{title}** (`{}`)\n\n", scenario.name)
            } else {
                format!("\n{title} ({})\n", scenario.name)
            };
            text += &layout(&rows(scenario), markdown);
            for cell in &scenario.cells {
                for error in cell.distinct_errors() {
                    text += &format!("{}: {error}\n", cell.column);
                }
            }
        }
        for note in &section.notes {
            text += &format!("{note}\n");
        }
    }
    text
}

/// The targets, and what this run says of each.
fn judgements(report: &Report, markdown: bool) -> String {
    let mut lines = vec![
        ["target", "asked", "measured", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for judgement in targets::judge(report) {
        for (place, part) in judgement.parts.iter().enumerate() {
            let what = if place == 0 { judgement.what } else { "" };
            lines.push(vec![
                what.to_owned(),
                part.wanted.clone(),
                part.measured.clone(),
                part.verdict.words(),
            ]);
        }
    }
    format!("\n{}", layout(&lines, markdown))
}

/// A head and a line for each column.
pub(super) fn rows(scenario: &Measured) -> Vec<Vec<String>> {
    let shown: Vec<Metric> = scenario
        .shown
        .iter()
        .copied()
        .filter(|metric| {
            let mut cells = scenario.cells.iter();
            cells.any(|cell| cell.median(*metric).is_some())
        })
        .collect();
    let mut head = vec![String::new()];
    for (place, metric) in shown.iter().enumerate() {
        head.push(metric.title().to_owned());
        if place == 0 {
            head.extend(["× direct".to_owned(), "× rathole".to_owned()]);
        }
    }
    let mut lines = vec![head];
    for cell in &scenario.cells {
        let mut line = vec![cell.column.clone()];
        for (place, metric) in shown.iter().enumerate() {
            line.push(spread(cell, *metric));
            if place == 0 {
                for to in [DIRECT, RATHOLE] {
                    let ratio = scenario.ratio(*metric, &cell.column, to);
                    let ratio = ratio.filter(|_| cell.column != to);
                    line.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
                }
            }
        }
        lines.push(line);
    }
    lines
}

fn spread(cell: &Cell, metric: Metric) -> String {
    let Some(Spread { low, median, high }) = cell.spread(metric) else {
        return "–".to_owned();
    };
    let median = metric.write(median);
    if cell.rounds.len() < 2 {
        return median;
    }
    format!("{median} ({}–{})", metric.write(low), metric.write(high))
}

pub(super) fn layout(lines: &[Vec<String>], markdown: bool) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|place| {
            let widths = lines.iter().map(|line| line[place].chars().count());
            widths.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        if markdown {
            text += &format!("| {} |\n", cells.join(" | "));
            if number == 0 {
                text += &format!("|{}\n", "---|".repeat(count));
            }
        } else {
            text += &format!("  {}\n", cells.join("  ").trim_end());
        }
    }
    text
}
