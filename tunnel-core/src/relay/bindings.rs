//! What clients have declared and what is bound of it: carries out what the registry decides, all or nothing for each instance.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::{
    event::Event,
    instance::{InstanceId, PortRange, PortSet},
    key::PublicKey,
    proto::message::{Code, Revision, ServiceDeclaration},
    relay::{
        authority::{Admission, Forbidden},
        declare_error::DeclareError,
        ingress::open::OpenError,
        limit::bucket::TokenBucket,
        ports::Ports,
        registry::{Action, Binding, Change, OwnerLimits, Registry},
        reservations::{Reservation, ReservationRequest, WantedPorts, WantedService},
        shared::Shared,
        status::InstanceStatus,
        tunnel::RelayTunnel,
    },
    tunnel::fault,
};

/// The instances of all clients, and their ports.
pub(crate) struct Bindings {
    shared: Arc<Shared>,
    registry: Registry,
    pub(crate) ports: Ports,
    /// How often each client may declare; kept while it is gone, or coming back would begin anew.
    buckets: HashMap<PublicKey, TokenBucket>,
}

/// An instance that is served no more though its client has not withdrawn it. The client is to be told.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(crate) owner: PublicKey,
    pub(crate) instance: InstanceId,
    pub(crate) revision: Revision,
}

/// What a client declares: an instance as it is to be.
#[derive(Debug)]
pub(crate) struct Declaration<'a> {
    pub(crate) instance: &'a InstanceId,
    pub(crate) revision: Revision,
    pub(crate) services: Vec<ServiceDeclaration>,
}

impl Bindings {
    /// Nothing is declared.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let limits = &shared.config.limits;
        let owner = OwnerLimits {
            instances: limits.instances_per_client,
            ports_per_instance: limits.ports_per_instance,
            ports: limits.ports_per_client,
        };
        Self {
            registry: Registry::new(shared.config.ports.clone(), limits.lease, owner),
            ports: Ports::new(shared.clone()),
            buckets: HashMap::new(),
            shared,
        }
    }

    /// Carries out a declaration, all or nothing. Where no new players are taken, nothing new is bound.
    pub(crate) async fn declare(
        &mut self,
        tunnel: &Arc<RelayTunnel>,
        admission: &Admission,
        declaration: Declaration<'_>,
    ) -> Result<(), DeclareError> {
        let Declaration {
            instance,
            revision,
            services,
        } = declaration;
        let is_open = |service| self.ports.is_open(&Binding::new(instance, service));
        if self.shared.draining.is_cancelled() && !services.iter().all(is_open) {
            return Err(DeclareError {
                code: Code::Shutdown,
                text: "the relay shuts down".into(),
                port: None,
            });
        }
        let limits = &self.shared.config.limits;
        let declarations = self.buckets.entry(tunnel.client).or_insert_with(|| {
            TokenBucket::new(
                limits.declarations_per_second,
                limits.declaration_burst,
                Instant::now(),
            )
        });
        if !declarations.take(1, Instant::now()) {
            self.shared.metrics.declarations_limited.one();
            return Err(DeclareError {
                code: Code::Limit,
                text: "the client declares instances faster than it may".into(),
                port: None,
            });
        }
        for service in &services {
            let allowed = (self.shared.authority).may_bind(&tunnel.client, admission, service);
            allowed.map_err(|forbidden| match forbidden {
                Forbidden::Refused(text) => DeclareError {
                    code: Code::NotPermitted,
                    text,
                    port: Some(service.public.first()),
                },
                Forbidden::Unknown => DeclareError::internal(),
            })?;
        }
        let change = Change::Declare {
            owner: tunnel.client,
            client: tunnel.name.clone(),
            permitted: admission.ports.clone(),
            instance: instance.clone(),
            revision,
            services,
        };
        let actions = self.registry.apply(Instant::now(), change)?;
        let binds = actions.iter().filter_map(|action| match action {
            Action::Bind { binding, .. } => Some(binding.sockets()),
            Action::Route { .. } | Action::Unbind { .. } => None,
        });
        declarations.owe(binds.sum::<usize>() / SOCKETS_A_DECLARATION, Instant::now());
        self.carry_out(tunnel, instance, actions).await
    }

    async fn carry_out(
        &mut self,
        tunnel: &Arc<RelayTunnel>,
        instance: &InstanceId,
        actions: Vec<Action>,
    ) -> Result<(), DeclareError> {
        fault!("declaring {instance}");
        let mut opened = match self.ports.prepare(&actions).await {
            Ok(opened) => opened,
            Err(error) => {
                self.apply(Change::Undone {
                    instance: instance.clone(),
                });
                return Err(error.into());
            }
        };
        for action in actions {
            if let Err(error) = self.ports.execute(tunnel, action, &mut opened).await {
                self.fail(instance.clone());
                return Err(error);
            }
        }
        self.apply(Change::Done {
            instance: instance.clone(),
        });
        Ok(())
    }

    /// Reserves an instance with its ports, all or nothing.
    pub(crate) async fn reserve(
        &mut self,
        request: &ReservationRequest,
    ) -> Result<Reservation, DeclareError> {
        let planned = self.plan(request).await?;
        self.registry.reserve(planned.clone());
        Ok(planned)
    }

    /// What there is to reserve. A port that another program has is not: where the relay may choose, it chooses another one.
    pub(crate) async fn plan(
        &self,
        request: &ReservationRequest,
    ) -> Result<Reservation, DeclareError> {
        let mut busy = PortSet::default();
        loop {
            let planned = self.registry.plan(request, &busy)?;
            match self.try_ports(&planned).await {
                Ok(()) => return Ok(planned),
                Err(error) => {
                    let port = PortRange::new(error.port, error.port);
                    let is_asked_for = (request.services.iter()).any(|it| match it.public {
                        WantedPorts::These(ports) => ports.contains(error.port),
                        WantedPorts::Any(_) => false,
                    });
                    let tried = busy.ranges().iter().map(|it| usize::from(it.count()));
                    if is_asked_for || tried.sum::<usize>() >= CHOICES {
                        return Err(error.into());
                    }
                    busy = busy.ranges().iter().copied().chain(port).collect();
                }
            }
        }
    }

    /// Opens the ports of a reservation, and closes them again: those alone that the instance has not open.
    async fn try_ports(&self, reservation: &Reservation) -> Result<(), OpenError> {
        for service in &reservation.services {
            let binding = Binding {
                instance: reservation.instance.clone(),
                public: service.public,
                tcp: service.protocol.tcp(),
                udp: service.protocol.udp(),
            };
            let is_own =
                |open: &Binding| open.instance == binding.instance && open.clashes(&binding);
            if !self.ports.bindings().any(is_own) {
                drop(self.ports.open(&binding).await?);
            }
        }
        Ok(())
    }

    /// Reserves what was reserved before a restart. What stands in its way stays: the first of two that clash.
    pub(crate) fn restore(&mut self, reservation: Reservation) -> Result<(), DeclareError> {
        let services = reservation.services.iter().map(|it| {
            WantedService::new(it.name.clone(), it.protocol, WantedPorts::These(it.public))
        });
        let request = ReservationRequest::new(
            reservation.instance.clone(),
            reservation.client.clone(),
            services.collect(),
            PortSet::default(),
        );
        let planned = self.registry.plan(&request, &PortSet::default())?;
        self.registry.reserve(planned);
        Ok(())
    }

    /// Gives a reservation back, and unbinds its instance. Returns whether there was one, and what is bound no more.
    pub(crate) fn release_reservation(&mut self, instance: &InstanceId) -> (bool, Option<Unbound>) {
        if self.registry.release_reservation(instance).is_none() {
            return (false, None);
        }
        (true, self.unbind(instance))
    }

    /// Takes an instance away from its client.
    fn unbind(&mut self, instance: &InstanceId) -> Option<Unbound> {
        let owner = self.registry.owner(instance)?;
        let revision = self.registry.revision(instance)?;
        self.withdraw(owner, instance.clone());
        Some(Unbound {
            owner,
            instance: instance.clone(),
            revision,
        })
    }

    /// All reservations.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.registry.reservations()
    }

    /// A client wants an instance gone.
    pub(crate) fn withdraw(&mut self, owner: PublicKey, instance: InstanceId) {
        let actions = self.apply(Change::Withdraw { owner, instance });
        self.release(actions);
    }

    /// A client's tunnel is lost: its ports are held for the lease.
    pub(crate) fn hold(&mut self, owner: PublicKey) {
        self.apply(Change::Lost { owner });
    }

    /// A client's tunnel stands, again or another one.
    pub(crate) fn returned(&mut self, now: Instant, owner: PublicKey) {
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        self.apply(Change::Returned { owner });
    }

    /// A client has gone for good.
    pub(crate) fn released(&mut self, owner: PublicKey) {
        let actions = self.apply(Change::Released { owner });
        self.release(actions);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.registry.poll_timeout()
    }

    /// Releases what is held of tunnels that have not come back in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let actions = self.registry.handle_timeout(now);
        self.release(actions);
    }

    /// A client's instances, and who plays there.
    pub(crate) fn instances_of(&self, owner: &PublicKey) -> impl Iterator<Item = InstanceStatus> {
        let instances = self.registry.instances();
        let own = instances.filter(move |(_, of, _)| *of == owner);
        own.map(|(id, _, services)| {
            let services = services.iter().filter_map(|service| {
                let open = self.ports.get(&Binding::new(id, service))?;
                Some(open.status(service.clone()))
            });
            InstanceStatus {
                id: id.clone(),
                gate: self.ports.gate(id),
                services: services.collect(),
            }
        })
    }

    /// Changes which ports the relay gives out. What is bound outside of them stays until it is [forbidden](Self::forbid).
    pub(crate) fn set_ports(&mut self, ports: PortSet) {
        self.registry.set_ports(ports);
    }

    /// Unbinds what a client may not have any more. `may_have` says what each is admitted for, where that is known.
    pub(crate) fn forbid<'a>(
        &mut self,
        admission: impl Fn(&PublicKey) -> Option<&'a Admission>,
    ) -> Vec<Unbound> {
        let forbidden: Vec<InstanceId> = self
            .registry
            .instances()
            .filter(|(id, owner, services)| {
                let own = admission(owner);
                let reserved = self.registry.is_as_reserved(id);
                let may_keep = |own, service| {
                    self.is_allowed(owner, own, service)
                        && (reserved == Some(true) || own.ports.covers(service.public))
                };
                reserved == Some(false)
                    || services.iter().any(|service| {
                        !self.registry.gives_out(service.public)
                            || own.is_some_and(|own| !may_keep(own, service))
                    })
            })
            .map(|(id, _, _)| id.clone())
            .collect();
        forbidden.iter().filter_map(|id| self.unbind(id)).collect()
    }

    /// Whether the embedder lets a client go on with a service. Where that cannot be found out, what was granted stays.
    fn is_allowed(
        &self,
        owner: &PublicKey,
        admission: &Admission,
        service: &ServiceDeclaration,
    ) -> bool {
        let allowed = self.shared.authority.may_bind(owner, admission, service);
        !matches!(allowed, Err(Forbidden::Refused(_)))
    }

    /// After a panic: makes the registry and the sockets agree again. What was begun is undone, what is served for nobody ends,
    /// and an instance of which a part is not served goes as a whole; its client declares it anew.
    pub(crate) fn reconcile(&mut self) -> Vec<Unbound> {
        for instance in self.registry.unfinished() {
            self.apply(Change::Undone {
                instance: instance.clone(),
            });
            // Some services may go by the new declaration already.
            for service in self.registry.services(&instance) {
                self.ports
                    .declare_again(&Binding::new(&instance, service), service);
            }
        }
        let held: Vec<(InstanceId, BTreeSet<Binding>)> = (self.registry.instances())
            .map(|(id, _, services)| {
                let bindings = services.iter().map(|service| Binding::new(id, service));
                (id.clone(), bindings.collect())
            })
            .collect();
        let is_held =
            |binding: &Binding| held.iter().any(|(_, bindings)| bindings.contains(binding));
        let strays = self.ports.bindings().filter(|binding| !is_held(binding));
        for binding in strays.cloned().collect::<Vec<_>>() {
            self.ports.close(&binding);
        }
        let mut gone = Vec::new();
        for (instance, bindings) in held {
            if bindings.iter().all(|it| self.ports.is_open(it)) {
                continue;
            }
            let owner = self.registry.owner(&instance);
            let revision = self.registry.revision(&instance);
            self.fail(instance.clone());
            if let (Some(owner), Some(revision)) = (owner, revision) {
                gone.push(Unbound {
                    owner,
                    instance,
                    revision,
                });
            }
        }
        gone
    }

    /// Gives an instance up of which a part is not served.
    fn fail(&mut self, instance: InstanceId) {
        let actions = self.apply(Change::Failed { instance });
        self.release(actions);
    }

    /// Applies a change that cannot be refused.
    fn apply(&mut self, change: Change) -> Vec<Action> {
        self.registry
            .apply(Instant::now(), change)
            .unwrap_or_default()
    }

    /// Closes ports, and says which instances are gone.
    fn release(&mut self, actions: Vec<Action>) {
        let mut last: Option<InstanceId> = None;
        for action in actions {
            let Action::Unbind { binding } = action else {
                continue;
            };
            self.ports.close(&binding);
            if last.as_ref() != Some(&binding.instance) {
                self.shared.emit(Event::Unbound {
                    instance: binding.instance.clone(),
                });
                last = Some(binding.instance);
            }
        }
    }
}

/// Opening 16 sockets costs what a declaration does.
const SOCKETS_A_DECLARATION: usize = 16;
/// How many chosen ports may turn out to be another program's. 64: more in one pool is no accident.
const CHOICES: usize = 64;
