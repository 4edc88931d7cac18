//! Everything that was measured, as it is written to `report.json`.

use std::{collections::BTreeMap, fs, thread};

use serde::{Deserialize, Serialize};

use crate::load::Latencies;

/// A whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// On what it ran.
    pub machine: Machine,
    /// How it was called.
    pub command: String,
    /// What each column's program calls itself.
    pub versions: BTreeMap<String, String>,
    /// In the order in which they were measured.
    pub sections: Vec<Section>,
}

/// On what a run ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// When it began, UTC.
    pub date: String,
    /// The processor.
    pub processor: String,
    /// How many cores are there for it.
    pub cores: usize,
    /// GiB of memory.
    pub memory: f64,
    /// The kernel.
    pub kernel: String,
    /// The congestion control that the kernel gives sockets that ask for none.
    pub congestion_control: String,
    /// Descriptors that a process may have: what holds 10,000 connections takes more than 20,000.
    pub descriptors: u64,
    /// Load averages before the run.
    pub load_before: String,
    /// Load averages after the run; on an otherwise idle machine that is the run itself.
    pub load_after: String,
}

/// Scenarios on one place.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Section {
    /// Loopback, or what the path is like.
    pub name: String,
    /// Remarks on the place: what its own check found.
    pub notes: Vec<String>,
    /// Whether the place was what it should be: a scenario on another counts for nothing.
    pub counts: bool,
    /// How long an ordinary measurement took here.
    #[serde(default)]
    pub seconds: f64,
    /// The first round's seed; each further round has the next.
    #[serde(default)]
    pub seed: u64,
    /// What its verdicts go by, where it is one of the lines.
    #[serde(default)]
    pub line: Option<LineFacts>,
    /// What was measured, in order.
    pub scenarios: Vec<Measured>,
}

/// An emulated line, as verdicts see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LineFacts {
    /// As on the command line.
    pub name: String,
    /// What it is like, in words.
    pub words: String,
    /// What is asked of it.
    pub family: Family,
    /// The kernel's default, which the direct path has.
    pub congestion_control: String,
    /// Milliseconds there and back.
    pub round_trip: f64,
    /// The standard deviation of the round trip, in milliseconds.
    pub deviation: f64,
    /// Mbit/s from home to the outside.
    pub up: f64,
    /// Mbit/s from the outside to home.
    pub down: f64,
}

/// What is asked of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Bulk at the line's rate, always.
    #[default]
    Bulk,
    /// A game that bulk beside it does not disturb, and bulk that the game costs little.
    Game,
    /// A fair share beside others.
    Share,
    /// No datagram lost, from the first on.
    Loss,
}

impl Family {
    /// All of them, in the order of a run.
    pub const ALL: [Self; 4] = [Self::Bulk, Self::Game, Self::Share, Self::Loss];

    /// What the names of its scenarios begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Bulk => "lines",
            Self::Game => "lines-game",
            Self::Share => "lines-share",
            Self::Loss => "lines-loss",
        }
    }
}

/// One scenario on all columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Its name on the command line.
    pub name: String,
    /// What it is, in words.
    pub title: String,
    /// Its part in the verdict on a line, such as `up`.
    #[serde(default)]
    pub part: String,
    /// What the table shows of it, in order.
    pub shown: Vec<Metric>,
    /// Packets or bytes a second that were asked for, where the load is set: the abscissa of cost against load.
    pub offered: Option<f64>,
    /// A cell for each column that was measured.
    pub cells: Vec<Cell>,
}

/// One scenario on one column.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cell {
    /// Whose.
    pub column: String,
    /// The figures of each round, in order; a round that failed has none.
    pub rounds: Vec<Figures>,
    /// The latencies of each round.
    pub latencies: Vec<Latencies>,
    /// Bytes or events in each tenth of a second: of the last round, or of bulk's slowest.
    pub series: Vec<u64>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// Figures by what they are.
pub type Figures = BTreeMap<Metric, f64>;

/// What a figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "their titles say it")]
pub enum Metric {
    GbitPerSecond,
    PerSecond,
    Loss,
    P50,
    P90,
    P99,
    P999,
    Longest,
    CpuPerGbRelay,
    CpuPerGbClient,
    CpuPerPacketRelay,
    CpuPerPacketClient,
    CpuPerEventRelay,
    CpuPerEventClient,
    CpuRelay,
    CpuClient,
    EachRelay,
    EachClient,
    GrowthRelay,
    GrowthClient,
    PeakRelay,
    PeakClient,
    Doubled,
    Samples,
    BesideGbitPerSecond,
    BesidePerSecond,
    GeneratorLate,
    WirePerSecond,
    Recovery,
    Silence,
    Standstill,
    StandstillAt,
    Seed,
    Offset,
    Sent,
    Lost,
}

impl Metric {
    /// Its name and unit, as short as a table's head.
    pub const fn title(self) -> &'static str {
        match self {
            Self::GbitPerSecond => "Gbit/s",
            Self::PerSecond => "a second",
            Self::Loss => "loss, %",
            Self::P50 => "p50, ms",
            Self::P90 => "p90, ms",
            Self::P99 => "p99, ms",
            Self::P999 => "p99.9, ms",
            Self::Longest => "longest, ms",
            Self::CpuPerGbRelay => "relay, CPU s/GB",
            Self::CpuPerGbClient => "client, CPU s/GB",
            Self::CpuPerPacketRelay => "relay, CPU s/million packets",
            Self::CpuPerPacketClient => "client, CPU s/million packets",
            Self::CpuPerEventRelay => "relay, CPU µs each",
            Self::CpuPerEventClient => "client, CPU µs each",
            Self::CpuRelay => "relay, CPU %",
            Self::CpuClient => "client, CPU %",
            Self::EachRelay => "relay, KiB each",
            Self::EachClient => "client, KiB each",
            Self::GrowthRelay => "relay, MB more",
            Self::GrowthClient => "client, MB more",
            Self::PeakRelay => "relay, peak MiB",
            Self::PeakClient => "client, peak MiB",
            Self::Doubled => "doubled",
            Self::Samples => "samples",
            Self::BesideGbitPerSecond => "beside, Gbit/s",
            Self::BesidePerSecond => "beside, a second",
            Self::GeneratorLate => "generator late by p99, ms",
            Self::WirePerSecond => "on the wire, kB/s",
            Self::Recovery => "back after, s",
            Self::Silence => "longest silence, ms",
            Self::Standstill => "longest standstill, ms",
            Self::StandstillAt => "which began at, s",
            Self::Seed => "seed",
            Self::Offset => "offset, ms",
            Self::Sent => "datagrams sent",
            Self::Lost => "datagrams lost",
        }
    }

    /// Whether more is better.
    pub const fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::GbitPerSecond | Self::PerSecond | Self::BesideGbitPerSecond
        )
    }

    /// Three digits that count.
    pub fn write(self, value: f64) -> String {
        let magnitude = value.abs();
        let digits = match magnitude {
            0.0 => 0,
            m if m >= 100.0 => 0,
            m if m >= 10.0 => 1,
            m if m >= 1.0 => 2,
            _ => 3,
        };
        let written = format!("{value:.digits$}");
        if magnitude >= 10_000.0 {
            thousands(&written)
        } else {
            written
        }
    }
}

/// Lowest, median and highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The lowest.
    pub low: f64,
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of any number of values but none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { low, median, high })
    }
}

impl Report {
    /// Whether anything was measured that targets are about.
    pub fn has_targets(&self) -> bool {
        self.sections.iter().any(|section| section.line.is_none())
    }

    /// Where the section of this name is, if it is there.
    pub fn place(&self, section: &str) -> Option<usize> {
        self.sections.iter().position(|one| one.name == section)
    }

    /// The scenario of this name.
    pub fn scenario(&self, name: &str) -> Option<(&Section, &Measured)> {
        self.sections.iter().find_map(|section| {
            let found = section.scenarios.iter().find(|one| one.name == name)?;
            Some((section, found))
        })
    }
}

impl Section {
    /// With nothing in it.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// The scenario with this part in the verdict on a line.
    pub fn part(&self, part: &str) -> Option<&Measured> {
        self.scenarios.iter().find(|one| one.part == part)
    }
}

impl Measured {
    /// The cell of a column.
    pub fn cell(&self, column: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.column == column)
    }

    /// The cell of a column, to add to it.
    pub fn cell_mut(&mut self, column: &str) -> Option<&mut Cell> {
        self.cells.iter_mut().find(|cell| cell.column == column)
    }

    /// The median of the rounds' ratios of one column to another: rounds are compared with themselves.
    pub fn ratio(&self, metric: Metric, column: &str, to: &str) -> Option<f64> {
        let (one, other) = (self.cell(column)?, self.cell(to)?);
        let ratios = one.rounds.iter().zip(&other.rounds).filter_map(|rounds| {
            let (value, of) = (rounds.0.get(&metric)?, rounds.1.get(&metric)?);
            (*of > 0.0).then(|| value / of)
        });
        Some(Spread::of(ratios)?.median)
    }
}

impl Cell {
    /// What went wrong, each once.
    pub fn distinct_errors(&self) -> Vec<&str> {
        let mut errors: Vec<&str> = Vec::new();
        for error in &self.errors {
            if !errors.contains(&error.as_str()) {
                errors.push(error);
            }
        }
        errors
    }

    /// A figure over the rounds.
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(
            self.rounds
                .iter()
                .filter_map(|round| round.get(&metric).copied()),
        )
    }

    /// The median of a figure.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        Some(self.spread(metric)?.median)
    }
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let of = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = of(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        Self {
            date: date(),
            processor: of(&read("/proc/cpuinfo"), "model name"),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory: if kib.is_nan() {
                0.0
            } else {
                kib / f64::from(1 << 20)
            },
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            descriptors: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .unwrap_or(u64::MAX),
            load_before: load_average(),
            load_after: String::new(),
        }
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().take(3).collect();
    words.join(" ")
}

/// Now, as `2026-11-21 17:50 UTC`.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Year, month and day of a number of days since 1970.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March, so that a leap day is the last; 400 years are 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    let year = year + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

fn thousands(digits: &str) -> String {
    let mut written = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && digit.is_ascii_digit() {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(20_513), (2026, 3, 1));
    }

    #[test]
    fn figures_have_three_digits() {
        let write = |value| Metric::P50.write(value);
        assert_eq!(write(0.0), "0");
        assert_eq!(write(0.0634), "0.063");
        assert_eq!(write(6.346), "6.35");
        assert_eq!(write(63.46), "63.5");
        assert_eq!(write(634.6), "635");
        assert_eq!(write(1_234_567.0), "1,234,567");
    }

    #[test]
    fn rounds_are_compared_with_themselves() {
        let cell = |column: &str, values: [f64; 3]| Cell {
            column: column.into(),
            rounds: values
                .map(|value| Figures::from([(Metric::P50, value)]))
                .into(),
            ..Cell::default()
        };
        let measured = Measured {
            cells: vec![cell("a", [2.0, 20.0, 9.0]), cell("b", [1.0, 10.0, 3.0])],
            ..Measured::default()
        };
        assert_eq!(measured.ratio(Metric::P50, "a", "b"), Some(2.0));
        assert_eq!(measured.ratio(Metric::P99, "a", "b"), None);
        let spread = measured.cells[0].spread(Metric::P50);
        let wanted = Spread {
            low: 2.0,
            median: 9.0,
            high: 20.0,
        };
        assert_eq!(spread, Some(wanted));
    }
}
