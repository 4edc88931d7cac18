//! Lines as people have them, and what is asked of each. Every family of scenarios has a file with what is measured and how
//! it is judged.

mod bulk;
mod game;
mod loss;
pub mod print;
mod share;
mod table;

use clap::ValueEnum;

use super::{
    Arguments,
    column::{AUTO, Column, DIRECT},
    data::{Cell, Family, LineFacts, Metric, Report, Section},
    path::EmulatedPath,
    rounds::Pace,
    scenario::Scenario,
};
use crate::{
    link::{LinkConfig, Shape},
    load::{Bulk, CongestionControl},
};

/// Which way bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From the game server at home to players.
    Up,
    /// From players to the game server.
    Down,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As in the names of scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    const fn bulk(self) -> Bulk {
        Bulk::one(matches!(self, Self::Up))
    }

    /// For people.
    const fn load(self) -> &'static str {
        match self {
            Self::Up => "upload",
            Self::Down => "download",
        }
    }

    /// Mbit/s that the line has this way.
    const fn rate(self, line: &LineFacts) -> f64 {
        match self {
            Self::Up => line.up,
            Self::Down => line.down,
        }
    }
}

impl Family {
    const ALL: [Self; 4] = [Self::Bulk, Self::Game, Self::Share, Self::Loss];

    /// What the names of its scenarios begin with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Bulk => "lines",
            Self::Game => "lines-game",
            Self::Share => "lines-share",
            Self::Loss => "lines-loss",
        }
    }

    /// How often each is measured: the slowest of ten tells of what happens to one in ten.
    const fn rounds(self) -> usize {
        match self {
            Self::Bulk => 10,
            Self::Game | Self::Share | Self::Loss => 3,
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// On the command line.
    name: &'static str,
    /// What it is like.
    words: &'static str,
    up: Shape,
    down: Shape,
}

impl Line {
    fn facts(&self, family: Family, control: CongestionControl) -> LineFacts {
        let link = self.link();
        let rate = |shape: &Shape| shape.bottleneck.map_or(0.0, |one| one.rate as f64 / 1e6);
        LineFacts {
            name: self.name.to_owned(),
            words: self.words.to_owned(),
            family,
            congestion_control: control.name().to_owned(),
            round_trip: link.round_trip().as_secs_f64() * 1e3,
            deviation: link.jitter_deviation().as_secs_f64() * 1e3,
            up: rate(&link.up),
            down: rate(&link.down),
        }
    }

    /// Chance begins anew before each transfer.
    fn link(&self) -> LinkConfig {
        LinkConfig {
            up: self.up.clone(),
            down: self.down.clone(),
            seed: 0,
        }
    }
}

/// All lines for each family, under each of the kernel's congestion controls, as far as they are asked for.
pub(super) fn all(arguments: &Arguments) -> Vec<EmulatedPath> {
    let mut paths = Vec::new();
    for family in Family::ALL {
        for line in table::all(arguments.seconds_on_lines()) {
            for control in arguments.controls(family) {
                let scenarios = match family {
                    Family::Bulk => bulk::scenarios(arguments),
                    Family::Game => game::scenarios(&line, arguments),
                    Family::Share => share::scenarios(&line, arguments),
                    Family::Loss => loss::scenarios(&line),
                };
                paths.push(path(&line, control, family, scenarios, arguments.keep));
            }
        }
    }
    paths
}

/// The scenarios come with their parts as names.
fn path(
    line: &Line,
    control: CongestionControl,
    family: Family,
    mut scenarios: Vec<Scenario>,
    keep: bool,
) -> EmulatedPath {
    let name = format!("{}-{}", family.prefix(), line.name);
    for scenario in &mut scenarios {
        scenario.family = family.prefix();
        scenario.name = format!("{name}-{}-{}", scenario.part, control.name());
        scenario.fresh = !keep;
    }
    EmulatedPath {
        title: format!("{name}, {}: {}", control.name(), line.words),
        link: line.link(),
        congestion_control: control.name(),
        line: Some(line.facts(family, control)),
        scenarios,
    }
}

/// The sections of one line in one family, in the order of the report.
fn sections<'a>(
    report: &'a Report,
    line: &'a LineFacts,
) -> impl Iterator<Item = (&'a Section, &'a LineFacts)> {
    let facts = |section: &'a Section| Some((section, section.line.as_ref()?));
    let all = report.sections.iter().filter_map(facts);
    all.filter(move |(_, one)| one.name == line.name && one.family == line.family)
}

/// A figure of each round; `missing` where the round has failed.
fn figures(cell: &Cell, metric: Metric, missing: f64) -> impl Iterator<Item = f64> {
    let figure = move |round: &super::data::Figures| round.get(&metric).copied();
    cell.rounds
        .iter()
        .map(move |round| figure(round).unwrap_or(missing))
}

/// How many rounds have failed: they lack what every other one has.
fn failed(cell: &Cell, metric: Metric) -> usize {
    let lacks = |round: &&super::data::Figures| !round.contains_key(&metric);
    cell.rounds.iter().filter(lacks).count()
}

/// For people.
fn count(all: usize, failed: usize) -> String {
    match failed {
        0 => all.to_string(),
        failed => format!("{all} ({failed} failed)"),
    }
}

impl Arguments {
    pub(super) fn pace_on_lines(&self, family: Family) -> Pace {
        Pace {
            rounds: self.transfers.unwrap_or(family.rounds()),
            seconds: self.seconds_on_lines(),
            seed: self.seed,
            keep: self.keep,
        }
    }

    /// On lines, what is asked of Adit's default and what it is compared with, unless others are named.
    pub(super) fn columns_on(&self, path: &EmulatedPath, columns: &[Column]) -> Vec<Column> {
        let mut columns = columns.to_vec();
        if path.line.is_some() && self.columns.is_empty() {
            columns.retain(|column| [DIRECT, AUTO].contains(&column.name));
        }
        columns
    }

    fn seconds_on_lines(&self) -> f64 {
        self.seconds.unwrap_or(SECONDS)
    }

    fn controls(&self, family: Family) -> impl Iterator<Item = CongestionControl> {
        // Both, where the kernel's default is what it is about.
        let count = match family {
            Family::Bulk | Family::Game => 2,
            Family::Share | Family::Loss => 1,
        };
        let all = [CongestionControl::Bbr, CongestionControl::Cubic];
        let wanted = self.congestion_control;
        all.into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
            .take(count)
    }

    fn ways(&self) -> impl Iterator<Item = Way> {
        let wanted = self.direction;
        Way::BOTH
            .into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
    }
}

/// Of each transfer.
const SECONDS: f64 = 10.0;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own_that_begin_with_their_family() {
        let mut names = HashSet::new();
        for path in all(&Arguments::of(&["--seconds", "2"])) {
            for scenario in path.scenarios {
                assert!(scenario.name.starts_with(scenario.family));
                assert!(!scenario.part.is_empty() && !scenario.shown().is_empty());
                assert!(names.insert(scenario.name.clone()), "{}", scenario.name);
            }
        }
        assert!(names.contains("lines-dsl-up-bbr"));
        assert!(names.contains("lines-game-4g-upload-cubic"));
        assert!(names.contains("lines-share-20mbit-other-down-bbr"));
        assert!(names.contains("lines-loss-200mbit-sparse-bbr"));
    }

    #[test]
    fn flags_choose_ways_and_kernels() {
        let some = all(&Arguments::of(&[
            "--direction",
            "up",
            "--congestion-control",
            "cubic",
        ]));
        for path in &some {
            assert_eq!(path.congestion_control, "cubic");
            let down = |scenario: &Scenario| scenario.part.contains("down");
            assert!(!path.scenarios.iter().any(down));
        }
        assert!(some.iter().any(|path| !path.scenarios.is_empty()));
    }

    #[test]
    fn only_names_a_family_at_least() {
        let names = |only: &str| -> Vec<String> {
            let paths = Arguments::of(&["--only", only]).paths();
            let names = paths.into_iter().flat_map(|path| path.scenarios);
            names.map(|scenario| scenario.name).collect()
        };
        // 17 lines, both ways, both kernels.
        assert_eq!(names("lines").len(), 68);
        assert_eq!(names("lines-dsl").len(), 4);
        assert_eq!(names("lines-dsl-up-bbr"), ["lines-dsl-up-bbr"]);
        for family in ["lines-game", "lines-share", "lines-loss"] {
            let chosen = names(family);
            assert!(!chosen.is_empty());
            assert!(chosen.iter().all(|name| name.starts_with(family)));
        }
        assert!(names("bbr").iter().all(|name| name.starts_with("path-")));
        assert!(
            Arguments::of(&[])
                .paths()
                .iter()
                .all(|path| path.line.is_none())
        );
    }

    #[test]
    fn lines_have_ten_transfers_of_ten_seconds_unless_told_otherwise() {
        let pace = Arguments::of(&[]).pace_on_lines(Family::Bulk);
        assert_eq!((pace.rounds, pace.seconds, pace.seed), (10, 10.0, 1));
        let told = [
            "--transfers",
            "2",
            "--seconds",
            "3",
            "--seed",
            "7",
            "--keep",
        ];
        let pace = Arguments::of(&told).pace_on_lines(Family::Game);
        assert_eq!((pace.rounds, pace.seconds, pace.seed), (2, 3.0, 7));
        assert!(pace.keep);
    }
}
