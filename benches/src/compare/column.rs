//! What is compared: the direct path, Adit in its ways, and the peers that are found. Each is two processes.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{
    peers::Peer,
    ports,
    running::{Running, START_PATIENCE},
};
use crate::{
    process::Process,
    topology::{Side, Topology},
    worker::{ClientOptions, ServiceOptions, Worker},
};

/// A way from a player to the game server.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name in tables and files.
    pub name: &'static str,
    /// Whether it has anything to say about TCP.
    pub tcp: bool,
    /// Whether it has anything to say about UDP.
    pub udp: bool,
    /// Whether it is another's like where nothing is lost: on loopback it is measured where it is named.
    pub for_paths: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Direct,
    Adit(ServiceOptions),
    Peer(Peer),
}

impl Column {
    /// All that this machine has.
    pub fn found(topology: &dyn Topology) -> Vec<Self> {
        let adit = |name, tcp, udp, options: ServiceOptions| Self {
            name,
            tcp,
            udp,
            for_paths: options.redundancy.is_some(),
            kind: Kind::Adit(options),
        };
        let service = |optimize: &str, udp| ServiceOptions {
            optimize: optimize.into(),
            redundancy: None,
            udp,
        };
        let redundancy = |redundancy: &str| ServiceOptions {
            redundancy: Some(redundancy.into()),
            ..service("auto", true)
        };
        let mut all = vec![
            Self {
                name: DIRECT,
                tcp: true,
                udp: true,
                for_paths: false,
                kind: Kind::Direct,
            },
            // `optimize` is about TCP alone.
            adit("adit-latency", true, false, service("latency", true)),
            adit("adit-throughput", true, false, service("throughput", true)),
            adit(AUTO, true, true, service("auto", true)),
            // As if UDP were blocked.
            adit("adit-lanes", true, true, service("auto", false)),
            // `redundancy` is about UDP alone; the default is that of adit-auto.
            adit("adit-off", false, true, redundancy("off")),
            adit("adit-duplicate", false, true, redundancy("duplicate")),
            adit("adit-fec", false, true, redundancy("fec")),
        ];
        all.extend(Peer::found(topology).into_iter().map(|peer| Self {
            name: peer.name(),
            tcp: true,
            udp: peer.carries_udp(),
            for_paths: false,
            kind: Kind::Peer(peer),
        }));
        all
    }

    /// Whether its failure is somebody else's.
    pub const fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Peer(_))
    }

    /// Whether there can be but one of it at a time.
    pub const fn is_single(&self) -> bool {
        matches!(self.kind, Kind::Peer(Peer::Bore(_)))
    }

    /// What its program calls itself.
    pub fn version(&self, topology: &dyn Topology) -> String {
        match &self.kind {
            Kind::Direct => String::new(),
            Kind::Adit(_) => env!("CARGO_PKG_VERSION").to_owned(),
            Kind::Peer(peer) => peer.version(topology),
        }
    }

    /// Starts it before `target`, and waits until TCP and UDP pass.
    pub(crate) fn start(&self, topology: &dyn Topology, target: SocketAddr) -> Result<Running> {
        let mut running = match &self.kind {
            Kind::Direct => Running {
                address: target,
                relay: None,
                client: None,
                topology: None,
                _kept: None,
            },
            Kind::Adit(options) => start_adit(topology, target, options)?,
            Kind::Peer(peer) => peer.start(topology, target)?,
        };
        running
            .wait_until_it_works(topology, self.udp)
            .with_context(|| format!("{} does not work", self.name))?;
        Ok(running)
    }
}

fn start_adit(
    topology: &dyn Topology,
    target: SocketAddr,
    options: &ServiceOptions,
) -> Result<Running> {
    let outside = topology.address(Side::Outside);
    let mut relay = Process::worker(topology, Side::Outside, &Worker::Relay { bind: outside })?;
    let listens = relay.says(START_PATIENCE).context("the relay")?;
    let public_port = ports::free()?;
    let worker = Worker::Client(ClientOptions {
        relay: listens,
        public_port,
        target,
        service: options.clone(),
    });
    let mut client = Process::worker(topology, Side::Home, &worker)?;
    client
        .says::<String>(START_PATIENCE)
        .context("the client")?;
    Ok(Running {
        address: (outside, public_port).into(),
        relay: Some(relay),
        client: Some(client),
        topology: None,
        _kept: None,
    })
}

/// The column that ratios are taken to.
pub const DIRECT: &str = "direct";
/// Adit as it is by default.
pub const AUTO: &str = "adit-auto";
