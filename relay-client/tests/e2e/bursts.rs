//! Bursts: a world that loads at once is ordinary traffic.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use benches::udp_path::{Path, PathConfig};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::harness::{
    heavy,
    namespace::{FarSide, isolated},
    players::{converse, udp_server},
    ports,
    process::{command, run},
    programs::local_address,
    requires,
    site::{Service, Site, block, instance},
};

#[test]
fn a_burst_that_the_path_carries_arrives_over_quic() {
    loads_at_once("quic");
}

#[test]
fn a_burst_that_the_path_carries_arrives_over_lanes() {
    loads_at_once("lane");
}

/// At 100 Mbit/s with a deep queue, where the bare path loses nothing.
fn loads_at_once(transport: &str) {
    requires!("ip", "nft", "nsenter", "tc");
    let _turn = heavy();
    isolated(|| {
        let far = FarSide::new();
        run("tc", command("tc").args(shape("near"))).success();
        let prefix = far.prefix();
        let mut there = command(&prefix[0]);
        there.args(&prefix[1..]).arg("tc").args(shape("far"));
        run("tc", &mut there).success();
        let site = Site::elsewhere(far.address.into(), &prefix);
        if transport == "lane" {
            block("udp", &site);
        }
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::one()));
        let port = ports::one();
        let node = site.node("node-1");
        node.configure(&instance("game", &[Service::udp(port, target)]));
        let client = node.start();
        client.wait_until_ready();
        client.wait_until_up_over(transport);
        // The players are beside the relay: the tunnel alone has the path.
        let public = site.public(port);
        let players = far.visit(|| [(); 2].map(|()| player(public)));
        burst_both_ways(&roomy(target), players, transport == "quic");
    });
}

#[test]
fn a_burst_that_a_long_path_carries_arrives() {
    let _turn = heavy();
    let site = Site::start();
    let path = PathConfig {
        delay: Duration::from_millis(20),
        loss: 0.0,
        rate: Some(100_000_000),
        queue_bytes: 4 << 20,
        seed: 1,
    };
    let path = Path::start(path, site.listen).unwrap();
    let (port, target) = (ports::one(), local_address());
    let mut node = site.node("node-1");
    node.look_for_relay_at(&path.address().to_string());
    node.configure(&instance("game", &[Service::udp(port, target)]));
    let client = node.start();
    client.wait_until_ready();
    let public = site.public(port);
    burst_both_ways(&roomy(target), [(); 2].map(|()| player(public)), true);
}

/// Ten bursts each way, which arrive as they would without the tunnel. The game says a word to another player behind each of its own,
/// which waits behind as much of the burst as has left: over QUIC the window's worth, over a lane all that the kernel has taken.
fn burst_both_ways(server: &UdpSocket, [player, other]: [UdpSocket; 2], passes: bool) {
    // Twice: who has sent something after an answer is no forged address.
    let seen = [(); 2].map(|()| converse(&player, server, 100))[1];
    let beside = [(); 2].map(|()| converse(&other, server, 100))[1];
    other.set_nonblocking(true).unwrap();
    let (mut down, mut up) = (0, 0);
    for _ in 0..TIMES {
        for _ in 0..BURST {
            server.send_to(&[7; SIZE], seen).unwrap();
        }
        server.send_to(b"a word", beside).unwrap();
        let mut overtaken = None;
        let arrived = receive(&player, |arrived| {
            if overtaken.is_none() && other.recv(&mut [0; 8]).is_ok() {
                overtaken = Some(BURST - arrived);
            }
        });
        down += BURST - arrived;
        if passes {
            assert!(overtaken > Some(0), "a word waits behind another's burst");
        } else if overtaken.is_none() {
            other.set_nonblocking(false).unwrap();
            other.recv(&mut [0; 8]).expect("a word");
            other.set_nonblocking(true).unwrap();
        }
    }
    for _ in 0..TIMES {
        for _ in 0..BURST {
            player.send(&[7; SIZE]).unwrap();
        }
        up += BURST - receive(server, |_| {});
    }
    let sent = TIMES * BURST;
    let is_whole = down <= sent / 100 && up <= sent / 100;
    assert!(is_whole, "lost of {sent}: {down} down, {up} up");
}

/// How many of a burst arrive.
fn receive(at: &UdpSocket, mut each: impl FnMut(usize)) -> usize {
    let mut arrived = 0;
    let mut buffer = [0; 2 * SIZE];
    while arrived < BURST && at.recv(&mut buffer).is_ok() {
        arrived += 1;
        each(arrived);
    }
    arrived
}

/// A player whose own buffer holds a burst.
fn player(public: SocketAddr) -> UdpSocket {
    let player = roomy(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    player.connect(public).unwrap();
    player
}

/// A socket whose own buffer holds a burst.
fn roomy(address: SocketAddr) -> UdpSocket {
    let socket = udp_server(address);
    set_socket_recv_buffer_size(&socket, 4 << 20).unwrap();
    // What has not come this long after the last of a burst is lost.
    let silence = Some(Duration::from_secs(2));
    socket.set_read_timeout(silence).unwrap();
    socket
}

/// What has to be said to `tc` for a device of 100 Mbit/s whose queue holds 4 MB.
fn shape(device: &str) -> Vec<String> {
    format!("qdisc add dev {device} root tbf rate 100mbit burst 15k limit 4m")
        .split(' ')
        .map(str::to_owned)
        .collect()
}

/// Datagrams of a burst, and bytes of each: 480 kB, which the path carries in 40 ms.
const BURST: usize = 400;
const SIZE: usize = 1_200;
const TIMES: usize = 10;
