//! Finds a way to the relay: QUIC where UDP gets through, else a lane.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    event::{Event, EventSink},
    instance::{Host, HostPort},
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
    tunnel::{
        datagrams::lock,
        lanes::{Granted, Lane},
    },
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
    /// One UDP socket for each address family, made when it is first needed.
    endpoints: Mutex<[Option<quinn::Endpoint>; 2]>,
    /// What the kernel granted lanes.
    granted: Granted,
    /// The operator has been told that UDP is silent.
    is_silent: AtomicBool,
    events: Option<EventSink>,
    /// Without it, as if UDP were blocked.
    udp: bool,
}

/// What leads to a relay.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Net(HostPort),
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
    /// `quic`, `lane` or `mem`.
    pub(crate) name: &'static str,
}

#[derive(Debug)]
pub(crate) enum Transport {
    Quic(quinn::Connection),
    Lane(Lane),
}

/// Which transports a try may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// QUIC first, a lane if that stays silent.
    Any,
    /// Both at once: it was a lane that worked last.
    Both,
    /// QUIC only: lanes work already.
    QuicOnly,
}

/// Why no way was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {0}: {1}")]
    Resolve(HostPort, #[source] io::Error),
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
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] io::Error),
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
    ) -> Self {
        Self(Arc::new(Inner {
            place,
            relay_public_key,
            secret_key,
            process,
            suite: Suite::fastest(),
            endpoints: Mutex::default(),
            granted: Granted::default(),
            is_silent: AtomicBool::new(false),
            events,
            udp,
        }))
    }

    /// Tries every address of the relay, and every transport allowed.
    pub(crate) async fn dial(
        &self,
        credential: &Credential,
        ways: Ways,
    ) -> Result<Established, DialError> {
        let relay = match &self.0.place {
            Place::Mem(network) => {
                let io = network.connect().await.map_err(LaneError::from)?;
                return self.first_lane(Io::Mem(io), None, "mem", credential).await;
            }
            Place::Net(relay) => relay,
        };
        let addresses = resolve(relay).await?;
        let mut last = DialError::NoAddress(relay.clone());
        for address in addresses {
            let mut lane = None;
            let tried = self.dial_one(address, credential, ways, &mut lane);
            match tokio::time::timeout(DIAL_PATIENCE, tried).await {
                Ok(Ok(established)) => {
                    self.0.is_silent.store(false, Ordering::Relaxed);
                    return Ok(established);
                }
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let silent = DialError::Silent(DIAL_PATIENCE);
                    // UDP may be blocked: what the lane met says more.
                    last = match lane {
                        Some(lane) => both(&silent, &lane),
                        None => silent,
                    };
                }
            }
        }
        Err(last)
    }

    /// A TCP connection (or its like in memory) for a further lane.
    pub(crate) async fn connect_lane(&self, peer: Option<SocketAddr>) -> io::Result<Io> {
        match (&self.0.place, peer) {
            (Place::Mem(network), _) => Ok(Io::Mem(network.connect().await?)),
            (Place::Net(_), Some(peer)) => self.connect_tcp(peer).await,
            (Place::Net(_), None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn dial_one(
        &self,
        address: SocketAddr,
        credential: &Credential,
        ways: Ways,
        failed_lane: &mut Option<DialError>,
    ) -> Result<Established, DialError> {
        let head_start = match ways {
            Ways::Both => Duration::ZERO,
            Ways::Any | Ways::QuicOnly => QUIC_HEAD_START,
        };
        let quic = self.dial_quic(address, credential);
        if ways == Ways::QuicOnly {
            return quic.await;
        }
        let lane = async {
            let io = self.connect_tcp(address).await.map_err(LaneError::from)?;
            self.first_lane(io, Some(address), "lane", credential).await
        };
        tokio::pin!(quic);
        let silent = tokio::select! {
            quic = &mut quic => match quic {
                Ok(established) => return Ok(established),
                Err(error) => Some(error),
            },
            () = tokio::time::sleep(head_start) => None,
        };
        if silent.is_none()
            && ways == Ways::Any
            && !self.0.is_silent.swap(true, Ordering::Relaxed)
            && let Some(events) = &self.0.events
        {
            events.emit(Event::UdpSilent { peer: address });
        }
        if let Some(quic) = silent {
            return lane_after(&quic, lane).await;
        }
        tokio::pin!(lane);
        tokio::select! {
            quic = &mut quic => match quic {
                Ok(established) => Ok(established),
                Err(quic) => lane_after(&quic, lane).await,
            },
            lane = &mut lane => match lane {
                Ok(established) => Ok(established),
                Err(lane) => {
                    let lane = failed_lane.insert(lane);
                    quic.await.map_err(|quic| both(&quic, lane))
                }
            },
        }
    }

    async fn dial_quic(
        &self,
        address: SocketAddr,
        credential: &Credential,
    ) -> Result<Established, DialError> {
        if !self.0.udp {
            return Err(DialError::Socket(io::ErrorKind::Unsupported.into()));
        }
        let endpoint = self.endpoint(address).map_err(DialError::Socket)?;
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
            transport: Transport::Quic(connection),
            peer: Some(address),
            relay: answer.process,
            capabilities: answer.capabilities,
            secret,
            name: "quic",
        })
    }

    async fn first_lane(
        &self,
        io: Io,
        peer: Option<SocketAddr>,
        name: &'static str,
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
        let socket = tokio::net::TcpStream::connect(address).await?;
        let remark = self.0.granted.note(lane::tune(&socket));
        if let (Some(remark), Some(events)) = (remark, &self.0.events) {
            events.emit(Event::Warning(remark));
        }
        Ok(Io::Tcp(socket))
    }

    fn endpoint(&self, address: SocketAddr) -> io::Result<quinn::Endpoint> {
        let mut endpoints = lock(&self.0.endpoints);
        let (place, any) = match address {
            SocketAddr::V4(_) => (0, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (1, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        if let Some(endpoint) = &endpoints[place] {
            return Ok(endpoint.clone());
        }
        let udp = socket::bind_udp(any)?;
        socket::grow_buffers(&udp, socket::TUNNEL_BUFFER);
        let endpoint = quic::client_endpoint(udp, Arc::default())?;
        endpoints[place] = Some(endpoint.clone());
        Ok(endpoint)
    }
}

async fn resolve(relay: &HostPort) -> Result<Vec<SocketAddr>, DialError> {
    match &relay.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, relay.port)]),
        Host::Name(name) => {
            let found = tokio::net::lookup_host((&**name, relay.port)).await;
            Ok(found
                .map_err(|error| DialError::Resolve(relay.clone(), error))?
                .collect())
        }
    }
}

fn agreed(answer: &Answer) -> Result<u32, VersionMismatch> {
    SUPPORTED.agreed(&answer.versions)
}

/// The lane once QUIC has failed. That is the answer of a relay which is there, or of a host where none listens: a lane
/// to it opens soon or never.
async fn lane_after(
    quic: &DialError,
    lane: impl Future<Output = Result<Established, DialError>>,
) -> Result<Established, DialError> {
    tokio::time::timeout(LANE_PATIENCE, lane)
        .await
        .unwrap_or(Err(DialError::Silent(LANE_PATIENCE)))
        .map_err(|lane| both(quic, &lane))
}

fn both(quic: &DialError, lane: &DialError) -> DialError {
    DialError::Both {
        quic: quic.to_string(),
        lane: lane.to_string(),
    }
}

/// Head start of QUIC before a lane is tried beside it: 1 s, three round trips of a long path.
const QUIC_HEAD_START: Duration = Duration::from_secs(1);
/// How long a lane is tried after QUIC has failed: 3 s, a lost SYN among it.
const LANE_PATIENCE: Duration = Duration::from_secs(3);
/// How long one address is tried.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
