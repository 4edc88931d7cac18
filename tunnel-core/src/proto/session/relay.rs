//! The relay's side of a tunnel's control conversation.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    instance::InstanceId,
    key::Psk,
    proto::{
        message::{Code, Message, Revision, ServiceDeclaration, Text},
        session::{HEARTBEAT, Heartbeat, Liveness, SessionMisbehaved},
        stream::frame::StreamId,
    },
};

/// One client's tunnel, seen from the relay.
#[derive(Debug)]
pub struct RelaySession {
    heartbeat: Heartbeat,
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
            messages: VecDeque::from([welcome]),
            events: VecDeque::new(),
        }
    }

    /// A message came from the client.
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<(), SessionMisbehaved> {
        if self.heartbeat.handle_message(now, &message) {
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
            RelayEvent::Liveness(_) | RelayEvent::Lost { .. } => self.events.pop_front(),
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
