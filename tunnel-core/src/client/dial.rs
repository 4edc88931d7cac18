//! Connects to the relay: does what an [`Attempt`] decides, with sockets and handshakes.
//!
//! Each try of QUIC leaves from a port of its own: where a network has dropped what the last one sent, it need not drop this.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    client::{
        addresses::{ADDRESSES_MAX, Addresses},
        policy::attempt::{Action, Attempt, Failure, Over, Silent, Strategy},
        ports::{LocalPorts, Purpose},
        race::Race,
    },
    event::{Event, EventSink},
    instance::HostPort,
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    proto::handshake::{
        Answer, Capabilities, Hello, ProcessId, SUPPORTED, Secret, Suite, VersionMismatch,
    },
    socket,
    transport::{
        Transport,
        lane::{self, Io, LaneError},
        mem,
        quic::{self, QuicConnectError},
    },
    tunnel::{
        futures::sleep_until,
        lane::{Granted, Lane},
    },
};

/// Where the relay is, and who connects.
#[derive(Debug, Clone)]
pub(crate) struct Dialer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: RelayEndpoint,
    identity: DialerIdentity,
    suite: Suite,
    /// What the kernel granted lanes.
    granted: Granted,
    /// The operator has been told that UDP is silent.
    is_silent: AtomicBool,
    events: Option<EventSink>,
    /// Without it, as if UDP were blocked.
    udp: bool,
    /// What the tunnel's sockets have their local ports of.
    ports: Arc<LocalPorts>,
}

/// Who connects, and to whom.
#[derive(Debug)]
pub(crate) struct DialerIdentity {
    pub(crate) relay_public_key: PublicKey,
    pub(crate) secret_key: SecretKey,
    pub(crate) process: ProcessId,
}

/// Where a relay is reached.
#[derive(Debug, Clone)]
pub(crate) enum RelayEndpoint {
    Net(Arc<Addresses>),
    Mem(mem::Network),
}

/// The credential of one try.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) psk: Psk,
    pub(crate) token: Option<TokenId>,
}

/// What opens further lanes of a tunnel.
#[derive(Debug, Clone)]
pub(crate) struct FurtherSecret {
    pub(crate) exporter: Secret,
    pub(crate) suite: Suite,
}

/// A connection to the relay, proven on both sides.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) terms: Terms,
}

#[derive(Debug)]
pub(crate) enum Connection {
    Quic(quinn::Connection, quic::ClientEndpoint),
    Lane(Lane),
}

/// What a handshake has settled.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) transport: Transport,
    pub(crate) peer: Option<SocketAddr>,
    /// The relay's process.
    pub(crate) relay: ProcessId,
    /// What both sides can do.
    pub(crate) capabilities: Capabilities,
    /// Opens further lanes.
    pub(crate) secret: FurtherSecret,
}

/// Why no way was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {0}: {1}")]
    Resolve(HostPort, #[source] Arc<io::Error>),
    #[error("cannot resolve {0}: {1}; where it was: {2}")]
    NotThere(HostPort, #[source] Arc<io::Error>, Box<Self>),
    #[error("{0} has no address")]
    NoAddress(HostPort),
    #[error("QUIC: {quic}; lane: {lane}")]
    Both { quic: String, lane: String },
    #[error("QUIC: {0}")]
    Quic(#[from] QuicConnectError),
    #[error("lane: {0}")]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    #[error("the connection broke at once: {0}")]
    Broken(#[from] quinn::ConnectionError),
    #[error("no UDP: {0}")]
    Udp(#[source] io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl From<Silent> for DialError {
    fn from(Silent(patience): Silent) -> Self {
        Self::Silent(patience)
    }
}

impl From<Failure<Self>> for DialError {
    fn from(failure: Failure<Self>) -> Self {
        match failure {
            Failure::One(error) => error,
            Failure::Both { quic, lane } => Self::Both {
                quic: quic.to_string(),
                lane: lane.to_string(),
            },
        }
    }
}

impl Dialer {
    /// A dialer of this relay. Without `udp` it does as if UDP were blocked.
    pub(crate) fn new(
        endpoint: RelayEndpoint,
        identity: DialerIdentity,
        events: Option<EventSink>,
        udp: bool,
        ports: Arc<LocalPorts>,
    ) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            identity,
            suite: Suite::fastest(),
            granted: Granted::default(),
            is_silent: AtomicBool::new(false),
            events,
            udp,
            ports,
        }))
    }

    /// The key of the relay that it leads to.
    pub(crate) fn relay_public_key(&self) -> PublicKey {
        self.0.identity.relay_public_key
    }

    /// One attempt to reach the relay, at all of its addresses.
    pub(crate) async fn dial(
        &self,
        credential: &Credential,
        strategy: Strategy,
    ) -> Result<Established, DialError> {
        let addresses = match &self.0.endpoint {
            RelayEndpoint::Mem(network) => {
                let io = network.connect().await.map_err(LaneError::from)?;
                return self.first_lane(Io::Mem(io), None, credential).await;
            }
            RelayEndpoint::Net(addresses) => addresses,
        };
        let mut candidates = addresses.candidates();
        let mut attempt = Attempt::new(now(), strategy, ADDRESSES_MAX + 1);
        let mut tries = Race::new(2 * (ADDRESSES_MAX + 1));
        let failure = loop {
            while let Some(action) = attempt.poll_action() {
                match action {
                    Action::Try(address, over) => {
                        tries.add((address, over), self.dial_over(address, over, credential));
                    }
                    Action::GiveUp(address) => tries.retain(|(it, _)| *it != address),
                    Action::TellSilent(address) => self.tell_silent(address),
                }
            }
            if candidates.is_dry() {
                attempt.handle_dry();
            }
            if attempt.has_ended() {
                break attempt.into_failure();
            }
            tokio::select! {
                biased;
                ((address, over), tried) = tries.next() => match tried {
                    Ok(established) => {
                        addresses.handle_reached(address);
                        self.0.is_silent.store(false, Ordering::Relaxed);
                        return Ok(established);
                    }
                    Err(error) => attempt.handle_failed(now(), address, over, error),
                },
                next = candidates.next(), if attempt.wants_address() => match next {
                    Some(address) => attempt.handle_address(now(), address),
                    None => attempt.handle_no_address(),
                },
                () = sleep_until(attempt.poll_timeout()) => attempt.handle_timeout(now()),
            }
        };
        let relay = addresses.relay().clone();
        Err(match (candidates.failed(), failure.map(DialError::from)) {
            (Some(error), Some(last)) => DialError::NotThere(relay, error, Box::new(last)),
            (Some(error), None) => DialError::Resolve(relay, error),
            (None, Some(last)) => last,
            (None, None) => DialError::NoAddress(relay),
        })
    }

    /// A TCP connection (or its like in memory) for a further lane.
    pub(crate) async fn connect_lane(&self, peer: Option<SocketAddr>) -> io::Result<Io> {
        match (&self.0.endpoint, peer) {
            (RelayEndpoint::Mem(network), _) => Ok(Io::Mem(network.connect().await?)),
            (RelayEndpoint::Net(_), Some(peer)) => self.connect_tcp(peer).await,
            (RelayEndpoint::Net(_), None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// One try of one address.
    async fn dial_over(
        &self,
        address: SocketAddr,
        over: Over,
        credential: &Credential,
    ) -> Result<Established, DialError> {
        match over {
            Over::Quic => self.dial_quic(address, credential).await,
            Over::Lane => {
                let io = self.connect_tcp(address).await.map_err(LaneError::from)?;
                self.first_lane(io, Some(address), credential).await
            }
        }
    }

    /// Tells the operator once that UDP is silent, until something has been established.
    fn tell_silent(&self, peer: SocketAddr) {
        if !self.0.is_silent.swap(true, Ordering::Relaxed)
            && let Some(events) = &self.0.events
        {
            events.emit(Event::UdpSilent { peer });
        }
    }

    async fn dial_quic(
        &self,
        address: SocketAddr,
        credential: &Credential,
    ) -> Result<Established, DialError> {
        if !self.0.udp {
            return Err(DialError::Udp(io::ErrorKind::Unsupported.into()));
        }
        let endpoint = endpoint(&self.0.ports, address).map_err(DialError::Udp)?;
        let identity = quic::ClientIdentity {
            secret_key: self.0.identity.secret_key.clone(),
            relay: self.0.identity.relay_public_key,
            psk: credential.psk.clone(),
            process: self.0.identity.process,
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            token: credential.token,
            suite: self.0.suite,
        };
        let (connection, answer) = quic::connect(&endpoint, address, &identity).await?;
        let secret = FurtherSecret {
            exporter: quic::lane_secret(&connection),
            suite: self.0.suite,
        };
        let terms = Terms {
            transport: Transport::Quic,
            peer: Some(address),
            relay: answer.process,
            capabilities: Capabilities::SUPPORTED.common(answer.capabilities),
            secret,
        };
        let connection = Connection::Quic(connection, endpoint);
        Ok(Established { connection, terms })
    }

    async fn first_lane(
        &self,
        io: Io,
        peer: Option<SocketAddr>,
        credential: &Credential,
    ) -> Result<Established, DialError> {
        let hello = Hello {
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            process: self.0.identity.process,
            token: credential.token,
            transport_parameters: None,
        };
        let inner = &self.0;
        let (lane, answer, exporter) = lane::connect_first(
            io,
            inner.suite,
            &inner.identity.secret_key,
            &inner.identity.relay_public_key,
            &credential.psk,
            &hello,
        )
        .await?;
        agreed(&answer)?;
        let secret = FurtherSecret {
            exporter,
            suite: inner.suite,
        };
        let transport = match &self.0.endpoint {
            RelayEndpoint::Net(_) => Transport::Lane,
            RelayEndpoint::Mem(_) => Transport::Mem,
        };
        let terms = Terms {
            transport,
            peer,
            relay: answer.process,
            capabilities: Capabilities::SUPPORTED.common(answer.capabilities),
            secret,
        };
        let connection = Connection::Lane(Box::new(lane));
        Ok(Established { connection, terms })
    }

    /// The congestion control of lanes, as the kernel names it.
    pub(crate) fn lane_congestion(&self) -> Option<String> {
        self.0.granted.congestion()
    }

    async fn connect_tcp(&self, address: SocketAddr) -> io::Result<Io> {
        let socket = self.0.ports.tcp(Purpose::Tunnel, address).await?;
        let remark = self.0.granted.note(lane::tune(&socket));
        if let (Some(remark), Some(events)) = (remark, &self.0.events) {
            events.emit(Event::Warning(remark));
        }
        Ok(Io::Tcp(socket))
    }
}

/// A UDP socket of its own. It goes with the connection that is made on it, or with the try that made none.
fn endpoint(ports: &LocalPorts, address: SocketAddr) -> io::Result<quic::ClientEndpoint> {
    // Without a network quinn would wait for an answer all the same, and each socket say so in the log.
    ports.source_towards(address)?;
    quic::client_endpoint(tunnel_socket(ports, address)?, Arc::default())
}

/// What QUIC to the relay leaves from.
pub(crate) fn tunnel_socket(
    ports: &LocalPorts,
    address: SocketAddr,
) -> io::Result<std::net::UdpSocket> {
    let udp = ports.bound_udp(Purpose::Tunnel, address)?;
    socket::grow_buffers(&udp, socket::TUNNEL_BUFFER);
    Ok(udp)
}

fn agreed(answer: &Answer) -> Result<u32, VersionMismatch> {
    SUPPORTED.agreed(&answer.versions)
}

/// As tokio's timers see it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
