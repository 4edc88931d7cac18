//! Players: what they do, and what they see.

mod arrivals;
pub(crate) mod bulk;
mod game;
mod histogram;
mod job;
mod players;
mod seen;
mod series;
mod tcp;

use anyhow::Result;

pub(crate) use self::arrivals::now;
pub use self::{
    arrivals::Standstill,
    histogram::{Latencies, SHARES},
    job::{Bulk, CongestionControl, Flood, Game, Job, Load},
    seen::{Begins, Seen},
    series::STEP,
};
use crate::worker::say::say;

/// Does what the job says, and says what it has seen.
pub(crate) fn run(job: &Job) -> Result<()> {
    let seen = match &job.load {
        Load::Probe { tcp, udp } => tcp::probe(job, *tcp, *udp)?,
        Load::Bulk(bulk) => bulk::run(job, bulk)?,
        Load::Trips { players } => tcp::trips(job, *players)?,
        Load::Connections { players } => tcp::connections(job, *players)?,
        Load::Idle { count } => return tcp::idle(job, *count),
        Load::Game(game) => game::play(job, game)?,
        Load::Packets { players, window } => game::packets(job, *players, *window)?,
        Load::Flood(flood) => game::flood(job, flood)?,
    };
    say(&seen)
}
