//! What an operator wants of a relay. Pure: states go in, and the steps between them come out.
//!
//! Each instance has one source. Where two sources want the same instance or the same port, the one that comes first in
//! [`Desired::merge`] has it, and the other is told.

use std::collections::BTreeMap;

use tunnel_core::{
    instance::{InstanceId, PortClaims},
    relay::{Gate, Reservation},
};

use crate::model::InstanceState;

/// Instances as they shall be: what is reserved for whom, and which players each takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// What is reserved, by instance.
    pub reservations: BTreeMap<InstanceId, Reservation>,
    /// The states of instances that are not active, also of those that nothing is reserved for.
    pub states: BTreeMap<InstanceId, Standing>,
    /// All instances are in maintenance, beside what holds for each.
    pub maintenance: Option<Maintenance>,
}

/// Which players an instance takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// By its operator's word.
    pub state: InstanceState,
    /// What players are told in maintenance.
    pub text: Option<String>,
}

/// Maintenance of all instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// What players are told.
    pub text: Option<String>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is reserved for the instance any more, and it is unbound.
    Release(InstanceId),
    /// This is reserved for the instance, in the place of what was before.
    Reserve(Reservation),
    /// The instance takes these players.
    SetGate(InstanceId, Gate),
    /// All instances together take these players.
    SetGateOfAll(Gate),
}

/// An instance that a source wants, and does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// What it wants.
    pub wanted: Reservation,
    /// The instance that stands in the way: one of the same id, or one that has a port of it.
    pub holder: InstanceId,
}

impl Desired {
    /// What several sources want together, the first of them first.
    pub fn merge(
        sources: impl IntoIterator<Item = impl IntoIterator<Item = Reservation>>,
    ) -> (Self, Vec<Clash>) {
        let (mut merged, mut clashes) = (Self::default(), Vec::new());
        let mut ports = PortClaims::default();
        for wanted in sources.into_iter().flatten() {
            let taken = wanted.services.iter().find_map(|service| {
                let mut holders = ports.holders(service.protocol, service.public);
                holders.next().cloned()
            });
            let same = merged.reservations.get(&wanted.instance);
            let same = same.map(|_| wanted.instance.clone());
            if let Some(holder) = same.or(taken) {
                clashes.push(Clash { wanted, holder });
                continue;
            }
            for service in &wanted.services {
                ports.claim(service.protocol, service.public, &wanted.instance);
            }
            merged.reservations.insert(wanted.instance.clone(), wanted);
        }
        (merged, clashes)
    }

    /// The steps from this state to another one. What is given back comes first, so that another instance can have it.
    pub fn steps_to(&self, next: &Self) -> Vec<Step> {
        let mut steps = Vec::new();
        let gone = self.reservations.keys();
        for id in gone.filter(|id| !next.reservations.contains_key(*id)) {
            steps.push(Step::Release(id.clone()));
        }
        for (id, reservation) in &next.reservations {
            if self.reservations.get(id) != Some(reservation) {
                steps.push(Step::Reserve(reservation.clone()));
            }
        }
        let concerned = self.states.keys().chain(next.states.keys());
        let mut concerned: Vec<_> = concerned.collect();
        concerned.sort_unstable();
        concerned.dedup();
        for id in concerned {
            if self.gate(id) != next.gate(id) {
                steps.push(Step::SetGate(id.clone(), next.gate(id)));
            }
        }
        if self.gate_of_all() != next.gate_of_all() {
            steps.push(Step::SetGateOfAll(next.gate_of_all()));
        }
        steps
    }

    /// How an instance stands, by its operator's word.
    pub fn standing(&self, instance: &InstanceId) -> Standing {
        self.states.get(instance).cloned().unwrap_or_default()
    }

    /// Changes how an instance stands.
    pub fn set_standing(&mut self, instance: &InstanceId, standing: Standing) {
        match standing {
            Standing {
                state: InstanceState::Active,
                text: None,
            } => drop(self.states.remove(instance)),
            standing => drop(self.states.insert(instance.clone(), standing)),
        }
    }

    fn gate(&self, instance: &InstanceId) -> Gate {
        self.states
            .get(instance)
            .map_or(Gate::Open, |it| it.state.gate())
    }

    /// Which players all instances together take.
    pub const fn gate_of_all(&self) -> Gate {
        match self.maintenance {
            Some(_) => Gate::NoNewPlayers,
            None => Gate::Open,
        }
    }

    /// The gates of instances that are not open.
    pub fn gates(&self) -> impl Iterator<Item = (InstanceId, Gate)> {
        let gates = self.states.iter();
        gates.map(|(id, standing)| (id.clone(), standing.state.gate()))
    }
}

impl InstanceState {
    /// Whom the relay lets in.
    pub const fn gate(self) -> Gate {
        match self {
            Self::Active => Gate::Open,
            Self::Draining | Self::Maintenance => Gate::NoNewPlayers,
            Self::Suspended => Gate::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_core::{instance::Protocol, relay::ReservedService};

    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    fn reservation(name: &str, client: &str, ports: &str) -> Reservation {
        let service = ReservedService::new(
            "game".parse().unwrap(),
            Protocol::Udp,
            ports.parse().unwrap(),
        );
        Reservation::new(id(name), client, vec![service])
    }

    fn state(state: InstanceState) -> Standing {
        Standing { state, text: None }
    }

    #[test]
    fn the_first_source_has_what_two_want() {
        let first = vec![reservation("a", "n", "10-12"), reservation("b", "n", "20")];
        let second = vec![
            reservation("c", "m", "12"),
            reservation("b", "m", "30"),
            reservation("d", "m", "13"),
        ];
        let (merged, clashes) = Desired::merge([first.clone(), second.clone()]);
        let kept: Vec<_> = merged.reservations.keys().map(InstanceId::as_str).collect();
        assert_eq!(kept, ["a", "b", "d"]);
        assert_eq!(merged.reservations[&id("b")], first[1]);
        let holders: Vec<_> = clashes
            .into_iter()
            .map(|it| (it.wanted, it.holder))
            .collect();
        assert_eq!(
            holders,
            [(second[0].clone(), id("a")), (second[1].clone(), id("b"))]
        );
    }

    #[test]
    fn only_what_differs_is_done_and_what_is_given_back_first() {
        let (mut before, _) = Desired::merge([vec![
            reservation("a", "n", "10"),
            reservation("b", "n", "20"),
            reservation("c", "n", "30"),
        ]]);
        before.set_standing(&id("a"), state(InstanceState::Draining));
        before.set_standing(&id("b"), state(InstanceState::Suspended));
        assert_eq!(before.steps_to(&before), []);
        let (mut next, _) = Desired::merge([vec![
            reservation("b", "n", "20"),
            reservation("c", "n", "31"),
            reservation("d", "n", "10"),
        ]]);
        next.set_standing(&id("b"), state(InstanceState::Active));
        // Both are closed to new players: the gate stays where it is.
        next.set_standing(&id("a"), state(InstanceState::Maintenance));
        next.set_standing(&id("e"), state(InstanceState::Suspended));
        next.maintenance = Some(Maintenance::default());
        assert_eq!(
            before.steps_to(&next),
            [
                Step::Release(id("a")),
                Step::Reserve(reservation("c", "n", "31")),
                Step::Reserve(reservation("d", "n", "10")),
                Step::SetGate(id("b"), Gate::Open),
                Step::SetGate(id("e"), Gate::Closed),
                Step::SetGateOfAll(Gate::NoNewPlayers),
            ]
        );
        // From any state to any other and back comes to the same.
        let (there, back) = (before.steps_to(&next), next.steps_to(&before));
        assert_eq!(there.len(), back.len());
    }
}
