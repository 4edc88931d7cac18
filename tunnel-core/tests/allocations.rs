//! What the engine asks of the allocator: nothing for a packet, and a bounded number for a stream.
//!
//! Relay and client run on the test's own thread, whose allocations alone are counted; players and games have threads
//! of their own.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "the counts are worth reading")]

#[path = "support/mod.rs"]
mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use allocation_counter::{AllocationInfo, measure};
use bytes::{Bytes, BytesMut};
use tokio::{runtime::Runtime, sync::oneshot};
use tunnel_core::{
    client::Client,
    proto::{
        datagram::{DatagramHead, Scheme},
        redundancy::{Protector, ProtectorSettings, Repairer},
    },
};

use support::{HANG, Lab, Via, bounded, instance, service};

/// Everything is ours here but the sockets and the timers: from the player's packet to the game and back.
#[test]
fn a_packet_costs_no_allocation() {
    for size in [20, 200, 1_200] {
        let world = World::new(Via::Mem, Game::udp);
        let player = world.udp_player();
        world.measured(|| play(&player, size));
        let windows: Vec<_> = (0..WINDOWS)
            .map(|_| world.measured(|| play(&player, size)).count_total)
            .collect();
        println!("{size} bytes: {windows:?} allocations for {PACKETS} packets each");
        // A heartbeat falls into some windows; what packets or the blocks they are cut from cost would be in each.
        assert!(windows.contains(&0), "{windows:?}");
        assert!(
            windows.iter().all(|count| *count < PACKETS as u64 / 10),
            "{windows:?}"
        );
    }
}

/// quinn allocates for what it receives and sends: that is all there is.
#[test]
fn a_packet_over_quic_costs_at_most_one_allocation() {
    let world = World::new(Via::Quic, Game::udp);
    let player = world.udp_player();
    world.measured(|| play(&player, 200));
    let cost = world.measured(|| play(&player, 200));
    println!("{} for {PACKETS} packets", cost.count_total);
    assert!(cost.count_total <= PACKETS as u64, "{}", cost.count_total);
}

/// Numbers, copies, repairs and what the other side keeps for them live in memory that stays.
#[test]
fn protecting_a_packet_costs_no_allocation() {
    for scheme in [Scheme::Copied, Scheme::Source] {
        let mut protector = Protector::new(ProtectorSettings::default());
        let mut repairer = Repairer::new();
        let mut now = Instant::now();
        let mut repair = BytesMut::with_capacity(4_096);
        let mut protect = |packets: usize| {
            let (mut copies, mut repairs) = (0, 0);
            for _ in 0..packets {
                now += Duration::from_micros(700);
                let sequence = protector.sequence(scheme);
                let datagram = Bytes::from_static(&[7; 100]);
                if scheme == Scheme::Source {
                    assert!(repairer.handle_source(sequence, &datagram));
                    protector.handle_source(now, sequence, &datagram);
                } else {
                    protector.handle_copied(now, datagram);
                }
                while protector.poll_copy(now).is_some() {
                    copies += 1;
                }
                while protector.poll_repair(now, &mut repair) {
                    repairs += 1;
                    let (head, symbol) = DatagramHead::decode(repair.split().freeze()).unwrap();
                    let redundancy = head.redundancy.unwrap();
                    if let Scheme::Repair(head) = redundancy.scheme {
                        repairer.handle_repair(redundancy.sequence, &head, &symbol);
                    }
                    drop(symbol);
                    repair.reserve(2_048);
                }
            }
            copies + repairs
        };
        protect(1_000);
        let mut beside = 0;
        let cost = measure(|| beside = protect(10_000));
        assert!(beside > 2_000, "{scheme:?}: {beside}");
        // The buffer that a repair is written to belongs to the caller: one when it is split first.
        assert!(cost.count_total <= beside, "{scheme:?}: {cost:?}");
        println!(
            "{scheme:?}: {} allocations, {beside} beside",
            cost.count_total
        );
    }
}

#[test]
fn a_stream_costs_a_bounded_number_of_allocations() {
    // On both sides together, with what tokio and quinn need.
    for (via, most) in [(Via::Mem, 40), (Via::Quic, 80)] {
        let world = World::new(via, Game::tcp);
        let public = world.public();
        let visits = |count: u64| (0..count).for_each(|_| visit(public));
        world.measured(|| visits(20));
        let cost = world.measured(|| visits(STREAMS));
        let (each, bytes) = (cost.count_total / STREAMS, cost.bytes_total / STREAMS);
        println!("{via:?}: {each} allocations, {bytes} bytes a stream");
        assert!(each <= most, "{via:?}: {each}");
    }
}

/// A direction of a bulk stream takes its buffers from the allocator, 256 KiB at a time.
#[test]
fn bulk_costs_an_allocation_for_many_packets() {
    for (via, most) in [(Via::Mem, 200), (Via::Quic, 3_000)] {
        let world = World::new(via, Game::tcp);
        let public = world.public();
        world.measured(|| download(public, 4));
        let cost = world.measured(|| download(public, 16));
        let each = cost.count_total / 16;
        println!("{via:?}: {each} allocations a MiB that goes both ways");
        assert!(each <= most, "{via:?}: {each}");
    }
}

/// What is held for each player who does nothing, on both sides together, beside the kernel's sockets.
#[test]
fn an_idle_player_holds_a_bounded_number_of_bytes() {
    for via in [Via::Mem, Via::Quic] {
        let world = World::new(via, Game::udp);
        let come = |count: usize| {
            let players: Vec<_> = (0..count).map(|_| world.udp_player()).collect();
            for player in &players {
                player.send(b"hello").unwrap();
                player.recv(&mut [0; 10]).unwrap();
            }
            players
        };
        world.holds_at_most(FLOW_MOST, "a flow", come);

        let world = World::new(via, Game::tcp);
        let public = world.public();
        let come = |count: usize| {
            let players = (0..count).map(|_| {
                let mut player = TcpStream::connect(public).unwrap();
                player.write_all(b"hello").unwrap();
                player.read_exact(&mut [0; 5]).unwrap();
                player
            });
            players.collect::<Vec<_>>()
        };
        world.holds_at_most(STREAM_MOST, "a stream", come);
    }
}

/// Sends windows of packets and waits for their answers.
fn play(player: &UdpSocket, size: usize) {
    let mut answer = [0; 2_000];
    for round in 0..PACKETS / 2 / WINDOW {
        for place in 0..WINDOW {
            player.send(&vec![(round + place) as u8; size]).unwrap();
        }
        for _ in 0..WINDOW {
            assert_eq!(player.recv(&mut answer).unwrap(), size);
        }
    }
}

/// A player who comes, says something, hears it again, and goes.
fn visit(public: SocketAddr) {
    let mut player = TcpStream::connect(public).unwrap();
    player.set_read_timeout(Some(HANG)).unwrap();
    player.write_all(b"hello").unwrap();
    player.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    player.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"hello");
}

/// Carries `mebibytes` MiB to the game and back.
fn download(public: SocketAddr, mebibytes: usize) {
    let mut player = TcpStream::connect(public).unwrap();
    player.set_read_timeout(Some(HANG)).unwrap();
    let mut sender = player.try_clone().unwrap();
    let sending = thread::spawn(move || {
        let block = vec![7; 1 << 20];
        (0..mebibytes).for_each(|_| sender.write_all(&block).unwrap());
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let came = std::io::copy(&mut player, &mut std::io::sink()).unwrap();
    assert_eq!(came, (mebibytes << 20) as u64);
    sending.join().unwrap();
}

/// Relay and client on this thread, and a game on others.
struct World {
    runtime: Runtime,
    lab: Lab,
    _client: Client,
    _game: Game,
}

impl World {
    fn new(via: Via, game: fn(IpAddr) -> Game) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (lab, client, game) = runtime.block_on(async {
            let lab = Lab::new(via).await;
            let game = game(lab.ip);
            let service = service("game", game.protocol, lab.port, game.address);
            let service = bounded(service, |flows| flows.per_address = 1_000);
            let client = lab.client([instance("a", [service])]).await;
            (lab, client, game)
        });
        Self {
            runtime,
            lab,
            _client: client,
            _game: game,
        }
    }

    fn public(&self) -> SocketAddr {
        self.lab.at(self.lab.port)
    }

    fn udp_player(&self) -> UdpSocket {
        let player = UdpSocket::bind((self.lab.ip, 0)).unwrap();
        player.connect(self.public()).unwrap();
        player.set_read_timeout(Some(HANG)).unwrap();
        player
    }

    /// What relay and client allocate while players do this.
    fn measured(&self, players: impl FnOnce() + Send) -> AllocationInfo {
        let (done, over) = oneshot::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                players();
                done.send(()).unwrap();
            });
            // Without an answer the players have failed, and say so.
            measure(|| drop(self.runtime.block_on(over)))
        })
    }
}

impl World {
    /// Waits until relay and client hold so little more for each of the last 200 of 250 players who come, say
    /// something, and stay: acknowledgements take a moment.
    fn holds_at_most<T: Send>(&self, most: i64, what: &str, come: impl Fn(usize) -> Vec<T> + Sync) {
        let kept = Mutex::new(Vec::new());
        let stay = |count| kept.lock().unwrap().extend(come(count));
        self.measured(|| stay(50));
        self.settled();
        let mut held = self.measured(|| stay(200)).bytes_current;
        let until = Instant::now() + HANG;
        while held > 200 * most {
            assert!(Instant::now() < until, "{what}: {} bytes", held / 200);
            held += self.settled();
        }
        held += self.settled();
        println!(
            "{:?}, {what}: {} bytes on both sides",
            self.lab.via,
            held / 200
        );
    }

    /// Lets everything run that waits for a while; how many bytes more it holds then.
    fn settled(&self) -> i64 {
        let pause = || {
            self.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(250)).await });
        };
        measure(pause).bytes_current
    }
}

/// A game that echoes until it is dropped.
struct Game {
    protocol: &'static str,
    address: SocketAddr,
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Game {
    fn udp(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = has_ended.clone();
        let echo = move || {
            let mut buffer = [0; 2_000];
            while let Ok((length, player)) = socket.recv_from(&mut buffer)
                && !ended.load(Ordering::Relaxed)
            {
                socket.send_to(&buffer[..length], player).unwrap();
            }
        };
        Self {
            protocol: "udp",
            address,
            has_ended,
            thread: Some(thread::spawn(echo)),
        }
    }

    fn tcp(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = has_ended.clone();
        let echo = move || {
            while let Ok((mut player, _)) = listener.accept()
                && !ended.load(Ordering::Relaxed)
            {
                let mut back = player.try_clone().unwrap();
                thread::spawn(move || {
                    // The player may have gone.
                    drop(std::io::copy(&mut player, &mut back));
                    drop(back.shutdown(Shutdown::Write));
                });
            }
        };
        Self {
            protocol: "tcp",
            address,
            has_ended,
            thread: Some(thread::spawn(echo)),
        }
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        // It waits: something has to come.
        if self.protocol == "udp" {
            let last = UdpSocket::bind((self.address.ip(), 0)).unwrap();
            last.send_to(&[], self.address).unwrap();
        } else {
            TcpStream::connect(self.address).unwrap();
        }
        self.thread.take().unwrap().join().unwrap();
    }
}

const WINDOWS: usize = 6;
/// Both ways together.
const PACKETS: usize = 2_000;
const WINDOW: usize = 10;
const STREAMS: u64 = 50;
const FLOW_MOST: i64 = 4_000;
/// On both sides: of 16 KiB a stream, what is left is for how the allocator rounds.
const STREAM_MOST: i64 = 12_500;
