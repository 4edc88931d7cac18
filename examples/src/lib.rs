//! What the examples share: a game server that echoes, and a player who measures.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// A stand-in for a game server: echoes TCP and UDP on one port of 127.0.0.1, which it returns.
pub async fn echo_server() -> io::Result<SocketAddr> {
    // The system picks the TCP port; the UDP port of the same number is usually free, and if not, the next is tried.
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr()?).await {
            break (tcp, udp);
        }
    };
    let address = tcp.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut player, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = player.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, player)) = udp.recv_from(&mut buffer).await {
            if udp.send_to(&buffer[..length], player).await.is_err() {
                break;
            }
        }
    });
    Ok(address)
}

/// A port that is free for TCP and UDP on 127.0.0.1 at this moment.
pub async fn free_port() -> io::Result<u16> {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        if UdpSocket::bind(tcp.local_addr()?).await.is_ok() {
            return Ok(tcp.local_addr()?.port());
        }
    }
}

/// Round trips of `size` bytes over one TCP connection.
pub async fn tcp_round_trips(
    to: SocketAddr,
    size: usize,
    count: usize,
) -> io::Result<Vec<Duration>> {
    let mut player = TcpStream::connect(to).await?;
    player.set_nodelay(true)?;
    let (sent, mut received) = (vec![0x5a; size], vec![0; size]);
    let mut trips = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        player.write_all(&sent).await?;
        player.read_exact(&mut received).await?;
        trips.push(start.elapsed());
    }
    Ok(trips)
}

/// Round trips of `size` bytes over UDP. What is lost, is tried again.
pub async fn udp_round_trips(
    to: SocketAddr,
    size: usize,
    count: usize,
) -> io::Result<Vec<Duration>> {
    let player = UdpSocket::bind("127.0.0.1:0").await?;
    player.connect(to).await?;
    let (sent, mut received) = (vec![0x5a; size], vec![0; 65_535]);
    let mut trips = Vec::with_capacity(count);
    while trips.len() < count {
        let start = Instant::now();
        player.send(&sent).await?;
        let answer = tokio::time::timeout(Duration::from_secs(1), player.recv(&mut received));
        match answer.await {
            Ok(Ok(length)) if length == size => trips.push(start.elapsed()),
            Ok(Err(error)) => return Err(error),
            _ => {}
        }
    }
    Ok(trips)
}

/// Sends `bytes` through an echo over one TCP connection and returns how long it took; every byte is checked.
pub async fn tcp_bulk(to: SocketAddr, bytes: usize) -> io::Result<Duration> {
    let mut player = TcpStream::connect(to).await?;
    let (mut from, mut into) = player.split();
    let start = Instant::now();
    let send = async {
        let block: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK).collect();
        let mut left = bytes;
        while left > 0 {
            let now = left.min(BLOCK);
            into.write_all(&block[..now]).await?;
            left -= now;
        }
        into.shutdown().await
    };
    let receive = async {
        let mut buffer = vec![0; BLOCK];
        let mut offset = 0;
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            if buffer[..length]
                .iter()
                .enumerate()
                .any(|(i, b)| *b != (offset + i) as u8)
            {
                return Err(io::Error::other("the tunnel has changed a byte"));
            }
            offset += length;
        }
        if offset == bytes {
            Ok(())
        } else {
            Err(io::Error::other("the tunnel has lost bytes"))
        }
    };
    tokio::try_join!(send, receive)?;
    Ok(start.elapsed())
}

/// Median and 99th percentile, in microseconds.
pub fn percentiles(trips: &mut [Duration]) -> (f64, f64) {
    trips.sort_unstable();
    let at = |share: f64| {
        let place = ((trips.len() as f64 * share) as usize).min(trips.len().saturating_sub(1));
        trips
            .get(place)
            .map_or(0.0, |trip| trip.as_secs_f64() * 1e6)
    };
    (at(0.5), at(0.99))
}

/// 256 KiB, a multiple of 256, so that every block starts with a zero.
const BLOCK: usize = 256 * 1024;
