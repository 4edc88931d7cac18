//! Where the processes of a measurement run, and how they reach each other.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use crate::namespace::Namespace;

/// On which side of the path a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Players and relay.
    Outside,
    /// Client and game servers.
    Home,
}

/// Two sides with a path between them.
pub trait Topology: fmt::Debug {
    /// A command that runs `program` on that side, under the process id that it is started with.
    fn command(&self, side: Side, program: &Path) -> Command;

    /// The address of that side, as the other one reaches it.
    fn address(&self, side: Side) -> IpAddr;

    /// The network namespace of that side, where it has one of its own.
    fn namespace(&self, _: Side) -> Option<&Namespace> {
        None
    }

    /// Whether players may come from addresses of their own in 127.0.0.0/8.
    fn spreads_players(&self) -> bool {
        false
    }
}

/// No path at all: both sides are this machine's loopback.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loopback;

impl Topology for Loopback {
    #[expect(clippy::disallowed_methods, reason = "a bench starts its processes")]
    fn command(&self, _: Side, program: &Path) -> Command {
        Command::new(program)
    }

    fn address(&self, _: Side) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn spreads_players(&self) -> bool {
        cfg!(target_os = "linux")
    }
}
