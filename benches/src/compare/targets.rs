//! The targets, each a ratio within one run, and what a run says of them.

mod table;

use self::table::TARGETS;
use super::data::{Metric, Report};

/// What a run says of one target.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// What it is about.
    pub what: &'static str,
    /// Each part of it.
    pub parts: Vec<Part>,
}

/// What a run says of a part of a target.
#[derive(Debug, Clone)]
pub struct Part {
    /// What is asked.
    pub wanted: String,
    /// What was measured, in words.
    pub measured: String,
    /// Whether it holds, and if not, by how much it falls short.
    pub verdict: Verdict,
}

/// Whether a target holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It does.
    Met,
    /// It does not; so many per cent of the bound are missing, or too many.
    Short(f64),
    /// It does not, and the bound is nothing at all.
    Missed,
    /// This run has not measured it, or not where it counts.
    Open,
}

impl Verdict {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Met => "met".to_owned(),
            Self::Short(by) => format!("short by {by:.0} %"),
            Self::Missed => "missed".to_owned(),
            Self::Open => "not measured".to_owned(),
        }
    }
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

struct Target {
    what: &'static str,
    checks: &'static [Check],
}

/// Something that must hold of one scenario.
struct Check {
    scenario: &'static str,
    /// The best of these counts.
    columns: &'static [&'static str],
    /// Their sum counts.
    metrics: &'static [Metric],
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Times another column.
    RatioAtMost(&'static str, f64),
    RatioAtLeast(&'static str, f64),
    /// Above another column.
    AboveAtMost(&'static str, f64),
    /// Times the same column in another scenario.
    OfScenarioAtMost(&'static str, f64),
    /// Times another column in another scenario.
    RatioElsewhereAtLeast(&'static str, &'static str, f64),
    /// Above the same column in another scenario.
    AboveScenarioAtMost(&'static str, f64),
}

impl Check {
    fn judge(&self, report: &Report) -> Part {
        let values = self.columns.iter().filter_map(|column| {
            let value = self.value(report, column)?;
            Some((*column, value))
        });
        let best = if self.wants_more() {
            values.max_by(|one, other| one.1.total_cmp(&other.1))
        } else {
            values.min_by(|one, other| one.1.total_cmp(&other.1))
        };
        let counts = report
            .scenario(self.scenario)
            .is_some_and(|(section, _)| section.counts);
        let (measured, verdict) = match best {
            Some((column, value)) if counts => {
                let measured = format!("{}{} ({column})", write(value), self.unit());
                (measured, self.verdict(value))
            }
            _ => ("–".to_owned(), Verdict::Open),
        };
        Part {
            wanted: self.wanted(),
            measured,
            verdict,
        }
    }

    /// What is compared with the bound.
    fn value(&self, report: &Report, column: &str) -> Option<f64> {
        let sum = |scenario: &str, column: &str| {
            let cell = report.scenario(scenario)?.1.cell(column)?;
            let values = self.metrics.iter().map(|metric| cell.median(*metric));
            values.sum::<Option<f64>>()
        };
        let value = sum(self.scenario, column)?;
        match self.bound {
            Bound::AtMost(_) | Bound::AtLeast(_) => Some(value),
            Bound::RatioAtMost(to, _) | Bound::RatioAtLeast(to, _) => {
                if let &[metric] = self.metrics {
                    let scenario = report.scenario(self.scenario)?.1;
                    if let Some(ratio) = scenario.ratio(metric, column, to) {
                        return Some(ratio);
                    }
                }
                let to = sum(self.scenario, to)?;
                // Nothing is as much as nothing.
                (to > 0.0)
                    .then(|| value / to)
                    .or((value == 0.0).then_some(0.0))
            }
            Bound::AboveAtMost(to, _) => Some(value - sum(self.scenario, to)?),
            Bound::OfScenarioAtMost(other, _) => Some(value / sum(other, column)?),
            Bound::RatioElsewhereAtLeast(other, to, _) => Some(value / sum(other, to)?),
            Bound::AboveScenarioAtMost(other, _) => Some(value - sum(other, column)?),
        }
    }

    fn verdict(&self, value: f64) -> Verdict {
        let bound = self.limit();
        let holds = if self.wants_more() {
            value >= bound
        } else {
            value <= bound
        };
        if holds {
            Verdict::Met
        } else if bound == 0.0 {
            Verdict::Missed
        } else {
            Verdict::Short((value / bound - 1.0).abs() * 100.0)
        }
    }

    const fn limit(&self) -> f64 {
        match self.bound {
            Bound::AtMost(bound)
            | Bound::AtLeast(bound)
            | Bound::RatioAtMost(_, bound)
            | Bound::RatioAtLeast(_, bound)
            | Bound::AboveAtMost(_, bound)
            | Bound::OfScenarioAtMost(_, bound)
            | Bound::RatioElsewhereAtLeast(_, _, bound)
            | Bound::AboveScenarioAtMost(_, bound) => bound,
        }
    }

    const fn wants_more(&self) -> bool {
        matches!(
            self.bound,
            Bound::AtLeast(_) | Bound::RatioAtLeast(..) | Bound::RatioElsewhereAtLeast(..)
        )
    }

    const fn unit(&self) -> &'static str {
        match self.bound {
            Bound::AtMost(_) | Bound::AtLeast(_) => "",
            Bound::AboveAtMost(..) | Bound::AboveScenarioAtMost(..) => " more",
            _ => "×",
        }
    }

    fn wanted(&self) -> String {
        let names: Vec<_> = self.metrics.iter().map(|metric| metric.title()).collect();
        let of = format!("{}: {}", self.scenario, names.join(" + "));
        match self.bound {
            Bound::AtMost(bound) => format!("{of} ≤ {bound}"),
            Bound::AtLeast(bound) => format!("{of} ≥ {bound}"),
            Bound::RatioAtMost(to, bound) => format!("{of} ≤ {bound}× {to}"),
            Bound::RatioAtLeast(to, bound) => format!("{of} ≥ {bound}× {to}"),
            Bound::AboveAtMost(to, bound) => format!("{of} ≤ {to} + {bound}"),
            Bound::OfScenarioAtMost(other, bound) => format!("{of} ≤ {bound}× of {other}"),
            Bound::RatioElsewhereAtLeast(other, to, bound) => {
                format!("{of} ≥ {bound}× {to} in {other}")
            }
            Bound::AboveScenarioAtMost(other, bound) => format!("{of} ≤ of {other} + {bound}"),
        }
    }
}

fn write(value: f64) -> String {
    Metric::P50.write(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{
        data::{Cell, Figures, Measured, Section},
        path::Path,
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
        let paths = Path::all(2.0).into_iter().flat_map(|path| path.scenarios);
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
