//! A client's main task: it converses with the relay, does what the handle asks, and has the [`Connector`] keep a tunnel.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use crate::{
    client::{
        command::Command,
        connector::{Connector, News},
        health::{CheckResult, Checks},
        policy::hearing::Hearing,
        receipts::Receipts,
        shared::Shared,
        status::{Binding, ClientEnd, ClientStatus},
        targets,
    },
    event::Event,
    health::HealthState,
    instance::{Instance, InstanceId},
    metrics::Level,
    proto::{
        message::{Code, Message, MessageError},
        session::{
            Liveness,
            client::{ClientEvent, ClientSession},
        },
        stream::frame::StreamId,
    },
    tunnel::{drain::Drain, futures::sleep_until},
};

/// State of the client's main task.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    connector: Connector,
    session: ClientSession,
    /// The relay shuts down: it takes no new players.
    relay_drains: bool,
    /// The client shuts down: it takes no new players, and goes when the last has left.
    drain: Option<Drain>,
    receipts: Receipts,
    binding: watch::Sender<Binding>,
    checks: Checks,
    results: mpsc::Receiver<CheckResult>,
    /// How many services are unhealthy, as it is shown in the metrics.
    unhealthy: Level,
}

/// What the main task woke up for.
enum Woken {
    Command(Option<Command>),
    News(News),
    /// The session has something to do.
    Timeout,
    /// Streams have lost their lanes.
    Lost(Vec<StreamId>),
    /// A service was checked.
    Checked(CheckResult),
    /// Time to see whether a client that shuts down may go.
    Ending,
    Stopped,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        connector: Connector,
        instances: Vec<Instance>,
        receipts: Receipts,
        binding: watch::Sender<Binding>,
    ) -> Self {
        let mut session = ClientSession::new(shared.random());
        for instance in instances {
            session.insert(instance);
        }
        let (checks, results) = Checks::new(shared.clone());
        let driver = Self {
            unhealthy: Level::new(&shared.metrics, |m| &m.services_unhealthy),
            checks,
            results,
            shared,
            connector,
            session,
            relay_drains: false,
            drain: None,
            receipts,
            binding,
        };
        driver.keep_off_targets();
        driver
    }

    /// Runs until the client is stopped or must stay away.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> ClientEnd {
        let shared = self.shared.clone();
        loop {
            if let Some(end) = self.handle_session().await {
                self.close();
                shared.stopped.cancel();
                return end;
            }
            match self.wait(&mut commands).await {
                Woken::Command(Some(command)) => self.handle_command(command),
                Woken::News(news) => self.handle_news(news),
                Woken::Timeout => self.session.handle_timeout(Instant::now()),
                Woken::Lost(streams) => self.session.lost(&streams),
                Woken::Checked(result) => self.handle_checked(result),
                Woken::Ending if self.may_go() => {
                    self.connector.goodbye().await;
                    self.close();
                    shared.stopped.cancel();
                    if let Some(drain) = self.drain {
                        drain.finish();
                    }
                    return ClientEnd::Stopped;
                }
                Woken::Ending => {}
                Woken::Command(None) | Woken::Stopped => {
                    self.connector.goodbye().await;
                    self.close();
                    return ClientEnd::Stopped;
                }
            }
        }
    }

    async fn wait(&mut self, commands: &mut mpsc::Receiver<Command>) -> Woken {
        let timeout = self.session.poll_timeout();
        let look_at = self.drain.as_ref().map(Drain::poll_timeout);
        tokio::select! {
            biased;
            () = self.shared.stopped.cancelled() => Woken::Stopped,
            command = commands.recv() => Woken::Command(command),
            () = sleep_until(look_at) => Woken::Ending,
            news = self.connector.next() => Woken::News(news),
            lost = self.shared.streams.lost() => Woken::Lost(lost),
            Some(result) = self.results.recv() => Woken::Checked(result),
            () = sleep_until(timeout) => Woken::Timeout,
        }
    }

    fn handle_news(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Message(Some(message)) => self.handle_message(message),
            News::Message(None) => self.lose("the control stream ended", Code::None),
            News::Broken => self.lose("the connection to the relay broke", Code::None),
            News::PathChanged => self.session.handle_path_changed(now),
            News::Hearing(Hearing::Ask) => self.session.ask(now),
            News::Hearing(Hearing::Unheard) => self.session.handle_unheard(now),
            News::Dialled(Ok(dialled)) => {
                self.session.handle_disconnected();
                self.connector.adopt(dialled);
                self.relay_drains = false;
                self.session.handle_connected(now);
                if (self.connector.tunnel()).is_some_and(|tunnel| tunnel.takes_health) {
                    self.session.handle_takes_health();
                }
            }
            News::Dialled(Err(error)) => self.connector.handle_dial_error(&error),
            News::DialDue => self.connector.handle_due(),
        }
    }

    /// A relay that breaks the protocol is left.
    fn handle_message(&mut self, message: Result<Message, MessageError>) {
        let broken = match message {
            Ok(message) => match self.session.handle_message(Instant::now(), message) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
            Err(error) => format!("the relay broke the protocol: {error}"),
        };
        self.lose(&broken, Code::ProtocolError);
    }

    /// The tunnel in use is gone, or is given up.
    fn lose(&mut self, reason: &str, code: Code) {
        if self.connector.tunnel().is_some() {
            self.session.handle_disconnected();
            self.connector.lose(reason, code);
        }
    }

    /// Sends what the session wants sent, and does what it wants done. Returns an end that no retry helps against.
    async fn handle_session(&mut self) -> Option<ClientEnd> {
        while let Some(event) = self.session.poll_event() {
            match event {
                ClientEvent::Welcome { name, .. } => self.connector.handle_welcome(&name),
                ClientEvent::Ended { code, text } => {
                    if let Some(end) = self.handle_ended(code, text) {
                        return Some(end);
                    }
                }
                ClientEvent::Bound(instance) => self.shared.emit(Event::Bound { instance }),
                ClientEvent::Refused {
                    instance,
                    code,
                    text,
                    retry_in,
                } => {
                    self.shared.metrics.instances_refused.one();
                    self.shared.emit(Event::Refused {
                        instance,
                        code,
                        text,
                        retry_in,
                    });
                }
                ClientEvent::LanesWanted(wanted) => {
                    if let Some(tunnel) = self.connector.tunnel() {
                        tunnel.lanes.want(wanted);
                    }
                }
                ClientEvent::Liveness(liveness) => self.handle_liveness(liveness),
                ClientEvent::ServicesChanged => {
                    let (shared, session) = (&self.shared, &self.session);
                    targets::update(&shared.targets, session.services(), &shared.reporter());
                    let now = Instant::now();
                    for (instance, service) in self.checks.follow(&self.session) {
                        self.session.set_health(now, &instance, &service, None);
                    }
                    self.count_unhealthy();
                }
                ClientEvent::Drain { grace } => self.handle_drain(grace),
            }
        }
        self.tell_bound();
        while let Some(message) = self.session.poll_message() {
            let Some(control) = self.connector.control() else {
                break;
            };
            let sent = tokio::select! {
                sent = control.send(message) => sent.is_ok(),
                // A relay that reads nothing for this long is as good as gone.
                () = tokio::time::sleep(SEND_PATIENCE) => false,
            };
            if !sent {
                self.lose("the control stream ended", Code::None);
                break;
            }
        }
        None
    }

    /// A service was checked.
    fn handle_checked(&mut self, result: CheckResult) {
        if !self.checks.is_current(&result) {
            return;
        }
        let metrics = &self.shared.metrics;
        if result.works {
            metrics.health_checks_answered.one();
        } else {
            metrics.health_checks_failed.one();
        }
        let (instance, service) = result.checked;
        let health = result.health;
        let mut known = self.session.health();
        let before = known.find(|(id, name, _)| **id == instance && **name == service);
        let before = before.map_or(HealthState::Starting, |(_, _, health)| health.state);
        drop(known);
        if health.state != before {
            self.shared.emit(Event::HealthChanged {
                instance: instance.clone(),
                service: service.clone(),
                state: health.state,
                refuses: health.refuses,
                reason: health.reason.clone(),
            });
        }
        let now = Instant::now();
        self.session
            .set_health(now, &instance, &service, Some(health));
        self.count_unhealthy();
    }

    fn count_unhealthy(&mut self) {
        let all = self.session.health();
        let unhealthy = all.filter(|(_, _, health)| health.state == HealthState::Unhealthy);
        self.unhealthy.set(unhealthy.count() as u64);
    }

    fn handle_command(&mut self, command: Command) {
        // Whoever asked may no longer wait for the answer.
        match command {
            Command::Set(instances, answer) => {
                self.set_instances(instances);
                self.handle_change();
                _ = answer.send(());
            }
            Command::Insert(instance, answer) => {
                let id = instance.id().clone();
                self.insert(instance);
                let receipt = self.receipts.open(id);
                self.handle_change();
                _ = answer.send(receipt);
            }
            Command::Remove(id, answer) => {
                let was_there = self.remove(&id);
                self.handle_change();
                _ = answer.send(was_there);
            }
            Command::Status(answer) => _ = answer.send(self.status()),
            Command::Shutdown { grace, done } => {
                let now = Instant::now();
                self.session.drain(now, grace);
                self.shared.emit(Event::Draining { grace });
                self.drain = Some(Drain::new(now, grace, done));
            }
        }
    }

    fn set_instances(&mut self, instances: Vec<Instance>) {
        let wanted: BTreeSet<_> = instances.iter().map(|i| i.id().clone()).collect();
        let gone: Vec<_> = self
            .session
            .instances()
            .map(|(instance, _)| instance.id().clone())
            .filter(|id| !wanted.contains(id))
            .collect();
        for id in gone {
            self.remove(&id);
        }
        for instance in instances {
            self.insert(instance);
        }
    }

    fn insert(&mut self, instance: Instance) {
        if self.session.instance(instance.id()) != Some(&instance) {
            self.receipts.withdraw(instance.id());
        }
        self.session.insert(instance);
    }

    fn remove(&mut self, id: &InstanceId) -> bool {
        self.receipts.withdraw(id);
        self.session.remove(id)
    }

    /// Instances have changed.
    fn handle_change(&mut self) {
        self.keep_off_targets();
        self.tell_bound();
    }

    /// No socket of ours may be where a game server listens, or will.
    fn keep_off_targets(&self) {
        let instances = || self.session.instances().map(|(instance, _)| instance);
        self.shared.means.origins.keep_off(instances());
        self.shared.look_at_machine(instances());
        let news = self.shared.means.ports.keep_off(instances());
        if !news.is_empty() {
            self.shared.flows.make_way(&news);
            self.connector.make_way(&news);
        }
    }

    /// Tells those who wait for it what is bound.
    fn tell_bound(&mut self) {
        let session = &self.session;
        let now = Binding::of(session.is_all_bound(), session.instances());
        self.binding.send_if_modified(|binding| {
            let is_news = *binding != now;
            *binding = now;
            is_news
        });
        self.receipts.settle(|id| session.state(id));
    }

    fn handle_liveness(&mut self, liveness: Liveness) {
        self.connector.handle_liveness(liveness);
        if liveness == Liveness::Dead {
            self.connector.close_active();
            self.lose("no heartbeat for 30 s", Code::None);
        }
    }

    fn handle_ended(&mut self, code: Code, text: String) -> Option<ClientEnd> {
        match code {
            Code::Superseded => Some(ClientEnd::Superseded),
            // The way back is another build of one of the two, another invitation or another key.
            Code::Incompatible | Code::TokenExpired | Code::TokenUsed => {
                Some(ClientEnd::Rejected { code, text })
            }
            _ => {
                // One that was never welcome has no streams: those of the tunnel before it go on there.
                if self.connector.welcome().is_some() {
                    self.shared.streams.clear();
                }
                self.connector.close_active();
                let reason = format!("the relay ended the tunnel ({code}): {text}");
                self.lose(&reason, Code::None);
                None
            }
        }
    }

    /// The relay says goodbye when it goes. Until then players stay, and no better path to it is worth looking for.
    fn handle_drain(&mut self, grace: Duration) {
        self.relay_drains = true;
        self.connector.handle_drain();
        if let Some(client) = self.connector.name().cloned() {
            self.shared.emit(Event::PeerDraining { client, grace });
        }
    }

    fn status(&self) -> ClientStatus {
        let tunnel = self.connector.welcome();
        ClientStatus {
            name: self.connector.name().map(|name| name.as_ref().to_owned()),
            transport: tunnel.map(|tunnel| tunnel.transport),
            rtt: self.session.rtt(),
            lane_congestion: self.connector.lane_congestion(),
            lanes_blocked: tunnel.is_some_and(|tunnel| tunnel.lanes.are_blocked()),
            relay_drains: self.relay_drains && tunnel.is_some(),
            instances: self
                .session
                .instances()
                .map(|(instance, state)| (instance.clone(), state.clone()))
                .collect(),
            health: self
                .session
                .health()
                .map(|(instance, service, health)| {
                    (instance.clone(), service.clone(), health.clone())
                })
                .collect(),
        }
    }

    /// Whether a client that shuts down need wait no longer: for players, for the end of the grace, or for a relay that
    /// is gone.
    fn may_go(&mut self) -> bool {
        let (shared, is_up) = (&self.shared, self.connector.tunnel().is_some());
        // Streams may go on where a tunnel was retired; flows have only the one in use.
        let plays = |lately| !shared.players.is_empty() || is_up && shared.flows.any_within(lately);
        (self.drain.as_mut()).is_some_and(|drain| drain.is_over(Instant::now(), plays))
    }

    fn close(&mut self) {
        self.connector.close();
        for target in self.shared.targets.load().values() {
            target.cancelled.cancel();
        }
    }
}

/// How long a message may wait for the control stream.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
