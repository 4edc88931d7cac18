//! The report as one page that needs nothing else: light and dark, wide and narrow.

use super::{
    chart::{Axis, Chart, Curve, Scale, escape},
    data::{Measured, Metric, Report, Section, Spread},
    lines::print,
    table,
    targets::{self, Verdict},
};
use crate::load::{Latencies, SHARES, STEP};

/// The page.
pub fn page(report: &Report) -> String {
    let mut body = head(report);
    if report.has_targets() {
        body += &judgements(report);
    }
    body += &lines(report);
    for section in &report.sections {
        body += &pictures(section);
    }
    for section in report.sections.iter().filter(|one| one.line.is_none()) {
        body += &tables(section);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Adit beside others</title>\n<style>{STYLE}</style>\n<main>\n{body}</main>\n</html>\n"
    )
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let versions: Vec<_> = report
        .versions
        .iter()
        .map(|(name, version)| format!("{} {}", escape(name), escape(version)))
        .collect();
    let facts = [
        ("date", machine.date.clone()),
        (
            "machine",
            format!(
                "{}, {} cores, {:.0} GiB",
                machine.processor, machine.cores, machine.memory
            ),
        ),
        (
            "kernel",
            format!(
                "Linux {}, {} by default, {} descriptors a process",
                machine.kernel, machine.congestion_control, machine.descriptors
            ),
        ),
        (
            "load average",
            format!(
                "{} before, {} after",
                machine.load_before, machine.load_after
            ),
        ),
        ("versions", versions.join(", ")),
        ("command", report.command.clone()),
    ];
    let facts: Vec<_> = facts
        .iter()
        .map(|(name, fact)| format!("<dt>{name}</dt><dd>{}</dd>", escape(fact)))
        .collect();
    format!(
        "<h1>Adit beside others</h1>\n<dl>{}</dl>\n\
         <p>Players, game server, relay and client share the machine: ratios within a row carry over, absolute figures do \
         not. Latencies of games count from when a packet was due, not from when it left.</p>\n",
        facts.concat()
    )
}

fn judgements(report: &Report) -> String {
    let mut rows = String::new();
    for judgement in targets::judge(report) {
        for (place, part) in judgement.parts.iter().enumerate() {
            let what = if place == 0 { judgement.what } else { "" };
            let class = match part.verdict {
                Verdict::Met => "met",
                Verdict::Short(_) | Verdict::Missed => "short",
                Verdict::Open => "open",
            };
            rows += &format!(
                "<tr class=\"{}\"><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td><b class=\"{class}\">{}</b></td></tr>\n",
                if place == 0 { "first" } else { "" },
                escape(what),
                escape(&part.wanted),
                escape(&part.measured),
                part.verdict.words()
            );
        }
    }
    format!(
        "<h2>Targets</h2>\n<table class=\"targets\"><thead><tr><th></th><th>asked</th><th>measured</th><th></th></tr></thead>\n\
         <tbody>\n{rows}</tbody></table>\n"
    )
}

/// The tables of the lines, each with its verdicts.
fn lines(report: &Report) -> String {
    let tables = print::tables(report);
    let mut text = String::new();
    if let Some(summary) = print::summary(&tables) {
        text += &format!("<h2>Lines</h2>\n<p>{}</p>\n", escape(&summary));
    }
    for table in &tables {
        text += &format!(
            "<h3>{} <code>{}</code></h3>\n",
            escape(&table.words),
            escape(&table.name)
        );
        text += &rows(&table.rows);
        for note in &table.notes {
            text += &format!("<p>{}</p>\n", escape(note));
        }
    }
    text
}

fn pictures(section: &Section) -> String {
    let mut groups = String::new();
    for (title, charts) in [
        ("Latencies", latencies(section)),
        ("Throughput over time", throughput(section)),
        ("Cost against load", costs(section)),
    ] {
        let drawn: Vec<_> = charts.iter().filter_map(Chart::draw).collect();
        if !drawn.is_empty() {
            groups += &format!(
                "<h3>{title}</h3>\n<div class=\"charts\">{}</div>\n",
                drawn.concat()
            );
        }
    }
    if groups.is_empty() {
        return groups;
    }
    format!(
        "<h2>{}</h2>\n{}{groups}",
        escape(&section.name),
        notes(section)
    )
}

fn latencies(section: &Section) -> Vec<Chart> {
    let chart = |scenario: &Measured| Chart {
        title: scenario.title.clone(),
        x: Axis {
            title: "% of all are faster",
            scale: Scale::Nines,
        },
        y: Axis {
            title: "ms",
            scale: Scale::Log,
        },
        curves: curves(scenario, |cell| distribution(&cell.latencies)),
    };
    section.scenarios.iter().map(chart).collect()
}

/// Of each share the median of the rounds; no further than the rounds have samples for.
fn distribution(rounds: &[Latencies]) -> Vec<(f64, f64)> {
    let samples = rounds.iter().map(|round| round.count).min().unwrap_or(0);
    let known = |share: &f64| samples as f64 * (1.0 - share) >= 1.0;
    SHARES
        .into_iter()
        .filter(known)
        .filter_map(|share| {
            let values = rounds.iter().filter_map(|round| round.within(share));
            Some((share, Spread::of(values)?.median))
        })
        .collect()
}

fn throughput(section: &Section) -> Vec<Chart> {
    let step = STEP.as_secs_f64();
    let bulk = section
        .scenarios
        .iter()
        .filter(|scenario| scenario.shown.contains(&Metric::GbitPerSecond));
    let chart = |scenario: &Measured| Chart {
        title: scenario.title.clone(),
        x: Axis {
            title: "s",
            scale: Scale::Linear,
        },
        y: Axis {
            title: "Gbit/s",
            scale: Scale::Linear,
        },
        curves: curves(scenario, |cell| {
            let steps = cell.series.iter().enumerate();
            let point = |(place, bytes): (usize, &u64)| {
                ((place as f64 + 0.5) * step, *bytes as f64 * 8e-9 / step)
            };
            steps.map(point).collect()
        }),
    };
    bulk.map(chart).collect()
}

/// CPU time of relay and client for a packet, by how many a second there are.
fn costs(section: &Section) -> Vec<Chart> {
    let mut curves: Vec<Curve> = Vec::new();
    for scenario in &section.scenarios {
        // CPU time is counted in hundredths of a second: few packets say nothing of a packet.
        let Some(offered) = scenario.offered.filter(|offered| *offered >= MANY) else {
            continue;
        };
        // What others do beside it costs too.
        if !scenario.shown.contains(&Metric::CpuPerPacketRelay) {
            continue;
        }
        for cell in &scenario.cells {
            let sides = [Metric::CpuPerPacketRelay, Metric::CpuPerPacketClient];
            let cost: Option<f64> = sides.map(|metric| cell.median(metric)).into_iter().sum();
            let Some(cost) = cost.filter(|cost| *cost > 0.0) else {
                continue;
            };
            match curves.iter_mut().find(|curve| curve.name == cell.column) {
                Some(curve) => curve.points.push((offered, cost)),
                None => curves.push(Curve {
                    name: cell.column.clone(),
                    points: vec![(offered, cost)],
                }),
            }
        }
    }
    for curve in &mut curves {
        curve
            .points
            .sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    }
    vec![Chart {
        title: "CPU time of relay and client together for a packet".to_owned(),
        x: Axis {
            title: "packets a second, each way",
            scale: Scale::Log,
        },
        y: Axis {
            title: "µs",
            scale: Scale::Linear,
        },
        curves,
    }]
}

fn curves(
    scenario: &Measured,
    points: impl Fn(&super::data::Cell) -> Vec<(f64, f64)>,
) -> Vec<Curve> {
    let curves = scenario.cells.iter().map(|cell| Curve {
        name: cell.column.clone(),
        points: points(cell),
    });
    curves.filter(|curve| !curve.points.is_empty()).collect()
}

fn tables(section: &Section) -> String {
    let mut text = format!(
        "<h2>{}: figures</h2>\n{}",
        escape(&section.name),
        notes(section)
    );
    text += "<p>Medians of the rounds, with the lowest and the highest. × is the median of the rounds’ own ratios, of the \
             first figure, to the direct path and to rathole’s plaintext.</p>\n";
    for scenario in &section.scenarios {
        text += &format!(
            "<h3>{} <code>{}</code></h3>\n",
            escape(&scenario.title),
            escape(&scenario.name)
        );
        text += &rows(&table::rows(scenario));
        for cell in &scenario.cells {
            for error in cell.distinct_errors() {
                text += &format!(
                    "<p class=\"error\">{}: {}</p>\n",
                    escape(&cell.column),
                    escape(error)
                );
            }
        }
    }
    text
}

/// A head and what is below it; what stands in brackets is smaller.
fn rows(lines: &[Vec<String>]) -> String {
    let mut text = "<div class=\"wide\"><table>\n".to_owned();
    for (number, line) in lines.iter().enumerate() {
        text += if number == 0 { "<thead><tr>" } else { "<tr>" };
        for (place, cell) in line.iter().enumerate() {
            text += &match (number, place) {
                (0, _) => format!("<th>{}</th>", escape(cell)),
                (_, 0) => format!("<th scope=\"row\">{}</th>", escape(cell)),
                _ => match cell.split_once(" (") {
                    Some((median, spread)) => format!(
                        "<td>{} <small>{}</small></td>",
                        escape(median),
                        escape(spread.trim_end_matches(')'))
                    ),
                    None => format!("<td>{}</td>", escape(cell)),
                },
            };
        }
        text += if number == 0 {
            "</tr></thead>\n"
        } else {
            "</tr>\n"
        };
    }
    text + "</table></div>\n"
}

fn notes(section: &Section) -> String {
    let mut text = String::new();
    if !section.counts {
        text += "<p class=\"error\">The path was not what it should have been: this does not count.</p>\n";
    }
    for note in &section.notes {
        text += &format!("<p>{}</p>\n", escape(note));
    }
    text
}

/// Packets a second from which on the cost of one is drawn.
const MANY: f64 = 1000.0;
const STYLE: &str = include_str!("report.css");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Cell, Figures, LineFacts};

    #[test]
    fn a_page_needs_nothing_else_and_says_everything() {
        let cell = Cell {
            column: "adit-auto".into(),
            rounds: vec![Figures::from([(Metric::P50, 1.5)])],
            latencies: vec![Latencies {
                count: 1000,
                milliseconds: SHARES.map(|share| 1.0 + share).into(),
                longest: 3.0,
            }],
            errors: vec!["<broken>".into()],
            ..Cell::default()
        };
        let report = Report {
            sections: vec![Section {
                name: "loopback".into(),
                counts: true,
                scenarios: vec![Measured {
                    name: "game-1".into(),
                    title: "one & only".into(),
                    shown: vec![Metric::P50],
                    cells: vec![cell],
                    ..Measured::default()
                }],
                ..Section::default()
            }],
            ..Report::default()
        };
        let page = page(&report);
        for part in [
            "one &amp; only",
            "&lt;broken&gt;",
            "<polyline",
            "1.50",
            "not measured",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for other in ["http:", "https:", "<script", "@import", "url("] {
            assert!(!page.contains(other), "{other}");
        }
    }

    #[test]
    fn a_page_of_lines_has_their_tables_and_no_targets() {
        let cell = |column: &str, gbit| Cell {
            column: column.into(),
            rounds: vec![Figures::from([(Metric::GbitPerSecond, gbit)])],
            ..Cell::default()
        };
        let report = Report {
            sections: vec![Section {
                name: "lines-dsl, bbr: a <line>".into(),
                counts: true,
                line: Some(LineFacts {
                    name: "dsl".into(),
                    words: "a <line>".into(),
                    ..LineFacts::default()
                }),
                scenarios: vec![Measured {
                    part: "up".into(),
                    cells: vec![cell("direct", 0.02), cell("adit-auto", 0.01)],
                    ..Measured::default()
                }],
                ..Section::default()
            }],
            ..Report::default()
        };
        let page = page(&report);
        for part in [
            "a &lt;line&gt;",
            "slowest 0.500 of 0.8",
            "lines-dsl-up- adit-auto",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("not measured"));
    }

    #[test]
    fn a_distribution_ends_where_samples_do() {
        let rounds = [Latencies {
            count: 100,
            milliseconds: SHARES.map(|share| share).into(),
            longest: 1.0,
        }];
        let last = distribution(&rounds).last().copied();
        assert_eq!(last, Some((0.99, 0.99)));
    }
}
