//! A way to the relay that can go dark: UDP and TCP through sockets of this process.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Carries everything between one client and the relay, unless it is dark.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    /// Of datagrams and of bytes.
    dark: [watch::Sender<bool>; 2],
}

impl Proxy {
    pub(crate) async fn start(relay: SocketAddr) -> io::Result<Self> {
        let (tcp, front) = bind().await?;
        let address = tcp.local_addr()?;
        let back = UdpSocket::bind("127.0.0.1:0").await?;
        back.connect(relay).await?;
        let dark = [false; 2].map(watch::Sender::new);
        tokio::spawn(carry_datagrams(front, back, dark[0].subscribe()));
        let lights = dark[1].subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = tcp.accept().await {
                tokio::spawn(carry_connection(client, relay, lights.clone()));
            }
        });
        Ok(Self { address, dark })
    }

    /// Where the client connects.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether UDP and TCP are kept from passing from now on. Datagrams are lost, bytes wait as they would in the kernel of a
    /// machine that sends them again and again.
    pub(crate) fn set_dark(&self, dark: [bool; 2]) {
        for (sender, dark) in self.dark.iter().zip(dark) {
            sender.send_replace(dark);
        }
    }
}

/// Both sockets on one number.
async fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    for _ in 0..DRAWS {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr()?).await {
            return Ok((tcp, udp));
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

async fn carry_datagrams(front: UdpSocket, back: UdpSocket, dark: watch::Receiver<bool>) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    loop {
        // An error is the news that the relay was not there a moment ago, which is the client's business.
        tokio::select! {
            received = front.recv_from(&mut up) => {
                let is_dark = *dark.borrow();
                if let (Ok((length, from)), false) = (received, is_dark) {
                    client = Some(from);
                    back.send(&up[..length]).await.ok();
                }
            }
            received = back.recv(&mut down) => {
                let is_dark = *dark.borrow();
                if let (Ok(length), Some(client), false) = (received, client, is_dark) {
                    front.send_to(&down[..length], client).await.ok();
                }
            }
        }
    }
}

async fn carry_connection(client: TcpStream, relay: SocketAddr, lights: watch::Receiver<bool>) {
    lit(&mut lights.clone()).await;
    let Ok(relay) = TcpStream::connect(relay).await else {
        return;
    };
    for socket in [&client, &relay] {
        // What does not work costs some latency.
        socket.set_nodelay(true).ok();
    }
    let ((client_rx, client_tx), (relay_rx, relay_tx)) = (client.into_split(), relay.into_split());
    tokio::spawn(carry_bytes(client_rx, relay_tx, lights.clone()));
    tokio::spawn(carry_bytes(relay_rx, client_tx, lights));
}

async fn carry_bytes(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut lights: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16_384];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        lit(&mut lights).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    lit(&mut lights).await;
    // It may be gone.
    to.shutdown().await.ok();
}

async fn lit(lights: &mut watch::Receiver<bool>) {
    // Nobody is left to make it dark: then it is not.
    lights.wait_for(|dark| !dark).await.ok();
}

/// Ports tried: one that is free for TCP is free for UDP nearly always.
const DRAWS: usize = 16;
