//! What a run says of the lines. A verdict takes the slowest transfer, not the median alone.

use crate::compare::{
    column::DIRECT,
    data::{Cell, Family, LineFacts, Measured, Metric, Report, Section, Spread},
};

/// What a run says of bulk through one column, one way, on one line, under one of the kernel's congestion controls.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `up` or `down`.
    pub way: String,
    /// The kernel's default.
    pub congestion_control: String,
    /// Whose transfers they are.
    pub column: String,
    /// How many there were, those that failed among them.
    pub transfers: usize,
    /// Those that broke off or never began; each counts as no byte.
    pub failed: usize,
    /// Mbit/s of payload.
    pub rate: Spread,
    /// Milliseconds in which no byte came to the receiving application: of all transfers the longest.
    pub standstill: f64,
    /// How the slowest one can be repeated.
    pub slowest: Start,
    /// Whether it is what it should be.
    pub verdict: Verdict,
}

/// What a transfer started from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Start {
    /// Of the link's chance.
    pub seed: u64,
    /// Milliseconds that the link's clock showed.
    pub offset: f64,
}

/// Whether bulk is at the line's rate.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The direct path, which others are compared with.
    Yardstick,
    /// The slowest and the median as shares of the direct path's median, and what falls short of its bound.
    Compared {
        /// Of the slowest transfer.
        slowest: f64,
        /// Of the median.
        median: f64,
        /// In words; empty where all is well.
        short: Vec<String>,
    },
    /// It cannot be said, and why.
    Open(&'static str),
}

impl Verdict {
    /// Whether every bound holds; `None` where nothing was judged.
    pub fn holds(&self) -> Option<bool> {
        match self {
            Self::Compared { short, .. } => Some(short.is_empty()),
            Self::Yardstick | Self::Open(_) => None,
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Yardstick => String::new(),
            Self::Open(why) => format!("open: {why}"),
            Self::Compared { short, .. } if short.is_empty() => "met".to_owned(),
            Self::Compared { short, .. } => format!("short: {}", short.join(", ")),
        }
    }
}

/// The sections of one line, in the order of the report.
pub(super) fn sections<'a>(
    report: &'a Report,
    name: &'a str,
    family: Family,
) -> impl Iterator<Item = (&'a Section, &'a LineFacts)> {
    let facts = |section: &'a Section| Some((section, section.line.as_ref()?));
    let all = report.sections.iter().filter_map(facts);
    all.filter(move |(_, line)| line.name == name && line.family == family)
}

/// Everything that was measured on a line, way by way.
pub fn rows(report: &Report, line: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for way in super::Way::BOTH.map(super::Way::name) {
        let bare = bare(report, line, way);
        for (section, facts) in sections(report, line, Family::Bulk) {
            let cells = section.part(way).map(|measured| &measured.cells);
            for cell in cells.into_iter().flatten() {
                rows.extend(row(section, facts, way, cell, bare));
            }
        }
    }
    rows
}

/// The median of bare TCP with the better of the kernel's congestion controls, in Mbit/s.
pub fn bare(report: &Report, line: &str, way: &str) -> Option<f64> {
    let medians = sections(report, line, Family::Bulk).filter_map(|(section, _)| {
        let measured: &Measured = section.part(way)?;
        Some(Spread::of(rates(measured.cell(DIRECT)?))?.median)
    });
    medians.reduce(f64::max)
}

fn row(
    section: &Section,
    facts: &LineFacts,
    way: &str,
    cell: &Cell,
    bare: Option<f64>,
) -> Option<Row> {
    let rate = Spread::of(rates(cell))?;
    let standstills = cell.rounds.iter().map(|round| {
        let whole = section.seconds * 1e3;
        round.get(&Metric::Standstill).copied().unwrap_or(whole)
    });
    let standstill = standstills.fold(0.0, f64::max);
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
    Some(Row {
        way: way.to_owned(),
        congestion_control: facts.congestion_control.clone(),
        column: cell.column.clone(),
        transfers: cell.rounds.len(),
        failed: cell
            .rounds
            .iter()
            .filter(|round| !round.contains_key(&Metric::GbitPerSecond))
            .count(),
        rate,
        standstill,
        slowest,
        verdict: match bare {
            _ if cell.column == DIRECT => Verdict::Yardstick,
            _ if !section.counts => Verdict::Open("the machine was not equal to the line"),
            Some(bare) if bare > 0.0 => judge(rate, standstill, facts.round_trip, bare),
            _ => Verdict::Open("no direct path to compare with"),
        },
    })
}

fn judge(rate: Spread, standstill: f64, round_trip: f64, bare: f64) -> Verdict {
    let (slowest, median) = (rate.low / bare, rate.median / bare);
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
    Verdict::Compared {
        slowest,
        median,
        short,
    }
}

/// Mbit/s of each transfer; one that failed has carried nothing.
fn rates(cell: &Cell) -> impl Iterator<Item = f64> {
    cell.rounds.iter().map(|round| {
        let gbit = round.get(&Metric::GbitPerSecond).copied();
        gbit.unwrap_or(0.0) * 1e3
    })
}

/// Shares of the median of bare TCP with the better of the kernel's congestion controls.
const SLOWEST: f64 = 0.8;
const MEDIAN: f64 = 0.95;
/// Milliseconds above two round trips.
const STANDSTILL: f64 = 200.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::Figures;

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

    fn section(control: &str, cells: Vec<Cell>) -> Section {
        Section {
            name: control.to_owned(),
            counts: true,
            seconds: 10.0,
            line: Some(LineFacts {
                name: "dsl".to_owned(),
                congestion_control: control.to_owned(),
                round_trip: 25.0,
                ..LineFacts::default()
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
        let rows = rows(&report(auto), "dsl");
        rows.into_iter()
            .find(|row| row.column == "adit-auto")
            .expect("it was measured")
    }

    #[test]
    fn bare_tcp_is_that_of_the_better_congestion_control() {
        assert_eq!(bare(&report(&[]), "dsl", "up"), Some(20.0));
        assert_eq!(bare(&report(&[]), "dsl", "down"), None);
        assert_eq!(bare(&report(&[]), "fibre", "up"), None);
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
        let rows = rows(&report, "dsl");
        assert!(rows.iter().all(|row| row.verdict.holds().is_none()));
        let mut alone = self::report(&[Some((19.5, 40.0))]);
        for section in &mut alone.sections {
            section.scenarios[0]
                .cells
                .retain(|cell| cell.column != DIRECT);
        }
        let rows = super::rows(&alone, "dsl");
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].verdict.words(),
            "open: no direct path to compare with"
        );
    }
}
