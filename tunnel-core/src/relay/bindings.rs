//! What clients have declared and what is bound of it: carries out what the registry decides, all or nothing for each instance.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::{
    event::Event,
    instance::{InstanceId, PortSet},
    key::PublicKey,
    proto::message::{Code, Revision, ServiceDeclaration},
    relay::{
        authority::{Admission, Forbidden},
        limit::bucket::TokenBucket,
        ports::{DeclareError, Ports},
        registry::{Action, Binding, Change, OwnerLimits, Registry},
        shared::Shared,
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

    /// Ids and services of a client's instances.
    pub(crate) fn instances_of(
        &self,
        owner: &PublicKey,
    ) -> impl Iterator<Item = (&InstanceId, &[ServiceDeclaration])> {
        let instances = self.registry.instances();
        let own = instances.filter(move |(_, of, _)| *of == owner);
        own.map(|(id, _, services)| (id, services))
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
        let forbidden: Vec<(InstanceId, PublicKey)> = self
            .registry
            .instances()
            .filter(|(_, owner, services)| {
                let own = admission(owner);
                services.iter().any(|service| {
                    !self.registry.gives_out(service.public)
                        || own.is_some_and(|own| !self.may_keep(owner, own, service))
                })
            })
            .map(|(id, owner, _)| (id.clone(), *owner))
            .collect();
        let mut gone = Vec::new();
        for (instance, owner) in forbidden {
            let Some(revision) = self.registry.revision(&instance) else {
                continue;
            };
            self.withdraw(owner, instance.clone());
            gone.push(Unbound {
                owner,
                instance,
                revision,
            });
        }
        gone
    }

    /// Whether a client may go on with a service. Where that cannot be found out, what was granted stays.
    fn may_keep(
        &self,
        owner: &PublicKey,
        admission: &Admission,
        service: &ServiceDeclaration,
    ) -> bool {
        let allowed = || self.shared.authority.may_bind(owner, admission, service);
        admission.ports.covers(service.public) && !matches!(allowed(), Err(Forbidden::Refused(_)))
    }

    /// After a panic: makes the registry and the sockets agree again. What was begun is undone, what is served for nobody ends,
    /// and an instance of which a part is not served goes as a whole; its client declares it anew.
    pub(crate) fn reconcile(&mut self) -> Vec<Unbound> {
        for instance in self.registry.unfinished() {
            self.apply(Change::Undone { instance });
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
