//! What must hold of a scenario, and whether it does.

use crate::compare::data::{Metric, Report};

pub(super) struct Target {
    pub(super) what: &'static str,
    pub(super) checks: &'static [Check],
}

/// Something that must hold of one scenario.
pub(super) struct Check {
    pub(super) scenario: &'static str,
    /// The best of these counts.
    pub(super) columns: &'static [&'static str],
    /// Their sum counts.
    pub(super) metrics: &'static [Metric],
    pub(super) bound: Bound,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
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
    pub(super) fn judge(&self, report: &Report) -> Part {
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

/// What a run says of a part of a target.
#[derive(Debug, Clone)]
pub struct Part {
    /// What is asked.
    pub wanted: String,
    /// What was measured, in words.
    pub measured: String,
    /// Whether it is met, and if not, by how much it falls short.
    pub verdict: Verdict,
}

/// Whether a target is met.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not; this many per cent of the bound are missing, or too many.
    Short(f64),
    /// It is not, and the bound is nothing at all.
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

fn write(value: f64) -> String {
    Metric::P50.write(value)
}
