//! A relay that was taken over, against a client: it reaches nothing but what the client has configured.

mod health;
mod misbehaving;
mod names;
mod parked;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdp},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, UdpSocket},
    time::timeout,
};

use crate::{
    client::{Client, ClientIdentity, ClientLimits},
    instance::{Instance, Protocol, Service},
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, Kind},
        handshake::{Capabilities, ProcessId, SUPPORTED},
        message::{Message, ServiceDeclaration, ServiceId},
        session::relay::{RelayEvent, RelaySession},
        stream::frame::{Frame, ResetCode, StreamHeader, StreamId},
    },
    transport::{
        PskSource,
        admission::{Admission, AdmissionLimits},
        quic,
    },
    tunnel::{
        control,
        stream::{ChannelRx, ChannelTx, Item},
    },
};

/// Nothing here takes long; what hangs fails the test.
const HANG: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Knows(Psk);

impl PskSource for Knows {
    fn psk(&self, _: &PublicKey, _: Option<TokenId>) -> Option<Psk> {
        Some(self.0.clone())
    }
}

/// A relay that has let a client in and knows what it declared.
struct Hostile {
    connection: quinn::Connection,
    services: Vec<ServiceDeclaration>,
    control: control::Control,
    endpoint: quinn::Endpoint,
    relay_key: SecretKey,
    psk: Psk,
}

impl Hostile {
    /// The client `builder` gives, connected to a relay that does as the test wishes.
    async fn over(instance: Instance) -> (Self, Client) {
        Self::over_with(instance, ClientLimits::default()).await
    }

    async fn over_with(instance: Instance, limits: ClientLimits) -> (Self, Client) {
        let (relay_key, psk) = (SecretKey::generate().unwrap(), Psk::generate().unwrap());
        let (endpoint, address) = relay_endpoint(&relay_key, &psk);
        let client = Client::builder(identity_at(address, &relay_key, &psk))
            .instances([instance])
            .limits(limits)
            .start()
            .unwrap();
        let relay = Self::let_in(endpoint, relay_key, psk).await;
        client.bound().await.unwrap();
        (relay, client)
    }

    /// The next process of this relay, at the same address, once its client has come back. The one before it says nothing
    /// when it goes.
    async fn followed_by(self, process: u8) -> Self {
        let address = self.endpoint.local_addr().unwrap();
        let (relay_key, psk) = (self.relay_key, self.psk);
        self.connection.close(quinn::VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
        drop((self.connection, self.control, self.endpoint));
        let endpoint = timeout(HANG, async {
            loop {
                match StdUdp::bind(address) {
                    Ok(socket) => return relay_endpoint_on(socket, &relay_key, &psk, process),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        Self::let_in(endpoint.await.unwrap(), relay_key, psk).await
    }

    /// Lets the client in and binds what it declares first.
    async fn let_in(endpoint: quinn::Endpoint, relay_key: SecretKey, psk: Psk) -> Self {
        let answered = quic::answer(endpoint.accept().await.unwrap());
        let connection = answered.unwrap().accepted(HANG).await.unwrap().connection;
        let (send, recv) = connection.accept_bi().await.unwrap();
        let mut control = control::over_quic(send, recv);
        let mut session = RelaySession::new(Instant::now(), 1, HANG, "node-1", None);
        let services = loop {
            while let Some(message) = session.poll_message() {
                control.tx.send(message).await.unwrap();
            }
            let message = control.rx.recv().await.unwrap().unwrap();
            session.handle_message(Instant::now(), message).unwrap();
            if let Some(RelayEvent::Declare {
                instance,
                revision,
                services,
            }) = session.poll_event()
            {
                control
                    .tx
                    .send(Message::Bound { instance, revision })
                    .await
                    .unwrap();
                break services;
            }
        };
        Self {
            connection,
            services,
            control,
            endpoint,
            relay_key,
            psk,
        }
    }

    fn id(&self, name: &str) -> ServiceId {
        self.services
            .iter()
            .find(|service| service.name.as_str() == name)
            .unwrap()
            .id
    }

    /// What the client says to a stream that names this.
    async fn open(&self, service: ServiceId, port_index: u16) -> Item {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        let (mut tx, mut rx) = (ChannelTx::quic(send), ChannelRx::quic(recv));
        let header = StreamHeader {
            stream: next_stream(),
            service,
            port_index,
            player: player(),
            local: player(),
        };
        tx.write(Some(Frame::Open(header)), None).await.unwrap();
        timeout(HANG, rx.read()).await.unwrap().unwrap()
    }

    fn send(&self, flow: u64, service: ServiceId, port_index: u16, payload: &[u8]) {
        let open = FlowOpen {
            service,
            port_index,
            player: player(),
            local: None,
        };
        self.say(flow, Some(open), payload);
    }

    /// A datagram of a flow, as the test wishes.
    fn say(&self, flow: u64, open: Option<FlowOpen>, payload: &[u8]) {
        let mut head = DatagramHead::data(FlowId(flow));
        head.open = open;
        let mut out = BytesMut::new();
        head.encode(&mut out);
        out.extend_from_slice(payload);
        self.connection.send_datagram(out.freeze()).unwrap();
    }
}

/// A relay's endpoint, and the identity of a client that it knows.
fn relay_and_identity() -> (quinn::Endpoint, ClientIdentity) {
    let (relay_key, psk) = (SecretKey::generate().unwrap(), Psk::generate().unwrap());
    let (endpoint, address) = relay_endpoint(&relay_key, &psk);
    (endpoint, identity_at(address, &relay_key, &psk))
}

/// A client of the relay at this address.
fn identity_at(address: SocketAddr, relay_key: &SecretKey, psk: &Psk) -> ClientIdentity {
    ClientIdentity {
        relay: address.into(),
        relay_public_key: relay_key.public_key(),
        secret_key: SecretKey::generate().unwrap(),
        psk: psk.clone(),
    }
}

/// Where a relay of this identity that knows one client listens.
fn relay_endpoint(relay_key: &SecretKey, psk: &Psk) -> (quinn::Endpoint, SocketAddr) {
    let socket = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (relay_endpoint_on(socket, relay_key, psk, 1), address)
}

/// The endpoint of one process of that relay.
fn relay_endpoint_on(
    socket: StdUdp,
    relay_key: &SecretKey,
    psk: &Psk,
    process: u8,
) -> quinn::Endpoint {
    relay_endpoint_that_can(socket, relay_key, psk, process, Capabilities::SUPPORTED)
}

/// The same with other capabilities.
fn relay_endpoint_that_can(
    socket: StdUdp,
    relay_key: &SecretKey,
    psk: &Psk,
    process: u8,
    capabilities: Capabilities,
) -> quinn::Endpoint {
    let identity = quic::RelayIdentity {
        secret_key: relay_key.clone(),
        process: ProcessId::from([process; 16]),
        versions: SUPPORTED,
        capabilities,
        psks: Arc::new(Knows(psk.clone())),
    };
    let admission = Admission::shared(AdmissionLimits::default());
    quic::relay_endpoint(socket, identity, admission, Arc::default()).unwrap()
}

/// None is ever used again.
fn next_stream() -> StreamId {
    static NEXT: AtomicU64 = AtomicU64::new(1_000);
    StreamId(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn player() -> SocketAddr {
    "192.0.2.1:1000".parse().unwrap()
}

fn service(name: &str, protocol: Protocol, target: SocketAddr) -> Service {
    Service::new(name, protocol, target).unwrap()
}

fn is_no_service(item: &Item) -> bool {
    matches!(
        item,
        Item::Frame(Frame::Reset {
            code: ResetCode::NoService
        })
    )
}

#[tokio::test]
async fn a_hostile_relay_reaches_no_target_that_is_not_configured() {
    // The client's own targets, and beside each a port that it has not configured.
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let services = [
        service("stream", Protocol::Tcp, tcp.local_addr().unwrap()),
        service("flow", Protocol::Udp, udp.local_addr().unwrap()),
    ];
    let canary = UdpSocket::bind(tcp.local_addr().unwrap()).await;
    let (relay, client) = Hostile::over(Instance::new("srv", services).unwrap()).await;
    let (stream, flow) = (relay.id("stream"), relay.id("flow"));

    // Services that do not exist, ports outside the range, and the other protocol.
    for unknown in [0, flow.0 + 1, 999, u32::MAX] {
        assert!(
            is_no_service(&relay.open(ServiceId(unknown), 0).await),
            "{unknown}"
        );
    }
    for index in [1, 2, 1024, u16::MAX] {
        assert!(is_no_service(&relay.open(stream, index).await), "{index}");
    }
    assert!(is_no_service(&relay.open(flow, 0).await));
    relay.send(1, ServiceId(999), 0, b"unknown service");
    relay.send(2, flow, 1, b"port outside the range");
    relay.send(3, stream, 0, b"a service without UDP");
    relay.send(4, ServiceId(u32::MAX), u16::MAX, b"both");

    // What it may name still works, and comes after all of that.
    relay.send(5, flow, 0, b"hello");
    let mut buffer = [0; 64];
    let (length, _) = timeout(HANG, udp.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..length], b"hello");
    let (opened, _) = tokio::join!(relay.open_and_hold(stream), async {
        let (mut socket, _) = timeout(HANG, tcp.accept()).await.unwrap().unwrap();
        let mut one = [0];
        socket.read_exact(&mut one).await.unwrap();
        assert_eq!(&one, b"x");
    });
    drop(opened);
    let counters = client.metrics();
    assert_eq!(counters.stream_no_service, 9);
    assert_eq!(counters.drop_unknown_service, 4);
    assert_eq!((counters.streams_opened, counters.flows_opened), (1, 1));
    assert!(udp.try_recv(&mut buffer).is_err());
    if let Ok(canary) = canary {
        assert!(canary.try_recv(&mut buffer).is_err());
    }
}

impl Hostile {
    /// Opens a stream that the client has, and sends a byte on it.
    async fn open_and_hold(&self, service: ServiceId) -> ChannelTx {
        let (send, _recv) = self.connection.open_bi().await.unwrap();
        let mut tx = ChannelTx::quic(send);
        let header = StreamHeader {
            stream: StreamId(2),
            service,
            port_index: 0,
            player: player(),
            local: player(),
        };
        tx.write(Some(Frame::Open(header)), Some("x".into()))
            .await
            .unwrap();
        tx
    }
}

#[tokio::test]
async fn what_a_relay_makes_up_ends_one_stream_or_nothing() {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let flow = service("flow", Protocol::Udp, udp.local_addr().unwrap());
    let (relay, client) = Hostile::over(Instance::new("srv", [flow]).unwrap()).await;
    // Streams that begin with anything but OPEN.
    let mut random = 1_u64;
    for _ in 0..64 {
        let (mut send, mut recv) = relay.connection.open_bi().await.unwrap();
        let bytes: Vec<u8> = (0..40)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 56) as u8
            })
            .collect();
        // The client may have ended it already.
        drop(send.write_all(&bytes).await);
        drop(send.finish());
        timeout(HANG, recv.read_to_end(4096)).await.unwrap().ok();
    }
    // Datagrams of every length and kind that mean nothing, and a known flow without its OPEN.
    for length in 0..64 {
        relay
            .connection
            .send_datagram(vec![0xff; length].into())
            .unwrap();
        relay
            .connection
            .send_datagram(vec![length as u8; length].into())
            .unwrap();
    }
    let mut unopened = BytesMut::new();
    DatagramHead::data(FlowId(77)).encode(&mut unopened);
    relay.connection.send_datagram(unopened.freeze()).unwrap();
    let mut close = BytesMut::new();
    DatagramHead {
        kind: Kind::Close,
        ..DatagramHead::data(FlowId(78))
    }
    .encode(&mut close);
    relay.connection.send_datagram(close.freeze()).unwrap();
    // The client lives.
    relay.send(5, relay.id("flow"), 0, b"hello");
    let mut buffer = [0; 64];
    let (length, _) = timeout(HANG, udp.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..length], b"hello");
    assert_eq!(client.metrics().panics, 0);
    assert_eq!(client.metrics().flows_opened, 1);
    assert!(client.metrics().drop_malformed > 0);
}
