//! Which way bulk goes on a line.

use clap::ValueEnum;

use crate::{compare::data::LineFacts, load::Bulk};

/// Which way bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From the game server at home to players.
    Up,
    /// From players to the game server.
    Down,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As in the names of scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    pub(crate) const fn bulk(self) -> Bulk {
        Bulk::one(matches!(self, Self::Up))
    }

    /// For people.
    pub(crate) const fn load(self) -> &'static str {
        match self {
            Self::Up => "upload",
            Self::Down => "download",
        }
    }

    /// Mbit/s that the line has this way.
    pub(crate) const fn rate(self, line: &LineFacts) -> f64 {
        match self {
            Self::Up => line.up,
            Self::Down => line.down,
        }
    }
}
