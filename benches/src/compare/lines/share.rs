//! A line shared with others: neither starves, and two equal tunnels have about as much.

use super::{
    line::Line,
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
    load::{Bulk, CongestionControl, Load},
};

/// Who shares the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// A foreign TCP connection.
    Kernel(CongestionControl),
    /// Another tunnel of the same kind.
    Tunnel,
}

impl Other {
    const ALL: [Self; 3] = [
        Self::Kernel(CongestionControl::Cubic),
        Self::Kernel(CongestionControl::Bbr),
        Self::Tunnel,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel(control) => control.name(),
            Self::Tunnel => "other",
        }
    }

    /// For people.
    const fn words(self) -> &'static str {
        match self {
            Self::Kernel(CongestionControl::Cubic) => "a foreign CUBIC connection",
            Self::Kernel(CongestionControl::Bbr) => "a foreign BBR connection",
            Self::Tunnel => "another one like it",
        }
    }
}

pub(super) fn scenarios(line: &Line, arguments: &Arguments) -> Vec<Scenario> {
    if !LINES.contains(&line.name) {
        return Vec::new();
    }
    let mut scenarios = Vec::new();
    for way in arguments.ways() {
        for other in Other::ALL {
            let title = format!("TCP {} beside {}", way.load(), other.words());
            let scenario = Scenario::new("", title, Load::Bulk(way.bulk()))
                .part("", part(other, way))
                // Who comes later finds their share within some seconds.
                .longer(2.0);
            scenarios.push(match other {
                Other::Kernel(control) => scenario.beside_foreign(Load::Bulk(Bulk {
                    control: Some(control),
                    ..way.bulk()
                })),
                Other::Tunnel => scenario.beside_another(Load::Bulk(way.bulk())),
            });
        }
    }
    scenarios
}

pub(super) fn table(report: &Report, line: &LineFacts) -> Table {
    let mut table = Table::new(line, &HEAD);
    for (section, facts) in sections(report, line) {
        for way in Way::BOTH {
            for other in Other::ALL {
                let measured = section.part(&part(other, way));
                for cell in measured.map(|one| &one.cells).into_iter().flatten() {
                    row(&mut table, section, facts, (way, other), cell);
                }
            }
        }
    }
    table.note(format!(
        "Both have at least {LEAST} of the line in every round; of two equal tunnels each has {EVEN_LEAST} to {EVEN_MOST} \
         of what they have together."
    ));
    table
}

fn row(
    table: &mut Table,
    section: &Section,
    facts: &LineFacts,
    (way, other): (Way, Other),
    cell: &Cell,
) {
    let mbit = |metric| figures(cell, metric, 0.0).map(|gbit| gbit * 1e3);
    let own: Vec<f64> = mbit(Metric::GbitPerSecond).collect();
    let others: Vec<f64> = mbit(Metric::BesideGbitPerSecond).collect();
    let (Some(own_spread), Some(other_spread)) = (
        Spread::of(own.iter().copied()),
        Spread::of(others.iter().copied()),
    ) else {
        return;
    };
    let line = way.rate(facts) * PAYLOAD;
    let verdict = if cell.column == DIRECT {
        Verdict::Yardstick
    } else if section.counts {
        judge(
            line,
            own_spread.low,
            other_spread.low,
            even(other, &own, &others),
        )
    } else {
        Verdict::UNEQUAL
    };
    let spread = |one: Spread| format!("{:.1} ({:.1}–{:.1})", one.median, one.low, one.high);
    let cells = vec![
        way.name().to_owned(),
        other.words().to_owned(),
        cell.column.clone(),
        count(cell.rounds.len(), failed(cell, Metric::GbitPerSecond)),
        spread(own_spread),
        spread(other_spread),
        format!(
            "{:.2} / {:.2}",
            own_spread.low / line,
            other_spread.low / line
        ),
    ];
    table.row(&part(other, way), &cell.column, cells, &verdict);
}

/// Of two equals, the share of this one in what both have that is furthest from a half.
fn even(other: Other, own: &[f64], others: &[f64]) -> Option<f64> {
    if other != Other::Tunnel {
        return None;
    }
    let shares = own.iter().zip(others).map(|(own, other)| {
        let both = own + other;
        if both > 0.0 { own / both } else { 0.0 }
    });
    let from_half = |share: f64| (share - 0.5).abs();
    shares.max_by(|one, other| from_half(*one).total_cmp(&from_half(*other)))
}

fn judge(line: f64, own: f64, other: f64, even: Option<f64>) -> Verdict {
    let mut short = Vec::new();
    for (who, rate) in [("it", own), ("the other", other)] {
        let share = rate / line;
        if share < LEAST {
            short.push(format!("{who} had {share:.3} of the line"));
        }
    }
    if let Some(share) = even
        && !(EVEN_LEAST..=EVEN_MOST).contains(&share)
    {
        short.push(format!("it had {share:.3} of both"));
    }
    Verdict::of(short)
}

fn part(other: Other, way: Way) -> String {
    format!("{}-{}", other.name(), way.name())
}

/// Without loss and jitter: what is measured is who yields to whom.
const LINES: [&str; 4] = ["20mbit", "100mbit", "dsl", "metro"];
/// Of a line's bytes, those that are no headers of full packets.
const PAYLOAD: f64 = 1448.0 / 1500.0;
/// Of the line, for each.
const LEAST: f64 = 0.35;
/// Of what two equal tunnels have together.
const EVEN_LEAST: f64 = 0.4;
const EVEN_MOST: f64 = 0.6;

const HEAD: [&str; 7] = [
    "way",
    "beside",
    "column",
    "rounds",
    "own, Mbit/s",
    "the other's, Mbit/s",
    "least of the line: own / other",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_may_starve() {
        assert_eq!(judge(20.0, 7.0, 13.0, None).words(), "met");
        let words = judge(20.0, 6.9, 13.0, None).words();
        assert_eq!(words, "short: it had 0.345 of the line");
        let words = judge(20.0, 13.0, 4.0, None).words();
        assert_eq!(words, "short: the other had 0.200 of the line");
    }

    #[test]
    fn equals_have_about_as_much_in_every_round() {
        let even =
            |own: &[f64], others: &[f64]| even(Other::Tunnel, own, others).expect("there are some");
        assert!((even(&[10.0, 6.0, 9.0], &[10.0, 9.0, 10.0]) - 0.4).abs() < 1e-9);
        assert!((even(&[10.0, 13.0], &[10.0, 7.0]) - 0.65).abs() < 1e-9);
        let words = judge(20.0, 9.0, 9.0, Some(0.39)).words();
        assert_eq!(words, "short: it had 0.390 of both");
        assert_eq!(judge(20.0, 9.0, 9.0, Some(0.6)).words(), "met");
        let foreign = Other::Kernel(CongestionControl::Bbr);
        assert_eq!(super::even(foreign, &[1.0], &[2.0]), None);
    }
}
