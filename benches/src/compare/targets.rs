//! The targets, each a ratio within one run, and what a run says of them.

mod check;
mod table;

pub use self::check::{Part, Verdict};
use self::table::TARGETS;
use super::data::Report;

/// What a run says of one target.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// What it is about.
    pub what: &'static str,
    /// Each part of it.
    pub parts: Vec<Part>,
}

/// Judges a run.
pub fn judge(report: &Report) -> Vec<Judgement> {
    TARGETS
        .iter()
        .map(|target| Judgement {
            what: target.what,
            parts: target
                .checks
                .iter()
                .map(|check| check.judge(report))
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{
        data::{Cell, Figures, Measured, Metric, Section},
        path,
        peers::RATHOLE,
        scenario::Scenario,
    };

    fn report(counts: bool, rathole: f64, adit: f64) -> Report {
        let cell = |column: &str, value| Cell {
            column: column.into(),
            rounds: vec![Figures::from([(Metric::PerSecond, value)])],
            ..Cell::default()
        };
        let scenario = Measured {
            name: "connections-8".into(),
            cells: vec![cell(RATHOLE, rathole), cell("adit-auto", adit)],
            ..Measured::default()
        };
        Report {
            sections: vec![Section {
                counts,
                scenarios: vec![scenario],
                ..Section::default()
            }],
            ..Report::default()
        }
    }

    fn verdict(report: &Report) -> Verdict {
        let judged = judge(report);
        let found = judged.iter().find(|one| one.what == "connections a second");
        found.expect("it is a target").parts[0].verdict.clone()
    }

    #[test]
    fn a_target_is_met_or_short_by_how_much() {
        assert_eq!(verdict(&report(true, 1000.0, 1200.0)), Verdict::Met);
        let Verdict::Short(by) = verdict(&report(true, 1000.0, 900.0)) else {
            panic!("it is short");
        };
        assert!((by - 25.0).abs() < 0.01, "{by}");
    }

    #[test]
    fn what_was_measured_where_it_does_not_count_is_open() {
        assert_eq!(verdict(&report(false, 1000.0, 1200.0)), Verdict::Open);
        assert_eq!(verdict(&Report::default()), Verdict::Open);
    }

    #[test]
    fn targets_name_scenarios_that_exist() {
        let paths = path::all(2.0).into_iter().flat_map(|path| path.scenarios);
        let names: Vec<_> = Scenario::loopback()
            .into_iter()
            .chain(paths)
            .map(|one| one.name)
            .collect();
        for check in TARGETS.iter().flat_map(|target| target.checks) {
            let known = names.iter().any(|name| name == check.scenario);
            assert!(known, "{}", check.scenario);
        }
    }
}
