//! Stand-ins for game servers, and what players do with them.

use std::{
    hash::{DefaultHasher, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};

use super::hang;

/// A game server that runs until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    /// Where datagrams came from, each once, in order.
    seen: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Server {
    /// Echoes TCP, with half-close.
    pub(crate) async fn tcp(ip: IpAddr) -> Self {
        Self::tcp_at(SocketAddr::new(ip, 0)).await
    }

    pub(crate) async fn tcp_at(address: SocketAddr) -> Self {
        let mut server = Self::nothing(address);
        server.add_tcp(TcpListener::bind(address).await.unwrap());
        server
    }

    /// Echoes UDP.
    pub(crate) async fn udp(ip: IpAddr) -> Self {
        Self::udp_at(SocketAddr::new(ip, 0)).await
    }

    pub(crate) async fn udp_at(address: SocketAddr) -> Self {
        Self::udp_marked(address, &[]).await
    }

    /// Echoes UDP with a mark before each answer, to be told from others.
    pub(crate) async fn udp_marked(address: SocketAddr, mark: &[u8]) -> Self {
        let mut server = Self::nothing(address);
        server.add_udp(UdpSocket::bind(address).await.unwrap(), mark);
        server
    }

    /// Answers each datagram with the port that it came from, and the datagram.
    pub(crate) async fn udp_witness(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        let mut server = Self::nothing(socket.local_addr().unwrap());
        server.tasks.push(tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                // An error is that of an earlier answer: its player has gone.
                let Ok((length, player)) = socket.recv_from(&mut buffer).await else {
                    continue;
                };
                let answer = [&player.port().to_be_bytes()[..], &buffer[..length]].concat();
                drop(socket.send_to(&answer, player).await);
            }
        }));
        server
    }

    /// Echoes TCP and UDP on one port.
    pub(crate) async fn both(ip: IpAddr) -> Self {
        loop {
            let tcp = TcpListener::bind((ip, 0)).await.unwrap();
            let address = tcp.local_addr().unwrap();
            if let Ok(udp) = UdpSocket::bind(address).await {
                let mut server = Self::nothing(address);
                server.add_tcp(tcp);
                server.add_udp(udp, &[]);
                return server;
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where datagrams have come from so far, each once.
    pub(crate) fn players(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap().clone()
    }

    fn nothing(address: SocketAddr) -> Self {
        Self {
            address,
            tasks: Vec::new(),
            seen: Arc::default(),
        }
    }

    fn add_tcp(&mut self, listener: TcpListener) {
        self.address = listener.local_addr().unwrap();
        self.tasks.push(tokio::spawn(async move {
            loop {
                let (mut player, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = player.split();
                    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                        // The player may have gone already.
                        drop(to.shutdown().await);
                    }
                });
            }
        }));
    }

    fn add_udp(&mut self, socket: UdpSocket, mark: &[u8]) {
        self.address = socket.local_addr().unwrap();
        let seen = self.seen.clone();
        let mark = mark.to_vec();
        self.tasks.push(tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                // An error is that of an earlier answer: its player has gone.
                let Ok((length, player)) = socket.recv_from(&mut buffer).await else {
                    continue;
                };
                {
                    let mut seen = seen.lock().unwrap();
                    if !seen.contains(&player) {
                        seen.push(player);
                    }
                }
                let answer = [&mark[..], &buffer[..length]].concat();
                drop(socket.send_to(&answer, player).await);
            }
        }));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A listener on a port that the system picks.
pub(crate) async fn listener(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The next player of a game server.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    hang("a player at the game server", listener.accept())
        .await
        .unwrap()
        .0
}

/// Says something to an echo and expects it back.
pub(crate) async fn tcp_echo(player: &mut TcpStream, text: &[u8]) {
    let mut back = vec![0; text.len()];
    hang("a TCP echo", async {
        player.write_all(text).await.unwrap();
        player.read_exact(&mut back).await.unwrap();
    })
    .await;
    assert_eq!(back, text);
}

/// Everything that comes until the end.
pub(crate) async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    hang("the end of a stream", stream.read_to_end(&mut all)).await?;
    Ok(all)
}

/// How a connection ended under a reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Reset,
}

/// Reads until the connection ends, and says how.
pub(crate) async fn end_of(stream: &mut TcpStream) -> End {
    let mut buffer = [0; 4096];
    loop {
        match hang("the end of a connection", stream.read(&mut buffer)).await {
            Ok(0) => return End::Clean,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return End::Reset;
            }
        }
    }
}

/// Sends a datagram until its echo comes: a path may lose one.
pub(crate) async fn udp_echo(player: &UdpSocket, payload: &[u8]) {
    udp_answer(player, payload, payload).await;
}

/// Sends a datagram until this answer comes.
pub(crate) async fn udp_answer(player: &UdpSocket, payload: &[u8], answer: &[u8]) {
    let mut buffer = vec![0; 65_535];
    hang("a UDP answer", async {
        loop {
            // ICMP of an earlier one: the port may not have been open yet.
            drop(player.send(payload).await);
            let again = tokio::time::Instant::now() + AGAIN;
            while let Ok(received) = tokio::time::timeout_at(again, player.recv(&mut buffer)).await
            {
                // Answers to earlier tries may still come.
                if received.is_ok_and(|length| buffer[..length] == *answer) {
                    return;
                }
            }
        }
    })
    .await;
}

/// Asks a [`Server::udp_witness`] until it answers: which port the game takes the player for.
pub(crate) async fn udp_seen(player: &UdpSocket, payload: &[u8]) -> u16 {
    let mut buffer = vec![0; 65_535];
    hang("a UDP answer", async {
        loop {
            drop(player.send(payload).await);
            let again = tokio::time::Instant::now() + AGAIN;
            while let Ok(received) = tokio::time::timeout_at(again, player.recv(&mut buffer)).await
            {
                if received.is_ok_and(|length| buffer[2..length] == *payload) {
                    return u16::from_be_bytes([buffer[0], buffer[1]]);
                }
            }
        }
    })
    .await
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    let stream = socket2::Socket::from(stream.into_std().unwrap());
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Writes until nobody takes anything any more, by the count of what was taken.
pub(crate) async fn stuff(stream: &TcpStream, taken: impl Fn() -> u64) {
    let block = vec![7; 64 * 1024];
    loop {
        let before = taken();
        match tokio::time::timeout(CALM, stream.writable()).await {
            Ok(writable) => {
                writable.unwrap();
                drop(stream.try_write(&block));
            }
            Err(_) if taken() == before => return,
            Err(_) => {}
        }
    }
}

/// `length` bytes that are different at every place and for every seed.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What a bulk transfer is checked by: as many bytes as went in, and the same ones.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    length: u64,
    hash: u64,
}

impl Checksum {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

/// Writes `blocks` blocks of 256 KiB, ends, and says what that was.
pub(crate) async fn pour(
    stream: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    blocks: u64,
) -> Checksum {
    pour_while(stream, seed, |block| block < blocks).await
}

/// Writes blocks of 256 KiB as long as `goes_on` says of the next one's number, ends, and says what that was.
pub(crate) async fn pour_while(
    stream: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    goes_on: impl Fn(u64) -> bool,
) -> Checksum {
    let mut hasher = DefaultHasher::new();
    let mut block = 0;
    while goes_on(block) {
        let bytes = pattern(seed ^ (block << 32), BLOCK);
        hasher.write(&bytes);
        hang("room for a block", stream.write_all(&bytes))
            .await
            .unwrap();
        block += 1;
    }
    stream.shutdown().await.unwrap();
    Checksum {
        length: block * BLOCK as u64,
        hash: hasher.finish(),
    }
}

/// Reads to the end, and says what that was.
pub(crate) async fn drain(stream: &mut (impl AsyncReadExt + Unpin)) -> Checksum {
    let mut hasher = DefaultHasher::new();
    let mut length = 0;
    let mut block = vec![0; BLOCK];
    let mut filled = 0;
    loop {
        let read = hang("more of a bulk transfer", stream.read(&mut block[filled..])).await;
        let read = read.unwrap();
        filled += read;
        length += read as u64;
        // A hasher may count the pieces in: they are cut as they were sent.
        if filled == BLOCK || (read == 0 && filled > 0) {
            hasher.write(&block[..filled]);
            filled = 0;
        }
        if read == 0 {
            return Checksum {
                length,
                hash: hasher.finish(),
            };
        }
    }
}

const BLOCK: usize = 256 * 1024;
/// No movement for so long: a connection is stalled. To take one for stalled that is not only makes a test easier.
pub(crate) const CALM: Duration = Duration::from_millis(500);
/// When a datagram without an answer is sent again.
const AGAIN: Duration = Duration::from_millis(250);
