//! Finds a way to the relay: at whichever of its addresses answers, QUIC where UDP gets through, else a lane.
//!
//! Addresses and transports are tried side by side, each a little after the one before or as soon as that has failed (RFC
//! 8305), so that one which is silent delays no other. Each try of QUIC leaves from a port of its own: where a network has
//! dropped what the last one sent, it need not drop this.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::{
        addresses::{ADDRESSES_MAX, Addresses},
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
        lane::{self, Io, LaneError},
        mem,
        quic::{self, QuicConnectError},
    },
    tunnel::lane::{Granted, Lane},
};

/// Where the relay is, and who connects.
#[derive(Debug, Clone)]
pub(crate) struct Dialer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    relay_public_key: PublicKey,
    secret_key: SecretKey,
    process: ProcessId,
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

/// What leads to a relay.
#[derive(Debug, Clone)]
pub(crate) enum Place {
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

/// A way to the relay, proven on both sides.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) transport: Transport,
    pub(crate) peer: Option<SocketAddr>,
    /// The relay's process.
    pub(crate) relay: ProcessId,
    /// What the relay can do.
    pub(crate) capabilities: Capabilities,
    /// Opens further lanes.
    pub(crate) secret: FurtherSecret,
    /// What it runs on.
    pub(crate) name: crate::Transport,
}

#[derive(Debug)]
pub(crate) enum Transport {
    Quic(quinn::Connection, quic::ClientEndpoint),
    Lane(Lane),
}

/// Which transports a try may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// QUIC first, a lane if that stays silent.
    Any,
    /// The same sooner: what carries everything may be gone.
    Racing,
    /// Both at once: it was a lane that worked last.
    Both,
    /// QUIC only: lanes work already.
    QuicOnly,
}

impl Ways {
    const fn head_start(self) -> Duration {
        match self {
            Self::Both => Duration::ZERO,
            Self::Racing => QUIC_HEAD_START_RACING,
            Self::Any | Self::QuicOnly => QUIC_HEAD_START,
        }
    }
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

impl Dialer {
    pub(crate) fn new(
        place: Place,
        relay_public_key: PublicKey,
        secret_key: SecretKey,
        process: ProcessId,
        events: Option<EventSink>,
        udp: bool,
        ports: Arc<LocalPorts>,
    ) -> Self {
        Self(Arc::new(Inner {
            place,
            relay_public_key,
            secret_key,
            process,
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
        self.0.relay_public_key
    }

    /// Tries every address of the relay, and every transport allowed.
    pub(crate) async fn dial(
        &self,
        credential: &Credential,
        ways: Ways,
    ) -> Result<Established, DialError> {
        let addresses = match &self.0.place {
            Place::Mem(network) => {
                let io = network.connect().await.map_err(LaneError::from)?;
                return self
                    .first_lane(Io::Mem(io), None, crate::Transport::Mem, credential)
                    .await;
            }
            Place::Net(addresses) => addresses,
        };
        let mut candidates = addresses.candidates();
        let mut tries = Race::new(ADDRESSES_MAX + 1);
        let (mut last, mut is_last, mut next_at) = (None, false, Instant::now());
        loop {
            // What else a look-up may find is for the next try, or a resolver that hangs would hold this one.
            if tries.is_empty() && last.is_some() && candidates.is_dry() {
                is_last = true;
            }
            let next = async {
                tokio::time::sleep_until(next_at).await;
                candidates.next().await
            };
            tokio::select! {
                biased;
                (address, tried) = tries.next(), if !tries.is_empty() => match tried {
                    Ok(established) => {
                        addresses.handle_reached(address);
                        self.0.is_silent.store(false, Ordering::Relaxed);
                        return Ok(established);
                    }
                    Err(error) => {
                        last = Some(error);
                        next_at = Instant::now();
                    }
                },
                next = next, if !is_last => match next {
                    Some(address) => {
                        tries.add(async move {
                            (address, self.dial_address(address, credential, ways).await)
                        });
                        next_at = Instant::now() + STAGGER;
                    }
                    None => is_last = true,
                },
                else => break,
            }
        }
        let relay = addresses.relay().clone();
        Err(match (candidates.failed(), last) {
            (Some(error), Some(last)) => DialError::NotThere(relay, error, Box::new(last)),
            (Some(error), None) => DialError::Resolve(relay, error),
            (None, Some(last)) => last,
            (None, None) => DialError::NoAddress(relay),
        })
    }

    /// A TCP connection (or its like in memory) for a further lane.
    pub(crate) async fn connect_lane(&self, peer: Option<SocketAddr>) -> io::Result<Io> {
        match (&self.0.place, peer) {
            (Place::Mem(network), _) => Ok(Io::Mem(network.connect().await?)),
            (Place::Net(_), Some(peer)) => self.connect_tcp(peer).await,
            (Place::Net(_), None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Tries one address for as long as it may take.
    async fn dial_address(
        &self,
        address: SocketAddr,
        credential: &Credential,
        ways: Ways,
    ) -> Result<Established, DialError> {
        let quic = self.dial_quic(address, credential);
        if ways == Ways::QuicOnly {
            return within(DIAL_PATIENCE, quic).await;
        }
        let lane = async {
            let io = self.connect_tcp(address).await.map_err(LaneError::from)?;
            self.first_lane(io, Some(address), crate::Transport::Lane, credential)
                .await
        };
        let (mut quic, mut lane) = (Box::pin(quic), Box::pin(lane));
        let head_start = tokio::time::sleep(ways.head_start());
        tokio::select! {
            tried = &mut quic => return match tried {
                Ok(established) => Ok(established),
                Err(quic) => within(REST_PATIENCE, lane).await.map_err(|lane| both(&quic, &lane)),
            },
            () = head_start => {}
        }
        if ways == Ways::Any
            && !self.0.is_silent.swap(true, Ordering::Relaxed)
            && let Some(events) = &self.0.events
        {
            events.emit(Event::UdpSilent { peer: address });
        }
        let tried = async {
            tokio::select! {
                tried = &mut quic => match tried {
                    Ok(established) => Ok(established),
                    Err(quic) => within(REST_PATIENCE, lane).await.map_err(|lane| both(&quic, &lane)),
                },
                tried = &mut lane => match tried {
                    Ok(established) => Ok(established),
                    Err(lane) => within(REST_PATIENCE, quic).await.map_err(|quic| both(&quic, &lane)),
                },
            }
        };
        within(DIAL_PATIENCE, tried).await
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
            secret_key: self.0.secret_key.clone(),
            relay: self.0.relay_public_key,
            psk: credential.psk.clone(),
            process: self.0.process,
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
        Ok(Established {
            transport: Transport::Quic(connection, endpoint),
            peer: Some(address),
            relay: answer.process,
            capabilities: answer.capabilities,
            secret,
            name: crate::Transport::Quic,
        })
    }

    async fn first_lane(
        &self,
        io: Io,
        peer: Option<SocketAddr>,
        name: crate::Transport,
        credential: &Credential,
    ) -> Result<Established, DialError> {
        let hello = Hello {
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            process: self.0.process,
            token: credential.token,
            transport_parameters: None,
        };
        let inner = &self.0;
        let (lane, answer, exporter) = lane::connect_first(
            io,
            inner.suite,
            &inner.secret_key,
            &inner.relay_public_key,
            &credential.psk,
            &hello,
        )
        .await?;
        agreed(&answer)?;
        let secret = FurtherSecret {
            exporter,
            suite: inner.suite,
        };
        Ok(Established {
            transport: Transport::Lane(Box::new(lane)),
            peer,
            relay: answer.process,
            capabilities: answer.capabilities,
            secret,
            name,
        })
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

async fn within(
    patience: Duration,
    tried: impl Future<Output = Result<Established, DialError>>,
) -> Result<Established, DialError> {
    tokio::time::timeout(patience, tried)
        .await
        .unwrap_or(Err(DialError::Silent(patience)))
}

fn both(quic: &DialError, lane: &DialError) -> DialError {
    DialError::Both {
        quic: quic.to_string(),
        lane: lane.to_string(),
    }
}

/// Head start of an address before the next is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// Head start of QUIC before a lane is tried beside it: 1 s, three round trips of a long path.
const QUIC_HEAD_START: Duration = Duration::from_secs(1);
/// The same while a path is suspect: 100 ms. A lane takes two round trips more anyhow, and players wait.
const QUIC_HEAD_START_RACING: Duration = Duration::from_millis(100);
/// How long one transport is tried on when the other has failed. That is the answer of a relay which is there, of a host
/// where none listens, or of a firewall: 2 s, in which what was lost is repeated once. Then a fresh try finds more.
const REST_PATIENCE: Duration = Duration::from_secs(2);
/// How long one address is tried.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
