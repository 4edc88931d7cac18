//! The relay's main task: one command after the other decides whose tunnel is in use and what is bound for it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    event::Event,
    instance::InstanceId,
    key::{Psk, PublicKey},
    proto::{
        message::{Code, Message, Revision, Text},
        session::relay::RelayEvent,
    },
    relay::{
        authority::{Admission, Denial},
        bindings::{Bindings, Declaration, Unbound},
        clients::{self, Action, ClientTunnels, Path, Serial},
        command::{Command, Newcomer, Operation},
        declare_error::DeclareError,
        operator::OperatorState,
        shared::Shared,
        status::{ConnectedClient, PlayerStatus, RelayStatus},
        tunnel::RelayTunnel,
    },
    tunnel::{drain::Drain, supervise::caught},
};

/// State of the supervisor's task.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    bindings: Bindings,
    clients: HashMap<PublicKey, Client>,
    /// The relay shuts down: it takes no new players, and goes when the last has left.
    drain: Option<Drain>,
}

/// A client that has a tunnel, or whose ports are held.
struct Client {
    admission: Admission,
    /// What it has proved to have this tunnel.
    psk: Option<Psk>,
    tunnels: ClientTunnels,
    handles: Handles,
}

/// A client's tunnels by their serials, as long as anybody has them.
#[derive(Default, Clone)]
struct Handles(Vec<(Serial, Weak<RelayTunnel>)>);

impl Handles {
    fn add(&mut self, tunnel: &Arc<RelayTunnel>) {
        self.0.retain(|(_, tunnel)| tunnel.strong_count() > 0);
        self.0.push((tunnel.serial, Arc::downgrade(tunnel)));
    }

    fn get(&self, serial: Serial) -> Option<Arc<RelayTunnel>> {
        let mut all = self.0.iter();
        all.find(|(it, _)| *it == serial)?.1.upgrade()
    }

    fn stands(&self, serial: Serial) -> bool {
        self.get(serial)
            .is_some_and(|tunnel| !tunnel.closed.is_cancelled())
    }
}

impl Client {
    fn current(&self) -> Option<Arc<RelayTunnel>> {
        self.handles.get(self.tunnels.current()?)
    }

    fn handle(&mut self, event: clients::Event) -> Vec<Action> {
        self.tunnels
            .handle(event, |serial| self.handles.stands(serial))
    }
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            bindings: Bindings::new(shared.clone()),
            shared,
            clients: HashMap::new(),
            drain: None,
        }
    }

    /// Takes over what the operator has said before.
    pub(crate) fn restore(&mut self, said: OperatorState) {
        for reservation in said.reservations {
            let instance = reservation.instance.clone();
            if let Err(error) = self.bindings.restore(reservation) {
                let text = format!(
                    "instance {instance} is not reserved any more: {}",
                    error.text
                );
                self.shared.emit(Event::Warning(text));
            }
        }
        let ports = &mut self.bindings.ports;
        for (instance, gate) in said.gates {
            ports.set_gate(&instance, gate);
        }
        ports.set_gate_of_all(said.gate_of_all);
        ports.set_bans(said.bans);
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let lease = self.bindings.poll_timeout();
            let look_at = self.drain.as_ref().map(Drain::poll_timeout);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = self.shared.stopped.cancelled() => None,
                () = crate::tunnel::futures::sleep_until(look_at) => {
                    if !self.may_go() {
                        continue;
                    }
                    self.end_all().await;
                    if let Some(drain) = self.drain.take() {
                        drain.finish();
                    }
                    return;
                }
                () = crate::tunnel::futures::sleep_until(lease), if lease.is_some() => {
                    self.handle_timeout();
                    continue;
                }
            };
            match command {
                Some(command) => self.handle_caught(command).await,
                None => return self.close(),
            }
        }
    }

    /// Handles a command. Where that panics, what is bound is put right and the client concerned is told.
    async fn handle_caught(&mut self, command: Command) {
        // A client whose declaration brings us down has it refused, and tries it again later.
        let failed = match &command {
            Command::FromClient {
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
            return;
        }
        let reporter = self.shared.reporter();
        reporter.panicked("the relay's supervisor");
        reporter.catch("the relay's supervisor", || {
            let gone = self.bindings.reconcile();
            self.tell_unbound(gone, Code::Internal, "the relay failed");
        });
        if let Some(tunnel) = up {
            tunnel.end(Code::Internal, "the relay failed");
        }
        if let Some((tunnel, instance, revision)) = failed {
            let refused = self.refused(instance, revision, DeclareError::internal());
            tunnel.tell(refused);
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
            Command::FromClient {
                tunnel,
                event,
                done,
            } => {
                self.handle_from_client(&tunnel, event).await;
                // The tunnel has gone meanwhile.
                _ = done.send(());
            }
            Command::Down { tunnel, reason } => self.handle_down(&tunnel, &reason),
            Command::Recheck(done) => {
                self.recheck();
                // Nobody waits for it any more.
                _ = done.send(());
            }
            Command::SetPorts(ports) => {
                self.bindings.set_ports(ports);
                self.forbid();
            }
            // Whoever has asked may be gone.
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Players(reply) => drop(reply.send(self.players())),
            Command::Operate(operation) => self.operate(operation).await,
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
        let known = self.clients.get(&key);
        if known.is_some_and(|client| client.tunnels.is_late(lived_at)) {
            // It has gone meanwhile.
            _ = is_in.send(false);
            return;
        }
        // Between its admission and now the client may have been revoked, or its rights changed.
        let admission = match self.shared.authority.readmit(&key, psk.as_ref()) {
            Ok(now) => now,
            Err(Denial::Unavailable(_)) => admission,
            _ => return tunnel.end(Code::Revoked, REVOKED),
        };
        // It is greeted before it is told anything else.
        _ = is_in.send(true);
        self.shared.metrics.tunnels_opened.one();
        let now = Instant::now();
        self.bindings.returned(now, key);
        let most = self.shared.config.limits.tunnels_per_client;
        let client = self.clients.entry(key).or_insert_with(|| Client {
            admission: admission.clone(),
            psk: None,
            tunnels: ClientTunnels::new(most.saturating_sub(1).max(1)),
            handles: Handles::default(),
        });
        client.admission = admission;
        client.psk = psk;
        client.handles.add(&tunnel);
        let path = Path {
            serial: tunnel.serial,
            process: tunnel.process,
        };
        let actions = client.handle(clients::Event::Up { path, now });
        let handles = client.handles.clone();
        self.execute(&handles, actions);
        self.shared.emit(Event::TunnelUp {
            client: tunnel.name.clone(),
            peer: tunnel.peer,
            transport: tunnel.transport,
        });
        if let Some(drain) = &self.drain {
            let grace = drain.left(now);
            tunnel.tell(Message::Drain { grace });
        }
    }

    fn handle_down(&mut self, tunnel: &Arc<RelayTunnel>, reason: &str) {
        let Some(client) = self.clients.get_mut(&tunnel.client) else {
            return;
        };
        let is_in_use = client.tunnels.current() == Some(tunnel.serial);
        let actions = client.handle(clients::Event::Down(tunnel.serial));
        let handles = client.handles.clone();
        self.execute(&handles, actions);
        if is_in_use {
            self.bindings.hold(tunnel.client);
            self.shared.emit(Event::TunnelDown {
                client: tunnel.name.clone(),
                reason: reason.into(),
            });
        }
    }

    /// Does what was decided for a client's tunnels.
    fn execute(&self, handles: &Handles, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Resume { from, to } => {
                    if let Some(from) = handles.get(from) {
                        from.successor.send_replace(handles.get(to));
                    }
                }
                Action::Replace { from, to } => {
                    let (before, to) = (handles.get(from), handles.get(to));
                    let drains = |it: &Arc<RelayTunnel>| it.draining.is_cancelled();
                    if let Some(to) = to.as_ref().filter(|_| before.as_ref().is_some_and(drains)) {
                        to.draining.cancel();
                    }
                    self.bindings.ports.reroute(from, to.as_ref());
                    if let Some(before) = before {
                        before.successor.send_replace(to);
                        before.retired.cancel();
                    }
                }
                Action::Supersede(serial) => {
                    self.bindings.ports.reroute(serial, None);
                    if let Some(tunnel) = handles.get(serial) {
                        let text = "another process with the same key has connected";
                        tunnel.end(Code::Superseded, text);
                    }
                }
                Action::Hold(serial) => self.bindings.ports.reroute(serial, None),
                Action::Close(serial) => {
                    if let Some(tunnel) = handles.get(serial) {
                        tunnel.closed.cancel();
                    }
                }
                Action::Evict(serial) => {
                    if let Some(tunnel) = handles.get(serial) {
                        tunnel.closed.cancel();
                        self.shared.metrics.tunnels_ended.one();
                    }
                }
            }
        }
    }

    async fn handle_from_client(&mut self, tunnel: &Arc<RelayTunnel>, event: RelayEvent) {
        // A tunnel that was taken over has no say any more.
        let is_in_use = |client: &&Client| client.tunnels.current() == Some(tunnel.serial);
        let Some(client) = self.clients.get(&tunnel.client).filter(is_in_use) else {
            return;
        };
        match event {
            RelayEvent::Declare {
                instance,
                revision,
                services,
            } => {
                let declaration = Declaration {
                    instance: &instance,
                    revision,
                    services,
                };
                let declared = (self.bindings).declare(tunnel, &client.admission, declaration);
                let answer = match declared.await {
                    Ok(()) => {
                        self.shared.emit(Event::Bound {
                            instance: instance.clone(),
                        });
                        Message::Bound { instance, revision }
                    }
                    Err(error) => self.refused(instance, revision, error),
                };
                tunnel.tell(answer);
            }
            RelayEvent::Withdraw { instance, .. } => {
                self.bindings.withdraw(tunnel.client, instance);
            }
            RelayEvent::Goodbye { code } => {
                self.bindings.released(tunnel.client);
                if let Some(mut client) = self.clients.remove(&tunnel.client) {
                    let actions = client.handle(clients::Event::Left);
                    self.execute(&client.handles, actions);
                }
                self.shared.emit(Event::TunnelDown {
                    client: tunnel.name.clone(),
                    reason: format!("the client said goodbye ({code})"),
                });
            }
            RelayEvent::Drain { grace } => {
                tunnel.draining.cancel();
                self.shared.emit(Event::PeerDraining {
                    client: tunnel.name.clone(),
                    grace,
                });
            }
            RelayEvent::Health {
                instance,
                service,
                health,
            } => (self.bindings.ports).set_health(tunnel, &instance, &service, health),
            RelayEvent::Lived { .. } | RelayEvent::Liveness(_) | RelayEvent::Lost { .. } => {}
        }
    }

    /// Does what an operator wants. Who has asked may be gone by then: it is done all the same.
    async fn operate(&mut self, operation: Operation) {
        let ports = &mut self.bindings.ports;
        match operation {
            Operation::Reserve(request, reply) => {
                let reserved = self.bindings.reserve(&request).await;
                // What its client has bound may be something else.
                self.forbid();
                _ = reply.send(reserved);
            }
            Operation::Plan(request, reply) => {
                drop(reply.send(self.bindings.plan(&request).await));
            }
            Operation::Release(instance, reply) => {
                let (was_reserved, gone) = self.bindings.release_reservation(&instance);
                let text = "the relay's operator has removed the instance";
                self.tell_unbound(gone.into_iter().collect(), Code::NotPermitted, text);
                _ = reply.send(was_reserved);
            }
            Operation::SetGate(instance, gate, done) => {
                match instance {
                    Some(instance) => ports.set_gate(&instance, gate),
                    None => ports.set_gate_of_all(gate),
                }
                _ = done.send(());
            }
            Operation::SetBans(bans, done) => {
                ports.set_bans(bans);
                _ = done.send(());
            }
            Operation::EndPlayer(player, reply) => {
                let ended = ports.services().any(|service| service.end_player(player));
                _ = reply.send(ended);
            }
            Operation::Disconnect(name, reply) => {
                let named = |client: &&Client| client.admission.name == name;
                let tunnels = self.clients.values().filter(named);
                let tunnels: Vec<_> = tunnels.filter_map(Client::current).collect();
                tunnels.iter().for_each(|tunnel| tunnel.interrupt());
                _ = reply.send(!tunnels.is_empty());
            }
        }
    }

    /// Releases what was held for long enough, and forgets the clients of which nothing is left.
    fn handle_timeout(&mut self) {
        self.bindings.handle_timeout(Instant::now());
        self.clients.retain(|key, client| {
            client.tunnels.current().is_some() || self.bindings.instances_of(key).next().is_some()
        });
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
            self.bindings.released(key);
            let removed = self.clients.remove(&key);
            if let Some(tunnel) = removed.and_then(|client| client.current()) {
                self.shared.emit(Event::TunnelDown {
                    client: tunnel.name.clone(),
                    reason: match self.shared.authority.psk(&key, None) {
                        Some(_) => "the client's pre-shared key has become another one".into(),
                        None => "the client was revoked".into(),
                    },
                });
                tunnel.end(Code::Revoked, REVOKED);
            }
        }
        self.forbid();
    }

    /// Unbinds what a client may not have any more, and tells it.
    fn forbid(&mut self) {
        let admission = |owner: &PublicKey| self.clients.get(owner).map(|it| &it.admission);
        let gone = self.bindings.forbid(admission);
        let text = "the relay's operator has taken the permission back";
        self.tell_unbound(gone, Code::NotPermitted, text);
    }

    /// Tells clients, if they have a tunnel, that instances of theirs are served no more.
    fn tell_unbound(&self, gone: Vec<Unbound>, code: Code, text: &str) {
        for unbound in gone {
            let client = self.clients.get(&unbound.owner);
            if let Some(tunnel) = client.and_then(Client::current) {
                tunnel.tell(Message::Unbound {
                    instance: unbound.instance,
                    revision: unbound.revision,
                    code,
                    text: Text::new(text),
                });
            }
        }
    }

    /// From now on nobody new comes in; those who are there stay for the grace.
    fn drain(&mut self, grace: Duration, done: oneshot::Sender<()>) {
        self.shared.draining.cancel();
        self.bindings.ports.stop_listening();
        for tunnel in self.tunnels() {
            tunnel.tell(Message::Drain { grace });
        }
        self.shared.emit(Event::Draining { grace });
        self.drain = Some(Drain::new(Instant::now(), grace, done));
    }

    /// Whether a relay that shuts down need wait no longer.
    fn may_go(&mut self) -> bool {
        let (now, ports) = (Instant::now(), &self.bindings.ports);
        let has_streams = !self.shared.players.is_empty();
        self.drain.as_mut().is_some_and(|drain| {
            drain.is_over(now, |lately| {
                let lately = now.checked_sub(lately);
                has_streams || lately.is_some_and(|lately| ports.has_flows_since(lately))
            })
        })
    }

    /// Ends everybody who is still there, and says goodbye to the clients.
    async fn end_all(&mut self) {
        self.bindings.ports.cancel_all();
        self.bindings.ports.closed().await;
        let tunnels: Vec<_> = self.tunnels().collect();
        for tunnel in &tunnels {
            tunnel.end(Code::Shutdown, "the relay shuts down");
        }
        // A client that has read its goodbye closes. None is waited for longer than `end` does.
        for tunnel in &tunnels {
            tunnel.closed.cancelled().await;
        }
    }

    /// The tunnels in use.
    fn tunnels(&self) -> impl Iterator<Item = Arc<RelayTunnel>> {
        self.clients.values().filter_map(Client::current)
    }

    /// Closes every port and tunnel at once.
    fn close(&mut self) {
        self.bindings.ports.cancel_all();
        for tunnel in self.tunnels() {
            tunnel.closed.cancel();
        }
    }

    fn status(&self) -> RelayStatus {
        let clients = self.clients.iter().map(|(key, client)| {
            let (name, tunnel) = (client.admission.name.clone(), client.current());
            let instances = self.bindings.instances_of(key);
            ConnectedClient::new(*key, name, tunnel.as_deref(), instances.collect())
        });
        RelayStatus {
            clients: clients.collect(),
            reservations: self.bindings.reservations().cloned().collect(),
            counters: self.shared.snapshot(),
            lane_congestion: self.shared.granted.congestion(),
        }
    }

    fn players(&self) -> Vec<PlayerStatus> {
        let services = self.bindings.ports.services();
        services.flat_map(|service| service.players()).collect()
    }

    /// Counts and reports that a declaration was refused. Returns what the client is told.
    fn refused(&self, instance: InstanceId, revision: Revision, error: DeclareError) -> Message {
        let DeclareError { code, text, port } = error;
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

/// What a client is told whose right to connect has ended.
const REVOKED: &str =
    "the relay's operator has revoked this client, or given it another pre-shared key";
