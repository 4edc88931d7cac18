//! Many conversations behind one address, as a carrier's NAT, a resolver or a monitor has them.

use std::{collections::HashSet, net::UdpSocket, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{
    crowd::Crowd,
    eventually, heavy,
    players::{try_converse, udp_player, udp_server},
    ports,
    programs::local_address,
    site::{Service, Site},
};

#[test]
fn a_thousand_players_behind_one_address_all_play() {
    let _turn = heavy();
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let _client = site.expose(&[Service::udp(port, target)]);
    let server = udp_server(target);
    let players: Vec<UdpSocket> = (0..1_000).map(|_| udp_player(site.public(port))).collect();
    let ask = |player: &UdpSocket| eventually("an answer", || try_converse(player, &server, 50));
    let first: Vec<_> = players.iter().map(ask).collect();
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 1_000);
    let second: Vec<_> = players.iter().map(ask).collect();
    assert_eq!(first, second, "the game takes each for who it was");
    assert!(!site.relay.log().contains("flows_per_address"));
}

#[test]
fn a_monitor_with_a_fresh_port_for_each_query_is_answered_three_thousand_times() {
    let _turn = heavy();
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let client = site.expose(&[Service::udp(port, target)]);
    let crowd = Crowd::new();
    crowd.witness(target);
    // Who plays there meanwhile stays who he is.
    let player = crowd.seen(site.public(port), Duration::from_millis(20));
    for query in 0..3_000_u32 {
        let monitor = udp_player(site.public(port));
        monitor
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        eventually("an answer", || {
            monitor.send(&query.to_be_bytes()).ok()?;
            let length = monitor.recv(&mut [0; 64]).ok()?;
            (length == 6).then_some(())
        });
    }
    assert!(player.port().is_some());
    // More of them than an address may have have come: it is said which key that is.
    site.relay.wait_for_line("the key", |line| {
        line.contains("flows_per_address = 1024") && line.contains("127.0.0.1")
    });
    drop(client);
}
