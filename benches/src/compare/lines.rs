//! Lines as people have them, and what is asked of each. Every family of scenarios has a file with what is measured and how
//! it is judged.

mod bulk;
mod game;
mod line;
mod loss;
mod measured;
pub mod print;
mod share;
mod table;
mod verdict;
mod way;

use self::line::Line;
pub use self::way::Way;
use super::{
    Arguments,
    column::{AUTO, Column, DIRECT},
    data::Family,
    path::EmulatedPath,
    rounds::Pace,
    scenario::Scenario,
};
use crate::load::CongestionControl;

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

impl Family {
    /// How often each is measured: the slowest of ten tells of what happens to one in ten.
    const fn rounds(self) -> usize {
        match self {
            Self::Bulk => 10,
            Self::Game | Self::Share | Self::Loss => 3,
        }
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
