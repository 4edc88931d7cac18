//! A path like the internet's: packets of at most 1,500 bytes, or of fewer and nobody says so.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    thread,
};

use crate::harness::{
    heavy,
    namespace::{FarSide, filter, ip, isolated},
    players::{accept, connect, converse, listen, udp_server},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site, block, instance},
};

#[test]
fn datagrams_larger_than_the_path_arrive_whole() {
    requires!("ip", "nft", "nsenter");
    isolated(|| {
        let far = FarSide::new();
        let site = Site::elsewhere(far.address.into(), &far.prefix());
        for transport in ["quic", "lane"] {
            if transport == "lane" {
                block("udp", &site);
            }
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::one()));
            let port = ports::one();
            let node = site.node(transport);
            node.configure(&instance(transport, &[Service::udp(port, target)]));
            let client = node.start();
            client.wait_until_ready();
            client.wait_until_up_over(transport);
            let server = udp_server(target);
            // The player is across the link as well.
            let player = udp_server((Ipv4Addr::UNSPECIFIED, 0).into());
            player.connect(site.public(port)).unwrap();
            for size in SIZES {
                converse(&player, &server, size);
            }
        }
    });
}

#[test]
fn bulk_arrives_where_large_packets_are_dropped_without_a_word() {
    requires!("ip", "nft", "nsenter");
    let _turn = heavy();
    isolated(|| {
        let far = FarSide::new();
        // What the filter sees is what would be on the wire.
        ip(&["link", "set", "near", "gso_max_segs", "1"]);
        far.ip("link set far gso_max_segs 1");
        let site = Site::elsewhere(far.address.into(), &far.prefix());
        for transport in ["quic", "lane"] {
            let blocked = match transport {
                "quic" => String::new(),
                _ => format!(
                    "udp sport {0} drop; udp dport {0} drop;",
                    site.listen.port()
                ),
            };
            let rules = format!(
                "chain in {{ type filter hook input priority 0; iifname lo accept; {blocked} \
                 meta length > {NARROW} drop; }}"
            );
            filter(&rules);
            far.visit(|| filter(&rules));
            let ways = ["auto", "throughput"].map(|way| (way, ports::one(), local_address()));
            let instances = ways.map(|(way, port, target)| {
                let id = format!("{transport}-{way}");
                instance(&id, &[Service::tcp(port, target).optimized_for(way)])
            });
            let node = site.node(transport);
            node.configure(&instances.concat());
            let client = node.start();
            client.wait_until_ready();
            client.wait_until_up_over(transport);
            for (_, port, target) in ways {
                let server = listen(target);
                let player = far.visit(|| connect(site.public(port)));
                let game = accept(&server);
                let upload = arrives(player.try_clone().unwrap(), game.try_clone().unwrap());
                let download = arrives(game, player);
                upload.join().unwrap();
                download.join().unwrap();
            }
        }
    });
}

/// Sends [`BULK`] bytes one way and sees them come out.
fn arrives(mut from: TcpStream, mut to: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let sending = thread::spawn(move || {
            let bytes: Vec<u8> = (0..BULK).map(|at| (at / 251) as u8).collect();
            from.write_all(&bytes).unwrap();
            from.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        to.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), BULK);
        assert!((0..BULK).all(|at| got[at] == (at / 251) as u8));
        sending.join().unwrap();
    })
}

/// Largest packet of a narrow path.
const NARROW: usize = 1_300;
/// 20 MB.
const BULK: usize = 20_000_000;
/// Around what fits into one packet, with and without the heads of tunnel, UDP and IP, and far beyond it.
const SIZES: [usize; 14] = [
    100, 1_200, 1_300, 1_372, 1_400, 1_420, 1_452, 1_472, 1_473, 1_500, 3_000, 9_000, 20_000,
    30_000,
];
