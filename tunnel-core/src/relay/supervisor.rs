//! The one place where the registry's decisions are carried out: opens and closes public ports, routes players.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    event::Event,
    instance::{InstanceId, PortSet},
    key::{Psk, PublicKey},
    proto::{
        message::{Code, Message, Revision, ServiceDeclaration, Text},
        session::relay::RelayEvent,
    },
    relay::{
        authority::{Admission, Denial, Forbidden},
        command::{Command, Newcomer},
        ingress::{
            open::{OpenError, OpenPorts, Sharding},
            service::{PublicService, Route},
        },
        limit::bucket::Pace,
        registry::{Action, Binding, Change, OwnerLimits, Refusal, Registry},
        shared::Shared,
        status::{ClientStatus, InstanceStatus, RelayStatus},
        tunnel::RelayTunnel,
    },
    tunnel::{fault, supervise::caught},
};

mod reconcile;

/// State of the supervisor's task.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    registry: Registry,
    services: HashMap<Binding, Arc<PublicService>>,
    /// Services that were ended and whose sockets may still be open, with word of their closing.
    closing: Vec<(Binding, CancellationToken)>,
    clients: HashMap<PublicKey, Client>,
    ending: Option<Ending>,
    /// How often each client may declare; kept while it is gone, or coming back would begin anew.
    paces: HashMap<PublicKey, Pace>,
    sharding: Sharding,
}

/// The relay shuts down: it takes no new players, and goes when the last has left.
struct Ending {
    /// Goes then at the latest; `None` where the grace has no end that a clock could tell.
    until: Option<Instant>,
    look_at: Instant,
    done: oneshot::Sender<()>,
}

struct Client {
    admission: Admission,
    /// What it has proved to have this tunnel.
    psk: Option<Psk>,
    tunnel: Option<Arc<RelayTunnel>>,
    /// When the last one came up.
    up_at: Instant,
    /// The tunnel that was lost, whose streams wait for the next one.
    lost: Option<Arc<RelayTunnel>>,
    /// Tunnels before it, which may still carry players.
    earlier: VecDeque<Weak<RelayTunnel>>,
}

impl Client {
    /// Keeps an earlier tunnel in mind; beyond `most`, the oldest ends with its players.
    fn note_earlier(&mut self, tunnel: &Arc<RelayTunnel>, most: usize) -> usize {
        self.earlier.push_back(Arc::downgrade(tunnel));
        self.earlier.retain(|earlier| {
            earlier
                .upgrade()
                .is_some_and(|it| !it.closed.is_cancelled())
        });
        let mut ended = 0;
        while self.earlier.len() > most {
            if let Some(oldest) = self.earlier.pop_front().and_then(|oldest| oldest.upgrade()) {
                oldest.closed.cancel();
                ended += 1;
            }
        }
        ended
    }
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let limits = &shared.config.limits;
        let owner = OwnerLimits {
            instances: limits.instances_per_client,
            ports_per_instance: limits.ports_per_instance,
            ports: limits.ports_per_client,
        };
        let registry = Registry::new(shared.config.ports.clone(), limits.lease, owner);
        Self {
            shared,
            registry,
            services: HashMap::new(),
            closing: Vec::new(),
            clients: HashMap::new(),
            ending: None,
            paces: HashMap::new(),
            sharding: Sharding::new(),
        }
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let lease = self.registry.poll_timeout();
            let look_at = self.ending.as_ref().map(|ending| ending.look_at);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = self.shared.stopped.cancelled() => None,
                () = crate::tunnel::futures::sleep_until(look_at) => {
                    if !self.may_go() {
                        continue;
                    }
                    self.end_all().await;
                    if let Some(ending) = self.ending.take() {
                        // Whoever asked no longer waits.
                        _ = ending.done.send(());
                    }
                    return;
                }
                () = crate::tunnel::futures::sleep_until(lease), if lease.is_some() => {
                    let actions = self.registry.handle_timeout(Instant::now());
                    self.release(actions);
                    self.clients.retain(|key, client| {
                        client.tunnel.is_some() || self.registry.instances().any(|(_, owner, _)| owner == key)
                    });
                    continue;
                }
            };
            let Some(command) = command else {
                return self.close();
            };
            // A client whose declaration brings us down has it refused, and tries it again later.
            let failed = match &command {
                Command::Said {
                    tunnel,
                    event:
                        RelayEvent::Declare {
                            instance, revision, ..
                        },
                    ..
                } => Some((tunnel.clone(), instance.clone(), *revision)),
                _ => None,
            };
            // A client whose tunnel was not taken in would be heard by nobody.
            let up = match &command {
                Command::Up { tunnel, .. } => Some(tunnel.clone()),
                _ => None,
            };
            if caught(self.handle(command)).await.is_ok() {
                continue;
            }
            let reporter = self.shared.reporter();
            reporter.panicked("the relay's supervisor");
            reporter.catch("the relay's supervisor", || self.reconcile());
            if let Some(tunnel) = up {
                end(tunnel, Code::Internal, "the relay failed");
            }
            if let Some((tunnel, instance, revision)) = failed {
                let refusal = self.refusal(instance, revision, Refused::internal());
                tell(&tunnel, refusal);
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Up {
                tunnel,
                newcomer,
                lived_at,
                is_in,
            } => self.handle_up(tunnel, newcomer, lived_at, is_in),
            Command::Said {
                tunnel,
                event,
                done,
            } => {
                self.handle_said(&tunnel, event).await;
                // The tunnel has gone meanwhile.
                _ = done.send(());
            }
            Command::Down { tunnel, reason } => self.handle_down(&tunnel, reason),
            Command::Recheck(done) => {
                self.recheck();
                // Nobody waits for it any more.
                _ = done.send(());
            }
            Command::SetPorts(ports) => {
                self.registry.set_ports(ports);
                self.unbind_forbidden();
            }
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Shutdown { grace, done } => self.drain(grace, done),
        }
    }

    fn handle_up(
        &mut self,
        tunnel: Arc<RelayTunnel>,
        newcomer: Newcomer,
        lived_at: Instant,
        is_in: oneshot::Sender<bool>,
    ) {
        let key = tunnel.client;
        let Newcomer { admission, psk } = newcomer;
        // What a dead process has said, or one has said that has chosen another path since, may be as late as it likes.
        if (self.clients.get(&key)).is_some_and(|client| client.up_at >= lived_at) {
            // It has gone meanwhile.
            _ = is_in.send(false);
            return;
        }
        // Between its admission and now the client may have been revoked, or its rights changed.
        let admission = match self.shared.authority.readmit(&key, psk.as_ref()) {
            Ok(now) => now,
            Err(Denial::Unavailable(_)) => admission,
            _ => return end(tunnel, Code::Revoked, REVOKED),
        };
        // It is greeted before it is told anything else.
        _ = is_in.send(true);
        self.shared.metrics.tunnels_opened.one();
        let now = Instant::now();
        self.paces.retain(|_, pace| !pace.is_full(now));
        self.apply(Change::Returned { owner: key });
        let limits = &self.shared.config.limits;
        let client = self.clients.entry(key).or_insert_with(|| Client {
            admission: admission.clone(),
            psk: None,
            tunnel: None,
            up_at: now,
            lost: None,
            earlier: VecDeque::new(),
        });
        client.admission = admission;
        client.psk = psk;
        client.up_at = now;
        let before = client.tunnel.replace(tunnel.clone());
        if let Some(lost) = client.lost.take() {
            if lost.process == tunnel.process {
                lost.successor.send_replace(Some(tunnel.clone()));
            } else {
                // Its streams ended with their process.
                lost.closed.cancel();
            }
        }
        if let Some(before) = before {
            if before.process == tunnel.process {
                // The same process has found a better path: its streams go on there. (A superseded one is told, and
                // ends by itself.)
                let most = limits.tunnels_per_client.saturating_sub(1).max(1);
                let ended = client.note_earlier(&before, most);
                self.shared.metrics.tunnels_ended.add(ended as u64);
                if before.draining.is_cancelled() {
                    tunnel.draining.cancel();
                }
                self.reroute(&before, Some(&tunnel));
                before.successor.send_replace(Some(tunnel.clone()));
                before.retired.cancel();
            } else {
                self.reroute(&before, None);
                end(
                    before,
                    Code::Superseded,
                    "another process with the same key has connected",
                );
            }
        }
        self.shared.emit(Event::TunnelUp {
            client: tunnel.name.clone(),
            peer: tunnel.peer,
            transport: tunnel.transport,
        });
        if let Some(ending) = &self.ending {
            let left = |until: Instant| until.saturating_duration_since(Instant::now());
            let grace = ending.until.map_or(Duration::MAX, left);
            tell(&tunnel, Message::Drain { grace });
        }
    }

    fn handle_down(&mut self, tunnel: &Arc<RelayTunnel>, reason: String) {
        let Some(client) = self.clients.get_mut(&tunnel.client) else {
            return;
        };
        if client
            .tunnel
            .as_ref()
            .is_none_or(|current| current.serial != tunnel.serial)
        {
            return;
        }
        client.lost = client.tunnel.take();
        let most = (self.shared.config.limits.tunnels_per_client)
            .saturating_sub(1)
            .max(1);
        let ended = client.note_earlier(tunnel, most);
        self.shared.metrics.tunnels_ended.add(ended as u64);
        self.reroute(tunnel, None);
        self.apply(Change::Lost {
            owner: tunnel.client,
        });
        self.shared.emit(Event::TunnelDown {
            client: tunnel.name.clone(),
            reason,
        });
    }

    async fn handle_said(&mut self, tunnel: &Arc<RelayTunnel>, event: RelayEvent) {
        let current = self
            .clients
            .get(&tunnel.client)
            .and_then(|client| client.tunnel.as_ref());
        // A tunnel that was taken over has no say any more.
        if current.is_none_or(|current| current.serial != tunnel.serial) {
            return;
        }
        match event {
            RelayEvent::Declare {
                instance,
                revision,
                services,
            } => {
                let answer = match self.declare(tunnel, &instance, revision, services).await {
                    Ok(()) => {
                        self.shared.emit(Event::Bound {
                            instance: instance.clone(),
                        });
                        Message::Bound { instance, revision }
                    }
                    Err(refused) => self.refusal(instance, revision, refused),
                };
                tell(tunnel, answer);
            }
            RelayEvent::Withdraw { instance, .. } => {
                let actions = self.apply(Change::Withdraw {
                    owner: tunnel.client,
                    instance: instance.clone(),
                });
                if !actions.is_empty() {
                    self.release(actions);
                }
            }
            RelayEvent::Goodbye { code } => {
                let actions = self.apply(Change::Released {
                    owner: tunnel.client,
                });
                self.release(actions);
                let gone = self.clients.remove(&tunnel.client);
                if let Some(lost) = gone.and_then(|client| client.lost) {
                    lost.closed.cancel();
                }
                self.shared.emit(Event::TunnelDown {
                    client: tunnel.name.clone(),
                    reason: format!("the client said goodbye ({code})"),
                });
                tunnel.closed.cancel();
            }
            RelayEvent::Drain { grace } => {
                tunnel.draining.cancel();
                self.shared.emit(Event::PeerDraining {
                    client: tunnel.name.clone(),
                    grace,
                });
            }
            RelayEvent::Lived { .. } | RelayEvent::Liveness(_) | RelayEvent::Lost { .. } => {}
        }
    }

    /// Carries out a declaration, all or nothing.
    async fn declare(
        &mut self,
        tunnel: &Arc<RelayTunnel>,
        instance: &InstanceId,
        revision: Revision,
        services: Vec<ServiceDeclaration>,
    ) -> Result<(), Refused> {
        let Some(client) = self.clients.get(&tunnel.client) else {
            return Ok(());
        };
        let is_open = |service| self.services.contains_key(&Binding::new(instance, service));
        if self.ending.is_some() && !services.iter().all(is_open) {
            return Err(Refused {
                code: Code::Shutdown,
                text: "the relay shuts down".into(),
                port: None,
            });
        }
        let limits = &self.shared.config.limits;
        let declarations = self.paces.entry(tunnel.client).or_insert_with(|| {
            Pace::new(
                limits.declarations_per_second,
                limits.declaration_burst,
                Instant::now(),
            )
        });
        if !declarations.take(1, Instant::now()) {
            self.shared.metrics.declarations_limited.one();
            return Err(Refused {
                code: Code::Limit,
                text: "the client declares instances faster than it may".into(),
                port: None,
            });
        }
        for service in &services {
            let allowed =
                self.shared
                    .authority
                    .may_bind(&tunnel.client, &client.admission, service);
            allowed.map_err(|forbidden| match forbidden {
                Forbidden::Refused(text) => Refused {
                    code: Code::NotPermitted,
                    text,
                    port: Some(service.public.first()),
                },
                Forbidden::Unknown => Refused::internal(),
            })?;
        }
        let change = Change::Declare {
            owner: tunnel.client,
            permitted: client.admission.ports.clone(),
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
    ) -> Result<(), Refused> {
        fault!("declaring {instance}");
        // First what can fail without harm: new ports that no port to be closed stands in the way of.
        let mut opened = HashMap::new();
        for action in &actions {
            let Action::Bind { binding, .. } = action else {
                continue;
            };
            let in_the_way = actions.iter().any(
                |other| matches!(other, Action::Unbind { binding: gone } if gone.clashes(binding)),
            );
            if in_the_way {
                continue;
            }
            match self.open(binding).await {
                Ok(ports) => drop(opened.insert(binding.clone(), ports)),
                Err(error) => {
                    self.apply(Change::Undone {
                        instance: instance.clone(),
                    });
                    return Err(error.into());
                }
            }
        }
        for action in actions {
            if let Err(refused) = self.execute(tunnel, action, &mut opened).await {
                self.fail(instance.clone());
                return Err(refused);
            }
        }
        self.apply(Change::Done {
            instance: instance.clone(),
        });
        Ok(())
    }

    async fn execute(
        &mut self,
        tunnel: &Arc<RelayTunnel>,
        action: Action,
        opened: &mut HashMap<Binding, OpenPorts>,
    ) -> Result<(), Refused> {
        match action {
            Action::Bind { binding, service } => {
                fault!("binding {}", binding.public);
                let ports = match opened.remove(&binding) {
                    Some(ports) => ports,
                    None => self.open(&binding).await?,
                };
                let route = Arc::new(Route {
                    tunnel: tunnel.clone(),
                    service,
                });
                warm(&route);
                let served = ports.serve(&self.shared, binding.clone(), route).await;
                let served = served.map_err(|error| Refused {
                    code: Code::Internal,
                    text: error.to_string(),
                    port: Some(binding.public.first()),
                })?;
                self.services.insert(binding, served);
            }
            Action::Route { binding, service } => {
                let route = Arc::new(Route {
                    tunnel: tunnel.clone(),
                    service,
                });
                warm(&route);
                if let Some(served) = self.services.get(&binding) {
                    served.route.send_replace(Some(route));
                }
            }
            Action::Unbind { binding } => self.unbind(&binding),
        }
        Ok(())
    }

    /// Points the services of one tunnel at another of the same process, or at none.
    fn reroute(&self, from: &Arc<RelayTunnel>, to: Option<&Arc<RelayTunnel>>) {
        for service in self.services.values() {
            let Some(route) = service.route() else {
                continue;
            };
            if route.tunnel.serial != from.serial {
                continue;
            }
            let route = to.map(|tunnel| {
                Arc::new(Route {
                    tunnel: tunnel.clone(),
                    service: route.service.clone(),
                })
            });
            if let Some(route) = &route {
                warm(route);
            }
            service.route.send_replace(route);
        }
    }

    fn recheck(&mut self) {
        let mut gone = Vec::new();
        for (key, client) in &mut self.clients {
            match self.shared.authority.readmit(key, client.psk.as_ref()) {
                Ok(admission) => client.admission = admission,
                // It could not be found out now: what was granted stays.
                Err(Denial::Unavailable(_)) => {}
                Err(_) => gone.push(*key),
            }
        }
        for key in gone {
            let actions = self.apply(Change::Released { owner: key });
            self.release(actions);
            if let Some(tunnel) = self.clients.remove(&key).and_then(|client| client.tunnel) {
                self.shared.emit(Event::TunnelDown {
                    client: tunnel.name.clone(),
                    reason: match self.shared.authority.psk(&key, None) {
                        Some(_) => "the client's pre-shared key has become another one".into(),
                        None => "the client was revoked".into(),
                    },
                });
                end(tunnel, Code::Revoked, REVOKED);
            }
        }
        self.unbind_forbidden();
    }

    /// Unbinds what a client may not have any more, and tells it.
    fn unbind_forbidden(&mut self) {
        let forbidden: Vec<(InstanceId, PublicKey)> = self
            .registry
            .instances()
            .filter(|(_, owner, services)| {
                let own = self.clients.get(owner).map(|client| &client.admission);
                services.iter().any(|service| {
                    !self.registry.gives_out(service.public)
                        || own.is_some_and(|own| !self.may_keep(owner, own, service))
                })
            })
            .map(|(id, owner, _)| (id.clone(), *owner))
            .collect();
        for (instance, owner) in forbidden {
            let Some(revision) = self.registry.revision(&instance) else {
                continue;
            };
            let actions = self.apply(Change::Withdraw {
                owner,
                instance: instance.clone(),
            });
            self.release(actions);
            let text = "the relay's operator has taken the permission back";
            self.tell_unbound(&owner, instance, revision, Code::NotPermitted, text);
        }
    }

    /// Gives an instance up of which a part is not served.
    fn fail(&mut self, instance: InstanceId) {
        let actions = self.apply(Change::Failed { instance });
        self.release(actions);
    }

    /// Tells a client, if it has a tunnel, that one of its instances is served no more.
    fn tell_unbound(
        &self,
        owner: &PublicKey,
        instance: InstanceId,
        revision: Revision,
        code: Code,
        text: &str,
    ) {
        let client = self.clients.get(owner);
        if let Some(tunnel) = client.and_then(|client| client.tunnel.as_ref()) {
            let text = Text::new(text);
            let unbound = Message::Unbound {
                instance,
                revision,
                code,
                text,
            };
            tell(tunnel, unbound);
        }
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

    /// From now on nobody new comes in; those who are there stay for the grace.
    fn drain(&mut self, grace: Duration, done: oneshot::Sender<()>) {
        self.shared.draining.cancel();
        for service in self.services.values() {
            service.listening.cancel();
        }
        for tunnel in self.tunnels() {
            tell(tunnel, Message::Drain { grace });
        }
        self.shared.emit(Event::Draining { grace });
        let now = Instant::now();
        self.ending = Some(Ending {
            until: now.checked_add(grace),
            look_at: now,
            done,
        });
    }

    /// Whether a relay that shuts down need wait no longer.
    fn may_go(&mut self) -> bool {
        let now = Instant::now();
        let Some(ending) = &mut self.ending else {
            return false;
        };
        ending.look_at = now + DRAIN_LOOK;
        if ending.until.is_some_and(|until| until <= now) {
            return true;
        }
        // What a flow has carried lately is a game; what is silent ends by itself.
        let lately = now.checked_sub(ALIVE);
        let plays = |service: &Arc<PublicService>| {
            lately.is_some_and(|lately| service.has_flows_since(lately))
        };
        self.shared.players.is_empty() && !self.services.values().any(plays)
    }

    /// Ends everybody who is still there, and says goodbye to the clients.
    async fn end_all(&mut self) {
        for service in self.services.values() {
            service.cancelled.cancel();
        }
        let closed = async {
            for service in self.services.values() {
                service.closed.cancelled().await;
            }
        };
        drop(tokio::time::timeout(CLOSE_TIME, closed).await);
        let tunnels: Vec<_> = self.tunnels().cloned().collect();
        for tunnel in &tunnels {
            end(tunnel.clone(), Code::Shutdown, "the relay shuts down");
        }
        // A client that has read its goodbye closes. None is waited for longer than `end` does.
        for tunnel in &tunnels {
            tunnel.closed.cancelled().await;
        }
    }

    fn tunnels(&self) -> impl Iterator<Item = &Arc<RelayTunnel>> {
        self.clients
            .values()
            .filter_map(|client| client.tunnel.as_ref())
    }

    /// Closes every port and tunnel at once.
    fn close(&mut self) {
        for service in self.services.values() {
            service.cancelled.cancel();
        }
        for tunnel in self.tunnels() {
            tunnel.closed.cancel();
        }
    }

    fn status(&self) -> RelayStatus {
        let clients = self.clients.iter().map(|(key, client)| {
            let owned = self
                .registry
                .instances()
                .filter(|(_, owner, _)| *owner == key);
            ClientStatus {
                name: client.admission.name.clone(),
                key: *key,
                peer: client.tunnel.as_ref().and_then(|tunnel| tunnel.peer),
                transport: client.tunnel.as_ref().map(|tunnel| tunnel.transport),
                rtt: client
                    .tunnel
                    .as_ref()
                    .and_then(|t| t.quic.as_ref())
                    .map(quinn::Connection::rtt),
                instances: owned
                    .map(|(id, _, services)| InstanceStatus {
                        id: id.clone(),
                        services: services.to_vec(),
                    })
                    .collect(),
            }
        });
        RelayStatus {
            clients: clients.collect(),
            counters: self.shared.snapshot(),
            lane_congestion: self.shared.granted.congestion(),
        }
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
            self.unbind(&binding);
            if last.as_ref() != Some(&binding.instance) {
                self.shared.emit(Event::Unbound {
                    instance: binding.instance.clone(),
                });
                last = Some(binding.instance);
            }
        }
    }

    fn unbind(&mut self, binding: &Binding) {
        if let Some(service) = self.services.remove(binding) {
            service.cancelled.cancel();
            self.closing.retain(|(_, closed)| !closed.is_cancelled());
            self.closing.push((binding.clone(), service.closed.clone()));
        }
    }

    /// Opens ports. Where a service that was just ended had them, its tasks first let go of their sockets.
    async fn open(&self, binding: &Binding) -> Result<OpenPorts, OpenError> {
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

    fn refusal(&self, instance: InstanceId, revision: Revision, refused: Refused) -> Message {
        let Refused { code, text, port } = refused;
        self.shared.metrics.instances_refused.one();
        self.shared.emit(Event::Refused {
            instance: instance.clone(),
            code,
            text: text.clone(),
            retry_in: Duration::ZERO,
        });
        Message::Refused {
            instance,
            revision,
            code,
            text: Text::new(&text),
            port,
        }
    }
}

/// Why a declaration was not carried out.
struct Refused {
    code: Code,
    text: String,
    port: Option<u16>,
}

impl Refused {
    fn internal() -> Self {
        Self {
            code: Code::Internal,
            text: "the relay failed".into(),
            port: None,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code(),
            text: refusal.to_string(),
            port: refusal.port(),
        }
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        Self {
            code: error.code(),
            text: error.to_string(),
            port: Some(error.port),
        }
    }
}

/// Has lanes ready where the next player will want one.
fn warm(route: &Route) {
    let throughput = route.service.optimize == crate::instance::Optimize::Throughput;
    if route.service.protocol.tcp() && (throughput || route.tunnel.quic.is_none()) {
        route.tunnel.want_lanes(super::tunnel::LANES_WARM);
    }
}

/// Sends a message to a client; one that does not read its control stream has lost it.
fn tell(tunnel: &Arc<RelayTunnel>, message: Message) {
    if tunnel.messages.try_send(message).is_err() {
        tunnel.closed.cancel();
    }
}

/// Says goodbye and ends a tunnel with everything on it, once the goodbye had time to leave.
fn end(tunnel: Arc<RelayTunnel>, code: Code, text: &str) {
    drop(tunnel.messages.try_send(Message::Goodbye {
        code,
        text: Text::new(text),
    }));
    let closed: CancellationToken = tunnel.closed.clone();
    tokio::spawn(async move {
        tokio::time::sleep(GOODBYE_TIME).await;
        closed.cancel();
    });
}

/// What a client is told whose right to connect has ended.
const REVOKED: &str =
    "the relay's operator has revoked this client, or given it another pre-shared key";
/// Opening 16 sockets costs what a declaration does.
const SOCKETS_A_DECLARATION: usize = 16;
/// How long the sockets of an ended service may take to close: a task has to notice, which takes no time at all.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// How often a relay that shuts down looks whether the last player has left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// How long after its last datagram a flow is still waited for: 2 s; a game that is played sends many each second.
const ALIVE: Duration = Duration::from_secs(2);
/// How long a goodbye may take to leave before the tunnel is closed.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::{
        metrics::Metrics,
        proto::handshake::ProcessId,
        relay::{RelayLimits, tunnel::Parts},
        tunnel::{
            datagram::{DatagramSender, LaneQueues, QueueLimits},
            stream::Memory,
        },
    };

    fn tunnel() -> Arc<RelayTunnel> {
        let metrics = Arc::new(Metrics::default());
        let queues = Arc::new(LaneQueues::new(QueueLimits::default()));
        let parts = Parts {
            serial: 1,
            client: PublicKey::from([1; 32]),
            process: ProcessId::from([1; 16]),
            name: "node-1".into(),
            peer: None,
            transport: crate::Transport::Mem,
            quic: None,
            datagrams: DatagramSender::lanes(queues.clone(), metrics.clone()),
            queues,
            flows: Arc::default(),
            messages: mpsc::channel(1).0,
            next_stream: Arc::new(AtomicU64::new(1)),
            resumes: true,
            moves: true,
            memory: Memory::new(u64::MAX),
            limits: &RelayLimits::default(),
            metrics: &metrics,
        };
        Arc::new(RelayTunnel::new(parts))
    }

    #[test]
    fn the_oldest_earlier_tunnel_ends_for_one_too_many() {
        let mut client = Client {
            admission: Admission {
                name: "node-1".into(),
                ports: PortSet::all(),
                psk: None,
            },
            psk: None,
            tunnel: None,
            up_at: Instant::now(),
            lost: None,
            earlier: VecDeque::new(),
        };
        let tunnels = [tunnel(), tunnel(), tunnel(), tunnel()];
        assert_eq!(client.note_earlier(&tunnels[0], 2), 0);
        assert_eq!(client.note_earlier(&tunnels[1], 2), 0);
        // One that has ended by itself takes no place.
        tunnels[1].closed.cancel();
        assert_eq!(client.note_earlier(&tunnels[2], 2), 0);
        assert_eq!(client.note_earlier(&tunnels[3], 2), 1);
        assert!(tunnels[0].closed.is_cancelled());
        assert!(!tunnels[2].closed.is_cancelled() && !tunnels[3].closed.is_cancelled());
    }
}
