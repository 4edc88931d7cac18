//! The link emulator with real sockets on both sides. Nothing here asserts that a machine is fast: times have lower bounds
//! alone, and what the link did is in its own counts.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail like the test itself, and say what was skipped"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use benches::{
    link::{
        self, Bottleneck, Counts, Direction, Jitter, Lab, LinkConfig, Loss, Pause, RateStep,
        Reorder, Shape, Timetable,
    },
    topology::{Side, Topology},
};
use socket2::SockRef;

/// A lab with this shape both ways; `None`, and a word of it, where there can be none.
fn lab(shape: Shape) -> Option<Lab> {
    if let Some(reason) = link::unavailable() {
        println!("skipped: {reason}");
        return None;
    }
    Some(Lab::start(&LinkConfig::symmetric(shape, SEED)).unwrap())
}

fn udp(lab: &Lab, side: Side) -> UdpSocket {
    let socket = lab
        .visit(side, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))
        .unwrap();
    // A packet that does not come ends its test, one day.
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Where the other side sends to reach it.
fn address(lab: &Lab, side: Side, socket: &UdpSocket) -> SocketAddr {
    (lab.address(side), socket.local_addr().unwrap().port()).into()
}

fn ip(args: &[&str]) {
    let status = start(&[&["ip"], args].concat()).wait();
    assert!(status.unwrap().success());
}

#[expect(clippy::disallowed_methods, reason = "leftovers are made with ip")]
fn start(args: &[&str]) -> Child {
    Command::new(args[0]).args(&args[1..]).spawn().unwrap()
}

fn receive(socket: &UdpSocket) -> u16 {
    let mut packet = [0; 2048];
    let length = socket.recv(&mut packet).unwrap();
    assert!(length >= 2);
    u16::from_be_bytes([packet[0], packet[1]])
}

/// Waits until `packets` packets have come in, and all but those on their way have met their fate.
fn wait_for(lab: &Lab, direction: Direction, packets: u64) -> Counts {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = lab.counts(direction);
        if counts.taken >= packets {
            return counts;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
        thread::yield_now();
    }
}

#[test]
fn no_packet_is_there_before_its_delay() {
    let delay = Duration::from_millis(20);
    let Some(lab) = lab(Shape {
        delay,
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    for number in 0..20_u16 {
        let started = Instant::now();
        player.send(&number.to_be_bytes()).unwrap();
        let mut packet = [0; 2];
        let (_, from) = game.recv_from(&mut packet).unwrap();
        assert!(started.elapsed() >= delay);
        game.send_to(&packet, from).unwrap();
        assert_eq!(receive(&player), number);
        assert!(started.elapsed() >= 2 * delay);
    }
}

#[test]
fn same_packets_are_lost_again() {
    let shape = Shape {
        loss: Loss::Random(0.1),
        ..Shape::default()
    };
    let arrived = || -> Option<Vec<u16>> {
        let lab = lab(shape.clone())?;
        let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
        player.connect(address(&lab, Side::Home, &game)).unwrap();
        let (mut arrived, mut lost) = (Vec::new(), 0);
        for number in 0..PACKETS {
            player.send(&number.to_be_bytes()).unwrap();
            // One at a time: no socket's buffer may lose any.
            let counts = wait_for(&lab, Direction::Down, u64::from(number) + 1);
            if counts.lost == lost {
                arrived.push(receive(&game));
            }
            lost = counts.lost;
        }
        Some(arrived)
    };
    let Some(first) = arrived() else {
        return;
    };
    assert_eq!(Some(&first), arrived().as_ref());
    let lost = f64::from(PACKETS) - first.len() as f64;
    assert!(
        (0.07..0.13).contains(&(lost / f64::from(PACKETS))),
        "{lost}"
    );
}

#[test]
fn kernel_tcp_gets_no_more_than_the_rate() {
    let rate = 8_000_000;
    let Some(lab) = lab(Shape {
        bottleneck: Some(Bottleneck::new(rate, Duration::from_millis(50))),
        ..Shape::default()
    }) else {
        return;
    };
    let home = lab.address(Side::Home);
    let listener = lab.visit(Side::Home, || Ok(TcpListener::bind((home, 0))?));
    let listener = listener.unwrap();
    let target = listener.local_addr().unwrap();
    let started = Instant::now();
    let player = lab.visit(Side::Outside, || Ok(TcpStream::connect(target)?));
    let mut player = player.unwrap();
    let (mut game, _) = listener.accept().unwrap();
    let sender = thread::spawn(move || player.write_all(&vec![7; 1_000_000]).unwrap());
    let mut received = Vec::new();
    game.read_to_end(&mut received).unwrap();
    let elapsed = started.elapsed();
    sender.join().unwrap();
    assert_eq!(received, vec![7; 1_000_000]);
    assert!(elapsed.as_secs_f64() >= 8e6 / rate as f64, "{elapsed:?}");
    // All the headers too.
    assert!(lab.counts(Direction::Down).delivered_bytes > 1_000_000);
}

#[test]
fn queue_that_is_full_drops_and_counts() {
    // 1,028 bytes take 82 s: whatever the machine does, the first stays, the second waits, the rest finds no room.
    let Some(lab) = lab(Shape {
        bottleneck: Some(Bottleneck {
            rate: 100,
            queue_bytes: 2_056,
            queue_packets: 10,
        }),
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    let target = address(&lab, Side::Home, &game);
    for _ in 0..10 {
        player.send_to(&[0; 1000], target).unwrap();
    }
    let counts = wait_for(&lab, Direction::Down, 10);
    assert_eq!(counts.queue_full, 8);
    assert_eq!(counts.delivered, 0);
}

#[test]
fn queue_in_packets_holds_as_many_short_ones_as_long_ones() {
    for length in [10, 1400] {
        // Even the shortest takes seconds.
        let Some(lab) = lab(Shape {
            bottleneck: Some(Bottleneck::packets(10, 4)),
            ..Shape::default()
        }) else {
            return;
        };
        let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
        let target = address(&lab, Side::Home, &game);
        for _ in 0..10 {
            player.send_to(&vec![0; length], target).unwrap();
        }
        let counts = wait_for(&lab, Direction::Down, 10);
        assert_eq!((counts.queue_full, counts.delivered), (6, 0), "{length}");
    }
}

#[test]
fn each_way_has_a_shape_of_its_own() {
    if let Some(reason) = link::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let shape = |rate| Shape {
        bottleneck: Some(Bottleneck::packets(rate, 100)),
        ..Shape::default()
    };
    let config = LinkConfig {
        up: shape(10),
        down: shape(1_000_000_000),
        seed: SEED,
    };
    let lab = Lab::start(&config).unwrap();
    assert_eq!(lab.config(), config);
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    for number in 0..10_u16 {
        player.send(&number.to_be_bytes()).unwrap();
        assert_eq!(receive(&game), number);
    }
    let back = address(&lab, Side::Outside, &player);
    game.send_to(&[0; 2], back).unwrap();
    wait_for(&lab, Direction::Up, 1);
    // 30 bytes at 10 bit/s take 24 s.
    assert_eq!(lab.counts(Direction::Up).delivered, 0);
}

#[test]
fn rate_follows_its_timetable_from_the_clock_of_a_restart_on() {
    let hour = Duration::from_secs(3600);
    let step = |rate| RateStep { rate, lasts: hour };
    let Some(lab) = lab(Shape {
        bottleneck: Some(Bottleneck::packets(1, 100)),
        timetable: Timetable::new(vec![step(1_000_000_000), step(10)]),
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    player.send(&1_u16.to_be_bytes()).unwrap();
    assert_eq!(receive(&game), 1);
    // The whole cycle later it is the same again.
    lab.restart(SEED, 2 * hour);
    player.send(&2_u16.to_be_bytes()).unwrap();
    assert_eq!(receive(&game), 2);
    lab.restart(SEED, hour);
    player.send(&3_u16.to_be_bytes()).unwrap();
    // 30 bytes at 10 bit/s take 24 s.
    assert_eq!(wait_for(&lab, Direction::Down, 3).delivered, 2);
}

#[test]
fn nothing_arrives_in_a_pause_and_all_of_it_after() {
    let pause = Pause {
        every: Duration::from_secs(10),
        length: Duration::from_secs(5),
    };
    let Some(lab) = lab(Shape {
        bottleneck: Some(Bottleneck::packets(1_000_000_000, 100)),
        pause: Some(pause),
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    let left = Duration::from_millis(300);
    let started = Instant::now();
    lab.restart(SEED, pause.every - left);
    for number in 0..10_u16 {
        player.send(&number.to_be_bytes()).unwrap();
    }
    for number in 0..10 {
        assert_eq!(receive(&game), number);
        assert!(started.elapsed() >= left);
    }
}

#[test]
fn restart_with_the_same_seed_loses_the_same_again() {
    let Some(lab) = lab(Shape {
        loss: Loss::Random(0.1),
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    let mut sent = 0;
    let mut lost = |seed| -> Vec<u16> {
        lab.restart(seed, Duration::ZERO);
        assert_eq!(lab.config().seed, seed);
        let mut lost = Vec::new();
        for number in 0..200_u16 {
            let before = lab.counts(Direction::Down).lost;
            player.send(&number.to_be_bytes()).unwrap();
            sent += 1;
            if wait_for(&lab, Direction::Down, sent).lost > before {
                lost.push(number);
            } else {
                assert_eq!(receive(&game), number);
            }
        }
        lost
    };
    let first = lost(7);
    assert!(!first.is_empty());
    assert_ne!(lost(8), first);
    assert_eq!(lost(7), first);
}

#[test]
fn jitter_keeps_the_order_unless_it_is_to_reorder() {
    for reorders in [false, true] {
        let most = Duration::from_millis(50);
        let Some(lab) = lab(Shape {
            jitter: Some(Jitter { most, reorders }),
            ..Shape::default()
        }) else {
            return;
        };
        let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
        player.connect(address(&lab, Side::Home, &game)).unwrap();
        for number in 0..100_u16 {
            player.send(&number.to_be_bytes()).unwrap();
        }
        let arrived: Vec<u16> = (0..100).map(|_| receive(&game)).collect();
        assert_eq!(arrived.is_sorted(), !reorders, "{arrived:?}");
    }
}

#[test]
fn black_out_swallows_what_is_sent_until_it_ends() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    lab.set_dark(true);
    for number in 0..10_u16 {
        player.send(&number.to_be_bytes()).unwrap();
    }
    assert_eq!(wait_for(&lab, Direction::Down, 10).dark, 10);
    lab.set_dark(false);
    player.send(&77_u16.to_be_bytes()).unwrap();
    assert_eq!(receive(&game), 77);
}

#[test]
fn home_is_at_its_new_address_and_no_longer_at_the_old_one() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    let old = address(&lab, Side::Home, &game);
    player.send_to(&1_u16.to_be_bytes(), old).unwrap();
    assert_eq!(receive(&game), 1);
    lab.move_home().unwrap();
    let new = address(&lab, Side::Home, &game);
    assert_ne!(old, new);
    player.send_to(&2_u16.to_be_bytes(), old).unwrap();
    player.send_to(&3_u16.to_be_bytes(), new).unwrap();
    // The link keeps their order: the second went to nobody.
    assert_eq!(receive(&game), 3);
    game.send_to(&4_u16.to_be_bytes(), address(&lab, Side::Outside, &player))
        .unwrap();
    let mut packet = [0; 2];
    let (_, from) = player.recv_from(&mut packet).unwrap();
    assert_eq!(from, new);
}

#[test]
fn doubled_packets_come_twice_and_held_ones_late() {
    let Some(lab) = lab(Shape {
        duplicate: 1.0,
        ..Shape::default()
    }) else {
        return;
    };
    let (player, game) = (udp(&lab, Side::Outside), udp(&lab, Side::Home));
    player.connect(address(&lab, Side::Home, &game)).unwrap();
    player.send(&5_u16.to_be_bytes()).unwrap();
    assert_eq!([receive(&game), receive(&game)], [5, 5]);
    let held = Reorder {
        share: 1.0,
        by: Duration::from_secs(2),
    };
    lab.set(
        Direction::Down,
        Shape {
            reorder: Some(held),
            ..Shape::default()
        },
    );
    player.send(&6_u16.to_be_bytes()).unwrap();
    // Before the shape changes again.
    wait_for(&lab, Direction::Down, 2);
    lab.set(Direction::Down, Shape::default());
    player.send(&7_u16.to_be_bytes()).unwrap();
    assert_eq!([receive(&game), receive(&game)], [7, 6]);
}

#[test]
fn both_sides_have_the_congestion_control_that_is_set() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    // Reno is in every kernel; the machine may have others, but allow them to nobody.
    let all = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let before = fs::read_to_string(allowed).unwrap();
    for name in fs::read_to_string(all).unwrap().split_whitespace() {
        lab.set_congestion_control(name).unwrap();
        for side in [Side::Outside, Side::Home] {
            let socket = lab.visit(side, || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?));
            let has = SockRef::from(&socket.unwrap()).tcp_congestion().unwrap();
            let has = String::from_utf8(has).unwrap();
            assert_eq!(has.trim_end_matches('\0'), name);
        }
    }
    assert_eq!(fs::read_to_string(allowed).unwrap(), before);
    assert!(lab.set_congestion_control("no-such-thing").is_err());
}

#[test]
fn command_runs_on_its_side() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    for (side, other) in [(Side::Outside, Side::Home), (Side::Home, Side::Outside)] {
        let output = lab
            .command(side, Path::new("ip"))
            .arg("address")
            .output()
            .unwrap();
        let seen = String::from_utf8(output.stdout).unwrap();
        assert!(seen.contains(&format!("{}/", lab.address(side))), "{seen}");
        assert!(
            !seen.contains(&format!("{}/", lab.address(other))),
            "{seen}"
        );
    }
}

#[test]
fn nothing_is_left_of_a_lab_even_when_its_user_panics() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    let paths =
        [Side::Outside, Side::Home].map(|side| Path::new("/run/netns").join(lab.name(side)));
    assert!(paths.iter().all(|path| path.exists()));
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let _lab = lab;
        panic!("as a scenario might");
    }));
    assert!(panicked.is_err());
    assert!(!paths.iter().any(|path| path.exists()));
}

#[test]
fn what_dead_processes_left_is_swept() {
    let Some(lab) = lab(Shape::default()) else {
        return;
    };
    // A process that has ended, and been waited for.
    let mut dead = lab.command(Side::Home, Path::new("true")).spawn().unwrap();
    dead.wait().unwrap();
    let left = format!("adit-lab-{}-0-home", dead.id());
    ip(&["netns", "add", &left]);
    let mut orphan = start(&["ip", "netns", "exec", &left, "sleep", "1000"]);
    assert!(Path::new("/run/netns").join(&left).exists());
    let inside = format!("/proc/{}/ns/net", orphan.id());
    let space = fs::metadata(Path::new("/run/netns").join(&left)).unwrap();
    while fs::metadata(&inside).unwrap().ino() != space.ino() {
        thread::yield_now();
    }
    let _lab = self::lab(Shape::default()).unwrap();
    assert!(!Path::new("/run/netns").join(&left).exists());
    assert_eq!(orphan.wait().unwrap().signal(), Some(9));
}

#[test]
fn check_measures_with_all_that_varies_off_and_puts_it_back() {
    let shape = Shape {
        delay: Duration::from_millis(5),
        loss: Loss::Random(0.5),
        ..Shape::default()
    };
    let Some(lab) = lab(shape.clone()) else {
        return;
    };
    // Behind a queue that TCP does not fill, at a rate that falls to nothing and never without a pause.
    let step = |rate| RateStep {
        rate,
        lasts: Duration::from_millis(100),
    };
    let down = Shape {
        bottleneck: Some(Bottleneck::packets(10_000_000, 3)),
        timetable: Timetable::new(vec![step(10_000_000), step(1000)]),
        pause: Some(Pause {
            every: Duration::from_millis(20),
            length: Duration::from_millis(19),
        }),
        ..shape.clone()
    };
    lab.set(Direction::Down, down.clone());
    let check = lab.check().unwrap();
    println!("{check}");
    assert_eq!(check.rtt_set, Duration::from_millis(10));
    assert!(check.rtt >= check.rtt_set);
    assert_eq!(check.up, None);
    assert_eq!(check.down.unwrap().set, 10_000_000);
    assert_eq!(lab.counts(Direction::Down).lost, 0);
    assert_eq!((lab.config().up, lab.config().down), (shape, down));
}

const SEED: u64 = 5;
const PACKETS: u16 = 1000;
/// What a busy machine never takes.
const PATIENCE: Duration = Duration::from_secs(20);
