//! Players of games: UDP.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Round trips of 100 bytes of one player, in seconds.
pub(crate) fn round_trips(to: SocketAddr, length: Duration) -> Result<Vec<f64>> {
    let socket = player(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let (sent, mut received) = ([0x5a; PACKET], [0; 2048]);
    let mut trips = Vec::new();
    let start = Instant::now();
    for trip in 0.. {
        let began = Instant::now();
        socket.send(&sent)?;
        // What is lost shows in the measurement of a full server.
        if socket.recv(&mut received).is_ok() && trip >= 20 {
            trips.push(began.elapsed().as_secs_f64());
        }
        if start.elapsed() > length {
            break;
        }
    }
    Ok(trips)
}

/// A full server: 100 players who send 200 packets a second each. Returns the round trips in seconds, and the share of
/// packets that did not come back.
pub(crate) fn full_server(to: SocketAddr, length: Duration) -> Result<(Vec<f64>, f64)> {
    let players = (0..PLAYERS)
        .map(|_| {
            let socket = player(to)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let receivers = players
        .iter()
        .map(UdpSocket::try_clone)
        .collect::<std::io::Result<Vec<_>>>()?;
    let epoch = Instant::now();
    let done = Arc::new(AtomicBool::new(false));
    let receive = {
        let done = done.clone();
        thread::spawn(move || receive(receivers, epoch, &done))
    };
    // The first packet of each opens its flow, which is not what is measured.
    for player in &players {
        player.send(&packet(Duration::ZERO))?;
    }
    thread::sleep(Duration::from_millis(300));
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < length {
        // What is due, one player after the other. More sleeps would take the processor from what is measured.
        let due = (start.elapsed().as_secs_f64() * RATE * PLAYERS as f64) as u64;
        while sent < due {
            let player = &players[(sent % PLAYERS as u64) as usize];
            // A full buffer would be a loss, and is none that this machine has ever shown.
            drop(player.send(&packet(epoch.elapsed())));
            sent += 1;
        }
        thread::sleep(Duration::from_micros(250));
    }
    thread::sleep(STRAGGLERS);
    done.store(true, Ordering::Relaxed);
    let trips = receive
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))??;
    let lost = 1.0 - trips.len() as f64 / sent as f64;
    Ok((trips, lost.max(0.0)))
}

/// Takes what comes back, for all players in one thread, until told that it is over.
fn receive(sockets: Vec<UdpSocket>, epoch: Instant, done: &AtomicBool) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let trips = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        for socket in sockets {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::spawn(collect(socket, epoch, trips.clone()));
        }
        while !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })?;
    // Ends the players' tasks.
    drop(runtime);
    let mut trips = trips.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *trips))
}

async fn collect(socket: tokio::net::UdpSocket, epoch: Instant, trips: Arc<Mutex<Vec<f64>>>) {
    let mut buffer = [0; 2048];
    loop {
        // An error is an ICMP message about a packet before: the next may pass.
        if socket.recv(&mut buffer).await.is_err() {
            continue;
        }
        let (now, sent) = (epoch.elapsed(), sent_at(&buffer));
        if !sent.is_zero() {
            let trip = now.saturating_sub(sent).as_secs_f64();
            let mut trips = trips.lock().unwrap_or_else(PoisonError::into_inner);
            trips.push(trip);
        }
    }
}

/// Packets a second that come back when eight players always have 32 on the way.
pub(crate) fn packets(to: SocketAddr, length: Duration) -> Result<f64> {
    let start = Instant::now();
    let counts = super::in_threads(8, move |_| {
        let socket = player(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut buffer = [0; 2048];
        socket.send(&[0x5a; PACKET])?;
        drop(socket.recv(&mut buffer));
        let (mut back, mut on_the_way) = (0_u64, 0);
        while start.elapsed() < length {
            while on_the_way < 32 {
                drop(socket.send(&[0x5a; PACKET]));
                on_the_way += 1;
            }
            if socket.recv(&mut buffer).is_ok() {
                back += 1;
                on_the_way -= 1;
            } else {
                // Nothing came for 20 ms: they were lost.
                on_the_way = 0;
            }
        }
        Ok(back)
    })?;
    Ok(counts.into_iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64())
}

/// A player with an address of their own, as players have: a relay bounds the flows of one address.
fn player(to: SocketAddr) -> Result<UdpSocket> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Linux has all of 127.0.0.0/8; others may have one address only.
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    socket.connect(to)?;
    Ok(socket)
}

/// A packet that says when it was sent.
fn packet(at: Duration) -> [u8; PACKET] {
    let mut packet = [0x5a; PACKET];
    packet[..8].copy_from_slice(&(at.as_nanos() as u64).to_be_bytes());
    packet
}

fn sent_at(packet: &[u8]) -> Duration {
    let nanos = packet.first_chunk().copied().map_or(0, u64::from_be_bytes);
    Duration::from_nanos(nanos)
}

/// Bytes of a packet.
const PACKET: usize = 100;
const PLAYERS: usize = 100;
/// Packets a second of each player.
const RATE: f64 = 200.0;
/// How long packets may take before they count as lost.
const STRAGGLERS: Duration = Duration::from_secs(1);
