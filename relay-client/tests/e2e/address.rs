//! A node that gets another address: a new lease from its router, another network, a line that was dialled anew.

use std::time::Duration;

use crate::harness::{
    crowd::Crowd,
    eventually,
    namespace::{FarSide, filter, ip, isolated},
    players::{accept, carry, connect, converse, listen, try_converse, udp_player, udp_server},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site, block, instance},
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
        block("udp", &site);
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
    client.wait_until_up_over(transport);

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

#[test]
fn nothing_happens_when_a_temporary_address_rotates() {
    requires!("ip", "nft", "nsenter");
    isolated(|| rotates("quic", ""));
}

#[test]
fn nothing_happens_when_a_temporary_address_rotates_and_udp_is_blocked() {
    requires!("ip", "nft", "nsenter");
    isolated(|| rotates("lane", "udp sport @relay drop;"));
}

/// New connections leave from another address, and what stands on the former one goes on until that is gone.
fn rotates(transport: &str, rules: &str) {
    let far = FarSide::new();
    far.ip("address add fd77::1/64 dev far nodad");
    // Routes of their own: that of an address changes with it.
    ip(&["route", "add", "fd77::/64", "dev", "near"]);
    let own = |verb, address, more: &[&str]| {
        ip(&[&["address", verb, address, "dev", "near"], more].concat());
    };
    own("add", "fd77::2/128", &["nodad"]);
    let site = Site::elsewhere("fd77::1".parse().unwrap(), &far.prefix());
    let rules = rules.replace("@relay", &site.listen.port().to_string());
    filter(&format!(
        "chain in {{ type filter hook input priority 0; {rules} }}"
    ));
    let [game, bulk] = [(); 2].map(|()| (ports::one(), local_address()));
    let node = site.node("node-1");
    let services = [
        Service::udp(game.0, game.1).named("game"),
        Service::tcp(bulk.0, bulk.1)
            .named("bulk")
            .optimized_for("throughput"),
    ];
    node.configure(&instance("game-1", &services));
    let client = node.start();
    client.wait_until_ready();
    client.wait_until_up_over(transport);
    let servers = Crowd::new();
    servers.echo(game.1);
    servers.echo(bulk.1);
    let players = far.visit(Crowd::new);
    let game = players.gamer((far.address, game.0).into(), 100, TICK, usize::MAX);
    let bulk = players.talker((far.address, bulk.0).into(), 100);
    let plays = || {
        let before = [&game, &bulk].map(|player| player.answered());
        eventually("answers", || {
            (game.answered() > before[0] + 100 && bulk.answered() > before[1] + 100).then_some(())
        });
    };
    plays();
    for player in [&game, &bulk] {
        player.take_silences();
    }
    let up = client.count_lines(|line| line.contains("is up over"));
    own("add", "fd77::3/128", &["nodad"]);
    let lifetimes = ["preferred_lft", "0", "valid_lft", "600"];
    own("change", "fd77::2/128", &lifetimes);
    plays();
    std::thread::sleep(Duration::from_secs(3));
    plays();
    for player in [&game, &bulk] {
        let silences = player.take_silences();
        assert!(silences.longest <= UNNOTICED, "{silences:?}");
    }
    assert_eq!(client.count_lines(|line| line.contains("is up over")), up);

    own("delete", "fd77::2/128", &[]);
    plays();
    bulk.assert_undisturbed();
}

/// Between two datagrams of a game.
const TICK: Duration = Duration::from_millis(20);
/// The bound for what happens to nobody.
const UNNOTICED: Duration = Duration::from_millis(300);

/// What the node's address is, and what it becomes. Narrower networks, so that each is a first address of its own.
const ADDRESSES: [(&str, &str); 3] = [
    ("10.77.0.2/24", "10.77.0.3/25"),
    ("10.77.0.3/25", "10.77.0.4/26"),
    ("10.77.0.4/26", "10.77.0.5/27"),
];
