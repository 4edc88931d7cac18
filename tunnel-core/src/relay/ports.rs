//! The public ports that are open: opens and closes them as the registry says, and leads their players to tunnels.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    event::Event,
    health::Health,
    instance::{InstanceId, ServiceName},
    proto::message::{Code, ServiceDeclaration},
    relay::{
        clients::Serial,
        declare_error::DeclareError,
        entrance::{Ban, Entrance, Entrances, Gate},
        ingress::{
            open::{OpenError, OpenPorts, Sharding},
            service::{PublicService, Route},
        },
        registry::{Action, Binding},
        shared::Shared,
        tunnel::RelayTunnel,
    },
    tunnel::fault,
};

/// The public ports of all instances.
pub(crate) struct Ports {
    shared: Arc<Shared>,
    services: HashMap<Binding, Arc<PublicService>>,
    /// Services that were ended and whose sockets may still be open, with word of their closing.
    closing: Vec<(Binding, CancellationToken)>,
    sharding: Sharding,
    /// Whom the operator lets in.
    entrances: Entrances,
}

/// Ports that are open and not served yet, by what they are for.
pub(crate) type Prepared = HashMap<Binding, OpenPorts>;

impl Ports {
    /// None is open.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            services: HashMap::new(),
            closing: Vec::new(),
            sharding: Sharding::new(),
            entrances: Entrances::default(),
        }
    }

    /// Whether the ports of a binding are open.
    pub(crate) fn is_open(&self, binding: &Binding) -> bool {
        self.services.contains_key(binding)
    }

    /// What is open.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.services.keys()
    }

    /// Opens what can fail without harm: the new ports of these actions that no port to be closed stands in the way of.
    pub(crate) async fn prepare(&self, actions: &[Action]) -> Result<Prepared, OpenError> {
        let mut opened = Prepared::new();
        for action in actions {
            let Action::Bind { binding, .. } = action else {
                continue;
            };
            let in_the_way = actions.iter().any(
                |other| matches!(other, Action::Unbind { binding: gone } if gone.clashes(binding)),
            );
            if !in_the_way {
                opened.insert(binding.clone(), self.open(binding).await?);
            }
        }
        Ok(opened)
    }

    /// Does what the registry has decided for a declaration that came by this tunnel.
    pub(crate) async fn execute(
        &mut self,
        tunnel: &Arc<RelayTunnel>,
        action: Action,
        opened: &mut Prepared,
    ) -> Result<(), DeclareError> {
        match action {
            Action::Bind { binding, service } => {
                fault!("binding {}", binding.public);
                let ports = match opened.remove(&binding) {
                    Some(ports) => ports,
                    None => self.open(&binding).await?,
                };
                let entrance = Entrance::new(
                    self.entrances.gate(&binding.instance),
                    self.entrances.bans(&binding.instance, &service.name),
                );
                let route = Route::new(tunnel, service);
                let served = ports.serve(&self.shared, binding.clone(), route, entrance);
                let served = served.await;
                let served = served.map_err(|error| DeclareError {
                    code: Code::Internal,
                    text: error.to_string(),
                    port: Some(binding.public.first()),
                })?;
                self.services.insert(binding, served);
            }
            Action::Route { binding, service } => {
                self.lead(tunnel, &binding, service);
            }
            Action::Unbind { binding } => self.close(&binding),
        }
        Ok(())
    }

    /// Moves the gate of an instance, also of one that is not there yet.
    pub(crate) fn set_gate(&mut self, instance: &InstanceId, gate: Gate) {
        self.entrances.set_gate(instance, gate);
        self.move_gates(|it| it == instance);
    }

    /// Moves the gate of all instances together.
    pub(crate) fn set_gate_of_all(&mut self, gate: Gate) {
        self.entrances.set_gate_of_all(gate);
        self.move_gates(|_| true);
    }

    fn move_gates(&self, which: impl Fn(&InstanceId) -> bool) {
        for (binding, service) in &self.services {
            if which(&binding.instance) {
                service.set_gate(self.entrances.gate(&binding.instance));
            }
        }
    }

    /// Replaces the bans, and ends who is banned now.
    pub(crate) fn set_bans(&mut self, bans: Vec<Ban>) {
        self.entrances.set_bans(bans);
        for (binding, service) in &self.services {
            if let Some(name) = service.name() {
                service.set_bans(self.entrances.bans(&binding.instance, &name));
            }
        }
    }

    /// The gate of an instance.
    pub(crate) fn gate(&self, instance: &InstanceId) -> Gate {
        self.entrances.gate(instance)
    }

    /// The service of a binding, if its ports are open.
    pub(crate) fn get(&self, binding: &Binding) -> Option<&PublicService> {
        self.services.get(binding).map(Arc::as_ref)
    }

    /// All services that are open.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<PublicService>> {
        self.services.values()
    }

    /// A client tells by this tunnel how a service of its own is.
    pub(crate) fn set_health(
        &self,
        tunnel: &RelayTunnel,
        instance: &InstanceId,
        name: &ServiceName,
        health: Option<Health>,
    ) {
        let of_instance = self.services.iter().filter(|(binding, service)| {
            binding.instance == *instance && service.owner == tunnel.client
        });
        let mut named = of_instance.filter(|(_, service)| service.name().as_ref() == Some(name));
        let Some((_, service)) = named.next() else {
            return;
        };
        let event = health.as_ref().map(|health| Event::HealthChanged {
            instance: instance.clone(),
            service: name.clone(),
            state: health.state,
            refuses: health.refuses,
            reason: health.reason.clone(),
        });
        if service.health.set(&self.shared.metrics, health) {
            event.into_iter().for_each(|event| self.shared.emit(event));
        }
    }

    /// Points the services of one tunnel at another of the same process, or at none.
    pub(crate) fn reroute(&self, from: Serial, to: Option<&Arc<RelayTunnel>>) {
        for service in self.services.values() {
            let Some(route) = service.route() else {
                continue;
            };
            if route.tunnel.serial == from {
                let route = to.map(|tunnel| Route::new(tunnel, route.service.clone()));
                service.route.send_replace(route);
            }
        }
    }

    /// Has new players of a service go by this declaration, by the tunnel that they have now.
    pub(crate) fn declare_again(&self, binding: &Binding, service: &ServiceDeclaration) {
        let route = self.services.get(binding).and_then(|it| it.route());
        if let Some(route) = route.filter(|route| route.service != *service) {
            self.lead(&route.tunnel, binding, service.clone());
        }
    }

    fn lead(&self, tunnel: &Arc<RelayTunnel>, binding: &Binding, service: ServiceDeclaration) {
        if let Some(served) = self.services.get(binding) {
            // Its name may be another one.
            served.set_bans(self.entrances.bans(&binding.instance, &service.name));
            (served.health).follow(&service.name, tunnel.process);
            let route = Route::new(tunnel, service);
            served.route.send_replace(Some(route));
        }
    }

    /// Closes the ports of a service, and ends its players.
    pub(crate) fn close(&mut self, binding: &Binding) {
        if let Some(service) = self.services.remove(binding) {
            service.cancelled.cancel();
            self.closing.retain(|(_, closed)| !closed.is_cancelled());
            self.closing.push((binding.clone(), service.closed.clone()));
        }
    }

    /// Opens ports. Where a service that was just ended had them, its tasks first let go of their sockets.
    pub(crate) async fn open(&self, binding: &Binding) -> Result<OpenPorts, OpenError> {
        let last = self
            .closing
            .iter()
            .filter(|(gone, _)| gone.clashes(binding));
        let closed = async {
            for (_, closed) in last {
                closed.cancelled().await;
            }
        };
        // If it takes this long, the system says that the port is in use.
        drop(tokio::time::timeout(CLOSE_TIME, closed).await);
        OpenPorts::open(self.shared.config.public_bind, binding, &self.sharding).await
    }

    /// Refuses players who connect over TCP from now on.
    pub(crate) fn stop_listening(&self) {
        for service in self.services.values() {
            service.listening.cancel();
        }
    }

    /// Whether a datagram of some player has passed since then.
    pub(crate) fn has_flows_since(&self, then: Instant) -> bool {
        let mut services = self.services.values();
        services.any(|service| service.has_flows_since(then))
    }

    /// Closes all ports.
    pub(crate) fn cancel_all(&self) {
        for service in self.services.values() {
            service.cancelled.cancel();
        }
    }

    /// Waits until all ports that were to be closed are, or for as long as that may take.
    pub(crate) async fn closed(&self) {
        let closed = async {
            for service in self.services.values() {
                service.closed.cancelled().await;
            }
        };
        drop(tokio::time::timeout(CLOSE_TIME, closed).await);
    }
}

impl From<OpenError> for DeclareError {
    fn from(error: OpenError) -> Self {
        Self {
            code: error.code(),
            text: error.to_string(),
            port: Some(error.port),
        }
    }
}

/// How long the sockets of an ended service may take to close: a task has to notice, which takes no time at all.
const CLOSE_TIME: Duration = Duration::from_secs(1);
