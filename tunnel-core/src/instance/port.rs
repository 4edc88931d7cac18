//! Ranges and sets of ports.

use std::{fmt, str::FromStr};

use crate::instance::parse::{digits, shown};

/// A run of consecutive ports, at least one. Port 0 is in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `first..=last`; `None` if it is empty or holds port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports, 1 to 65,535.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// The ports in rising order.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// Whether a port is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether every port of `other` is in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the two have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let wrong = || PortsError(shown(text));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = digits(first.trim()).ok_or_else(wrong)?;
        let last = digits(last.trim()).ok_or_else(wrong)?;
        Self::new(first, last).ok_or_else(wrong)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of ports: what a client may be given. Text form: ranges separated by commas, `7777,30000-30999`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// Every port from 1 to 65,535.
    pub fn all() -> Self {
        Self(vec![PortRange {
            first: 1,
            last: u16::MAX,
        }])
    }

    /// Whether every port of `range` is in the set.
    pub fn covers(&self, range: PortRange) -> bool {
        self.0.iter().any(|own| own.covers(range))
    }

    /// The ranges, sorted, merged where they touch.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// The ports that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let pairs = self
            .0
            .iter()
            .flat_map(|own| other.0.iter().map(move |other| (own, other)));
        pairs
            .filter_map(|(a, b)| PortRange::new(a.first.max(b.first), a.last.min(b.last)))
            .collect()
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(end) if range.first <= end.last.saturating_add(1) => {
                    end.last = end.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromStr for PortSet {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        text.split(',')
            .map(|part| part.trim().parse::<PortRange>())
            .collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

/// A text that is neither a port nor a range of ports. Holds at most 80 characters of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a port or range: {0:?} (expected 7777 or 30000-30009, within 1-65535)")]
pub struct PortsError(String);

impl PortsError {
    /// A number that is no port.
    pub(crate) fn new(port: u16) -> Self {
        Self(port.to_string())
    }
}
