//! The processes that a measurement starts of its own program: a relay, a client, a game server, players.

mod adit;
pub(crate) mod say;
pub(crate) mod target;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    thread,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::say::{Failed, say};
use crate::load::Job;

/// What a process is. Each says one line of JSON when it is ready, and ends with its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Worker {
    /// Adit's relay; says where it listens.
    Relay {
        /// For tunnels and for players.
        bind: IpAddr,
    },
    /// Adit's client; says that its service is bound.
    Client(ClientOptions),
    /// A game server for all scenarios; says where it listens, with TCP and UDP.
    Target {
        /// Where it listens.
        bind: IpAddr,
    },
    /// Players; says when it begins to measure, and then what it has measured.
    Load(Job),
}

/// What Adit's client is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientOptions {
    /// Where the relay listens.
    pub relay: SocketAddr,
    /// The public port, of TCP and UDP.
    pub public_port: u16,
    /// The game server.
    pub target: SocketAddr,
    /// How the service is made.
    pub service: ServiceOptions,
}

/// Options of a service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServiceOptions {
    /// `latency`, `throughput` or `auto`.
    pub optimize: String,
    /// `off`, `duplicate`, `fec` or `adaptive`; the default where there is none.
    pub redundancy: Option<String>,
    /// Whether the client may use UDP; without, all goes over lanes.
    pub udp: bool,
}

impl Worker {
    /// Does its work, until standard input ends.
    pub fn run(self) -> Result<()> {
        thread::spawn(|| {
            // Whoever started this has ended, however it did.
            drop(io::copy(&mut io::stdin(), &mut io::sink()));
            std::process::exit(0);
        });
        match self {
            Self::Relay { bind } => adit_daemon::runtime::block_on(adit::relay(bind))?,
            Self::Client(options) => adit_daemon::runtime::block_on(adit::client(options))?,
            Self::Target { bind } => target::run(bind),
            Self::Load(job) => {
                if let Err(error) = job.run() {
                    let error = format!("{error:#}");
                    say(&Failed { error })?;
                }
                // Whoever has started this ends it.
                loop {
                    thread::park();
                }
            }
        }
    }
}
