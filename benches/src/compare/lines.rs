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
use super::{arguments::Arguments, data::Family, path::EmulatedPath, scenario::Scenario};
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
        assert!(names.contains("lines-game-4g-late-upload-cubic"));
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
}
