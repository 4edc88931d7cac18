//! What players are to do.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

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

impl Job {
    /// Where a player of a game sends.
    pub(super) fn to_of(&self, player: usize) -> SocketAddr {
        let turn = player % (self.also.len() + 1);
        turn.checked_sub(1)
            .map_or(self.to, |other| self.also[other])
    }

    pub(super) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Where a player comes from: an address of their own, as players have, or what the system gives.
    pub(super) fn source(&self, player: usize) -> SocketAddr {
        let ip: IpAddr = if self.spread {
            let [.., high, low] = player.to_be_bytes();
            Ipv4Addr::new(127, 1, high, low).into()
        } else if self.to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        (ip, 0).into()
    }
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

/// TCP connections that carry as much as they can.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bulk {
    /// How many.
    pub streams: usize,
    /// From the game server to the player.
    pub reverse: bool,
    /// The congestion control of whoever sends, instead of the system's own.
    pub control: Option<CongestionControl>,
}

/// What a kernel's TCP is led by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[expect(missing_docs, reason = "their names say it")]
pub enum CongestionControl {
    Bbr,
    Cubic,
}

impl CongestionControl {
    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bbr => "bbr",
            Self::Cubic => "cubic",
        }
    }
}

impl Bulk {
    /// One connection, under the system's congestion control.
    pub const fn one(reverse: bool) -> Self {
        Self {
            streams: 1,
            reverse,
            control: None,
        }
    }
}

/// A game. Every player has a phase and sizes of their own, the same in every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Game {
    /// How many.
    pub players: usize,
    /// Packets a second of each player.
    pub rate: f64,
    /// Bytes of the smallest packet, and of the largest.
    pub sizes: (usize, usize),
    /// Whether the first packets count, which open the flows; else each player's flow is opened before.
    pub cold: bool,
}

/// Datagrams that the game server does not answer, from one player.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flood {
    /// A second.
    pub rate: f64,
    /// Bytes of each.
    pub size: usize,
}
