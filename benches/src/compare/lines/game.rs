//! A game beside bulk in the same tunnel, on lines on which it would feel it.

use std::time::Duration;

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
        data::{Cell, Family, LineFacts, Metric, Report, Section, Spread},
        scenario::Scenario,
    },
    load::{CongestionControl, Game, Load},
};

/// The game alone; then each way bulk alone, the game beside it, and the game before it. None on lines so fast that no game feels bulk.
pub(super) fn scenarios(line: &Line, arguments: &Arguments) -> Vec<Scenario> {
    let facts = line.facts(Family::Game, CongestionControl::Bbr);
    if facts.up.max(facts.down) > FASTEST {
        return Vec::new();
    }
    let game = |title: &str| {
        let title = format!("game, 4 players × 100/s, {title}");
        let load = Game {
            players: 4,
            rate: 100.0,
            sizes: (200, 200),
            cold: false,
        };
        Scenario::new("", title, Load::Game(load))
    };
    let mut scenarios = vec![game("alone").part("", IDLE)];
    for way in arguments.ways() {
        let (load, bulk) = (way.load(), Load::Bulk(way.bulk()));
        let alone = Scenario::new("", format!("TCP {load} alone"), bulk.clone());
        let beside = game(&format!("beside a TCP {load} in the same tunnel")).beside(bulk.clone());
        let title = format!("beside a TCP {load} that begins {} s later", LATE.as_secs());
        scenarios.push(alone.part("", alone_of(way)));
        scenarios.push(beside.part("", load));
        scenarios.push(game(&title).beside_late(bulk, LATE).part("", late_of(way)));
    }
    scenarios
}

pub(super) fn table(report: &Report, line: &LineFacts) -> Table {
    let mut table = Table::new(line, &HEAD);
    for (section, facts) in sections(report, line) {
        for way in Way::BOTH {
            for part in [way.load(), late_of(way)] {
                let cells = section.part(part).map(|measured| &measured.cells);
                for cell in cells.into_iter().flatten() {
                    if let Some(row) = row(section, facts, (way, part), cell) {
                        row.add_to(&mut table);
                    }
                }
            }
        }
    }
    let bound = most(line);
    table.note(format!(
        "The worst p99 beside bulk is at most {bound:.1} ms above the median p99 alone, and the slowest bulk at least \
         {KEEPS} of its own median alone."
    ));
    table
}

struct Row {
    load: &'static str,
    congestion_control: String,
    column: String,
    rounds: String,
    /// Median p50 and p99 of the game alone, in ms.
    alone: (f64, f64),
    /// Median p50 and worst p99 beside bulk, in ms.
    beside: (f64, f64),
    /// Of the game's datagrams, in percent, of the worst round.
    lost: f64,
    /// Mbit/s of bulk: the slowest beside the game, and the median alone.
    bulk: (f64, f64),
    verdict: Verdict,
}

impl Row {
    fn add_to(self, table: &mut Table) {
        let ms = |value: f64| format!("{value:.1}");
        let kept = if self.bulk.1 > 0.0 {
            format!("{:.2}", self.bulk.0 / self.bulk.1)
        } else {
            String::new()
        };
        let cells = vec![
            self.load.to_owned(),
            self.congestion_control.clone(),
            self.column.clone(),
            self.rounds,
            format!("{} / {}", ms(self.alone.0), ms(self.alone.1)),
            format!("{} / {}", ms(self.beside.0), ms(self.beside.1)),
            ms(self.beside.1 - self.alone.1),
            format!("{:.2}", self.lost),
            format!("{:.1} of {:.1}", self.bulk.0, self.bulk.1),
            kept,
        ];
        let name = format!("{}-{}", self.load, self.congestion_control);
        table.row(&name, &self.column, cells, &self.verdict);
    }
}

fn row(
    section: &Section,
    facts: &LineFacts,
    (way, load): (Way, &'static str),
    cell: &Cell,
) -> Option<Row> {
    let of = |part: &str| section.part(part)?.cell(&cell.column);
    let (idle, alone) = (of(IDLE)?, of(alone_of(way))?);
    let median = |cell: &Cell, metric| cell.median(metric);
    // What has failed has no latency at all.
    let worst = |metric| figures(cell, metric, f64::INFINITY).reduce(f64::max);
    let rate = |cell: &Cell, metric| Spread::of(figures(cell, metric, 0.0).map(|gbit| gbit * 1e3));
    let idle = (median(idle, Metric::P50)?, median(idle, Metric::P99)?);
    let beside = (
        median(cell, Metric::P50).unwrap_or(f64::INFINITY),
        worst(Metric::P99)?,
    );
    let bulk = (
        rate(cell, Metric::BesideGbitPerSecond)?.low,
        rate(alone, Metric::GbitPerSecond)?.median,
    );
    let verdict = if cell.column == DIRECT {
        Verdict::Yardstick
    } else if section.counts {
        judge(beside.1 - idle.1, most(facts), bulk)
    } else {
        Verdict::UNEQUAL
    };
    Some(Row {
        load,
        congestion_control: facts.congestion_control.clone(),
        column: cell.column.clone(),
        rounds: count(cell.rounds.len(), failed(cell, Metric::P99)),
        alone: idle,
        beside,
        lost: figures(cell, Metric::Loss, 100.0).fold(0.0, f64::max),
        bulk,
        verdict,
    })
}

fn judge(rise: f64, most: f64, (beside, alone): (f64, f64)) -> Verdict {
    let mut short = Vec::new();
    if rise > most {
        short.push(format!("p99 rose by {rise:.1} of {most:.1} ms"));
    }
    if alone <= 0.0 || beside / alone < KEEPS {
        short.push(format!("bulk kept {beside:.1} of {alone:.1} Mbit/s"));
    }
    Verdict::of(short)
}

/// By how much the game's p99 may rise, in ms.
fn most(line: &LineFacts) -> f64 {
    RISE + 2.0 * line.deviation
}

const fn alone_of(way: Way) -> &'static str {
    match way {
        Way::Up => "upload-alone",
        Way::Down => "download-alone",
    }
}

const fn late_of(way: Way) -> &'static str {
    match way {
        Way::Up => "late-upload",
        Way::Down => "late-download",
    }
}

const IDLE: &str = "idle";
/// How long a game is played before bulk begins beside it: the controller knows of it by then.
const LATE: Duration = Duration::from_secs(1);
/// Mbit/s.
const FASTEST: f64 = 100.0;
/// Milliseconds.
const RISE: f64 = 10.0;
/// The share of itself that bulk keeps beside a game.
const KEEPS: f64 = 0.85;

const HEAD: [&str; 10] = [
    "beside",
    "kernel",
    "column",
    "rounds",
    "alone: p50 / p99, ms",
    "beside: p50 / worst p99",
    "rise of p99",
    "lost, %",
    "bulk: slowest of alone, Mbit/s",
    "kept",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Figures, Measured};

    fn measured(part: &str, rounds: Vec<Figures>) -> Measured {
        Measured {
            part: part.to_owned(),
            cells: vec![Cell {
                column: "adit-auto".to_owned(),
                rounds,
                ..Cell::default()
            }],
            ..Measured::default()
        }
    }

    fn game(p99: f64, bulk: f64) -> Figures {
        Figures::from([
            (Metric::P50, 20.0),
            (Metric::P99, p99),
            (Metric::Loss, 0.0),
            (Metric::BesideGbitPerSecond, bulk / 1e3),
        ])
    }

    fn verdict(deviation: f64, rounds: Vec<Figures>) -> String {
        let section = Section {
            counts: true,
            scenarios: vec![
                measured(
                    IDLE,
                    vec![game(22.0, 0.0), game(30.0, 0.0), game(21.0, 0.0)],
                ),
                measured(
                    "upload-alone",
                    vec![Figures::from([(Metric::GbitPerSecond, 0.02)])],
                ),
                measured("upload", rounds),
            ],
            ..Section::default()
        };
        let facts = LineFacts {
            deviation,
            ..LineFacts::default()
        };
        let cell = &section.scenarios[2].cells[0];
        let of = (Way::Up, "upload");
        let row = row(&section, &facts, of, cell).expect("it was measured");
        row.verdict.words()
    }

    #[test]
    fn worst_round_decides() {
        let good = || game(32.0, 17.0);
        assert_eq!(verdict(0.0, vec![good(), good()]), "met");
        let words = verdict(0.0, vec![good(), game(33.0, 17.0)]);
        assert_eq!(words, "short: p99 rose by 11.0 of 10.0 ms");
        let words = verdict(0.0, vec![game(32.0, 16.0), good()]);
        assert_eq!(words, "short: bulk kept 16.0 of 20.0 Mbit/s");
    }

    #[test]
    fn bulk_begins_before_the_game_and_after_it() {
        let lines = crate::compare::lines::table::all(10.0);
        let line = lines.into_iter().find(|line| line.name == "20mbit");
        let all = scenarios(&line.expect("it is there"), &Arguments::of(&[]));
        let late: Vec<_> = all
            .iter()
            .filter_map(|it| Some((&*it.part, it.beside.first()?.late)))
            .collect();
        let expected = [
            ("upload", Duration::ZERO),
            ("late-upload", LATE),
            ("download", Duration::ZERO),
            ("late-download", LATE),
        ];
        assert_eq!(late, expected);
    }

    #[test]
    fn jitter_widens_the_bound_by_two_deviations() {
        assert_eq!(verdict(3.0, vec![game(38.0, 17.0)]), "met");
        let words = verdict(3.0, vec![game(38.1, 17.0)]);
        assert_eq!(words, "short: p99 rose by 16.1 of 16.0 ms");
    }

    #[test]
    fn round_that_failed_is_short() {
        let words = verdict(0.0, vec![game(32.0, 17.0), Figures::new()]);
        assert!(words.starts_with("short: p99 rose by inf"), "{words}");
    }
}
