//! Instances whose ports the operator has reserved for a client. Pure: it plans, and the supervisor tries the ports and commits.

use std::collections::BTreeMap;

use crate::{
    instance::{InstanceId, PortClaims, PortRange, PortSet, Protocol, ServiceName},
    proto::message::ServiceDeclaration,
};

/// An instance that the operator has given to a client, with its public ports. No other client and no other instance can have them,
/// and the client may bind them whatever ports it has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reservation {
    /// Which instance.
    pub instance: InstanceId,
    /// The name of the client that may declare it.
    pub client: String,
    /// What it may declare: these services, or some of them.
    pub services: Vec<ReservedService>,
}

/// One service of a [`Reservation`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReservedService {
    /// Its name within the instance.
    pub name: ServiceName,
    /// What its public ports accept.
    pub protocol: Protocol,
    /// Its public ports.
    pub public: PortRange,
}

/// What an operator wants reserved. The ports may be left to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReservationRequest {
    /// Which instance.
    pub instance: InstanceId,
    /// For which client, by its name.
    pub client: String,
    /// Its services, at least one.
    pub services: Vec<WantedService>,
    /// Out of which ports the relay chooses.
    pub pool: PortSet,
}

/// One service of a [`ReservationRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WantedService {
    /// Its name within the instance.
    pub name: ServiceName,
    /// What its public ports accept.
    pub protocol: Protocol,
    /// Its public ports.
    pub public: WantedPorts,
}

/// Public ports that an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WantedPorts {
    /// These.
    These(PortRange),
    /// So many in a row, whichever are free in the pool: those that the service has already, if it has as many.
    Any(u16),
}

impl Reservation {
    /// An instance of a client.
    pub fn new(
        instance: InstanceId,
        client: impl Into<String>,
        services: Vec<ReservedService>,
    ) -> Self {
        Self {
            instance,
            client: client.into(),
            services,
        }
    }
}

impl ReservedService {
    /// A service with its public ports.
    pub const fn new(name: ServiceName, protocol: Protocol, public: PortRange) -> Self {
        Self {
            name,
            protocol,
            public,
        }
    }

    fn is(&self, declared: &ServiceDeclaration) -> bool {
        self.name == declared.name
            && self.protocol == declared.protocol
            && self.public == declared.public
    }
}

impl ReservationRequest {
    /// An instance for a client, whose ports are chosen out of `pool` where they are left open.
    pub fn new(
        instance: InstanceId,
        client: impl Into<String>,
        services: Vec<WantedService>,
        pool: PortSet,
    ) -> Self {
        Self {
            instance,
            client: client.into(),
            services,
            pool,
        }
    }
}

impl WantedService {
    /// A service with the ports that it shall have.
    pub const fn new(name: ServiceName, protocol: Protocol, public: WantedPorts) -> Self {
        Self {
            name,
            protocol,
            public,
        }
    }
}

/// All reservations. No two of them have a port in common.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    by_instance: BTreeMap<InstanceId, Reservation>,
    ports: PortClaims<InstanceId>,
}

impl Reservations {
    pub(crate) fn get(&self, instance: &InstanceId) -> Option<&Reservation> {
        self.by_instance.get(instance)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.by_instance.values()
    }

    /// How many instances are reserved for a client.
    pub(crate) fn count_of(&self, client: &str) -> usize {
        self.iter().filter(|it| it.client == client).count()
    }

    /// Which other instance has one of these ports.
    pub(crate) fn holder(
        &self,
        instance: &InstanceId,
        protocol: Protocol,
        ports: PortRange,
    ) -> Option<&InstanceId> {
        let holders = self.ports.holders(protocol, ports);
        holders.filter(|id| *id != instance).min()
    }

    /// Whether a client may declare these services for an instance, or which of them is not as it was reserved. `None` for an
    /// instance that is not reserved.
    pub(crate) fn check(
        &self,
        instance: &InstanceId,
        client: &str,
        services: &[ServiceDeclaration],
    ) -> Option<Result<(), NotReserved>> {
        let reservation = self.get(instance)?;
        if reservation.client != client {
            return Some(Err(NotReserved::Client));
        }
        let is_reserved =
            |service: &&ServiceDeclaration| reservation.services.iter().any(|it| it.is(service));
        let other = services.iter().find(|service| !is_reserved(service));
        Some(other.map_or(Ok(()), |other| {
            Err(NotReserved::Service(other.name.clone(), other.public))
        }))
    }

    /// Reserves an instance, in the place of what was reserved for it.
    pub(crate) fn enter(&mut self, reservation: Reservation) {
        self.remove(&reservation.instance);
        for service in &reservation.services {
            let (protocol, ports) = (service.protocol, service.public);
            self.ports.claim(protocol, ports, &reservation.instance);
        }
        self.by_instance
            .insert(reservation.instance.clone(), reservation);
    }

    pub(crate) fn remove(&mut self, instance: &InstanceId) -> Option<Reservation> {
        let removed = self.by_instance.remove(instance)?;
        for service in &removed.services {
            self.ports
                .release(service.protocol, service.public, instance);
        }
        Some(removed)
    }
}

/// Why a client may not declare an instance that is reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotReserved {
    /// It is reserved for another one.
    Client,
    /// Not with this service.
    Service(ServiceName, PortRange),
}

/// Chooses ports for services that leave them open; `is_free` says which are to be had. An error is how many in a row there are
/// nowhere.
pub(crate) fn choose(
    request: &ReservationRequest,
    pool: &PortSet,
    before: Option<&Reservation>,
    is_free: impl Fn(Protocol, PortRange) -> bool,
) -> Result<Vec<ReservedService>, u16> {
    let mut chosen: Vec<ReservedService> = Vec::new();
    let fixed = request.services.iter().filter_map(|it| match it.public {
        WantedPorts::These(ports) => Some((it.protocol, ports)),
        WantedPorts::Any(_) => None,
    });
    let fixed: Vec<_> = fixed.collect();
    for wanted in &request.services {
        let WantedPorts::Any(count) = wanted.public else {
            continue;
        };
        let taken = |ports: PortRange| {
            let own = chosen.iter().map(|it| (it.protocol, it.public));
            let mut own = own.chain(fixed.iter().copied());
            own.any(|(protocol, it)| protocol.overlaps(wanted.protocol) && it.overlaps(ports))
        };
        let may_have = |ports: PortRange| !taken(ports) && is_free(wanted.protocol, ports);
        let same = |it: &&ReservedService| it.name == wanted.name && it.public.count() == count;
        let kept = before.and_then(|before| before.services.iter().find(same));
        let kept = kept.map(|it| it.public);
        let rows = pool.ranges().iter().flat_map(|range| {
            let row = move |first: u16| PortRange::new(first, first.checked_add(count - 1)?);
            let rows = range.ports().filter_map(row);
            rows.filter(|row| range.covers(*row))
        });
        let public = kept.into_iter().chain(rows).find(|row| may_have(*row));
        let public = public.ok_or(count)?;
        chosen.push(ReservedService::new(
            wanted.name.clone(),
            wanted.protocol,
            public,
        ));
    }
    let mut chosen = chosen.into_iter();
    let services = request.services.iter().filter_map(|it| match it.public {
        WantedPorts::These(public) => {
            Some(ReservedService::new(it.name.clone(), it.protocol, public))
        }
        WantedPorts::Any(_) => chosen.next(),
    });
    Ok(services.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortRange {
        text.parse().unwrap()
    }

    fn wanted(name: &str, protocol: Protocol, public: WantedPorts) -> WantedService {
        WantedService::new(name.parse().unwrap(), protocol, public)
    }

    fn request(services: Vec<WantedService>, pool: &str) -> ReservationRequest {
        let pool = pool.parse().unwrap();
        ReservationRequest::new("a".parse().unwrap(), "node", services, pool)
    }

    fn chosen(
        request: &ReservationRequest,
        before: Option<&Reservation>,
        busy: &[&str],
    ) -> Result<Vec<String>, u16> {
        let is_free = |_, row: PortRange| !busy.iter().any(|it| ports(it).overlaps(row));
        let services = choose(request, &request.pool, before, is_free)?;
        Ok(services.iter().map(|it| it.public.to_string()).collect())
    }

    #[test]
    fn ports_left_open_are_the_first_that_are_free_and_never_those_of_the_same_request() {
        use Protocol::{Both, Tcp, Udp};
        use WantedPorts::{Any, These};
        let services = vec![
            wanted("a", Udp, Any(1)),
            wanted("b", Tcp, Any(1)),
            wanted("c", Both, Any(1)),
            wanted("d", Udp, These(ports("3003"))),
            wanted("e", Udp, Any(3)),
        ];
        let request = request(services, "3000-3009");
        // TCP and UDP have ports of their own.
        let all = ["3000", "3000", "3001", "3003", "3004-3006"].map(String::from);
        assert_eq!(chosen(&request, None, &[]), Ok(all.into()));
        let all = ["3001", "3001", "3002", "3003", "3005-3007"].map(String::from);
        assert_eq!(chosen(&request, None, &["3000", "3004"]), Ok(all.into()));
        assert_eq!(chosen(&request, None, &["3006-3007"]), Err(3));
        assert_eq!(chosen(&request, None, &["3000-3009"]), Err(1));
    }

    #[test]
    fn a_service_keeps_the_ports_that_it_has() {
        use WantedPorts::Any;
        let services = vec![
            wanted("game", Protocol::Udp, Any(1)),
            wanted("rcon", Protocol::Tcp, Any(2)),
        ];
        let request = request(services, "3000-3009");
        let reserved = |name: &str, text| {
            ReservedService::new(name.parse().unwrap(), Protocol::Udp, ports(text))
        };
        // One of them is not of the pool: it was asked for.
        let before = vec![reserved("game", "2007"), reserved("rcon", "3001")];
        let before = Reservation::new("a".parse().unwrap(), "node", before);
        let expected = ["2007", "3000-3001"].map(String::from);
        assert_eq!(chosen(&request, Some(&before), &[]), Ok(expected.into()));
    }

    #[test]
    fn the_last_port_there_is_ends_a_row() {
        let services = vec![wanted("a", Protocol::Udp, WantedPorts::Any(2))];
        let request = request(services, "65534-65535");
        assert_eq!(
            chosen(&request, None, &[]),
            Ok(vec!["65534-65535".to_owned()])
        );
        assert_eq!(chosen(&request, None, &["65535"]), Err(2));
    }
}
