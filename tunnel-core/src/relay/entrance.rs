//! Whom the operator lets in: gates of instances, and banned addresses.
//!
//! The supervisor has all rules, and gives each service its part. Players' tasks read it where a player is new, so that a datagram
//! of a known flow costs nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    addresses::{AddressList, IpNet},
    instance::{InstanceId, ServiceName},
};

/// Which players an instance takes, whatever its client says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Gate {
    /// Everybody.
    #[default]
    Open,
    /// Nobody new: who is there stays.
    NoNewPlayers,
    /// Nobody: who was there is ended with a reset.
    Closed,
}

/// Addresses that may not play.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ban {
    /// Which addresses.
    pub addresses: IpNet,
    /// At which instance; `None`: at all of them.
    pub instance: Option<InstanceId>,
    /// At which service of the instance, or of any; `None`: at all of them.
    pub service: Option<ServiceName>,
}

impl Ban {
    /// A ban from everything that the relay serves.
    pub const fn everywhere(addresses: IpNet) -> Self {
        Self {
            addresses,
            instance: None,
            service: None,
        }
    }

    /// The same at one instance alone.
    #[must_use]
    pub fn at_instance(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }

    /// The same at services of this name alone.
    #[must_use]
    pub fn at_service(mut self, service: ServiceName) -> Self {
        self.service = Some(service);
        self
    }

    fn concerns(&self, instance: &InstanceId, service: &ServiceName) -> bool {
        (self.instance.as_ref()).is_none_or(|it| it == instance)
            && (self.service.as_ref()).is_none_or(|it| it == service)
    }
}

/// The rules of all instances.
#[derive(Debug, Default)]
pub(crate) struct Entrances {
    /// Of all instances together; the narrower one of this and an instance's own counts.
    all: Gate,
    own: HashMap<InstanceId, Gate>,
    everywhere: Arc<AddressList>,
    /// Bans at some instance or service.
    some: Vec<Ban>,
}

impl Entrances {
    /// The gate of an instance.
    pub(crate) fn gate(&self, instance: &InstanceId) -> Gate {
        self.own
            .get(instance)
            .copied()
            .unwrap_or_default()
            .max(self.all)
    }

    pub(crate) fn set_gate(&mut self, instance: &InstanceId, gate: Gate) {
        match gate {
            Gate::Open => drop(self.own.remove(instance)),
            _ => drop(self.own.insert(instance.clone(), gate)),
        }
    }

    pub(crate) const fn set_gate_of_all(&mut self, gate: Gate) {
        self.all = gate;
    }

    pub(crate) fn set_bans(&mut self, bans: Vec<Ban>) {
        let (everywhere, some): (Vec<_>, _) = bans
            .into_iter()
            .partition(|ban| ban.instance.is_none() && ban.service.is_none());
        self.everywhere = Arc::new(everywhere.into_iter().map(|ban| ban.addresses).collect());
        self.some = some;
    }

    /// Who is banned at a service.
    pub(crate) fn bans(&self, instance: &InstanceId, service: &ServiceName) -> Bans {
        let own = self.some.iter().filter(|it| it.concerns(instance, service));
        Bans {
            everywhere: self.everywhere.clone(),
            here: own.map(|ban| ban.addresses).collect(),
        }
    }
}

/// Who is banned at one service.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    everywhere: Arc<AddressList>,
    here: AddressList,
}

impl Bans {
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.everywhere.contains(address) || self.here.contains(address)
    }
}

/// The rules of one service.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    gate: AtomicU8,
    bans: ArcSwap<Bans>,
}

impl Entrance {
    pub(crate) fn new(gate: Gate, bans: Bans) -> Self {
        let entrance = Self::default();
        entrance.set_gate(gate);
        entrance.set_bans(bans);
        entrance
    }

    pub(crate) fn gate(&self) -> Gate {
        GATES[usize::from(self.gate.load(Ordering::Acquire)) % GATES.len()]
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    pub(crate) fn set_bans(&self, bans: Bans) {
        self.bans.store(Arc::new(bans));
    }

    pub(crate) fn is_banned(&self, address: IpAddr) -> bool {
        self.bans.load().contain(address)
    }
}

/// By their numbers.
const GATES: [Gate; 3] = [Gate::Open, Gate::NoNewPlayers, Gate::Closed];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_gate_counts() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut rules = Entrances::default();
        rules.set_gate(&a, Gate::Closed);
        assert_eq!([rules.gate(&a), rules.gate(&b)], [Gate::Closed, Gate::Open]);
        rules.set_gate_of_all(Gate::NoNewPlayers);
        let gates = [rules.gate(&a), rules.gate(&b)];
        assert_eq!(gates, [Gate::Closed, Gate::NoNewPlayers]);
        rules.set_gate(&a, Gate::Open);
        assert_eq!(rules.gate(&a), Gate::NoNewPlayers);
        for gate in GATES {
            assert_eq!(Entrance::new(gate, Bans::default()).gate(), gate);
        }
    }

    #[test]
    fn a_ban_concerns_what_it_names_and_nothing_else() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let mut rules = Entrances::default();
        rules.set_bans(vec![
            Ban::everywhere(net("192.0.2.1/32")),
            Ban::everywhere(net("192.0.2.2/32")).at_instance("a".parse().unwrap()),
            Ban::everywhere(net("192.0.2.3/32")).at_service("game".parse().unwrap()),
            Ban::everywhere(net("2001:db8::/64"))
                .at_instance("a".parse().unwrap())
                .at_service("game".parse().unwrap()),
        ]);
        let addresses = [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::1",
            "192.0.2.4",
        ];
        for (instance, service, expected) in [
            ("a", "game", [true, true, true, true, false]),
            ("a", "beacon", [true, true, false, false, false]),
            ("b", "game", [true, false, true, false, false]),
            ("b", "beacon", [true, false, false, false, false]),
        ] {
            let bans = rules.bans(&instance.parse().unwrap(), &service.parse().unwrap());
            let entrance = Entrance::new(Gate::Open, bans);
            let banned = addresses.map(|it| entrance.is_banned(it.parse().unwrap()));
            assert_eq!(banned, expected, "{instance}/{service}");
        }
    }
}
