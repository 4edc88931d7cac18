//! A path like the internet's: packets of at most 1,500 bytes.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::{
    namespace::{FarSide, filter, isolated},
    players::{converse, udp_server},
    ports, requires,
    site::{Service, Site, instance},
};

#[test]
fn datagrams_larger_than_the_path_arrive_whole() {
    requires!("ip", "nft", "nsenter");
    isolated(|| {
        let far = FarSide::new();
        let site = Site::elsewhere(far.address.into(), &far.prefix());
        for transport in ["quic", "lane"] {
            if transport == "lane" {
                let port = site.listen.port();
                filter(&format!(
                    "chain in {{ type filter hook input priority 0; udp sport {port} drop; }}"
                ));
            }
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::one()));
            let port = ports::one();
            let node = site.node(transport);
            node.configure(&instance(transport, &[Service::udp(port, target)]));
            let client = node.start();
            client.wait_until_ready();
            client.wait_for_line("the transport", |line| {
                line.contains(&format!("is up over {transport}"))
            });
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

/// Around what fits into one packet, with and without the heads of tunnel, UDP and IP, and far beyond it.
const SIZES: [usize; 14] = [
    100, 1_200, 1_300, 1_372, 1_400, 1_420, 1_452, 1_472, 1_473, 1_500, 3_000, 9_000, 20_000,
    30_000,
];
