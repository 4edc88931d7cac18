//! Tables and queues that only the engine sees.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    instance::{FlowLimits, Optimize, PortSet, Protocol, Redundancy},
    key::PublicKey,
    proto::message::{Revision, ServiceDeclaration, ServiceId},
    relay::registry::{Action, Change, OwnerLimits, Registry},
    tunnel::datagram::{Fair, FairKey},
};

/// The relay's registry, full of instances of one service each.
#[derive(Debug)]
pub struct Services {
    registry: Registry,
    revision: u64,
}

impl Services {
    /// `count` services, at ports from 1,024 on, of clients that have a hundred each.
    pub fn new(count: u16) -> Self {
        let limits = OwnerLimits {
            instances: usize::MAX,
            ports_per_instance: usize::MAX,
            ports: usize::MAX,
        };
        let registry = Registry::new(PortSet::all(), Duration::from_secs(30), limits);
        let mut services = Self {
            registry,
            revision: 0,
        };
        for place in 0..count {
            services.declare(place, 1024 + place);
        }
        services
    }

    /// Declares one of them at another port. Says how many ports are to be opened and closed.
    pub fn declare(&mut self, place: u16, port: u16) -> usize {
        self.revision += 1;
        let mut owner = [0; 32];
        owner[..2].copy_from_slice(&(place / 100).to_be_bytes());
        let service = ServiceDeclaration {
            id: ServiceId(place.into()),
            name: name("game"),
            protocol: Protocol::Both,
            public: name(&port.to_string()),
            optimize: Optimize::Auto,
            redundancy: Redundancy::Off,
            flows: FlowLimits::default(),
            tells_local: false,
        };
        let change = Change::Declare {
            owner: PublicKey::from(owner),
            client: "bench".into(),
            permitted: PortSet::all(),
            instance: name(&format!("srv_{place}")),
            revision: Revision(self.revision),
            services: vec![service],
        };
        let actions = self.registry.apply(Instant::now(), change);
        let actions = actions.unwrap_or_default();
        let touched = |action: &&Action| !matches!(action, Action::Route { .. });
        actions.iter().filter(touched).count()
    }
}

/// What waits for a tunnel.
#[derive(Debug, Default)]
pub struct FairQueue(Fair<Bytes>);

impl FairQueue {
    /// Adds to the part of one service. Says whether another had to go.
    pub fn push(&mut self, whose: u16, datagram: Bytes, most: usize) -> bool {
        let now = Instant::now();
        !(self.0.push(now, FairKey::flow(whose, 0), datagram, most)).is_empty()
    }

    /// Takes the next one whose turn it is.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.0.pop().map(|waited| waited.item)
    }
}

/// A name that is known to be one.
fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a bench writes it")
}
