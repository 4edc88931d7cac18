//! Clients that follow no rules, tasks that panic, and an authority that fails, against a relay.

mod authority;
mod handle;
mod health;
mod hostile;
mod isolation;
mod operator;
mod processes;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdp},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
    time::timeout,
};

use super::{shared::Config, *};
use crate::{
    client::{Client, ClientIdentity},
    event::{Event, Events},
    instance::{FlowLimits, Instance, InstanceId, Optimize, PortSet, Protocol, Service},
    join::TokenId,
    key::{self, Psk, PublicKey, SecretKey},
    metrics::Snapshot,
    proto::{
        handshake::{Capabilities, ProcessId, SUPPORTED, Suite},
        message::{Code, Decoder, Message, Revision, ServiceDeclaration, ServiceId},
    },
    sync::lock,
    transport::{Transport, quic},
    tunnel::{fault, stream::Channel},
};

/// Nothing here takes long; what hangs fails the test.
const HANG: Duration = Duration::from_secs(30);

/// An authority whose mind can be changed, and which can fail.
#[derive(Debug, Default)]
struct Desk {
    known: Mutex<HashMap<PublicKey, (Psk, PortSet)>>,
    tokens: Mutex<HashMap<TokenId, Psk>>,
    /// Which questions make it panic.
    panics: Mutex<HashSet<&'static str>>,
    forbidden: Mutex<HashSet<u16>>,
    /// Every token is spent.
    denies: AtomicBool,
    /// A question that waits for the test: it is told of it, and answers when it may.
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    question: &'static str,
    reached: oneshot::Sender<()>,
    open: std::sync::mpsc::Receiver<()>,
}

impl Desk {
    fn knows(&self, client: PublicKey, psk: Psk) {
        lock(&self.known).insert(client, (psk, PortSet::all()));
    }

    fn revoke(&self, client: &PublicKey) {
        lock(&self.known).remove(client);
    }

    fn asked(&self, question: &'static str) {
        assert!(
            !lock(&self.panics).contains(question),
            "the authority fails on purpose"
        );
    }

    /// The next time that it comes to this question, it waits for the end of the second.
    fn close_gate(
        &self,
        question: &'static str,
    ) -> (oneshot::Receiver<()>, std::sync::mpsc::SyncSender<()>) {
        let (reached, at_gate) = oneshot::channel();
        let (opener, open) = std::sync::mpsc::sync_channel(1);
        *lock(&self.gate) = Some(Gate {
            question,
            reached,
            open,
        });
        (at_gate, opener)
    }

    fn wait_at_gate(&self, question: &'static str) {
        let gate = lock(&self.gate).take_if(|gate| gate.question == question);
        if let Some(gate) = gate {
            gate.reached.send(()).unwrap();
            gate.open.recv().unwrap();
        }
    }
}

impl Authority for Desk {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        self.asked("psk");
        match token {
            Some(token) => lock(&self.tokens).get(&token).cloned(),
            None => lock(&self.known).get(client).map(|(psk, _)| psk.clone()),
        }
    }

    fn admit(&self, client: &PublicKey, token: Option<TokenId>) -> Result<Admission, Denial> {
        self.asked("admit");
        if self.denies.load(Ordering::Relaxed) {
            return Err(Denial::TokenUsed);
        }
        let psk = token.map(|_| Psk::generate().unwrap());
        if let Some(psk) = &psk {
            self.knows(*client, psk.clone());
        }
        let known = lock(&self.known).get(client).cloned();
        let (_, ports) = known.ok_or(Denial::Revoked)?;
        // What was found out may be old by the time when it is used.
        self.wait_at_gate("admit");
        Ok(Admission {
            name: format!("node-{}", &client.to_string()[..8].to_lowercase()),
            ports,
            psk,
        })
    }

    fn readmit(&self, client: &PublicKey) -> Result<Admission, Denial> {
        self.asked("readmit");
        self.admit(client, None)
    }

    fn may_bind(
        &self,
        _: &PublicKey,
        _: &Admission,
        service: &ServiceDeclaration,
    ) -> Result<(), String> {
        self.asked("may_bind");
        self.wait_at_gate("may_bind");
        match lock(&self.forbidden).contains(&service.public.first()) {
            true => Err("not this one".into()),
            false => Ok(()),
        }
    }
}

/// A relay, and ports of its own.
struct Site {
    relay: Relay,
    desk: Arc<Desk>,
    port: u16,
}

impl Site {
    async fn new() -> Self {
        Self::with(RelayLimits::default()).await
    }

    async fn with(limits: RelayLimits) -> Self {
        Self::configured(|config| config.limits = limits).await
    }

    async fn configured(configure: impl FnOnce(&mut Config)) -> Self {
        // Below those that the system gives out. Each test has its own; each process begins elsewhere.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let base = 10_000 + 20 * (std::process::id() % 500) as u16;
        let port = base + 20 * NEXT.fetch_add(1, Ordering::Relaxed);
        let desk = Arc::<Desk>::default();
        let mut builder = Relay::builder(SecretKey::generate().unwrap(), desk.clone())
            .listen((Ipv4Addr::LOCALHOST, 0).into())
            .public_bind(Ipv4Addr::LOCALHOST.into());
        configure(&mut builder.config);
        let relay = builder.start().await.unwrap();
        Self { relay, desk, port }
    }

    fn identity(&self) -> ClientIdentity {
        let (secret_key, psk) = (SecretKey::generate().unwrap(), Psk::generate().unwrap());
        self.desk.knows(secret_key.public_key(), psk.clone());
        ClientIdentity {
            relay: self.relay.local_addr().unwrap().into(),
            relay_public_key: self.relay.public_key(),
            secret_key,
            psk,
        }
    }

    /// A client that follows the rules, with these instances bound.
    async fn client(&self, instances: impl IntoIterator<Item = Instance>) -> Client {
        let client = Client::builder(self.identity())
            .instances(instances)
            .start()
            .unwrap();
        soon("the instances' being bound", client.bound())
            .await
            .unwrap();
        client
    }

    fn at(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    async fn tcp(&self, port: u16) -> TcpStream {
        soon("a connection", TcpStream::connect(self.at(port)))
            .await
            .unwrap()
    }

    async fn udp(&self, port: u16) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.at(port)).await.unwrap();
        socket
    }
}

/// A client that says what the test wants it to, over QUIC.
struct Scripted {
    connection: quinn::Connection,
    identity: ClientIdentity,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: Decoder,
    _endpoint: quic::ClientEndpoint,
}

impl Scripted {
    /// Connected, and welcome.
    async fn at(site: &Site) -> Self {
        let mut scripted = Self::connected(site.identity()).await;
        let first = scripted.hear().await;
        assert!(matches!(first, Some(Message::Welcome { .. })), "{first:?}");
        scripted
    }

    /// Proved, and nothing more.
    async fn proven(
        identity: &ClientIdentity,
        process: ProcessId,
    ) -> (quic::ClientEndpoint, quinn::Connection) {
        Self::proven_with(identity, process, Capabilities::SUPPORTED).await
    }

    /// The same with other capabilities.
    async fn proven_with(
        identity: &ClientIdentity,
        process: ProcessId,
        capabilities: Capabilities,
    ) -> (quic::ClientEndpoint, quinn::Connection) {
        let socket = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = quic::client_endpoint(socket, Arc::default()).unwrap();
        let known = quic::ClientIdentity {
            secret_key: identity.secret_key.clone(),
            relay: identity.relay_public_key,
            psk: identity.psk.clone(),
            process,
            versions: SUPPORTED,
            capabilities,
            token: None,
            suite: Suite::fastest(),
        };
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), identity.relay.port);
        let (connection, _) = quic::connect(&endpoint, address, &known).await.unwrap();
        (endpoint, connection)
    }

    /// The control stream is open, and nothing was said on it.
    async fn opened(
        identity: ClientIdentity,
        (endpoint, connection): (quic::ClientEndpoint, quinn::Connection),
    ) -> Self {
        let (send, recv) = connection.open_bi().await.unwrap();
        Self {
            connection,
            identity,
            send,
            recv,
            decoder: Decoder::new(),
            _endpoint: endpoint,
        }
    }

    async fn connected(identity: ClientIdentity) -> Self {
        Self::connected_as(identity, new_process()).await
    }

    async fn connected_as(identity: ClientIdentity, process: ProcessId) -> Self {
        let proven = Self::proven(&identity, process).await;
        let mut scripted = Self::opened(identity, proven).await;
        scripted.ask().await;
        scripted
    }

    /// The first PING, with which the control stream is there for the relay.
    async fn ask(&mut self) {
        let (number, heard) = (0, None);
        self.say(&Message::Ping { number, heard }).await;
    }

    async fn say(&mut self, message: &Message) {
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded);
        self.say_bytes(&encoded).await;
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        // The relay may have ended the tunnel: what it said about it is still to be read.
        drop(soon("room for a message", self.send.write_all(bytes)).await);
    }

    /// The next message that is no heartbeat, of which each is answered; `None` at the end.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            match self.hear_any().await? {
                Message::Ping { number, .. } => self.say(&Message::Pong { number }).await,
                Message::Pong { .. } | Message::Lanes { .. } => {}
                message => return Some(message),
            }
        }
    }

    /// The next message; `None` at the end.
    async fn hear_any(&mut self) -> Option<Message> {
        soon("a message", async {
            loop {
                if let Some(message) = self.decoder.poll_message().unwrap() {
                    return Some(message);
                }
                let chunk = self.recv.read_chunk(4096, true).await.ok()??;
                self.decoder.handle_input(&chunk.bytes);
            }
        })
        .await
    }

    /// The number of the next PING, which is not answered.
    async fn asked(&mut self) -> u64 {
        loop {
            if let Message::Ping { number, .. } = self.hear_any().await.unwrap() {
                return number;
            }
        }
    }

    /// Waits for the answer to a PING, past whatever comes before it.
    async fn hear_pong(&mut self, number: u64) {
        loop {
            match self.decoder.poll_message().unwrap() {
                Some(Message::Pong { number: answered }) if answered == number => return,
                Some(_) => {}
                None => {
                    let chunk = self.recv.read_chunk(4096, true).await.unwrap().unwrap();
                    self.decoder.handle_input(&chunk.bytes);
                }
            }
        }
    }

    /// Declares an instance of one service. Its answer is the next message.
    async fn declare(&mut self, id: &str, service: u32, protocol: Protocol, port: u16) {
        let declare = declaration(id, service, protocol, port);
        self.say(&declare).await;
    }

    /// The same; it is bound.
    async fn bind(&mut self, id: &str, service: u32, protocol: Protocol, port: u16) {
        self.declare(id, service, protocol, port).await;
        let answer = self.hear().await;
        assert!(matches!(answer, Some(Message::Bound { .. })), "{answer:?}");
    }

    /// The goodbye with which the relay ends the tunnel.
    async fn goodbye(&mut self) -> Code {
        let said = self.hear().await;
        let Some(Message::Goodbye { code, .. }) = said else {
            panic!("{said:?}");
        };
        soon("the connection's end", self.connection.closed()).await;
        code
    }

    /// The next stream that the relay opens.
    async fn stream(&self) -> Channel {
        let opened = soon("a stream", self.connection.accept_bi()).await;
        let (send, recv) = opened.unwrap();
        Channel::quic(send, recv)
    }
}

fn declaration(id: &str, service: u32, protocol: Protocol, port: u16) -> Message {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let named = Service::new("game", protocol, target).unwrap();
    Message::Declare {
        instance: id.parse().unwrap(),
        revision: Revision(service.into()),
        services: vec![ServiceDeclaration {
            id: ServiceId(service),
            name: named.name.clone(),
            protocol,
            public: named.public,
            optimize: Optimize::Latency,
            redundancy: crate::instance::Redundancy::Off,
            flows: FlowLimits::default(),
            tells_local: false,
        }],
    }
}

/// A game server that echoes TCP and UDP.
struct Echo {
    address: SocketAddr,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Echo {
    async fn new() -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let tcp = tokio::spawn(async move {
            loop {
                let (mut player, _) = tcp.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = player.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                drop(udp.send_to(&buffer[..length], from).await);
            }
        });
        Self {
            address,
            tasks: [tcp, udp],
        }
    }

    /// An instance that leads here.
    fn instance(&self, id: &str, port: u16) -> Instance {
        let service = Service::new("game", Protocol::Both, self.address).unwrap();
        Instance::new(id, [service.public_port(port).unwrap()]).unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A player of both protocols who must notice nothing of what others do.
struct Neighbour {
    tcp: TcpStream,
    udp: UdpSocket,
    said: u64,
}

impl Neighbour {
    async fn of(site: &Site, port: u16) -> Self {
        let mut neighbour = Self {
            tcp: site.tcp(port).await,
            udp: site.udp(port).await,
            said: 0,
        };
        neighbour.plays().await;
        neighbour
    }

    /// Says something once over each protocol, and hears exactly that: not one packet is lost, doubled or made up.
    async fn plays(&mut self) {
        for _ in 0..3 {
            self.said += 1;
            let said = self.said.to_be_bytes();
            let mut heard = [0; 64];
            self.tcp.write_all(&said).await.unwrap();
            soon("an echo", self.tcp.read_exact(&mut heard[..8]))
                .await
                .unwrap();
            assert_eq!(heard[..8], said);
            self.udp.send(&said).await.unwrap();
            let length = soon("an answer", self.udp.recv(&mut heard)).await.unwrap();
            assert_eq!(heard[..length], said);
        }
    }
}

fn new_process() -> ProcessId {
    ProcessId::from(key::random::<16>().unwrap())
}

/// The output of a future that must not take for ever.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(HANG, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come in {HANG:?}"),
    }
}

/// Waits until something is true.
async fn until(what: &str, holds: impl Fn() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// How a player's connection ends.
async fn is_reset(player: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match soon("the end of a connection", player.read(&mut buffer)).await {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
