//! Who owns which public port. Pure: a change goes in, and a list of actions comes out, which [`bindings`](super::bindings) carries
//! out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    instance::{InstanceId, PortClaims, PortRange, PortSet, Protocol, ServiceName},
    key::PublicKey,
    proto::message::{Code, Revision, ServiceDeclaration},
    relay::reservations::{
        self, NotReserved, Reservation, ReservationRequest, Reservations, ReservedService,
    },
};

/// All instances that the relay holds, of all clients.
#[derive(Debug)]
pub(crate) struct Registry {
    ports: PortSet,
    lease: Duration,
    limits: OwnerLimits,
    instances: BTreeMap<InstanceId, Held>,
    /// The ports of all instances. No two claims overlap but while what stood before is put back.
    taken: PortClaims<InstanceId>,
    /// What each owner holds, so that the cost of a change does not grow with the number of other instances.
    owned: HashMap<PublicKey, Owned>,
    /// What an instance was before a declaration that has not been carried out yet.
    before: HashMap<InstanceId, Option<Held>>,
    /// What the operator has reserved, whether its client is there or not.
    reservations: Reservations,
    /// When an owner loses the instances that it has not declared again since its tunnel was lost or replaced.
    leases: HashMap<PublicKey, Instant>,
}

/// What one owner may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerLimits {
    pub(crate) instances: usize,
    /// Ports of one instance, each of its protocols counted.
    pub(crate) ports_per_instance: usize,
    /// Ports of all of its instances.
    pub(crate) ports: usize,
}

#[derive(Debug)]
struct Held {
    owner: PublicKey,
    /// The owner's name, for which instances are reserved.
    client: Arc<str>,
    /// Whether it was declared on the tunnel in use. Any other is held for the lease: the client may have removed it from its
    /// configuration while it had no tunnel to withdraw it on.
    is_confirmed: bool,
    revision: Revision,
    services: Vec<ServiceDeclaration>,
}

/// What one owner holds.
#[derive(Debug, Default)]
struct Owned {
    instances: BTreeSet<InstanceId>,
    sockets: usize,
}

/// What names a bound service: an instance's public ports with their protocol. Name, id and options may change
/// while it stays bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) instance: InstanceId,
    pub(crate) public: PortRange,
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

/// What has happened to the clients and their declarations.
#[derive(Debug)]
pub(crate) enum Change {
    /// A client wants an instance bound, or changed to this. `permitted` is what this client may have.
    Declare {
        owner: PublicKey,
        client: Arc<str>,
        permitted: PortSet,
        instance: InstanceId,
        revision: Revision,
        services: Vec<ServiceDeclaration>,
    },
    /// A client wants an instance gone.
    Withdraw {
        owner: PublicKey,
        instance: InstanceId,
    },
    /// A declaration has been carried out.
    Done { instance: InstanceId },
    /// A declaration could not be carried out, and nothing is left of the attempt: the instance is again what it was before.
    Undone { instance: InstanceId },
    /// A declaration could neither be carried out nor undone: the instance is removed as a whole.
    Failed { instance: InstanceId },
    /// A client's tunnel is lost; its ports are held for the lease.
    Lost { owner: PublicKey },
    /// A client has a tunnel again, or another one: what it does not declare again is released after the lease.
    Returned { owner: PublicKey },
    /// A client said goodbye, was removed or revoked: everything is released at once.
    Released { owner: PublicKey },
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open the ports of a service.
    Bind {
        binding: Binding,
        service: ServiceDeclaration,
    },
    /// The ports are open already: new players go by this declaration.
    Route {
        binding: Binding,
        service: ServiceDeclaration,
    },
    /// Close the ports of a service and end its players.
    Unbind { binding: Binding },
}

/// Why an instance is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    #[error("port {0} is outside what this client may use")]
    NotPermitted(PortRange),
    #[error("port {0} is outside what the relay gives out")]
    OutsideRelay(PortRange),
    #[error("port {port} is in use by instance {instance}")]
    PortInUse {
        port: PortRange,
        instance: InstanceId,
    },
    #[error("instance id {0} is in use by another client")]
    IdInUse(InstanceId),
    #[error("the client has {0} instances already")]
    TooMany(usize),
    #[error(
        "the instance wants {wanted} ports, at most {most} are allowed (a port of both protocols counts twice)"
    )]
    InstanceTooLarge { wanted: usize, most: usize },
    #[error(
        "the client would have {wanted} ports, at most {most} are allowed (a port of both protocols counts twice)"
    )]
    TooManyPorts { wanted: usize, most: usize },
    #[error("port {port} is reserved for instance {instance}")]
    PortReserved {
        port: PortRange,
        instance: InstanceId,
    },
    #[error("instance {0} is reserved for another client")]
    IdReserved(InstanceId),
    #[error(
        "the relay's operator has reserved instance {instance} with other services than {service} on port {port}"
    )]
    NotAsReserved {
        instance: InstanceId,
        service: ServiceName,
        port: PortRange,
    },
    #[error("{0} ports in a row are not free in the relay's pool")]
    PoolExhausted(u16),
    #[error("the instance has no service")]
    Empty,
    #[error("two services of the instance use port {0}")]
    PortTwice(PortRange),
}

impl Refusal {
    fn not_reserved(instance: &InstanceId, not: NotReserved) -> Self {
        let instance = instance.clone();
        match not {
            NotReserved::Client => Self::IdReserved(instance),
            NotReserved::Service(service, port) => Self::NotAsReserved {
                instance,
                service,
                port,
            },
        }
    }

    /// The code that the client is told.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::NotPermitted(_) | Self::OutsideRelay(_) | Self::NotAsReserved { .. } => {
                Code::NotPermitted
            }
            Self::PortInUse { .. } | Self::PortReserved { .. } => Code::PortInUse,
            Self::IdInUse(_) | Self::IdReserved(_) => Code::IdInUse,
            Self::TooMany(_)
            | Self::InstanceTooLarge { .. }
            | Self::TooManyPorts { .. }
            | Self::PoolExhausted(_) => Code::Limit,
            Self::Empty | Self::PortTwice(_) => Code::ProtocolError,
        }
    }

    /// The port that it is about, if it is about one.
    pub(crate) const fn port(&self) -> Option<u16> {
        match self {
            Self::NotPermitted(port)
            | Self::OutsideRelay(port)
            | Self::PortTwice(port)
            | Self::NotAsReserved { port, .. }
            | Self::PortReserved { port, .. }
            | Self::PortInUse { port, .. } => Some(port.first()),
            Self::IdInUse(_)
            | Self::IdReserved(_)
            | Self::PoolExhausted(_)
            | Self::TooMany(_)
            | Self::InstanceTooLarge { .. }
            | Self::TooManyPorts { .. }
            | Self::Empty => None,
        }
    }
}

impl Registry {
    /// An empty registry of a relay that gives out `ports`, holds them for `lease` when a tunnel is lost, and
    /// grants each client at most so much.
    pub(crate) fn new(ports: PortSet, lease: Duration, limits: OwnerLimits) -> Self {
        Self {
            ports,
            // What a WELCOME can say at most, and a clock can add.
            lease: lease.min(Duration::from_millis(u32::MAX.into())),
            limits,
            instances: BTreeMap::new(),
            taken: PortClaims::default(),
            owned: HashMap::new(),
            before: HashMap::new(),
            reservations: Reservations::default(),
            leases: HashMap::new(),
        }
    }

    /// Takes a change. On a refusal nothing has changed.
    pub(crate) fn apply(&mut self, now: Instant, change: Change) -> Result<Vec<Action>, Refusal> {
        match change {
            Change::Declare {
                owner,
                client,
                permitted,
                instance,
                revision,
                services,
            } => {
                if let Some(held) = self.instances.get_mut(&instance)
                    && held.owner == owner
                {
                    // Also where this change is refused: what stood before stands.
                    held.is_confirmed = true;
                }
                self.check(&owner, &client, &permitted, &instance, &services)?;
                let held = Held {
                    owner,
                    client,
                    is_confirmed: true,
                    revision,
                    services,
                };
                Ok(self.declare(instance, held))
            }
            Change::Withdraw { owner, instance } => {
                let owned = self
                    .instances
                    .get(&instance)
                    .is_some_and(|held| held.owner == owner);
                Ok(if owned {
                    self.remove(&instance)
                } else {
                    Vec::new()
                })
            }
            Change::Done { instance } => {
                self.before.remove(&instance);
                Ok(Vec::new())
            }
            Change::Undone { instance } => {
                if let Some(before) = self.before.remove(&instance) {
                    match before {
                        Some(held) => self.enter(instance, held),
                        None => self.leave(&instance),
                    };
                }
                Ok(Vec::new())
            }
            Change::Failed { instance } => Ok(self.remove(&instance)),
            Change::Lost { owner } => {
                self.hold(owner, now + self.lease);
                Ok(Vec::new())
            }
            Change::Returned { owner } => {
                self.hold(owner, now + self.lease.max(DECLARE_TIME));
                Ok(Vec::new())
            }
            Change::Released { owner } => Ok(self.release(&owner)),
        }
    }

    /// Changes what the relay gives out at all. What is bound stays bound.
    pub(crate) fn set_ports(&mut self, ports: PortSet) {
        self.ports = ports;
    }

    /// Whether the relay gives out these ports at all.
    pub(crate) fn gives_out(&self, ports: PortRange) -> bool {
        self.ports.covers(ports)
    }

    /// What a request would reserve, once every port that it leaves open is chosen; `excluded` ports are not to be had.
    pub(crate) fn plan(
        &self,
        request: &ReservationRequest,
        excluded: &PortSet,
    ) -> Result<Reservation, Refusal> {
        let (instance, client) = (&request.instance, &request.client);
        if request.services.is_empty() {
            return Err(Refusal::Empty);
        }
        if let Some(held) = self.instances.get(instance)
            && *held.client != **client
        {
            return Err(Refusal::IdInUse(instance.clone()));
        }
        let before = self.reservations.get(instance);
        let count = self.reservations.count_of(client);
        if before.is_none_or(|it| it.client != *client) && count >= self.limits.instances {
            return Err(Refusal::TooMany(count));
        }
        let pool = request.pool.intersection(&self.ports);
        let is_excluded = |row: PortRange| excluded.ranges().iter().any(|it| it.overlaps(row));
        let is_free = |protocol, row| {
            self.ports.covers(row)
                && !is_excluded(row)
                && self.check_free(instance, protocol, row).is_ok()
        };
        let services = reservations::choose(request, &pool, before, is_free);
        let services = services.map_err(Refusal::PoolExhausted)?;
        let wanted = services.iter().map(|it| sockets_of(it.protocol, it.public));
        let (wanted, most) = (wanted.sum(), self.limits.ports_per_instance);
        if wanted > most {
            return Err(Refusal::InstanceTooLarge { wanted, most });
        }
        for (at, service) in services.iter().enumerate() {
            let (protocol, public) = (service.protocol, service.public);
            if !self.ports.covers(public) {
                return Err(Refusal::OutsideRelay(public));
            }
            let clashes =
                |it: &ReservedService| it.protocol.overlaps(protocol) && it.public.overlaps(public);
            if services[..at].iter().any(clashes) {
                return Err(Refusal::PortTwice(public));
            }
            self.check_free(instance, protocol, public)?;
        }
        Ok(Reservation::new(instance.clone(), client.clone(), services))
    }

    /// Reserves what was planned, or was reserved before a restart.
    pub(crate) fn reserve(&mut self, reservation: Reservation) {
        self.reservations.enter(reservation);
    }

    /// Gives a reservation back. What is bound stays bound.
    pub(crate) fn release_reservation(&mut self, instance: &InstanceId) -> Option<Reservation> {
        self.reservations.remove(instance)
    }

    /// All reservations, sorted by instance.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.reservations.iter()
    }

    /// Whether what is bound of an instance is as it was reserved; `None` where nothing is reserved for it.
    pub(crate) fn is_as_reserved(&self, instance: &InstanceId) -> Option<bool> {
        let held = self.instances.get(instance)?;
        let checked = (self.reservations).check(instance, &held.client, &held.services)?;
        Some(checked.is_ok())
    }

    /// When the next lease ends.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.leases.values().min().copied()
    }

    /// Releases what was not declared again before its lease ended.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Action> {
        let ended: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(key, _)| *key)
            .collect();
        let mut actions = Vec::new();
        for owner in ended {
            self.leases.remove(&owner);
            actions.extend(self.remove_of(&owner, |held| !held.is_confirmed));
        }
        actions
    }

    /// Ids and owners of the instances held, sorted by id.
    pub(crate) fn instances(
        &self,
    ) -> impl Iterator<Item = (&InstanceId, &PublicKey, &[ServiceDeclaration])> {
        self.instances
            .iter()
            .map(|(id, held)| (id, &held.owner, held.services.as_slice()))
    }

    /// What an instance holds.
    pub(crate) fn services(&self, instance: &InstanceId) -> &[ServiceDeclaration] {
        let held = self.instances.get(instance);
        held.map_or(&[], |held| &held.services)
    }

    /// Instances whose declaration has neither been carried out nor undone.
    pub(crate) fn unfinished(&self) -> Vec<InstanceId> {
        self.before.keys().cloned().collect()
    }

    /// Whose an instance is.
    pub(crate) fn owner(&self, instance: &InstanceId) -> Option<PublicKey> {
        self.instances.get(instance).map(|held| held.owner)
    }

    /// The revision in force of an instance.
    pub(crate) fn revision(&self, instance: &InstanceId) -> Option<Revision> {
        self.instances.get(instance).map(|held| held.revision)
    }

    fn check(
        &self,
        owner: &PublicKey,
        client: &str,
        permitted: &PortSet,
        instance: &InstanceId,
        services: &[ServiceDeclaration],
    ) -> Result<(), Refusal> {
        if services.is_empty() {
            return Err(Refusal::Empty);
        }
        let reserved = self.reservations.check(instance, client, services);
        let is_reserved = reserved.is_some();
        if let Some(checked) = reserved {
            checked.map_err(|not| Refusal::not_reserved(instance, not))?;
        }
        match self.instances.get(instance) {
            Some(held) if held.owner != *owner => return Err(Refusal::IdInUse(instance.clone())),
            Some(_) => {}
            None => {
                let own = (self.owned.get(owner)).map_or(0, |owned| owned.instances.len());
                if own >= self.limits.instances {
                    return Err(Refusal::TooMany(own));
                }
            }
        }
        self.check_count(owner, instance, services)?;
        for (i, service) in services.iter().enumerate() {
            let clash = |other: &ServiceDeclaration| {
                other.protocol.overlaps(service.protocol) && other.public.overlaps(service.public)
            };
            if !self.ports.covers(service.public) {
                return Err(Refusal::OutsideRelay(service.public));
            }
            if !is_reserved && !permitted.covers(service.public) {
                return Err(Refusal::NotPermitted(service.public));
            }
            if services[..i].iter().any(clash) {
                return Err(Refusal::PortTwice(service.public));
            }
            self.check_free(instance, service.protocol, service.public)?;
        }
        Ok(())
    }

    /// Whether no other instance has these ports, bound or reserved.
    fn check_free(
        &self,
        instance: &InstanceId,
        protocol: Protocol,
        port: PortRange,
    ) -> Result<(), Refusal> {
        let reserved = self.reservations.holder(instance, protocol, port);
        if let Some(holder) = reserved {
            let instance = holder.clone();
            return Err(Refusal::PortReserved { port, instance });
        }
        if let Some(holder) = self.holder(instance, protocol, port) {
            let instance = holder.clone();
            return Err(Refusal::PortInUse { port, instance });
        }
        Ok(())
    }

    /// Whether that is not too many ports.
    fn check_count(
        &self,
        owner: &PublicKey,
        instance: &InstanceId,
        services: &[ServiceDeclaration],
    ) -> Result<(), Refusal> {
        let (wanted, most) = (sockets(services), self.limits.ports_per_instance);
        if wanted > most {
            return Err(Refusal::InstanceTooLarge { wanted, most });
        }
        let all = self.owned.get(owner).map_or(0, |owned| owned.sockets);
        let own = self.instances.get(instance);
        let others = all - own.map_or(0, |held| sockets(&held.services));
        let (wanted, most) = (others + wanted, self.limits.ports);
        if wanted > most {
            return Err(Refusal::TooManyPorts { wanted, most });
        }
        Ok(())
    }

    fn declare(&mut self, instance: InstanceId, held: Held) -> Vec<Action> {
        let services = &held.services;
        let bound: Vec<Binding> = self
            .instances
            .get(&instance)
            .map(|held| {
                held.services
                    .iter()
                    .map(|s| Binding::new(&instance, s))
                    .collect()
            })
            .unwrap_or_default();
        let wanted: Vec<Binding> = services
            .iter()
            .map(|s| Binding::new(&instance, s))
            .collect();
        let gone = bound.iter().filter(|binding| !wanted.contains(binding));
        // What goes makes room before anything new is bound: the two may share a port.
        let mut actions: Vec<Action> = gone
            .map(|binding| Action::Unbind {
                binding: binding.clone(),
            })
            .collect();
        for (binding, service) in wanted.into_iter().zip(services) {
            let service = service.clone();
            actions.push(if bound.contains(&binding) {
                Action::Route { binding, service }
            } else {
                Action::Bind { binding, service }
            });
        }
        let before = self.enter(instance.clone(), held);
        self.before.insert(instance, before);
        actions
    }

    /// Which other instance has a port that the service wants: of several the first by id.
    fn holder(
        &self,
        instance: &InstanceId,
        protocol: Protocol,
        ports: PortRange,
    ) -> Option<&InstanceId> {
        let holders = self.taken.holders(protocol, ports);
        holders.filter(|id| *id != instance).min()
    }

    /// Enters what an instance holds. Returns what it held before.
    fn enter(&mut self, instance: InstanceId, held: Held) -> Option<Held> {
        let before = self.leave(&instance);
        for service in &held.services {
            let (protocol, ports) = (service.protocol, service.public);
            self.taken.claim(protocol, ports, &instance);
        }
        let owned = self.owned.entry(held.owner).or_default();
        owned.instances.insert(instance.clone());
        owned.sockets += sockets(&held.services);
        self.instances.insert(instance, held);
        before
    }

    /// Removes an instance. Returns what it held.
    fn leave(&mut self, instance: &InstanceId) -> Option<Held> {
        let held = self.instances.remove(instance)?;
        for service in &held.services {
            let (protocol, ports) = (service.protocol, service.public);
            self.taken.release(protocol, ports, instance);
        }
        if let Some(owned) = self.owned.get_mut(&held.owner) {
            owned.instances.remove(instance);
            owned.sockets -= sockets(&held.services);
            if owned.instances.is_empty() {
                self.owned.remove(&held.owner);
            }
        }
        Some(held)
    }

    fn remove(&mut self, instance: &InstanceId) -> Vec<Action> {
        self.before.remove(instance);
        let Some(held) = self.leave(instance) else {
            return Vec::new();
        };
        held.services
            .iter()
            .map(|service| Action::Unbind {
                binding: Binding::new(instance, service),
            })
            .collect()
    }

    fn release(&mut self, owner: &PublicKey) -> Vec<Action> {
        self.leases.remove(owner);
        self.remove_of(owner, |_| true)
    }

    /// Holds what an owner has until then, or until it declares it again.
    fn hold(&mut self, owner: PublicKey, until: Instant) {
        self.leases.insert(owner, until);
        for id in self.owned.get(&owner).iter().flat_map(|it| &it.instances) {
            if let Some(held) = self.instances.get_mut(id) {
                held.is_confirmed = false;
            }
        }
    }

    fn remove_of(&mut self, owner: &PublicKey, which: impl Fn(&Held) -> bool) -> Vec<Action> {
        let own = self.owned.get(owner).map(|owned| &owned.instances);
        let own: Vec<_> = (own.into_iter().flatten())
            .filter(|id| self.instances.get(*id).is_some_and(&which))
            .cloned()
            .collect();
        own.iter().flat_map(|id| self.remove(id)).collect()
    }
}

/// Sockets that services take.
fn sockets(services: &[ServiceDeclaration]) -> usize {
    let of = |service: &ServiceDeclaration| sockets_of(service.protocol, service.public);
    services.iter().map(of).sum()
}

fn sockets_of(protocol: Protocol, ports: PortRange) -> usize {
    let protocols = usize::from(protocol.tcp()) + usize::from(protocol.udp());
    usize::from(ports.count()) * protocols
}

/// How long a client whose tunnel stands again has for declaring its instances, where the lease is shorter: 10 s, the
/// time of a handshake.
const DECLARE_TIME: Duration = Duration::from_secs(10);

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {} port {}", self.instance, self.public)
    }
}

impl Binding {
    /// Sockets that it takes.
    pub(crate) fn sockets(&self) -> usize {
        usize::from(self.public.count()) * (usize::from(self.tcp) + usize::from(self.udp))
    }

    /// Whether the two cannot be open at once.
    pub(crate) const fn clashes(&self, other: &Self) -> bool {
        self.public.overlaps(other.public) && ((self.tcp && other.tcp) || (self.udp && other.udp))
    }

    pub(crate) fn new(instance: &InstanceId, service: &ServiceDeclaration) -> Self {
        Self {
            instance: instance.clone(),
            public: service.public,
            tcp: service.protocol.tcp(),
            udp: service.protocol.udp(),
        }
    }
}

#[cfg(test)]
mod tests;
