//! Bulk at the line's rate, always. A verdict takes the slowest transfer, not the median alone.

use super::{
    measured::{count, failed, figures, sections},
    verdict::{Table, Verdict},
    way::Way,
};
use crate::{
    compare::{
        arguments::Arguments,
        column::DIRECT,
        data::{Cell, LineFacts, Metric, Report, Section, Spread},
        scenario::Scenario,
    },
    load::Load,
};

pub(super) fn scenarios(arguments: &Arguments) -> Vec<Scenario> {
    let scenario = |way: Way| {
        let title = match way {
            Way::Up => "TCP, 1 stream from the server (up)",
            Way::Down => "TCP, 1 stream to the server (down)",
        };
        Scenario::new("", title, Load::Bulk(way.bulk())).part("", way.name())
    };
    arguments.ways().map(scenario).collect()
}

/// Everything that was measured on a line, way by way.
pub(super) fn table(report: &Report, line: &LineFacts) -> Table {
    let mut table = Table::new(line, &HEAD);
    for row in rows(report, line) {
        let mbit = |value: f64| format!("{value:.1}");
        let ratio = row.ratio.map_or_else(String::new, |(slowest, median)| {
            format!("{slowest:.2} / {median:.2}")
        });
        let name = format!("{}-{}", row.way, row.congestion_control);
        let cells = vec![
            row.way.to_owned(),
            row.congestion_control.clone(),
            row.column.clone(),
            count(row.transfers, row.failed),
            mbit(row.rate.low),
            mbit(row.rate.median),
            mbit(row.rate.high),
            format!("{:.0}", row.standstill),
            format!("{} at {:.0} ms", row.slowest.seed, row.slowest.offset),
            ratio,
        ];
        table.row(&name, &row.column, cells, &row.verdict);
    }
    let bare: Vec<String> = Way::BOTH
        .into_iter()
        .filter_map(|way| {
            let mbit = bare(report, line, way)?;
            Some(format!("{mbit:.1} Mbit/s {}", way.name()))
        })
        .collect();
    if !bare.is_empty() {
        table.note(format!(
            "Bare TCP with the better kernel, median: {}.",
            bare.join(", ")
        ));
    }
    table
}

/// What a run says of bulk through one column, one way, on one line, under one of the kernel's congestion controls.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// `up` or `down`.
    way: &'static str,
    /// The kernel's default.
    congestion_control: String,
    /// Whose transfers they are.
    column: String,
    /// How many there were, those that failed among them.
    transfers: usize,
    /// Those that broke off or never began; each counts as no byte.
    failed: usize,
    /// Mbit/s of payload.
    rate: Spread,
    /// Milliseconds in which no byte came to the receiving application: of all transfers the longest.
    standstill: f64,
    /// How the slowest one can be repeated.
    slowest: Start,
    /// Of the slowest and of the median to the direct path's median.
    ratio: Option<(f64, f64)>,
    /// Whether it is what it should be.
    verdict: Verdict,
}

/// What a transfer started from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Start {
    /// Of the link's chance.
    seed: u64,
    /// Milliseconds that the link's clock showed.
    offset: f64,
}

fn rows(report: &Report, line: &LineFacts) -> Vec<Row> {
    let mut rows = Vec::new();
    for way in Way::BOTH {
        let bare = bare(report, line, way);
        for (section, facts) in sections(report, line) {
            let cells = section.part(way.name()).map(|measured| &measured.cells);
            for cell in cells.into_iter().flatten() {
                rows.extend(row(section, facts, way, cell, bare));
            }
        }
    }
    rows
}

/// The median of bare TCP with the better of the kernel's congestion controls, in Mbit/s.
fn bare(report: &Report, line: &LineFacts, way: Way) -> Option<f64> {
    let medians = sections(report, line).filter_map(|(section, _)| {
        let measured = section.part(way.name())?;
        Some(Spread::of(rates(measured.cell(DIRECT)?))?.median)
    });
    medians.reduce(f64::max)
}

fn row(
    section: &Section,
    facts: &LineFacts,
    way: Way,
    cell: &Cell,
    bare: Option<f64>,
) -> Option<Row> {
    let rate = Spread::of(rates(cell))?;
    let whole = section.seconds * 1e3;
    let standstill = figures(cell, Metric::Standstill, whole).fold(0.0, f64::max);
    let slowest = cell
        .rounds
        .iter()
        .zip(rates(cell))
        .min_by(|one, other| one.1.total_cmp(&other.1));
    let slowest = slowest.map_or_else(Start::default, |(round, _)| {
        let get = |metric| round.get(&metric).copied().unwrap_or(0.0);
        Start {
            seed: get(Metric::Seed) as u64,
            offset: get(Metric::Offset),
        }
    });
    let bare = bare.filter(|bare| *bare > 0.0 && cell.column != DIRECT);
    let ratio = bare.map(|bare| (rate.low / bare, rate.median / bare));
    let verdict = if cell.column == DIRECT {
        Verdict::Yardstick
    } else if !section.counts {
        Verdict::UNEQUAL
    } else if let Some(ratio) = ratio {
        judge(ratio, standstill, facts.round_trip)
    } else {
        Verdict::Open("no direct path to compare with")
    };
    Some(Row {
        way: way.name(),
        congestion_control: facts.congestion_control.clone(),
        column: cell.column.clone(),
        transfers: cell.rounds.len(),
        failed: failed(cell, Metric::GbitPerSecond),
        rate,
        standstill,
        slowest,
        ratio,
        verdict,
    })
}

fn judge((slowest, median): (f64, f64), standstill: f64, round_trip: f64) -> Verdict {
    let longest = 2.0 * round_trip + STANDSTILL;
    let mut short = Vec::new();
    if slowest < SLOWEST {
        short.push(format!("slowest {slowest:.3} of {SLOWEST}"));
    }
    if median < MEDIAN {
        short.push(format!("median {median:.3} of {MEDIAN}"));
    }
    if standstill > longest {
        short.push(format!("stood still {standstill:.0} of {longest:.0} ms"));
    }
    Verdict::of(short)
}

/// Mbit/s of each transfer; one that failed has carried nothing.
fn rates(cell: &Cell) -> impl Iterator<Item = f64> {
    figures(cell, Metric::GbitPerSecond, 0.0).map(|gbit| gbit * 1e3)
}

/// Shares of the median of bare TCP with the better of the kernel's congestion controls.
const SLOWEST: f64 = 0.8;
const MEDIAN: f64 = 0.95;
/// Milliseconds above two round trips.
const STANDSTILL: f64 = 200.0;

const HEAD: [&str; 10] = [
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
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Figures, Measured};

    /// Mbit/s and ms of standstill of each transfer; none where it failed.
    fn cell(column: &str, transfers: &[Option<(f64, f64)>]) -> Cell {
        let round = |(number, transfer): (usize, &Option<(f64, f64)>)| {
            let mut round = Figures::from([
                (Metric::Seed, number as f64 + 1.0),
                (Metric::Offset, number as f64 * 10.0),
            ]);
            if let Some((mbit, standstill)) = transfer {
                round.insert(Metric::GbitPerSecond, mbit / 1e3);
                round.insert(Metric::Standstill, *standstill);
            }
            round
        };
        Cell {
            column: column.to_owned(),
            rounds: transfers.iter().enumerate().map(round).collect(),
            ..Cell::default()
        }
    }

    fn line() -> LineFacts {
        LineFacts {
            name: "dsl".to_owned(),
            round_trip: 25.0,
            ..LineFacts::default()
        }
    }

    fn section(control: &str, cells: Vec<Cell>) -> Section {
        Section {
            name: control.to_owned(),
            counts: true,
            seconds: 10.0,
            line: Some(LineFacts {
                congestion_control: control.to_owned(),
                ..line()
            }),
            scenarios: vec![Measured {
                part: "up".to_owned(),
                cells,
                ..Measured::default()
            }],
            ..Section::default()
        }
    }

    fn report(auto: &[Option<(f64, f64)>]) -> Report {
        let good = Some((20.0, 30.0));
        Report {
            sections: vec![
                section("bbr", vec![cell(DIRECT, &[good]), cell("adit-auto", auto)]),
                section("cubic", vec![cell(DIRECT, &[Some((10.0, 30.0))])]),
            ],
            ..Report::default()
        }
    }

    fn judged(auto: &[Option<(f64, f64)>]) -> Row {
        let rows = rows(&report(auto), &line());
        rows.into_iter()
            .find(|row| row.column == "adit-auto")
            .expect("it was measured")
    }

    #[test]
    fn bare_tcp_is_that_of_the_better_congestion_control() {
        assert_eq!(bare(&report(&[]), &line(), Way::Up), Some(20.0));
        assert_eq!(bare(&report(&[]), &line(), Way::Down), None);
        let other = LineFacts {
            name: "fibre".to_owned(),
            ..line()
        };
        assert_eq!(bare(&report(&[]), &other, Way::Up), None);
    }

    #[test]
    fn slowest_decides_and_can_be_repeated() {
        let good = Some((19.5, 40.0));
        assert_eq!(judged(&[good, good, good]).verdict.holds(), Some(true));
        let row = judged(&[good, Some((15.9, 40.0)), good]);
        assert_eq!(row.verdict.words(), "short: slowest 0.795 of 0.8");
        assert_eq!(
            row.slowest,
            Start {
                seed: 2,
                offset: 10.0
            }
        );
        let low = Some((18.9, 40.0));
        let words = judged(&[low, low, low]).verdict.words();
        assert_eq!(words, "short: median 0.945 of 0.95");
    }

    #[test]
    fn one_standstill_is_enough() {
        // 2 × 25 + 200 ms.
        let good = Some((19.5, 250.0));
        assert_eq!(judged(&[good, good]).verdict.holds(), Some(true));
        let row = judged(&[good, Some((19.5, 251.0))]);
        assert_eq!(row.standstill, 251.0);
        assert_eq!(row.verdict.words(), "short: stood still 251 of 250 ms");
    }

    #[test]
    fn transfer_that_failed_has_carried_nothing_all_the_time() {
        let good = Some((19.5, 40.0));
        let row = judged(&[good, good, None]);
        assert_eq!((row.transfers, row.failed), (3, 1));
        assert_eq!((row.rate.low, row.standstill), (0.0, 10_000.0));
        assert_eq!(row.slowest.seed, 3);
        assert_eq!(row.verdict.holds(), Some(false));
    }

    #[test]
    fn where_it_does_not_count_it_is_open() {
        let mut report = report(&[Some((19.5, 40.0))]);
        report.sections[0].counts = false;
        let rows = rows(&report, &line());
        assert!(rows.iter().all(|row| row.verdict.holds().is_none()));
        let mut alone = self::report(&[Some((19.5, 40.0))]);
        for section in &mut alone.sections {
            section.scenarios[0]
                .cells
                .retain(|cell| cell.column != DIRECT);
        }
        let rows = super::rows(&alone, &line());
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].verdict.words(),
            "open: no direct path to compare with"
        );
    }
}
