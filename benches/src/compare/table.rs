//! Tables, for a terminal or in Markdown.

use super::{
    column::{Column, DIRECT},
    data::{Cell, Measured, Metric, Report, Spread},
    layout::layout,
    lines,
    peers::RATHOLE,
    scenario::Scenario,
    targets,
};

/// What could be measured.
pub(super) fn choice(columns: &[Column], scenarios: &[Scenario]) -> String {
    let mut text = format!("columns: {}", names(columns));
    for scenario in scenarios {
        text += &format!("\n{:<40} {}", scenario.name, scenario.title);
    }
    text
}

pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.name).collect();
    names.join(", ")
}

/// All tables.
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
