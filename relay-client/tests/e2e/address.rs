//! A node that gets another address: a new lease from its router, another network, a line that was dialled anew.

use crate::harness::{
    eventually,
    namespace::{FarSide, filter, ip, isolated},
    players::{accept, carry, connect, converse, listen, try_converse, udp_player, udp_server},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site, instance},
};

#[test]
fn players_stay_when_the_nodes_address_changes() {
    requires!("ip", "nft", "nsenter");
    isolated(|| {
        let far = FarSide::new();
        let site = Site::elsewhere(far.address.into(), &far.prefix());
        players_stay(&far, &site, "quic");
    });
}

#[test]
fn players_stay_when_the_nodes_address_changes_and_udp_is_blocked() {
    requires!("ip", "nft", "nsenter");
    isolated(|| {
        let far = FarSide::new();
        let site = Site::elsewhere(far.address.into(), &far.prefix());
        let port = site.listen.port();
        filter(&format!(
            "chain in {{ type filter hook input priority 0; udp sport {port} drop; }}"
        ));
        players_stay(&far, &site, "lane");
    });
}

fn players_stay(far: &FarSide, site: &Site, transport: &str) {
    let game = (ports::one(), local_address());
    let services = ["latency", "throughput"].map(|choice| (choice, ports::one(), local_address()));
    let mut declared = vec![Service::udp(game.0, game.1).named("game")];
    for (choice, port, target) in services {
        let service = Service::tcp(port, target).named(choice);
        declared.push(service.optimized_for(choice));
    }
    let node = site.node("node-1");
    node.configure(&instance("game-1", &declared));
    let client = node.start();
    client.wait_until_ready();
    client.wait_for_line("the transport", |line| {
        line.contains(&format!("is up over {transport}"))
    });

    let mut streams = services.map(|(_, port, target)| {
        let server = listen(target);
        let player = far.visit(|| connect(site.public(port)));
        (player, accept(&server))
    });
    let server = udp_server(game.1);
    let player = far.visit(|| udp_player(site.public(game.0)));
    let seen = converse(&player, &server, 100);
    for (from, to) in &mut streams {
        carry(from, to, b"before");
    }
    for (old, new) in ADDRESSES {
        // What is under way when the address goes.
        ip(&["address", "add", new, "dev", "near"]);
        ip(&["address", "delete", old, "dev", "near"]);
        for (player, server) in &mut streams {
            carry(player, server, b"a player speaks first");
            carry(server, player, b"and the game answers");
        }
        let again = eventually("an answer", || try_converse(&player, &server, 100));
        assert_eq!(seen, again, "the game sees the same player");
    }
    // The way of what comes later is as good.
    let (_, port, target) = services[1];
    let server = listen(target);
    let mut player = far.visit(|| connect(site.public(port)));
    carry(&mut player, &mut accept(&server), b"after");
}

/// What the node's address is, and what it becomes. Narrower networks, so that each is a first address of its own.
const ADDRESSES: [(&str, &str); 3] = [
    ("10.77.0.2/24", "10.77.0.3/25"),
    ("10.77.0.3/25", "10.77.0.4/26"),
    ("10.77.0.4/26", "10.77.0.5/27"),
];
