//! The client's side of the control conversation: what should be bound, what is, and what is tried again when.
//!
//! It outlives the tunnels: after [`handle_connected`](ClientSession::handle_connected) everything is declared anew.

mod entry;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

pub use self::entry::InstanceState;
use self::entry::{Entry, Version};
use crate::{
    health::Health,
    instance::{Instance, InstanceId, Service, ServiceName},
    key::Psk,
    proto::{
        message::{Code, Message, Revision, ServiceId},
        session::{
            health,
            heartbeat::{HEARTBEAT, Heartbeat, Liveness},
            misbehaved::SessionMisbehaved,
        },
        stream::frame::StreamId,
        wire::ListValue,
    },
};

/// A client's wishes and what became of them.
#[derive(Debug)]
pub struct ClientSession {
    instances: BTreeMap<InstanceId, Entry>,
    connected: Option<Connected>,
    next_service: u32,
    next_revision: u64,
    messages: VecDeque<Message>,
    events: VecDeque<ClientEvent>,
    /// Since when the client takes no new players, and how long it waits for those who are there.
    draining: Option<(Instant, Duration)>,
    /// How services are, as far as they are checked.
    health: BTreeMap<(InstanceId, ServiceName), Health>,
    /// Xorshift state for jitter, seeded by the caller: the session has no randomness of its own.
    jitter: u64,
}

#[derive(Debug)]
struct Connected {
    heartbeat: Heartbeat,
    welcomed: bool,
    /// The relay takes HEALTH.
    takes_health: bool,
}

/// What the client is to do, or may tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The relay has let the client in.
    Welcome {
        /// The client's name at the relay.
        name: String,
        /// The lasting PSK, in enrolment.
        psk: Option<Psk>,
        /// How long the relay holds the ports of a lost tunnel.
        lease: Duration,
    },
    /// The relay does not let the client in, or ends the tunnel.
    Ended {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
    /// All services of an instance are bound.
    Bound(InstanceId),
    /// The relay refused an instance, or had to unbind it; it is tried again.
    Refused {
        /// Which.
        instance: InstanceId,
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The relay wants this number of idle lanes.
    LanesWanted(u32),
    /// The relay takes no new players, and says goodbye after the grace.
    Drain {
        /// How long it waits for those who are there.
        grace: Duration,
    },
    /// Whether the relay answers has changed.
    Liveness(Liveness),
    /// Which services exist has changed: [`ClientSession::services`] says how.
    ServicesChanged,
}

impl ClientSession {
    /// A session without instances. `seed` is 64 random bits.
    pub const fn new(seed: u64) -> Self {
        Self {
            instances: BTreeMap::new(),
            connected: None,
            next_service: 0,
            next_revision: 0,
            messages: VecDeque::new(),
            events: VecDeque::new(),
            draining: None,
            health: BTreeMap::new(),
            jitter: seed | 1,
        }
    }

    /// Adds an instance, or changes it; nothing happens if it is the same already.
    pub fn insert(&mut self, instance: Instance) {
        let id = instance.id().clone();
        if self
            .instances
            .get(&id)
            .is_some_and(|entry| entry.wanted.instance == instance)
        {
            return;
        }
        let wanted = self.version(instance);
        let mut entry = Entry::new(wanted, self.instances.remove(&id));
        if self.is_welcome() {
            self.messages.push_back(entry.wanted.declare());
        }
        self.instances.insert(id, entry);
        self.events.push_back(ClientEvent::ServicesChanged);
    }

    /// Removes an instance. Returns whether it was there.
    pub fn remove(&mut self, id: &InstanceId) -> bool {
        if self.instances.remove(id).is_none() {
            return false;
        }
        self.health.retain(|(instance, _), _| instance != id);
        let revision = self.revision();
        if self.is_welcome() {
            self.messages.push_back(Message::Withdraw {
                instance: id.clone(),
                revision,
            });
        }
        self.events.push_back(ClientEvent::ServicesChanged);
        true
    }

    /// The instance of this id.
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        Some(&self.instances.get(id)?.wanted.instance)
    }

    /// What became of the instance of this id.
    pub fn state(&self, id: &InstanceId) -> Option<&InstanceState> {
        Some(&self.instances.get(id)?.state)
    }

    /// The instances and what became of them.
    pub fn instances(&self) -> impl Iterator<Item = (&Instance, &InstanceState)> {
        self.instances
            .values()
            .map(|entry| (&entry.wanted.instance, &entry.state))
    }

    /// Every service that the relay may name: those wanted, and those still bound.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &InstanceId, &Service)> {
        self.instances
            .values()
            .flat_map(|entry| std::iter::once(&entry.wanted).chain(&entry.earlier))
            .flat_map(|version| {
                let id = version.instance.id();
                version
                    .ids
                    .iter()
                    .zip(version.instance.services())
                    .map(move |(n, s)| (*n, id, s))
            })
    }

    /// The services that are wanted, each as it is to be.
    pub fn wanted_services(&self) -> impl Iterator<Item = (ServiceId, &InstanceId, &Service)> {
        self.instances.values().flat_map(|entry| {
            let Version { instance, ids, .. } = &entry.wanted;
            let services = ids.iter().zip(instance.services());
            services.map(|(id, service)| (*id, instance.id(), service))
        })
    }

    /// Whether every instance is bound.
    pub fn is_all_bound(&self) -> bool {
        self.is_welcome() && self.instances.values().all(|entry| entry.state.is_bound())
    }

    /// A tunnel stands; the relay's WELCOME is awaited.
    pub fn handle_connected(&mut self, now: Instant) {
        self.messages.clear();
        self.connected = Some(Connected {
            heartbeat: Heartbeat::new(now, HEARTBEAT),
            welcomed: false,
            takes_health: false,
        });
        // A QUIC stream exists for the relay only once something was said on it.
        self.messages.push_back(Message::Ping {
            number: 0,
            heard: None,
        });
    }

    /// The relay of this tunnel takes word of services' health.
    pub const fn handle_takes_health(&mut self) {
        if let Some(connected) = &mut self.connected {
            connected.takes_health = true;
        }
    }

    /// How a service is now; `None` if it is not checked any more. A relay that has it bound is told, if it takes that.
    pub fn set_health(
        &mut self,
        now: Instant,
        instance: &InstanceId,
        service: &ServiceName,
        health: Option<Health>,
    ) {
        let Some(entry) = self.instances.get(instance) else {
            return;
        };
        // Behind its BOUND all that is known is told, but not what is not any more.
        let is_due = entry.state.is_bound() || health.is_none();
        let key = (instance.clone(), service.clone());
        if self.health.get(&key) == health.as_ref() {
            return;
        }
        if is_due && self.takes_health() {
            let (instance, service) = key.clone();
            let message = health::message(now, instance, service, health.as_ref());
            self.messages.push_back(message);
        }
        match health {
            Some(health) => _ = self.health.insert(key, health),
            None => _ = self.health.remove(&key),
        }
    }

    /// How services are, as far as they are checked.
    pub fn health(&self) -> impl Iterator<Item = (&InstanceId, &ServiceName, &Health)> {
        self.health
            .iter()
            .map(|((instance, service), health)| (instance, service, health))
    }

    /// The tunnel is gone. What was bound may still be held by the relay, but is pending until it says so.
    pub fn handle_disconnected(&mut self) {
        self.connected = None;
        self.messages.clear();
        for entry in self.instances.values_mut() {
            if entry.state.is_bound() {
                entry.state = InstanceState::Pending;
            }
            entry.retry_at = None;
        }
    }

    /// A message came from the relay.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<(), SessionMisbehaved> {
        let Some(connected) = &mut self.connected else {
            return Ok(());
        };
        if connected.heartbeat.handle_message(now, &message) {
            self.events
                .push_back(ClientEvent::Liveness(Liveness::Alive));
        }
        match message {
            Message::Welcome {
                psk, client, lease, ..
            } => {
                if std::mem::replace(&mut connected.welcomed, true) {
                    return Err(SessionMisbehaved::WelcomeTwice);
                }
                // First, so that not even the first player comes who may not stay.
                self.messages.extend(self.draining.map(|(since, grace)| {
                    let grace = grace.saturating_sub(now.saturating_duration_since(since));
                    Message::Drain { grace }
                }));
                self.messages.extend(
                    self.instances
                        .values_mut()
                        .map(|entry| entry.wanted.declare()),
                );
                self.events.push_back(ClientEvent::Welcome {
                    name: client.as_str().into(),
                    psk,
                    lease,
                });
            }
            Message::Reject { code, text } | Message::Goodbye { code, text } => {
                self.events.push_back(ClientEvent::Ended {
                    code,
                    text: text.as_str().into(),
                });
            }
            Message::Bound { instance, revision } => self.handle_bound(now, instance, revision),
            Message::Refused {
                instance,
                revision,
                code,
                text,
                ..
            } => self.handle_refused(now, instance, revision, code, text.as_str().into()),
            Message::Unbound {
                instance,
                revision,
                code,
                text,
            } => {
                if let Some(version) =
                    (self.instances.get_mut(&instance)).and_then(|entry| entry.version(revision))
                {
                    version.was_bound = false;
                }
                self.handle_refused(now, instance, revision, code, text.as_str().into());
            }
            Message::Ping { number, .. } => self.messages.push_back(Message::Pong { number }),
            Message::Pong { .. } => {}
            Message::Lanes { idle } => self
                .events
                .push_back(ClientEvent::LanesWanted(idle.count().into())),
            Message::Drain { grace } => self.events.push_back(ClientEvent::Drain { grace }),
            other => return Err(SessionMisbehaved::WrongDirection(other.name())),
        }
        Ok(())
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(connected) = &mut self.connected else {
            return;
        };
        let (ping, liveness) = connected.heartbeat.handle_timeout(now);
        self.messages.extend(ping);
        self.events.extend(liveness.map(ClientEvent::Liveness));
        for entry in self.instances.values_mut() {
            if entry.retry_at.is_some_and(|at| at <= now) {
                entry.retry_at = None;
                self.messages.push_back(entry.wanted.declare());
            }
        }
    }

    /// This side's address has changed: the relay is told at once where it is now, by a heartbeat.
    pub fn handle_path_changed(&mut self, now: Instant) {
        if let Some(connected) = &mut self.connected {
            connected.heartbeat.handle_path_changed(now);
        }
    }

    /// The relay is asked at once whether it is there.
    pub fn ask(&mut self, now: Instant) {
        if let Some(connected) = &mut self.connected {
            connected.heartbeat.ask(now);
        }
    }

    /// What is sent does not arrive, as far as the transport can see: the path is suspect until the relay answers.
    pub fn handle_unheard(&mut self, now: Instant) {
        if let Some(connected) = &mut self.connected
            && connected.heartbeat.handle_unheard(now)
        {
            self.events
                .push_back(ClientEvent::Liveness(Liveness::Suspect));
        }
    }

    /// The lanes of these streams lead nowhere any more. With another tunnel they would go there anyway.
    pub fn lost(&mut self, streams: &[StreamId]) {
        if self.is_welcome() {
            let lost = streams
                .chunks(StreamId::MAX_ITEMS)
                .map(|streams| Message::Lost {
                    streams: streams.to_vec(),
                });
            self.messages.extend(lost);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` without a tunnel.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let heartbeat = self.connected.as_ref()?.heartbeat.poll_timeout();
        let retries = self.instances.values().filter_map(|entry| entry.retry_at);
        Some(retries.fold(heartbeat, Instant::min))
    }

    /// The client takes no new players from now on, and says goodbye after the grace at the latest. The relay is told,
    /// and so is whichever it connects to until then.
    pub fn drain(&mut self, now: Instant, grace: Duration) {
        self.draining = Some((now, grace));
        if self.is_welcome() {
            self.messages.push_back(Message::Drain { grace });
        }
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// The control stream's last round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.connected.as_ref()?.heartbeat.rtt()
    }

    fn handle_bound(&mut self, now: Instant, instance: InstanceId, revision: Revision) {
        // An answer to an instance removed meanwhile says nothing.
        let Some(entry) = self.instances.get_mut(&instance) else {
            return;
        };
        // What the relay has bound takes the place of all before it.
        if entry.forget(|version| version.revision < revision) {
            self.events.push_back(ClientEvent::ServicesChanged);
        }
        if let Some(version) = entry.version(revision) {
            version.was_bound = true;
        }
        if entry.wanted.revision != revision {
            return;
        }
        let services = entry.wanted.instance.services().iter();
        entry.state = InstanceState::Bound {
            ports: services.map(|service| service.public).collect(),
        };
        entry.backoff.reset();
        entry.retry_at = None;
        if self.takes_health() {
            let of_instance = self.health.iter().filter(|((id, _), _)| *id == instance);
            let told = of_instance.map(|((id, service), health)| {
                health::message(now, id.clone(), service.clone(), Some(health))
            });
            self.messages.extend(told);
        }
        self.events.push_back(ClientEvent::Bound(instance));
    }

    fn handle_refused(
        &mut self,
        now: Instant,
        instance: InstanceId,
        revision: Revision,
        code: Code,
        text: String,
    ) {
        let random = self.random();
        let Some(entry) = self.instances.get_mut(&instance) else {
            return;
        };
        if let Some(version) = entry.version(revision) {
            version.may_be_held = version.was_bound;
        }
        if entry.forget(|version| !version.may_be_held) {
            self.events.push_back(ClientEvent::ServicesChanged);
        }
        if entry.wanted.revision != revision {
            return;
        }
        let retry_in = entry.backoff.next(random);
        entry.retry_at = Some(now + retry_in);
        entry.state = InstanceState::Refused {
            code,
            text: text.clone(),
        };
        self.events.push_back(ClientEvent::Refused {
            instance,
            code,
            text,
            retry_in,
        });
    }

    fn is_welcome(&self) -> bool {
        self.connected
            .as_ref()
            .is_some_and(|connected| connected.welcomed)
    }

    fn takes_health(&self) -> bool {
        let connected = self.connected.as_ref();
        connected.is_some_and(|connected| connected.welcomed && connected.takes_health)
    }

    fn version(&mut self, instance: Instance) -> Version {
        let ids = instance
            .services()
            .iter()
            .map(|_| {
                self.next_service = self.next_service.wrapping_add(1);
                ServiceId(self.next_service)
            })
            .collect();
        Version {
            instance,
            revision: self.revision(),
            ids,
            may_be_held: false,
            was_bound: false,
        }
    }

    const fn revision(&mut self) -> Revision {
        self.next_revision += 1;
        Revision(self.next_revision)
    }

    const fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}
