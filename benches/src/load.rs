//! Players: what they do, and what they see.

mod arrivals;
pub(crate) mod bulk;
mod game;
mod histogram;
mod players;
mod tcp;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub(crate) use self::arrivals::now;
pub use self::{
    arrivals::Standstill,
    bulk::{Bulk, CongestionControl},
    game::{Flood, Game},
    histogram::{Latencies, SHARES},
};
use crate::worker::say::say;

/// What a process of players is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where the game server seems to be.
    pub to: SocketAddr,
    /// Other ways to it, which a game's players take in turn with the first.
    pub also: Vec<SocketAddr>,
    /// How long, in seconds.
    pub seconds: f64,
    /// Whether each player comes from an address of their own in 127.0.0.0/8.
    pub spread: bool,
    /// What they do.
    pub load: Load,
}

/// What players do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Load {
    /// Waits until a byte comes back over TCP and a datagram over UDP.
    Probe {
        /// Whether to ask over TCP.
        tcp: bool,
        /// Whether to ask over UDP.
        udp: bool,
    },
    /// TCP connections that carry as much as they can.
    Bulk(Bulk),
    /// Each player asks with 64 bytes and waits for as many.
    Trips {
        /// How many at once.
        players: usize,
    },
    /// Each player connects, has one byte echoed, and closes.
    Connections {
        /// How many at once.
        players: usize,
    },
    /// Connections that have had one byte echoed, and now say nothing until standard input ends.
    Idle {
        /// How many.
        count: usize,
    },
    /// Players of a game over UDP, who send by the clock whatever comes back.
    Game(Game),
    /// Datagrams as fast as they come back: each player always has some on the way.
    Packets {
        /// How many players.
        players: usize,
        /// Datagrams on the way.
        window: usize,
    },
    /// One player who sends too much; nothing comes back.
    Flood(Flood),
}

/// What players have seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// How long they measured, in seconds.
    pub seconds: f64,
    /// When they began, in nanoseconds of the clock that all processes share; 0 where it does not matter.
    pub started: u64,
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Round trips, connections: whatever was counted.
    pub events: u64,
    /// Datagrams that players sent.
    pub sent: u64,
    /// Of them, those that came back, once each.
    pub received: u64,
    /// Datagrams that came back again.
    pub doubled: u64,
    /// Datagrams that came back wrong: to another player, or of another length.
    pub wrong: u64,
    /// The longest that no datagram came back, in seconds.
    pub silence: f64,
    /// The longest that bulk did not arrive.
    pub standstill: Standstill,
    /// How long each took.
    pub latencies: Option<Latencies>,
    /// How late the generator itself was.
    pub lateness: Option<Latencies>,
    /// Bytes (bulk) or events in each [`STEP`].
    pub series: Vec<u64>,
}

impl Seen {
    /// Bytes a second while another one measured; where the series does not say when bytes came, over all of its own time.
    pub fn bytes_a_second_beside(&self, other: &Self) -> f64 {
        let own = Duration::from_nanos(self.started);
        let from = Duration::from_nanos(other.started);
        let to = from + Duration::from_secs_f64(other.seconds);
        let within = |place: usize| {
            let begins = own + STEP * place as u32;
            begins >= from && begins + STEP <= to
        };
        let steps: Vec<u64> = (0..self.series.len())
            .filter(|&place| within(place))
            .map(|place| self.series[place])
            .collect();
        let counts_bytes = self.events == 0;
        if !counts_bytes || self.started == 0 || other.started == 0 || steps.is_empty() {
            return self.bytes as f64 / self.seconds;
        }
        let seconds = (STEP * steps.len() as u32).as_secs_f64();
        steps.iter().sum::<u64>() as f64 / seconds
    }
}

/// What a load says before it begins to measure.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Begins;

impl Job {
    pub(crate) fn run(&self) -> Result<()> {
        let seen = match &self.load {
            Load::Probe { tcp, udp } => tcp::probe(self, *tcp, *udp)?,
            Load::Bulk(bulk) => bulk::run(self, bulk)?,
            Load::Trips { players } => tcp::trips(self, *players)?,
            Load::Connections { players } => tcp::connections(self, *players)?,
            Load::Idle { count } => return tcp::idle(self, *count),
            Load::Game(game) => game::play(self, game)?,
            Load::Packets { players, window } => game::packets(self, *players, *window)?,
            Load::Flood(flood) => game::flood(self, flood)?,
        };
        say(&seen)
    }

    /// Where a player of a game sends.
    fn to_of(&self, player: usize) -> SocketAddr {
        let turn = player % (self.also.len() + 1);
        turn.checked_sub(1)
            .map_or(self.to, |other| self.also[other])
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Where a player comes from: an address of their own, as players have, or what the system gives.
    fn source(&self, player: usize) -> SocketAddr {
        let ip: IpAddr = if self.spread {
            let [.., high, low] = player.to_be_bytes();
            Ipv4Addr::new(127, 1, high, low).into()
        } else if self.to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        (ip, 0).into()
    }
}

/// Counts over time.
#[derive(Debug)]
struct Series {
    start: Duration,
    steps: Vec<u64>,
}

impl Series {
    /// Times are those of the clock that all processes share.
    fn new(start: Duration, length: Duration) -> Self {
        let steps = (length.as_secs_f64() / STEP.as_secs_f64()).ceil() as usize;
        Self {
            start,
            steps: vec![0; steps.max(1)],
        }
    }

    /// What comes after the end is not counted.
    fn add(&mut self, at: Duration, amount: u64) {
        let step = at.saturating_sub(self.start).as_nanos() / STEP.as_nanos();
        if let Some(step) = self.steps.get_mut(step as usize) {
            *step += amount;
        }
    }

    fn merge(&mut self, other: &[u64]) {
        for (step, other) in self.steps.iter_mut().zip(other) {
            *step += other;
        }
    }
}

/// One point of a series.
pub const STEP: Duration = Duration::from_millis(100);
/// Longer than anything should take: a hang fails.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(started_ms: u64, seconds: f64, series: &[u64]) -> Seen {
        Seen {
            seconds,
            started: started_ms * 1_000_000,
            bytes: series.iter().sum(),
            series: series.to_vec(),
            ..Seen::default()
        }
    }

    #[test]
    fn rate_beside_another_is_that_of_their_common_time() {
        let bulk = seen(1000, 0.5, &[100, 1, 2, 3, 100]);
        assert_eq!(bulk.bytes_a_second_beside(&seen(1100, 0.3, &[])), 20.0);
        // Steps that only begin or end within it do not count.
        assert_eq!(bulk.bytes_a_second_beside(&seen(1050, 0.3, &[])), 15.0);
        // What does not overlap, or began at no known time, has its own average.
        for other in [seen(9000, 1.0, &[]), seen(0, 1.0, &[])] {
            assert_eq!(bulk.bytes_a_second_beside(&other), 412.0);
        }
    }
}
