//! What the tests with real sockets share: a laboratory with a relay, its clients, game servers and players.
//!
//! Every laboratory has a loopback address of its own, so that tests that run side by side never want the same port.
#![allow(dead_code, reason = "no test binary uses all of it")]

pub(crate) mod forward;
pub(crate) mod servers;

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::net::{TcpStream, UdpSocket};
use tunnel_core::{
    Transport,
    client::{Client, ClientIdentity, ClientLimits},
    instance::{FlowLimits, Instance, PortSet, Service},
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    mem,
    proto::{message::Code, session::client::InstanceState},
    relay::{Admission, Authority, Denial, Relay, RelayBuilder},
};

use forward::Forwarder;

/// After so long without what a test waits for, it has failed. No test asserts anything about shorter times.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// How clients reach their relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// UDP and TCP get through.
    Quic,
    /// The same, through a router that can cut, freeze and move.
    Router,
    /// Only TCP gets through.
    Lane,
    /// The network in memory.
    Mem,
}

/// A relay and what its clients need to reach it.
pub(crate) struct Lab {
    pub(crate) via: Via,
    pub(crate) relay: Option<Relay>,
    pub(crate) roster: Arc<Roster>,
    /// The laboratory's own loopback address: public ports, targets and players are on it.
    pub(crate) ip: IpAddr,
    /// The first of 50 ports that are its own too, below those that the system gives out.
    pub(crate) port: u16,
    secret_key: SecretKey,
    network: mem::Network,
    forwarder: Option<Forwarder>,
    listen: Option<SocketAddr>,
    build: Box<dyn Fn(RelayBuilder) -> RelayBuilder + Send + Sync>,
}

impl Lab {
    /// A laboratory whose relay runs.
    pub(crate) async fn new(via: Via) -> Self {
        Self::with(via, |builder| builder).await
    }

    /// The same with a relay that is set up otherwise.
    pub(crate) async fn with(
        via: Via,
        build: impl Fn(RelayBuilder) -> RelayBuilder + Send + Sync + 'static,
    ) -> Self {
        let mut lab = Self {
            via,
            relay: None,
            roster: Arc::default(),
            ip: own_ip().into(),
            port: 10_000 + 50 * (u16::from_le_bytes(random::<2>()) % 400),
            secret_key: SecretKey::generate().unwrap(),
            network: mem::Network::new(),
            forwarder: None,
            listen: None,
            build: Box::new(build),
        };
        lab.start_relay().await;
        lab.forwarder = match via {
            Via::Lane => Some(Forwarder::start(lab.ip, lab.listen.unwrap()).await),
            Via::Router => Some(Forwarder::router(lab.ip, lab.listen.unwrap()).await),
            Via::Quic | Via::Mem => None,
        };
        lab
    }

    /// Starts the relay (again, on the same port).
    pub(crate) async fn start_relay(&mut self) {
        let listen = self.listen.unwrap_or(SocketAddr::new(self.ip, 0));
        let relay = waited("the relay's port", async || {
            let builder =
                Relay::builder(self.secret_key.clone(), self.roster.clone()).public_bind(self.ip);
            let builder = match self.via {
                Via::Mem => builder.mem(&self.network),
                Via::Quic | Via::Router | Via::Lane => builder.listen(listen),
            };
            (self.build)(builder).start().await.ok()
        })
        .await;
        self.listen = relay.local_addr();
        self.relay = Some(relay);
    }

    pub(crate) fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    pub(crate) fn forwarder(&self) -> &Forwarder {
        self.forwarder.as_ref().unwrap()
    }

    /// Where the relay listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.unwrap()
    }

    /// The identity of a new client that may have every port.
    pub(crate) fn identity(&self) -> ClientIdentity {
        self.identity_with(PortSet::all())
    }

    /// The identity of a new client that may have these ports.
    pub(crate) fn identity_with(&self, ports: PortSet) -> ClientIdentity {
        let secret_key = SecretKey::generate().unwrap();
        let psk = Psk::generate().unwrap();
        self.roster
            .admit(secret_key.public_key(), psk.clone(), ports);
        let address = match self.via {
            Via::Quic => self.listen(),
            Via::Router | Via::Lane => self.forwarder().address(),
            Via::Mem => SocketAddr::new(self.ip, 9),
        };
        ClientIdentity::new(
            address.into(),
            self.secret_key.public_key(),
            secret_key,
            psk,
        )
    }

    /// Starts a client with this identity.
    pub(crate) fn start(
        &self,
        identity: ClientIdentity,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Client {
        self.start_with(identity, instances, ClientLimits::default())
    }

    /// The same with other limits.
    pub(crate) fn start_with(
        &self,
        identity: ClientIdentity,
        instances: impl IntoIterator<Item = Instance>,
        limits: ClientLimits,
    ) -> Client {
        let mut builder = Client::builder(identity)
            .instances(instances)
            .limits(limits);
        if self.via == Via::Mem {
            builder = builder.mem(&self.network);
        }
        builder.start().unwrap()
    }

    /// A new client with these instances, all of them bound.
    pub(crate) async fn client(&self, instances: impl IntoIterator<Item = Instance>) -> Client {
        let client = self.start(self.identity(), instances);
        hang("the instances' being bound", client.bound())
            .await
            .unwrap();
        let expected = match self.via {
            Via::Quic | Via::Router => Transport::Quic,
            Via::Lane => Transport::Lane,
            Via::Mem => Transport::Mem,
        };
        // Where the machine is so busy that QUIC needs longer than its head start, the client comes up on a lane and goes
        // over to QUIC afterwards.
        waited("the transport", async || {
            (client.status().await.unwrap().transport == Some(expected)).then_some(())
        })
        .await;
        hang("the instances' being bound", client.bound())
            .await
            .unwrap();
        client
    }

    /// An address of the laboratory.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Connects a player to a public port.
    pub(crate) async fn tcp(&self, port: u16) -> TcpStream {
        hang("a player's connect", TcpStream::connect(self.at(port)))
            .await
            .unwrap()
    }

    /// A player's UDP socket, connected to a public port.
    pub(crate) async fn udp(&self, port: u16) -> UdpSocket {
        let socket = UdpSocket::bind(SocketAddr::new(self.ip, 0)).await.unwrap();
        socket.connect(self.at(port)).await.unwrap();
        socket
    }

    /// Ends the relay in peace and at once.
    pub(crate) async fn stop_relay(&mut self) {
        let relay = self.relay.take().unwrap();
        hang("the relay's end", relay.shutdown(Duration::ZERO)).await;
    }
}

/// An authority whose mind can be changed.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<HashMap<PublicKey, (Psk, PortSet)>>);

impl Roster {
    pub(crate) fn admit(&self, client: PublicKey, psk: Psk, ports: PortSet) {
        self.0.lock().unwrap().insert(client, (psk, ports));
    }

    pub(crate) fn revoke(&self, client: &PublicKey) {
        self.0.lock().unwrap().remove(client);
    }

    pub(crate) fn permit(&self, client: &PublicKey, ports: PortSet) {
        self.0.lock().unwrap().get_mut(client).unwrap().1 = ports;
    }
}

impl Authority for Roster {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        let known = self.0.lock().unwrap();
        let (psk, _) = known.get(client).filter(|_| token.is_none())?;
        Some(psk.clone())
    }

    fn admit(&self, client: &PublicKey, _token: Option<TokenId>) -> Result<Admission, Denial> {
        let known = self.0.lock().unwrap();
        let (_, ports) = known.get(client).ok_or(Denial::Revoked)?;
        Ok(Admission {
            name: format!("node-{}", &client.to_string()[..8]),
            ports: ports.clone(),
            psk: None,
        })
    }
}

/// A service `name` on `public` that leads to `target`, of protocol `tcp`, `udp` or `both`.
pub(crate) fn service(
    name: &str,
    protocol: &str,
    public: impl ToString,
    target: impl ToString,
) -> Service {
    let target = target.to_string();
    let service = Service::new(name, protocol.parse().unwrap(), &*target).unwrap();
    let public = public.to_string().parse().unwrap();
    service.public_ports(public).unwrap()
}

/// The service with other bounds of its flows.
pub(crate) fn bounded(service: Service, change: impl FnOnce(&mut FlowLimits)) -> Service {
    let mut flows = service.flow_limits();
    change(&mut flows);
    service.with_flow_limits(flows).unwrap()
}

pub(crate) fn instance(id: &str, services: impl IntoIterator<Item = Service>) -> Instance {
    Instance::new(id, services).unwrap()
}

/// An instance of one service.
pub(crate) fn simple(
    id: &str,
    protocol: &str,
    public: impl ToString,
    target: impl ToString,
) -> Instance {
    instance(id, [service("game", protocol, public, target)])
}

/// Waits until this very instance is bound.
pub(crate) async fn bound(client: &Client, wanted: &Instance) {
    waited("an instance's being bound", async || {
        let status = client.status().await.unwrap();
        let mut instances = status.instances.iter();
        instances
            .any(|(it, state)| it == wanted && state.is_bound())
            .then_some(())
    })
    .await;
}

/// Waits until an instance is refused, and says why.
pub(crate) async fn refused(client: &Client, id: &str) -> Code {
    waited("an instance's being refused", async || {
        let status = client.status().await.unwrap();
        let found = status
            .instances
            .iter()
            .find(|(it, _)| it.id().as_str() == id);
        match found {
            Some((_, InstanceState::Refused { code, .. })) => Some(*code),
            _ => None,
        }
    })
    .await
}

/// The output of a future that must not take for ever.
pub(crate) async fn hang<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come in {HANG:?}"),
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn waited<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    hang(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Waits until something is true.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    waited(what, async || holds().then_some(())).await;
}

/// A port that is free on every address, TCP and UDP, outside of what the system gives out by itself and of what
/// laboratories have.
pub(crate) fn free_port() -> u16 {
    let any = IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED);
    loop {
        let port = 30_100 + u16::from_le_bytes(random::<2>()) % 2_600;
        let free = std::net::TcpListener::bind((any, port)).is_ok()
            && std::net::UdpSocket::bind((any, port)).is_ok();
        if free {
            return port;
        }
    }
}

/// A loopback address that no other laboratory of this or another process has.
fn own_ip() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 16 bits of the process' number and 8 of the laboratory's; 127.0.x.y is what other programs use.
    let lab = NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, if high == 0 { 255 } else { high }, low, lab as u8)
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(32) {
        // The engine's own source; a test needs no other.
        let key = SecretKey::generate().unwrap();
        chunk.copy_from_slice(&key.as_bytes()[..chunk.len()]);
    }
    bytes
}
