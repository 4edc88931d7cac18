//! Lines as people have them, and what is asked of each: bulk at the line's rate, always.

pub mod print;
mod table;
pub mod verdict;

use clap::ValueEnum;

use super::{
    Arguments,
    column::{AUTO, Column, DIRECT},
    data::{Family, LineFacts},
    path::Path,
    rounds::Pace,
    scenario::Scenario,
};
use crate::{
    link::{LinkConfig, Shape},
    load::{Bulk, CongestionControl, Load},
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

/// All lines under each of the kernel's congestion controls, one behind the other, as far as they are asked for.
pub(super) fn all(arguments: &Arguments) -> Vec<Path> {
    let mut paths = Vec::new();
    for line in table::all(arguments.seconds_on_lines()) {
        for control in arguments.controls() {
            paths.push(bulk(&line, control, arguments));
        }
    }
    paths
}

fn bulk(line: &Line, control: CongestionControl, arguments: &Arguments) -> Path {
    let scenario = |way: Way| {
        let name = format!("{}-{}-{}-{}", LINES, line.name, way.name(), control.name());
        let title = match way {
            Way::Up => "TCP, 1 stream from the server (up)",
            Way::Down => "TCP, 1 stream to the server (down)",
        };
        let scenario = Scenario::new(name, title, Load::Bulk(way.bulk())).part(LINES, way.name());
        if arguments.keep {
            scenario
        } else {
            scenario.fresh()
        }
    };
    path(
        line,
        control,
        Family::Bulk,
        arguments.ways().map(scenario).collect(),
    )
}

fn path(line: &Line, control: CongestionControl, family: Family, scenarios: Vec<Scenario>) -> Path {
    let facts = line.facts(family, control);
    Path {
        title: format!(
            "{}-{}, {}: {}",
            LINES,
            line.name,
            control.name(),
            line.words
        ),
        link: line.link(),
        congestion_control: control.name(),
        line: Some(facts),
        scenarios,
    }
}

impl Arguments {
    pub(super) fn pace_on_lines(&self, family: Family) -> Pace {
        let rounds = match family {
            Family::Bulk => TRANSFERS,
        };
        Pace {
            rounds: self.transfers.unwrap_or(rounds),
            seconds: self.seconds_on_lines(),
            seed: self.seed,
            keep: self.keep,
        }
    }

    /// On lines, what is asked of Adit's default and what it is compared with, unless others are named.
    pub(super) fn columns_on(&self, path: &Path, columns: &[Column]) -> Vec<Column> {
        let mut columns = columns.to_vec();
        if path.line.is_some() && self.columns.is_empty() {
            columns.retain(|column| [DIRECT, AUTO].contains(&column.name));
        }
        columns
    }

    fn seconds_on_lines(&self) -> f64 {
        self.seconds.unwrap_or(SECONDS)
    }

    fn controls(&self) -> impl Iterator<Item = CongestionControl> {
        let all = [CongestionControl::Bbr, CongestionControl::Cubic];
        let wanted = self.congestion_control;
        all.into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
    }

    fn ways(&self) -> impl Iterator<Item = Way> {
        let wanted = self.direction;
        Way::BOTH
            .into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
    }
}

/// What the names of all scenarios on lines begin with.
const LINES: &str = "lines";
/// Of each kind: the slowest of ten tells of what happens to one in ten.
const TRANSFERS: usize = 10;
/// Of each transfer.
const SECONDS: f64 = 10.0;
