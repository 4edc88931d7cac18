//! What a relay or a client tells those who embed it, as it happens.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::broadcast;

use crate::{
    health::HealthState,
    instance::{InstanceId, ServiceName},
    sync::lock,
    transport::Transport,
};

pub use crate::proto::message::Code;

/// Something that an operator may want to know. `{}` prints it as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A tunnel stands.
    TunnelUp {
        /// The client's name at the relay.
        client: Arc<str>,
        /// The other side's address, if the transport has one.
        peer: Option<SocketAddr>,
        /// What it runs on.
        transport: Transport,
    },
    /// A tunnel is gone.
    TunnelDown {
        /// The client's name at the relay.
        client: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The relay has not answered over UDP yet: TCP is tried beside it.
    UdpSilent {
        /// The relay.
        peer: SocketAddr,
    },
    /// UDP does not get through, and lanes carry everything (`true`), or it gets through again (`false`).
    Fallback {
        /// The client's name at the relay.
        client: Arc<str>,
        /// Whether lanes carry everything.
        active: bool,
    },
    /// The client tries again after a failure.
    Reconnecting {
        /// What failed.
        reason: String,
        /// When the next try is.
        retry_in: Duration,
    },
    /// All services of an instance are bound.
    Bound {
        /// Which.
        instance: InstanceId,
    },
    /// An instance was refused; it is tried again.
    Refused {
        /// Which.
        instance: InstanceId,
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
        /// When it is tried again (zero on the relay, which does not decide that).
        retry_in: Duration,
    },
    /// The ports of an instance were given back.
    Unbound {
        /// Which.
        instance: InstanceId,
    },
    /// A client enrolled with a token.
    Enrolled {
        /// Its name.
        client: Arc<str>,
    },
    /// A path is suspect (`true`) or good again (`false`).
    Suspect {
        /// The client's name at the relay.
        client: Arc<str>,
        /// Whether a heartbeat is overdue.
        suspect: bool,
    },
    /// No lane can be opened beside a QUIC connection that works: TCP to the relay does not get through. Streams that
    /// want a lane use QUIC until it does.
    LanesBlocked {
        /// What the last try failed with.
        reason: String,
    },
    /// Lanes can be opened again.
    LanesBack,
    /// This side shuts down: it takes no new players, and those who are there have this long.
    Draining {
        /// How long, at most.
        grace: Duration,
    },
    /// The other side of a tunnel does.
    PeerDraining {
        /// The client's name at the relay.
        client: Arc<str>,
        /// How long, at most.
        grace: Duration,
    },
    /// The verdict on a service's health has changed.
    HealthChanged {
        /// The instance.
        instance: InstanceId,
        /// Its service.
        service: ServiceName,
        /// The verdict now.
        state: HealthState,
        /// New players are refused until it changes again.
        refuses: bool,
        /// Why it is unhealthy; empty otherwise.
        reason: String,
    },
    /// There are as many players as a limit allows.
    Crowded(Crowded),
    /// A task panicked: it was started again if it serves more than one player. Nothing else was touched.
    Panicked {
        /// What it did.
        task: String,
    },
    /// A remark about the configuration or the machine.
    Warning(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TunnelUp {
                client,
                peer: Some(peer),
                transport,
            } => {
                write!(f, "tunnel of {client} is up over {transport} with {peer}")
            }
            Self::TunnelUp {
                client,
                peer: None,
                transport,
            } => {
                write!(f, "tunnel of {client} is up over {transport}")
            }
            Self::TunnelDown { client, reason } => {
                write!(f, "tunnel of {client} is down: {reason}")
            }
            Self::UdpSilent { peer } => {
                write!(f, "no answer from {peer} over UDP yet: trying TCP, too")
            }
            Self::Fallback {
                client,
                active: true,
            } => write!(
                f,
                "UDP does not get through: TCP lanes carry all of {client}'s tunnel, and UDP is tried again now and then"
            ),
            Self::Fallback {
                client,
                active: false,
            } => write!(f, "UDP gets through again: {client}'s tunnel is on QUIC"),
            Self::Reconnecting { reason, retry_in } => {
                write!(f, "{reason}; next try in {:.1} s", retry_in.as_secs_f64())
            }
            Self::Bound { instance } => write!(f, "instance {instance} is bound"),
            Self::Refused {
                instance,
                code,
                text,
                retry_in,
            } if retry_in.is_zero() => {
                write!(f, "instance {instance} is refused ({code}): {text}")
            }
            Self::Refused {
                instance,
                code,
                text,
                retry_in,
            } => write!(
                f,
                "instance {instance} is refused ({code}): {text}; next try in {:.1} s",
                retry_in.as_secs_f64()
            ),
            Self::Unbound { instance } => write!(f, "instance {instance} is unbound"),
            Self::Enrolled { client } => write!(f, "client {client} has enrolled"),
            Self::Suspect {
                client,
                suspect: true,
            } => {
                write!(f, "tunnel of {client} missed a heartbeat")
            }
            Self::Suspect {
                client,
                suspect: false,
            } => write!(f, "tunnel of {client} answers again"),
            Self::LanesBlocked { reason } => write!(
                f,
                "no TCP connection to the relay ({reason}): everything travels over QUIC until one can be made"
            ),
            Self::LanesBack => write!(f, "TCP connections to the relay can be made again"),
            Self::Draining { grace } => {
                write!(
                    f,
                    "no new players from now on; those who are there have {:.1} s",
                    grace.as_secs_f64()
                )
            }
            Self::PeerDraining { client, grace } => {
                write!(
                    f,
                    "the other side of {client}'s tunnel shuts down: no new players, {:.1} s for those who are there",
                    grace.as_secs_f64()
                )
            }
            Self::HealthChanged {
                instance,
                service,
                state,
                refuses,
                reason,
            } => {
                write!(f, "instance {instance}, service {service} is {state}")?;
                if !reason.is_empty() {
                    write!(f, ": {reason}")?;
                }
                if *refuses {
                    f.write_str("; new players are refused")?;
                }
                Ok(())
            }
            Self::Crowded(crowded) => crowded.fmt(f),
            Self::Panicked { task } => write!(f, "{task} panicked; nothing else was touched"),
            Self::Warning(text) => f.write_str(text),
        }
    }
}

/// A limit that players have met. Told once a minute for each limit, service and address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Crowded {
    /// The instance that the player came to.
    pub instance: InstanceId,
    /// Its service, while a tunnel stands.
    pub service: Option<ServiceName>,
    /// The first public port of the service.
    pub port: u16,
    /// Which limit.
    pub limit: Limit,
    /// What it allows.
    pub most: usize,
    /// Whose share is used up, where each address has one: of IPv6, its /64.
    pub address: Option<IpAddr>,
    /// Who comes is turned away; else what is silent makes room.
    pub refuses: bool,
}

/// A limit of players, by the key that raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// `flows_per_address` of a service.
    FlowsPerAddress,
    /// `max_flows` of a service.
    MaxFlows,
    /// `flows_per_client` of the relay.
    FlowsPerClient,
    /// `flows` of the relay.
    Flows,
    /// `streams_per_address` of the relay.
    StreamsPerAddress,
    /// `streams_per_client` of the relay.
    StreamsPerClient,
    /// `streams` of the relay.
    Streams,
    /// `flows` of the client.
    ClientFlows,
    /// `streams` of the client.
    ClientStreams,
    /// The service's share of the local ports of the client's machine.
    LocalPorts,
    /// The service's share of the descriptors of the client's process.
    Descriptors,
}

impl Limit {
    /// Where it stands, and what it bounds.
    const fn key(self) -> (&'static str, &'static str) {
        match self {
            Self::FlowsPerAddress => ("the service's flows_per_address", "flows"),
            Self::MaxFlows => ("the service's max_flows", "flows"),
            Self::FlowsPerClient => ("the relay's [limits] flows_per_client", "flows"),
            Self::Flows => ("the relay's [limits] flows", "flows"),
            Self::StreamsPerAddress => ("the relay's [limits] streams_per_address", "connections"),
            Self::StreamsPerClient => ("the relay's [limits] streams_per_client", "connections"),
            Self::Streams => ("the relay's [limits] streams", "connections"),
            Self::ClientFlows => ("the client's [limits] flows", "flows"),
            Self::ClientStreams => ("the client's [limits] streams", "connections"),
            Self::LocalPorts => ("its share of net.ipv4.ip_local_port_range", "flows"),
            Self::Descriptors => ("its share of the client's descriptors", "players"),
        }
    }
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {}", self.instance)?;
        if let Some(service) = &self.service {
            write!(f, ", service {service}")?;
        }
        let (key, what) = self.limit.key();
        write!(f, " (port {}): {key} = {} is reached", self.port, self.most)?;
        match self.address {
            Some(IpAddr::V4(v4)) => write!(f, " by {v4}")?,
            Some(IpAddr::V6(v6)) => write!(f, " by {v6}/64")?,
            None => {}
        }
        if self.refuses {
            write!(f, "; new {what} are refused")
        } else {
            write!(f, "; new {what} take the places of silent ones")
        }
    }
}

/// A stream of [`Event`]s. A reader that falls behind loses the oldest and is told how many.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the engine has stopped.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(n)) => Some(Err(Lagged(n))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The reader was too slow: the number of events that are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were lost because they were not read in time")]
pub struct Lagged(pub u64);

/// Where the engine's tasks report.
#[derive(Debug, Clone)]
pub(crate) struct EventSink {
    sender: broadcast::Sender<Event>,
    /// What the first subscriber gets: it hears of what happened before it came, too.
    early: Arc<Mutex<Option<broadcast::Receiver<Event>>>>,
}

impl EventSink {
    pub(crate) fn new() -> Self {
        let (sender, early) = broadcast::channel(QUEUE);
        Self {
            sender,
            early: Arc::new(Mutex::new(Some(early))),
        }
    }

    pub(crate) fn emit(&self, event: Event) {
        // An error says that nobody listens, which is fine.
        drop(self.sender.send(event));
    }

    pub(crate) fn subscribe(&self) -> Events {
        let early = lock(&self.early).take();
        Events(early.unwrap_or_else(|| self.sender.subscribe()))
    }
}

/// 1,024 events: a change of all instances of a large node, and 100 KiB.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_who_met_it_and_the_key_that_raises_it() {
        let mut crowded = Crowded {
            instance: "srv".parse().unwrap(),
            service: Some("game".parse().unwrap()),
            port: 7777,
            limit: Limit::FlowsPerAddress,
            most: 1024,
            address: Some([192, 0, 2, 1].into()),
            refuses: true,
        };
        assert_eq!(
            Event::Crowded(crowded.clone()).to_string(),
            "instance srv, service game (port 7777): the service's flows_per_address = 1024 is reached by 192.0.2.1; \
             new flows are refused"
        );
        crowded.address = Some("2001:db8::".parse().unwrap());
        crowded.refuses = false;
        assert!(
            crowded
                .to_string()
                .ends_with("by 2001:db8::/64; new flows take the places of silent ones")
        );
        (crowded.limit, crowded.address, crowded.service) = (Limit::Streams, None, None);
        crowded.refuses = true;
        assert_eq!(
            crowded.to_string(),
            "instance srv (port 7777): the relay's [limits] streams = 1024 is reached; new connections are refused"
        );
    }

    #[tokio::test]
    async fn the_first_subscriber_hears_what_came_before_it() {
        let sink = EventSink::new();
        sink.emit(Event::Warning("early".into()));
        let (mut first, mut second) = (sink.subscribe(), sink.subscribe());
        sink.emit(Event::Warning("late".into()));
        assert_eq!(first.next().await, Some(Ok(Event::Warning("early".into()))));
        assert_eq!(second.next().await, Some(Ok(Event::Warning("late".into()))));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_lost() {
        let sink = EventSink::new();
        let mut events = sink.subscribe();
        for n in 0..QUEUE + 3 {
            sink.emit(Event::Warning(n.to_string()));
        }
        assert_eq!(events.next().await, Some(Err(Lagged(3))));
        assert_eq!(events.next().await, Some(Ok(Event::Warning("3".into()))));
        drop(sink);
    }
}
