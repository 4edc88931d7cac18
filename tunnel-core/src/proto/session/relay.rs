//! The relay's side of a tunnel's control conversation.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    health::Health,
    instance::{InstanceId, ServiceName},
    key::Psk,
    proto::{
        message::{Code, Message, Revision, ServiceDeclaration, Text},
        session::{
            health::Told,
            heartbeat::{HEARTBEAT, Heartbeat, Liveness},
            misbehaved::SessionMisbehaved,
        },
        stream::frame::StreamId,
    },
};

/// One client's tunnel, seen from the relay.
#[derive(Debug)]
pub struct RelaySession {
    heartbeat: Heartbeat,
    /// What the client is greeted with once it is let in.
    welcome: Option<Message>,
    messages: VecDeque<Message>,
    events: VecDeque<RelayEvent>,
}

/// What the relay is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEvent {
    /// The client wants an instance bound, or changed to this.
    Declare {
        /// Which.
        instance: InstanceId,
        /// To be repeated in the answer.
        revision: Revision,
        /// All of its services.
        services: Vec<ServiceDeclaration>,
    },
    /// The client wants an instance gone.
    Withdraw {
        /// Which.
        instance: InstanceId,
        /// To be repeated in the answer.
        revision: Revision,
    },
    /// The client takes no new players.
    Drain {
        /// How long it waits for those it has.
        grace: Duration,
    },
    /// The client leaves.
    Goodbye {
        /// Why.
        code: Code,
    },
    /// The client says that the lanes of these streams lead nowhere any more.
    Lost {
        /// Which.
        streams: Vec<StreamId>,
    },
    /// The client tells how a service is.
    Health {
        /// Of which instance.
        instance: InstanceId,
        /// Which.
        service: ServiceName,
        /// How; `None` if it is not checked any more.
        health: Option<Health>,
    },
    /// The client was there after this, when the PING left that it has answered. Until it is let in, it is for others to
    /// say whether that is late enough.
    Lived {
        /// Then.
        at: Instant,
    },
    /// Whether the client answers has changed.
    Liveness(Liveness),
}

impl RelaySession {
    /// Greets a client that has proved itself. `psk` is its lasting one, in enrolment only.
    pub fn new(now: Instant, version: u32, lease: Duration, name: &str, psk: Option<Psk>) -> Self {
        let welcome = Message::Welcome {
            version,
            heartbeat: HEARTBEAT,
            lease,
            psk,
            client: Text::new(name),
            software: Text::new(SOFTWARE),
        };
        Self {
            heartbeat: Heartbeat::new(now, HEARTBEAT),
            welcome: None,
            messages: VecDeque::from([welcome]),
            events: VecDeque::new(),
        }
    }

    /// Asks a client that has proved itself whether it is still there: what it has said may have been on its way for longer
    /// than it has lived. It is greeted when it is [let in](Self::let_in).
    pub fn asking(now: Instant, version: u32, lease: Duration, name: &str) -> Self {
        let mut session = Self::new(now, version, lease, name, None);
        session.welcome = session.messages.pop_front();
        session.ask(now);
        session
    }

    /// The client is asked at once whether it is there.
    pub fn ask(&mut self, now: Instant) {
        self.heartbeat.ask(now);
    }

    /// When the newest PING left that the client has answered: it was there after that.
    pub fn lived_at(&self) -> Option<Instant> {
        self.heartbeat.lived_at()
    }

    /// From now on the client may say everything.
    pub fn let_in(&mut self) {
        self.messages.extend(self.welcome.take());
    }

    /// Whether the client has yet to be let in.
    pub const fn is_asking(&self) -> bool {
        self.welcome.is_some()
    }

    /// A message came from the client.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<(), SessionMisbehaved> {
        let lived_before = self.lived_at();
        let is_alive_again = self.heartbeat.handle_message(now, &message);
        if self.is_asking() {
            let lived = self.lived_at();
            let news = lived.filter(|_| lived != lived_before);
            self.events.extend(news.map(|at| RelayEvent::Lived { at }));
            if !matches!(
                message,
                Message::Ping { .. } | Message::Pong { .. } | Message::Goodbye { .. }
            ) {
                return Err(SessionMisbehaved::TooSoon(message.name()));
            }
        } else if is_alive_again {
            self.events.push_back(RelayEvent::Liveness(Liveness::Alive));
        }
        match message {
            Message::Declare {
                instance,
                revision,
                services,
            } => {
                let mut ids = HashSet::with_capacity(services.len());
                if !services.iter().all(|service| ids.insert(service.id)) {
                    return Err(SessionMisbehaved::ServiceIdTwice);
                }
                self.events.push_back(RelayEvent::Declare {
                    instance,
                    revision,
                    services,
                });
            }
            Message::Withdraw { instance, revision } => {
                self.events
                    .push_back(RelayEvent::Withdraw { instance, revision });
            }
            Message::Ping { number, .. } => self.messages.push_back(Message::Pong { number }),
            Message::Pong { .. } => {}
            Message::Drain { grace } => self.events.push_back(RelayEvent::Drain { grace }),
            Message::Health {
                instance,
                service,
                state,
                age,
                reason,
                name,
                players,
                max,
                version,
                map,
            } => {
                let told = Told {
                    state,
                    age,
                    reason,
                    name,
                    players,
                    max,
                    version,
                    map,
                };
                self.events.push_back(RelayEvent::Health {
                    instance,
                    service,
                    health: told.health(now),
                });
            }
            Message::Lost { streams } => self.events.push_back(RelayEvent::Lost { streams }),
            Message::Goodbye { code, .. } => self.events.push_back(RelayEvent::Goodbye { code }),
            other => return Err(SessionMisbehaved::WrongDirection(other.name())),
        }
        Ok(())
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (ping, liveness) = self.heartbeat.handle_timeout(now);
        self.messages.extend(ping);
        let liveness = liveness.filter(|_| !self.is_asking());
        self.events.extend(liveness.map(RelayEvent::Liveness));
    }

    /// Sends a message.
    pub fn send(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        self.events.pop_front()
    }

    /// The next thing to do, if it is a matter of this tunnel alone.
    pub fn poll_own_event(&mut self) -> Option<RelayEvent> {
        match self.events.front()? {
            RelayEvent::Lived { .. } | RelayEvent::Liveness(_) | RelayEvent::Lost { .. } => {
                self.events.pop_front()
            }
            _ => None,
        }
    }

    /// Whether nothing waits to be done. As long as the client is read meanwhile, it has its heartbeats answered.
    pub fn is_idle(&self) -> bool {
        self.events.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Instant {
        self.heartbeat.poll_timeout()
    }

    /// The control stream's last round trip.
    pub const fn rtt(&self) -> Option<Duration> {
        self.heartbeat.rtt()
    }
}

/// What the relay calls itself.
const SOFTWARE: &str = concat!("adit/", env!("CARGO_PKG_VERSION"));
