//! Whether a link does what it is set to: a scenario counts only on one that does.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::{
    lab::{Direction, Lab},
    shape::{Bottleneck, LinkConfig, Shape},
    wire::MTU,
};
use crate::topology::{Side, Topology};

/// What the direct path through a link reaches, with loss, jitter, reordering, duplicates, timetable and pauses off.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Both delays.
    pub rtt_set: Duration,
    /// The median of small UDP packets there and back on the idle link.
    pub rtt: Duration,
    /// From home to the outside, where it has a rate.
    pub up: Option<Reached>,
    /// From the outside to home, where it has a rate.
    pub down: Option<Reached>,
    /// Packets that the emulator could not hold.
    pub overrun: u64,
}

/// A rate as set, and what one kernel TCP connection with bbr has made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// Bits per second, headers included.
    pub set: u64,
    /// Bits per second: what was received, with the headers of full packets.
    pub reached: f64,
}

impl Check {
    /// Why a scenario on this link does not count; empty where it does.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.rtt.abs_diff(self.rtt_set) > RTT_TOLERANCE {
            faults.push(format!("RTT {:.1?} for {:?}", self.rtt, self.rtt_set));
        }
        for (name, rate) in [("up", self.up), ("down", self.down)] {
            if let Some(rate) = rate
                && rate.reached < rate.set as f64 * RATE_SHARE
            {
                faults.push(format!("{name} {rate}"));
            }
        }
        if self.overrun > 0 {
            faults.push(format!(
                "{} packets too many for the emulator",
                self.overrun
            ));
        }
        faults
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTT {:.1?} of {:?}", self.rtt, self.rtt_set)?;
        for (name, rate) in [("up", self.up), ("down", self.down)] {
            if let Some(rate) = rate {
                write!(f, ", {name} {rate}")?;
            }
        }
        match self.faults() {
            faults if faults.is_empty() => write!(f, ": counts"),
            faults => write!(f, ": does not count ({})", faults.join("; ")),
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reached, set) = (self.reached / 1e6, self.set as f64 / 1e6);
        write!(f, "{reached:.1} of {set} Mbit/s")
    }
}

impl Lab {
    /// Measures the direct path with all that varies off, which takes some 10 s; nothing else may run on the link meanwhile.
    pub fn check(&self) -> Result<Check> {
        let config = self.config();
        let plain = LinkConfig {
            up: steady(&config.up),
            down: steady(&config.down),
            seed: config.seed,
        };
        self.set_both(&plain);
        let check = self.measure(&plain);
        self.set_both(&config);
        check
    }

    fn set_both(&self, config: &LinkConfig) {
        self.set(Direction::Up, config.up.clone());
        self.set(Direction::Down, config.down.clone());
    }

    fn measure(&self, config: &LinkConfig) -> Result<Check> {
        let rtt_set = config.up.delay + config.down.delay;
        let overrun = || self.counts(Direction::Up).overrun + self.counts(Direction::Down).overrun;
        let before = overrun();
        let rtt = self.round_trip(rtt_set)?;
        let reached = |direction, bottleneck: Option<Bottleneck>| {
            bottleneck
                .map(|bottleneck| self.reached(direction, bottleneck, rtt_set))
                .transpose()
        };
        Ok(Check {
            rtt_set,
            rtt,
            up: reached(Direction::Up, config.up.bottleneck)?,
            down: reached(Direction::Down, config.down.bottleneck)?,
            overrun: overrun() - before,
        })
    }

    /// The median of [`PROBES`].
    fn round_trip(&self, expected: Duration) -> Result<Duration> {
        let server = self.visit(Side::Home, || {
            Ok(UdpSocket::bind((self.address(Side::Home), 0))?)
        })?;
        let address = server.local_addr()?;
        let player = self.visit(Side::Outside, || {
            let socket = UdpSocket::bind((self.address(Side::Outside), 0))?;
            socket.connect(address)?;
            Ok(socket)
        })?;
        let patience = Some(2 * expected + PATIENCE);
        server.set_read_timeout(patience)?;
        player.set_read_timeout(patience)?;
        let started = Instant::now();
        let mut trips = Vec::with_capacity(PROBES);
        thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                let mut packet = [0; 8];
                loop {
                    match server.recv_from(&mut packet) {
                        Ok((length, from)) => drop(server.send_to(&packet[..length], from)),
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        // A timeout ends it: the player has all it gets.
                        Err(_) => break,
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..PROBES {
                    let sent = started.elapsed().as_nanos() as u64;
                    drop(player.send(&sent.to_be_bytes()));
                    thread::sleep(PROBE_EVERY);
                }
            });
            let mut packet = [0; 8];
            while trips.len() < PROBES {
                match player.recv(&mut packet) {
                    Ok(_) => {
                        let sent = Duration::from_nanos(u64::from_be_bytes(packet));
                        trips.push(started.elapsed().saturating_sub(sent));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // A receive with a time limit is not taken up again after a signal.
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        ensure!(
            trips.len() > PROBES / 2,
            "only {} of {PROBES} packets came back",
            trips.len()
        );
        trips.sort_unstable();
        Ok(trips[trips.len() / 2])
    }

    /// What one connection with bbr receives, once it has found its rate.
    fn reached(
        &self,
        direction: Direction,
        bottleneck: Bottleneck,
        rtt: Duration,
    ) -> Result<Reached> {
        let (from, to) = match direction {
            Direction::Up => (Side::Home, Side::Outside),
            Direction::Down => (Side::Outside, Side::Home),
        };
        let listener = self.visit(to, || Ok(TcpListener::bind((self.address(to), 0))?))?;
        let address = listener.local_addr()?;
        let sender = self.visit(from, || connect_with_bbr(address))?;
        let (receiver, _) = listener.accept()?;
        let received = AtomicU64::new(0);
        let rate = thread::scope(|scope| -> Result<f64> {
            scope.spawn(|| send(&sender));
            scope.spawn(|| receive(&receiver, &received));
            thread::sleep(WARM_UP.max(WARM_UP_TRIPS * rtt));
            let enough = bottleneck.rate as f64 * RATE_SHARE * PAYLOAD / MTU as f64;
            let mut rate: f64 = 0.0;
            // Now and then bbr looks at the empty path, which takes it two round trips: what the link can do shows in
            // the best of several looks.
            for _ in 0..LOOKS {
                let (started, before) = (Instant::now(), received.load(Ordering::Relaxed));
                thread::sleep(MEASURED);
                let bytes = received.load(Ordering::Relaxed) - before;
                rate = rate.max(bytes as f64 * 8.0 / started.elapsed().as_secs_f64());
                if rate >= enough {
                    break;
                }
            }
            // Both threads end with their sockets.
            receiver.shutdown(Shutdown::Both)?;
            sender.shutdown(Shutdown::Both)?;
            Ok(rate)
        })?;
        drop((sender, receiver));
        // What is still on its way would fill the next one's queue.
        thread::sleep(rtt + QUEUE);
        Ok(Reached {
            set: bottleneck.rate,
            reached: rate * MTU as f64 / PAYLOAD,
        })
    }
}

/// Without chance, always at the bottleneck's own rate, and with a queue in which kernel TCP finds it: what is checked is
/// the emulator, not what a short queue makes of TCP.
fn steady(shape: &Shape) -> Shape {
    let rate = shape.bottleneck.map(|bottleneck| bottleneck.rate);
    Shape {
        delay: shape.delay,
        bottleneck: rate.map(|rate| Bottleneck::new(rate, QUEUE)),
        ..Shape::default()
    }
}

fn connect_with_bbr(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    let socket = SockRef::from(&stream);
    socket
        .set_tcp_congestion(b"bbr")
        .context("the check of a rate takes the kernel's bbr (modprobe tcp_bbr)")?;
    // What it has not sent when it is closed, nobody wants.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

fn send(mut stream: &TcpStream) {
    let block = vec![0; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn receive(mut stream: &TcpStream, received: &AtomicU64) {
    let mut block = vec![0; BLOCK];
    while let Ok(length @ 1..) = stream.read(&mut block) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// The share of its rate that a link must reach.
const RATE_SHARE: f64 = 0.95;
/// How far its round trip may be off.
const RTT_TOLERANCE: Duration = Duration::from_millis(2);
/// Of a full TCP packet, behind the headers of IP and TCP and the latter's timestamp.
const PAYLOAD: f64 = MTU as f64 - 20.0 - 20.0 - 12.0;

const PROBES: usize = 100;
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// What a packet may be late by on a busy machine before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(1);
/// bbr has found its rate and drained its queue by then.
const WARM_UP_TRIPS: u32 = 30;
const MEASURED: Duration = Duration::from_secs(3);
const LOOKS: usize = 3;
const QUEUE: Duration = Duration::from_millis(100);
const BLOCK: usize = 128 * 1024;
