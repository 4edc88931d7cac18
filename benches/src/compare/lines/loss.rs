//! What a lossy line takes of datagrams, from the first on: every round has a tunnel that knows nothing of the line.

use super::{
    line::Line,
    measured::{count, failed, sections},
    verdict::{Table, Verdict},
};
use crate::{
    compare::{
        column::DIRECT,
        data::{Cell, LineFacts, Metric, Report, Section},
        scenario::Scenario,
    },
    load::{Game, Load},
};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Sparse,
    Small,
    Large,
    Mixed,
}

impl Traffic {
    const ALL: [Self; 4] = [Self::Sparse, Self::Small, Self::Large, Self::Mixed];

    const fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Small => "small",
            Self::Large => "large",
            Self::Mixed => "mixed",
        }
    }

    /// For people.
    const fn words(self) -> &'static str {
        match self {
            Self::Sparse => "1 datagram/s of 200 B in each of 10 tunnels",
            Self::Small => "4 × 100 datagrams/s of 200 B",
            Self::Large => "200 datagrams/s of 1,400 B",
            Self::Mixed => "all of it in one tunnel",
        }
    }

    fn scenario(self) -> Scenario {
        let game = |players, rate, size| {
            let sizes = (size, size);
            let cold = true;
            Load::Game(Game {
                players,
                rate,
                sizes,
                cold,
            })
        };
        let sparse = |players| game(players, 1.0, 200);
        let (small, large) = (game(4, 100.0, 200), game(1, 200.0, 1400));
        let of = |load| Scenario::new("", self.words(), load).part("", self.name());
        match self {
            // They are so few that several tunnels are needed to tell, and some time.
            Self::Sparse => of(sparse(SPARSE_TUNNELS))
                .tunnels(SPARSE_TUNNELS)
                .longer(6.0),
            Self::Small => of(small),
            Self::Large => of(large),
            Self::Mixed => of(small).beside(large).beside(sparse(1)),
        }
    }
}

pub(super) fn scenarios(line: &Line) -> Vec<Scenario> {
    if line.name == LINE {
        Traffic::ALL.map(Traffic::scenario).into()
    } else {
        Vec::new()
    }
}

pub(super) fn table(report: &Report, line: &LineFacts) -> Table {
    let mut table = Table::new(line, &HEAD);
    for (section, _) in sections(report, line) {
        for traffic in Traffic::ALL {
            let measured = section.part(traffic.name());
            for cell in measured.map(|one| &one.cells).into_iter().flatten() {
                row(&mut table, section, traffic, cell);
            }
        }
    }
    table.note(format!(
        "Of all rounds together at most {MOST} % are lost, there and back, the first datagram of each flow among them."
    ));
    table
}

fn row(table: &mut Table, section: &Section, traffic: Traffic, cell: &Cell) {
    let sum = |metric| -> f64 {
        let rounds = cell.rounds.iter();
        rounds.filter_map(|round| round.get(&metric)).sum()
    };
    let (sent, lost) = (sum(Metric::Sent), sum(Metric::Lost));
    let failed = failed(cell, Metric::Sent);
    if cell.rounds.is_empty() {
        return;
    }
    let verdict = if cell.column == DIRECT {
        Verdict::Yardstick
    } else if section.counts {
        judge(sent, lost, failed)
    } else {
        Verdict::UNEQUAL
    };
    let figure = |metric: Metric| {
        let median = cell.median(metric);
        median.map_or_else(String::new, |value| metric.write(value))
    };
    let cells = vec![
        traffic.words().to_owned(),
        cell.column.clone(),
        count(cell.rounds.len(), failed),
        format!("{lost:.0} of {sent:.0}"),
        format!("{:.3}", percent(sent, lost)),
        figure(Metric::P50),
        figure(Metric::P99),
        figure(Metric::WirePerSecond),
    ];
    table.row(traffic.name(), &cell.column, cells, &verdict);
}

fn judge(sent: f64, lost: f64, failed: usize) -> Verdict {
    let mut short = Vec::new();
    let percent = percent(sent, lost);
    if percent > MOST {
        short.push(format!("{percent:.2} % lost of {MOST}"));
    }
    if failed > 0 {
        short.push(format!("{failed} of the rounds failed"));
    }
    Verdict::of(short)
}

fn percent(sent: f64, lost: f64) -> f64 {
    if sent > 0.0 {
        lost / sent * 100.0
    } else {
        100.0
    }
}

/// 1 % each way, and wide enough for all that is sent.
const LINE: &str = "200mbit";
const SPARSE_TUNNELS: usize = 10;
/// Percent.
const MOST: f64 = 0.1;

const HEAD: [&str; 8] = [
    "traffic",
    "column",
    "rounds",
    "lost",
    "%",
    "p50, ms",
    "p99, ms",
    "on the wire, kB/s",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_thousand_may_be_lost() {
        assert_eq!(judge(6000.0, 6.0, 0).words(), "met");
        assert_eq!(judge(6000.0, 7.0, 0).words(), "short: 0.12 % lost of 0.1");
        assert_eq!(judge(100.0, 0.0, 0).words(), "met");
        assert_eq!(
            judge(6000.0, 0.0, 1).words(),
            "short: 1 of the rounds failed"
        );
        assert_eq!(judge(0.0, 0.0, 0).holds(), Some(false));
    }

    #[test]
    fn first_datagrams_count_and_sparse_ones_have_tunnels_of_their_own() {
        for traffic in Traffic::ALL {
            let scenario = traffic.scenario();
            let beside = scenario.beside.iter().map(|beside| &beside.load);
            for load in beside.chain([&scenario.load]) {
                let Load::Game(game) = load else {
                    panic!("{load:?}");
                };
                assert!(game.cold, "{traffic:?}");
            }
        }
        let sparse = Traffic::Sparse.scenario();
        let Load::Game(game) = &sparse.load else {
            panic!("{:?}", sparse.load);
        };
        assert_eq!((sparse.tunnels, game.players), (10, 10));
    }
}
