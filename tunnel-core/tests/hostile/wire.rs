//! The enemy on the path: everything between one client and its relay goes through it, UDP and TCP.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::support::until;

/// Which way something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToRelay,
    ToClient,
}

impl Way {
    pub(crate) fn back(self) -> Self {
        match self {
            Self::ToRelay => Self::ToClient,
            Self::ToClient => Self::ToRelay,
        }
    }
}

/// What becomes of a datagram: any number of them, each any way.
type Datagrams = Box<dyn FnMut(Way, &[u8]) -> Vec<(Way, Vec<u8>)> + Send>;
/// What becomes of the bytes that one read of a connection gave. The number is the connection's, from 0.
type Chunks = Box<dyn FnMut(usize, Way, &mut Vec<u8>) + Send>;

pub(crate) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    relay: SocketAddr,
    /// Where the client sends to, and where the relay sees it come from.
    front: UdpSocket,
    back: UdpSocket,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<SocketAddr>,
    datagrams: Vec<(Way, Vec<u8>)>,
    meddle: Option<Datagrams>,
    connections: Vec<Recorded>,
    running: Vec<JoinHandle<()>>,
    meddle_tcp: Option<Chunks>,
    /// Whether all but the first that comes on each TCP connection for the relay is kept back.
    holds: watch::Sender<bool>,
}

/// What went over a TCP connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    pub(crate) to_relay: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
}

impl Wire {
    /// It lets everything through, and remembers it.
    pub(crate) async fn start(ip: IpAddr, relay: SocketAddr) -> Self {
        let (listener, front) = loop {
            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            if let Ok(front) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, front);
            }
        };
        let shared = Arc::new(Shared {
            relay,
            front,
            back: UdpSocket::bind((ip, 0)).await.unwrap(),
            state: Mutex::default(),
        });
        let (up, down, tcp) = (shared.clone(), shared.clone(), shared.clone());
        let tasks = vec![
            tokio::spawn(async move { up.carry(Way::ToRelay).await }),
            tokio::spawn(async move { down.carry(Way::ToClient).await }),
            tokio::spawn(async move { tcp.accept(&listener).await }),
        ];
        Self {
            address: shared.front.local_addr().unwrap(),
            shared,
            tasks,
        }
    }

    /// Where the client believes its relay to be.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this with every datagram from now on.
    pub(crate) fn meddle(
        &self,
        with: impl FnMut(Way, &[u8]) -> Vec<(Way, Vec<u8>)> + Send + 'static,
    ) {
        self.shared.state.lock().unwrap().meddle = Some(Box::new(with));
    }

    /// Lets no datagram through any more.
    pub(crate) fn block_udp(&self) {
        self.meddle(|_, _| Vec::new());
    }

    /// Does this with the bytes of TCP connections from now on.
    pub(crate) fn meddle_tcp(&self, with: impl FnMut(usize, Way, &mut Vec<u8>) + Send + 'static) {
        self.shared.state.lock().unwrap().meddle_tcp = Some(Box::new(with));
    }

    /// Keeps back what comes for the relay on TCP connections behind each one's first bytes, until it is released.
    pub(crate) fn hold_tcp(&self, holds: bool) {
        let state = self.shared.state.lock().unwrap();
        state.holds.send_replace(holds);
    }

    /// Every datagram so far that went this way.
    pub(crate) fn datagrams(&self, way: Way) -> Vec<Vec<u8>> {
        let state = self.shared.state.lock().unwrap();
        let went = state.datagrams.iter().filter(|(it, _)| *it == way);
        went.map(|(_, datagram)| datagram.clone()).collect()
    }

    /// Every TCP connection so far.
    pub(crate) fn connections(&self) -> Vec<Recorded> {
        self.shared.state.lock().unwrap().connections.clone()
    }

    /// Cuts it through: what goes over it ends, and nothing gets on it any more.
    pub(crate) fn cut(&self) {
        for task in &self.tasks {
            task.abort();
        }
        for connection in &self.shared.state.lock().unwrap().running {
            connection.abort();
        }
    }

    /// Sends a datagram as if the one end had sent it to the other.
    pub(crate) async fn inject(&self, way: Way, datagram: &[u8]) {
        self.shared.send(way, datagram).await;
    }

    /// The first datagram that the client sends.
    pub(crate) async fn first_datagram(&self) -> Vec<u8> {
        until("a first datagram", || {
            !self.datagrams(Way::ToRelay).is_empty()
        })
        .await;
        self.datagrams(Way::ToRelay).remove(0)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    async fn carry(&self, way: Way) {
        let socket = match way {
            Way::ToRelay => &self.front,
            Way::ToClient => &self.back,
        };
        let mut buffer = vec![0; 65_535];
        loop {
            // An error is that of an earlier datagram: the other end has gone.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let datagram = &buffer[..length];
            let becomes = {
                let mut state = self.state.lock().unwrap();
                if way == Way::ToRelay {
                    state.client = Some(from);
                }
                state.datagrams.push((way, datagram.to_vec()));
                match &mut state.meddle {
                    Some(meddle) => meddle(way, datagram),
                    None => vec![(way, datagram.to_vec())],
                }
            };
            for (way, datagram) in becomes {
                self.send(way, &datagram).await;
            }
        }
    }

    async fn send(&self, way: Way, datagram: &[u8]) {
        let client = self.state.lock().unwrap().client;
        // An end that has gone is no fault of the wire.
        drop(match way {
            Way::ToRelay => self.back.send_to(datagram, self.relay).await,
            Way::ToClient => self.front.send_to(datagram, client.unwrap()).await,
        });
    }

    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let number = {
                let mut state = self.state.lock().unwrap();
                state.connections.push(Recorded::default());
                state.connections.len() - 1
            };
            let running = tokio::spawn(self.clone().connection(number, client));
            self.state.lock().unwrap().running.push(running);
        }
    }

    async fn connection(self: Arc<Self>, number: usize, client: TcpStream) {
        let Ok(relay) = TcpStream::connect(self.relay).await else {
            return;
        };
        client.set_nodelay(true).unwrap();
        relay.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_relay, to_relay) = relay.into_split();
        tokio::join!(
            self.pipe(number, Way::ToRelay, from_client, to_relay),
            self.pipe(number, Way::ToClient, from_relay, to_client),
        );
    }

    async fn pipe(&self, number: usize, way: Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        let mut holds = self.state.lock().unwrap().holds.subscribe();
        let mut is_first = true;
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else {
                // The end of one direction goes on; dropping the half says so.
                return;
            };
            let mut chunk = buffer[..length].to_vec();
            {
                let mut state = self.state.lock().unwrap();
                let recorded = &mut state.connections[number];
                match way {
                    Way::ToRelay => recorded.to_relay.extend_from_slice(&chunk),
                    Way::ToClient => recorded.to_client.extend_from_slice(&chunk),
                }
                if let Some(meddle) = &mut state.meddle_tcp {
                    meddle(number, way, &mut chunk);
                }
            }
            if way == Way::ToRelay && !std::mem::take(&mut is_first) {
                holds.wait_for(|holds| !holds).await.unwrap();
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    }
}
