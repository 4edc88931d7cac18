//! Keeps a tunnel: dials, converses, and dials again for ever.

mod path;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    client::{
        ClientEnd, ClientStatus, Shared,
        dial::{Credential, DialError, Dialer},
        link::Link,
        path::{Damper, Hearing},
        race::Race,
        targets::{self, Target, Targets},
    },
    event::Event,
    instance::{Instance, InstanceId},
    key::Psk,
    proto::{
        backoff::Backoff,
        handshake::ProcessId,
        message::{Code, Message, MessageError, Text},
        session::client::{ClientEvent, ClientSession},
        stream::frame::StreamId,
    },
    transport::Transport,
    tunnel::{control::Control, futures::sleep_until},
};

/// What the client is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Instances change; the reply says that the session has them.
    Change(Change, oneshot::Sender<()>),
    Status(oneshot::Sender<ClientStatus>),
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// What becomes of instances.
#[derive(Debug)]
pub(crate) enum Change {
    Set(Vec<Instance>),
    Insert(Instance),
    Remove(InstanceId),
}

/// State of the client's main task.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    dialer: Dialer,
    credential: Credential,
    session: ClientSession,
    active: Option<Active>,
    /// Works on until its last stream has ended, while a better path has taken over.
    retiring: Option<Active>,
    dialing: Race<'static, Result<Dialled, DialError>>,
    /// What is dialled is QUIC only, for a tunnel that has lanes.
    upgrading: bool,
    dial_at: Option<Instant>,
    backoff: Backoff,
    /// Of tries beside a path that is suspect.
    racing: Backoff,
    /// Of tunnels that are lost as soon as they stand.
    flapping: Backoff,
    /// Waits between tries of QUIC while lanes carry everything.
    upgrade: Backoff,
    /// And how long it is left alone altogether.
    damper: Damper,
    name: Option<Arc<str>>,
    /// Since when a heartbeat is overdue: a new path is looked for without pause.
    suspect_since: Option<Instant>,
    /// Lanes carry everything, as far as the operator has been told.
    is_fallback: bool,
    /// The relay shuts down: it takes no new players.
    relay_drains: bool,
    ending: Option<Ending>,
    all_bound: watch::Sender<bool>,
}

/// The client shuts down: it takes no new players, and goes when the last has left.
struct Ending {
    /// Goes then at the latest; `None` where the grace has no end that a clock could tell.
    until: Option<Instant>,
    look_at: Instant,
    done: oneshot::Sender<()>,
}

struct Active {
    link: Arc<Link>,
    control: Control,
    /// Since when the relay has let us in.
    welcome_at: Option<Instant>,
}

/// A tunnel that stands, and the relay's process at its other end.
type Dialled = (Arc<Link>, Control, ProcessId);

/// What the main task woke up for.
enum Woken {
    Command(Option<Command>),
    Said(Option<Result<Message, MessageError>>),
    Dialled(Result<Dialled, DialError>),
    DialNow,
    Timeout,
    PathChanged,
    /// What leaves on the path may not arrive.
    Hearing(Hearing),
    /// Streams have lost their lanes.
    Lost(Vec<StreamId>),
    Broken,
    /// Time to see whether a client that shuts down may go.
    Ending,
    Stopped,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dialer: Dialer,
        psk: Psk,
        instances: Vec<Instance>,
        all_bound: watch::Sender<bool>,
    ) -> Self {
        let mut session = ClientSession::new(shared.random());
        for instance in instances {
            session.insert(instance);
        }
        let driver = Self {
            shared,
            dialer,
            credential: Credential { psk, token: None },
            session,
            active: None,
            retiring: None,
            dialing: Race::new(DIALS_AT_ONCE),
            upgrading: false,
            dial_at: Some(Instant::now()),
            backoff: Backoff::new(RECONNECT_LEAST, RECONNECT_MOST),
            racing: Backoff::new(RACE_PACE, RACE_PACE),
            flapping: Backoff::new(RECONNECT_LEAST, FLAPPING_MOST),
            upgrade: Backoff::new(UPGRADE_LEAST, UPGRADE_MOST),
            damper: Damper::default(),
            name: None,
            suspect_since: None,
            is_fallback: false,
            relay_drains: false,
            ending: None,
            all_bound,
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
                Woken::Ending if self.may_go() => {
                    self.goodbye().await;
                    self.close();
                    shared.stopped.cancel();
                    if let Some(ending) = self.ending {
                        // Whoever asked no longer waits.
                        _ = ending.done.send(());
                    }
                    return ClientEnd::Stopped;
                }
                Woken::Ending => {}
                Woken::Said(Some(Ok(message))) => {
                    if let Err(error) = self.session.handle_message(Instant::now(), message) {
                        self.leave(&error.to_string());
                    }
                }
                Woken::Said(Some(Err(error))) => {
                    self.leave(&format!("the relay broke the protocol: {error}"))
                }
                Woken::Said(None) => self.lose("the control stream ended"),
                Woken::Broken => self.lose("the connection to the relay broke"),
                Woken::DialNow => self.dial(),
                Woken::Dialled(Ok((link, control, relay))) => self.adopt(link, control, relay),
                Woken::Dialled(Err(error)) => self.handle_dial_error(&error),
                Woken::Timeout => self.session.handle_timeout(Instant::now()),
                Woken::Lost(streams) => self.session.lost(&streams),
                Woken::PathChanged => self.session.handle_path_changed(Instant::now()),
                Woken::Hearing(Hearing::Ask) => self.session.ask(Instant::now()),
                Woken::Hearing(Hearing::Unheard) => self.session.handle_unheard(Instant::now()),
                Woken::Command(None) | Woken::Stopped => {
                    self.goodbye().await;
                    self.close();
                    return ClientEnd::Stopped;
                }
            }
        }
    }

    async fn wait(&mut self, commands: &mut mpsc::Receiver<Command>) -> Woken {
        let timeout = self.session.poll_timeout();
        let races = self.is_suspect() || self.dialing.is_empty();
        let dial_at = self.dial_at.filter(|_| races);
        let (control, link) = match &mut self.active {
            Some(active) => (Some(&mut active.control), Some(active.link.clone())),
            None => (None, None),
        };
        let look_at = self.ending.as_ref().map(|ending| ending.look_at);
        tokio::select! {
            // What the relay said comes before the end of its connection: it may have said why.
            biased;
            () = self.shared.stopped.cancelled() => Woken::Stopped,
            command = commands.recv() => Woken::Command(command),
            () = sleep_until(look_at) => Woken::Ending,
            said = async {
                match control {
                    Some(control) => control.rx.recv().await,
                    None => std::future::pending().await,
                }
            } => Woken::Said(said),
            woken = async {
                let Some(link) = link else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    () = link.broken.cancelled() => Woken::Broken,
                    () = link.path_changed.notified() => Woken::PathChanged,
                    Some(hearing) = link.hearing.next() => Woken::Hearing(hearing),
                }
            } => woken,
            lost = self.shared.streams.lost() => Woken::Lost(lost),
            dialled = self.dialing.next() => Woken::Dialled(dialled),
            () = sleep_until(dial_at) => Woken::DialNow,
            () = sleep_until(timeout) => Woken::Timeout,
        }
    }

    /// Sends what the session wants sent, and does what it wants done. Returns an end that no retry helps against.
    async fn handle_session(&mut self) -> Option<ClientEnd> {
        while let Some(event) = self.session.poll_event() {
            match event {
                ClientEvent::Welcome { name, .. } => self.handle_welcome(&name),
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
                    if let Some(active) = &self.active {
                        active.link.want_lanes(wanted);
                    }
                }
                ClientEvent::Liveness(liveness) => self.handle_liveness(liveness),
                ClientEvent::ServicesChanged => self.update_targets(),
                ClientEvent::Drain { grace } => self.handle_drain(grace),
            }
        }
        self.tell_bound();
        while let Some(message) = self.session.poll_message() {
            let Some(active) = &self.active else { break };
            let sent = tokio::select! {
                sent = active.control.tx.send(message) => sent.is_ok(),
                // A relay that reads nothing for this long is as good as gone.
                () = tokio::time::sleep(SEND_PATIENCE) => false,
            };
            if !sent {
                self.lose("the control stream ended");
                break;
            }
        }
        None
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Change(change, done) => {
                self.change(change);
                self.tell_bound();
                // Whoever asked no longer waits.
                _ = done.send(());
            }
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Shutdown { grace, done } => {
                let now = Instant::now();
                let until = now.checked_add(grace);
                let look_at = now;
                self.session.drain(now, grace);
                self.shared.emit(Event::Draining { grace });
                self.ending = Some(Ending {
                    until,
                    look_at,
                    done,
                });
            }
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Set(instances) => {
                let wanted: BTreeSet<_> = instances.iter().map(|i| i.id().clone()).collect();
                let gone: Vec<_> = self
                    .session
                    .instances()
                    .map(|(instance, _)| instance.id().clone())
                    .filter(|id| !wanted.contains(id))
                    .collect();
                for id in gone {
                    self.session.remove(&id);
                }
                for instance in instances {
                    self.session.insert(instance);
                }
            }
            Change::Insert(instance) => self.session.insert(instance),
            Change::Remove(id) => drop(self.session.remove(&id)),
        }
        self.keep_off_targets();
    }

    /// No socket of ours may be where a game server listens, or will.
    fn keep_off_targets(&self) {
        let instances = self.session.instances().map(|(instance, _)| instance);
        let news = self.shared.means.ports.keep_off(instances);
        if !news.is_empty() {
            self.shared.flows.make_way(&news);
            for active in self.active.iter().chain(&self.retiring) {
                active.link.make_way(&self.shared.means.ports, &news);
            }
        }
    }

    fn tell_bound(&self) {
        let now = self.session.is_all_bound();
        self.all_bound
            .send_if_modified(|bound| std::mem::replace(bound, now) != now);
    }

    fn handle_welcome(&mut self, name: &str) {
        self.backoff.reset();
        self.suspect_since = None;
        self.name = Some(name.into());
        if let Some(active) = &mut self.active {
            active.welcome_at = Some(Instant::now());
            // Answers leave by the tunnel that the relay has just acknowledged.
            self.shared.sender.store(Some(active.link.sender.clone()));
            self.shared.emit(Event::TunnelUp {
                client: name.into(),
                peer: active.link.peer,
                transport: active.link.transport,
            });
            let is_lane = active.link.transport == Transport::Lane;
            self.damper.handle_up(Instant::now(), is_lane);
            if std::mem::replace(&mut self.is_fallback, is_lane) != is_lane {
                self.shared.emit(Event::Fallback {
                    client: name.into(),
                    active: is_lane,
                });
            }
            self.plan_upgrade();
        }
        // The relay has moved everything over: the old path ends with its last stream.
        self.retiring = None;
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
                if (self.active.as_ref()).is_some_and(|active| active.welcome_at.is_some()) {
                    self.shared.streams.clear();
                }
                if let Some(active) = &self.active {
                    active.link.closed.cancel();
                }
                self.lose(&format!("the relay ended the tunnel ({code}): {text}"));
                None
            }
        }
    }

    /// The relay says goodbye when it goes. Until then players stay, and no better path to it is worth looking for.
    fn handle_drain(&mut self, grace: Duration) {
        self.relay_drains = true;
        if !self.is_suspect() {
            self.dial_at = None;
        }
        if let Some(client) = &self.name {
            self.shared.emit(Event::PeerDraining {
                client: client.clone(),
                grace,
            });
        }
    }

    /// Makes the targets those that the session knows; what stays the same is not touched.
    fn update_targets(&self) {
        let reporter = self.shared.reporter();
        let old = self.shared.targets.load_full();
        let mut new: Targets = HashMap::new();
        for (id, instance, service) in self.session.services() {
            let target = match old.get(&id) {
                Some(target) => target.clone(),
                None => old
                    .values()
                    .find(|target| {
                        target.instance == *instance
                            && target.service.public == service.public
                            && target.service.protocol == service.protocol
                            && target.service.target == service.target
                    })
                    .cloned()
                    .inspect(|target| target.follow(service))
                    .unwrap_or_else(|| Target::new(instance.clone(), service.clone(), &reporter)),
            };
            new.insert(id, target);
        }
        targets::keep_last_ids(&old, &mut new);
        let new = Arc::new(new);
        self.shared.targets.store(new.clone());
        for target in old.values() {
            if !new.values().any(|kept| Arc::ptr_eq(kept, target)) {
                target.cancelled.cancel();
            }
        }
    }

    fn status(&self) -> ClientStatus {
        let active = self
            .active
            .as_ref()
            .filter(|active| active.welcome_at.is_some());
        ClientStatus {
            name: self.name.as_deref().map(str::to_owned),
            transport: active.map(|active| active.link.transport),
            rtt: self.session.rtt(),
            lane_congestion: self.dialer.lane_congestion(),
            lanes_blocked: active.is_some_and(|active| active.link.is_without_lanes()),
            relay_drains: self.relay_drains && active.is_some(),
            instances: self
                .session
                .instances()
                .map(|(i, state)| (i.clone(), state.clone()))
                .collect(),
        }
    }

    /// Whether a client that shuts down need wait no longer: for players, for the end of the grace, or for a relay that
    /// is gone.
    fn may_go(&mut self) -> bool {
        let Some(ending) = &mut self.ending else {
            return false;
        };
        let now = Instant::now();
        ending.look_at = now + DRAIN_LOOK;
        if ending.until.is_some_and(|until| until <= now) {
            return true;
        }
        // Streams may go on where a tunnel was retired; flows have only the one in use.
        let plays = self.active.is_some() && self.shared.flows.any_within(ALIVE);
        self.shared.players.is_empty() && !plays
    }

    async fn goodbye(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        let text = Text::new("the client shuts down");
        let goodbye = Message::Goodbye {
            code: Code::Shutdown,
            text,
        };
        let sent = tokio::time::timeout(GOODBYE_PATIENCE, active.control.tx.send(goodbye)).await;
        if sent.is_ok_and(|sent| sent.is_ok()) {
            // The relay closes when it has read it.
            drop(tokio::time::timeout(GOODBYE_PATIENCE, active.link.broken.cancelled()).await);
        }
        active.link.closed.cancel();
        if let Some(quic) = &active.link.quic {
            quic.close(quinn::VarInt::from_u32(0), b"");
        }
    }

    fn close(&mut self) {
        for active in self.active.take().into_iter().chain(self.retiring.take()) {
            active.link.closed.cancel();
            if let Some(quic) = &active.link.quic {
                quic.close(quinn::VarInt::from_u32(0), b"");
            }
        }
        for target in self.shared.targets.load().values() {
            target.cancelled.cancel();
        }
        self.shared.sender.store(None);
    }
}

/// Tries of a way to the relay that run side by side. Four: at two a second, each but the oldest has two seconds, of which a
/// handshake over a long path takes one.
const DIALS_AT_ONCE: usize = 4;
/// Between two tries beside a suspect path: half a second at most, so that a path that is back is found within it,
/// and a handshake later everybody is on it. Two first messages a second are no burden for a relay.
const RACE_PACE: Duration = Duration::from_millis(500);
/// First wait before the relay is tried again.
const RECONNECT_LEAST: Duration = Duration::from_millis(250);
/// Longest wait after tunnels that stood for a moment only: one a second keeps nobody busy, and a relay that is restarted
/// again and again is found within it each time.
const FLAPPING_MOST: Duration = Duration::from_secs(1);
/// Longest wait: a relay that comes back is found within this.
const RECONNECT_MOST: Duration = Duration::from_secs(15);
/// First wait before QUIC is tried again while lanes carry everything: after a black-out it is often back at once.
const UPGRADE_LEAST: Duration = Duration::from_secs(2);
/// Longest such wait: where UDP is blocked for good, two tries a minute cost nothing.
const UPGRADE_MOST: Duration = Duration::from_secs(30);
/// How long a message may wait for the control stream.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// How long a goodbye may take to be answered with the close.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
/// How long after its last datagram a flow is still waited for: 2 s; a game that is played sends many each second.
const ALIVE: Duration = Duration::from_secs(2);
/// How often a draining client looks whether its last player has left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
