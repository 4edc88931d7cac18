//! The processes that a measurement starts of its own program: a relay, a client, a game server, players.

mod adit;
mod options;
pub(crate) mod say;
pub(crate) mod target;

use std::{io, net::IpAddr, thread};

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use self::options::{ClientOptions, ServiceOptions};
use self::say::{Failed, say};
use crate::load::{self, Job};

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
                if let Err(error) = load::run(&job) {
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
