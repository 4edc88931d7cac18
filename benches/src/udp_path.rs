//! A UDP path in user space: delay, random loss, a rate and a queue, the same both ways.
//!
//! Clients send to [`Path::address`]; everything goes on to one upstream, each client from a socket
//! of its own, so that the upstream tells them apart. Each direction has one bottleneck for all
//! clients. Timers keep the delay to about a tenth of a millisecond on an idle machine, and the
//! queue's clock is computed, not slept, so a late thread delays packets but loses no rate.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// What a path does to packets, in each direction.
#[derive(Debug, Clone)]
pub struct PathConfig {
    /// One way, on top of the wait in the queue.
    pub delay: Duration,
    /// Share of packets lost at random, 0 to 1.
    pub loss: f64,
    /// Bits per second of UDP payload; `None` is as fast as the machine.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; what does not fit is dropped.
    pub queue_bytes: u64,
    /// Of the losses: the same packets in the same order are lost again.
    pub seed: u64,
}

/// A running path; dropping it stops it.
#[derive(Debug)]
pub struct Path {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    dark: Arc<AtomicBool>,
    links: [Arc<Link>; 2],
}

impl Path {
    /// Starts a path between clients on loopback and `upstream`.
    pub fn start(config: PathConfig, upstream: SocketAddr) -> io::Result<Self> {
        let front = bind()?;
        let address = front.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let dark = Arc::new(AtomicBool::new(false));
        let up = Arc::new(Link::new(config.clone(), dark.clone()));
        let down = Arc::new(Link::new(
            PathConfig {
                seed: !config.seed,
                ..config
            },
            dark.clone(),
        ));
        for link in [&up, &down] {
            let (link, stop) = (link.clone(), stop.clone());
            thread::spawn(move || link.deliver(&stop));
        }
        let links = [up.clone(), down.clone()];
        let stopped = stop.clone();
        thread::spawn(move || accept(&front, upstream, &up, &down, &stopped));
        Ok(Self {
            address,
            stop,
            dark,
            links,
        })
    }

    /// Where clients send.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses everything that is sent from now on, or no longer.
    pub fn set_dark(&self, dark: bool) {
        self.dark.store(dark, Ordering::Relaxed);
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for link in &self.links {
            link.ready.notify_all();
        }
    }
}

/// Takes clients' packets until stopped.
fn accept(
    front: &UdpSocket,
    upstream: SocketAddr,
    up: &Arc<Link>,
    down: &Arc<Link>,
    stop: &Arc<AtomicBool>,
) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    receive(front, stop, |bytes, client| {
        let socket = match clients.get(&client) {
            Some(socket) => socket.clone(),
            None => {
                let socket = Arc::new(connect(upstream)?);
                let reply = Arc::new(front.try_clone()?);
                let (back, link, stop) = (socket.clone(), down.clone(), stop.clone());
                thread::spawn(move || {
                    receive(&back, &stop, |bytes, _| {
                        link.send(bytes, &reply, Some(client));
                        Ok(())
                    });
                });
                clients.insert(client, socket.clone());
                socket
            }
        };
        up.send(bytes, &socket, None);
        Ok(())
    });
}

/// Hands every packet of `socket` to `handle` until stopped or failed.
fn receive(
    socket: &UdpSocket,
    stop: &AtomicBool,
    mut handle: impl FnMut(&[u8], SocketAddr) -> io::Result<()>,
) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if handle(&buffer[..length], from).is_err() {
                    return;
                }
            }
            // The timeout that lets the loop look at `stop`, or a refusal by a peer that is gone.
            Err(_) => continue,
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Link {
    config: PathConfig,
    dark: Arc<AtomicBool>,
    state: Mutex<LinkState>,
    ready: Condvar,
}

#[derive(Debug)]
struct LinkState {
    /// When the bottleneck will have sent everything that waits for it.
    free_at: Instant,
    random: u64,
    /// On the way, in the order in which they arrive.
    packets: VecDeque<Packet>,
}

#[derive(Debug)]
struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
    socket: Arc<UdpSocket>,
    /// `None` for a connected socket.
    to: Option<SocketAddr>,
}

impl Link {
    fn new(config: PathConfig, dark: Arc<AtomicBool>) -> Self {
        let random = config.seed;
        let state = LinkState {
            free_at: Instant::now(),
            random,
            packets: VecDeque::new(),
        };
        Self {
            config,
            dark,
            state: Mutex::new(state),
            ready: Condvar::new(),
        }
    }

    /// Puts a packet on its way, unless it is lost or the queue is full.
    fn send(&self, bytes: &[u8], socket: &Arc<UdpSocket>, to: Option<SocketAddr>) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaves = now;
        if let Some(rate) = self.config.rate {
            let waiting = state.free_at.saturating_duration_since(now);
            let queued = waiting.as_secs_f64() * rate as f64 / 8.0;
            if queued + bytes.len() as f64 > self.config.queue_bytes as f64 {
                return;
            }
            let wire = Duration::from_secs_f64(bytes.len() as f64 * 8.0 / rate as f64);
            leaves = state.free_at.max(now) + wire;
            state.free_at = leaves;
        }
        if uniform(&mut state.random) < self.config.loss || self.dark.load(Ordering::Relaxed) {
            return;
        }
        let due = leaves + self.config.delay;
        let (bytes, socket) = (bytes.into(), socket.clone());
        state.packets.push_back(Packet {
            due,
            bytes,
            socket,
            to,
        });
        if state.packets.len() == 1 {
            self.ready.notify_one();
        }
    }

    /// Sends packets on when they are due, until stopped.
    fn deliver(&self, stop: &AtomicBool) {
        let mut due = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            while state
                .packets
                .front()
                .is_some_and(|packet| packet.due <= now)
            {
                due.extend(state.packets.pop_front());
            }
            let next = state.packets.front().map(|packet| packet.due);
            if due.is_empty() && next.is_none() {
                drop(self.ready.wait(state));
                continue;
            }
            drop(state);
            for packet in due.drain(..) {
                // A peer that is gone loses packets, as on any path.
                let _sent = match packet.to {
                    Some(to) => packet.socket.send_to(&packet.bytes, to),
                    None => packet.socket.send(&packet.bytes),
                };
            }
            if let Some(next) = next {
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
    }
}

/// SplitMix64, as a number from 0 to 1.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

/// A socket on loopback whose buffers hold 4 MiB.
pub fn bind() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(STOP_LATENCY))?;
    Ok(socket)
}

fn connect(upstream: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bind()?;
    socket.connect(upstream)?;
    Ok(socket)
}

/// 4 MiB are 160 ms at 200 Mbit/s: the emulator's own sockets must not be the bottleneck.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long a stopped path's threads may linger.
const STOP_LATENCY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let socket = bind().unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            }
        });
        address
    }

    /// Who waits for an answer for as long as a busy machine may take.
    fn player(path: &Path) -> UdpSocket {
        let socket = connect(path.address()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket
    }

    fn config() -> PathConfig {
        PathConfig {
            delay: Duration::from_millis(20),
            loss: 0.0,
            rate: None,
            queue_bytes: 1 << 20,
            seed: 1,
        }
    }

    #[test]
    fn no_packet_comes_before_its_delay() {
        let path = Path::start(config(), echo()).unwrap();
        let client = player(&path);
        let mut trips = Vec::new();
        for _ in 0..50 {
            let start = Instant::now();
            client.send(&[0; 200]).unwrap();
            client.recv(&mut [0; 2048]).unwrap();
            trips.push(start.elapsed());
        }
        trips.sort_unstable();
        assert!(trips[0] >= Duration::from_millis(40), "{trips:?}");
    }

    #[test]
    fn loss_is_the_share_asked_for() {
        let delay = Duration::ZERO;
        let path = Path::start(
            PathConfig {
                delay,
                loss: 0.1,
                ..config()
            },
            echo(),
        )
        .unwrap();
        let client = connect(path.address()).unwrap();
        for _ in 0..2000 {
            client.send(&[0; 20]).unwrap();
            thread::sleep(Duration::from_micros(20));
        }
        let mut got = 0;
        while client.recv(&mut [0; 2048]).is_ok() {
            got += 1;
        }
        // Both ways: 81 %.
        assert!((1500..1740).contains(&got), "{got}");
    }

    #[test]
    fn dark_path_loses_everything_until_it_is_light() {
        let path = Path::start(config(), echo()).unwrap();
        let client = connect(path.address()).unwrap();
        path.set_dark(true);
        client.send(&[0; 200]).unwrap();
        assert!(client.recv(&mut [0; 2048]).is_err());
        path.set_dark(false);
        client.send(&[0; 200]).unwrap();
        assert!(client.recv(&mut [0; 2048]).is_ok());
    }

    #[test]
    fn full_queue_drops() {
        let slow = PathConfig {
            rate: Some(8_000_000),
            queue_bytes: 10_000,
            ..config()
        };
        let path = Path::start(slow, echo()).unwrap();
        let client = connect(path.address()).unwrap();
        for _ in 0..100 {
            client.send(&[0; 1000]).unwrap();
        }
        let mut got = 0;
        while client.recv(&mut [0; 2048]).is_ok() {
            got += 1;
        }
        assert!((8..20).contains(&got), "{got}");
    }
}
