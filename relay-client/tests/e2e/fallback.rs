//! Networks that carry UDP or TCP alone between client and relay.

use std::{
    fs,
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    crowd::Crowd,
    eventually, heavy,
    namespace::{clear_filter, filter, isolated},
    players::{
        accept, carry, connect, converse, listen, reaches, try_converse, udp_player, udp_server,
    },
    ports,
    programs::{curl_sha256, local_address, nginx, sha256, write_noise},
    requires,
    site::{Service, Site, block, block_all},
};

#[test]
fn lanes_carry_everything_where_udp_is_blocked() {
    requires!("nft", "ip", "nginx", "curl", "sha256sum");
    isolated(|| {
        let site = Site::start();
        block("udp", &site);
        everything_gets_through(&site);
    });
}

#[test]
fn quic_carries_everything_where_tcp_is_blocked() {
    requires!("nft", "ip", "nginx", "curl", "sha256sum");
    isolated(|| {
        let site = Site::start();
        block("tcp", &site);
        everything_gets_through(&site);
    });
}

#[test]
fn a_tunnel_survives_udp_going_and_coming_back() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let port = ports::one();
        let target = local_address();
        let _client = site.expose(&[Service::both(port, target)]);
        let server = udp_server(target);
        let player = udp_player(site.public(port));
        for _ in 0..2 {
            eventually("flows over QUIC", || try_converse(&player, &server, 100));
            block("udp", &site);
            eventually("flows over lanes", || try_converse(&player, &server, 100));
            eventually("streams over lanes", || {
                reaches(site.public(port), target).then_some(())
            });
            clear_filter();
            // A datagram may grow too old on a busy machine.
            eventually("flows", || try_converse(&player, &server, 100));
            assert!(reaches(site.public(port), target));
        }
    });
}

#[test]
fn a_player_who_comes_as_udp_is_lost_is_served_over_lanes() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let port = ports::one();
        let target = local_address();
        let _client = site.expose(&[Service::tcp(port, target).optimized_for("latency")]);
        let server = listen(target);
        block("udp", &site);
        // Nobody knows yet that the path is dead: the stream is opened on it.
        let mut player = connect(site.public(port));
        player.write_all(b"hello").unwrap();
        let mut peer = accept(&server);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        carry(&mut peer, &mut player, b"welcome");
        // Once, and nobody else.
        server.set_nonblocking(true).unwrap();
        assert!(server.accept().is_err());
    });
}

#[test]
fn quic_is_had_from_another_port_where_the_network_drops_the_present_one() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let port = ports::one();
        let target = local_address();
        let client = site.expose(&[Service::udp(port, target)]);
        let server = udp_server(target);
        let player = udp_player(site.public(port));
        converse(&player, &server, 100);
        let began = Instant::now();
        for round in 2..=3 {
            let relay = site.listen.port();
            let dropped = udp_ports().into_iter().map(|from| {
                format!("udp sport {from} udp dport {relay} drop; udp sport {relay} udp dport {from} drop;")
            });
            filter(&format!(
                "chain in {{ type filter hook input priority 0; {} }}",
                dropped.collect::<String>()
            ));
            client.wait_for_lines("QUIC", round, |line| line.contains("is up over quic"));
            eventually("an answer", || try_converse(&player, &server, 100));
        }
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(60), "back after {took:?}");
    });
}

#[test]
fn what_reaches_the_relay_no_more_takes_another_way() {
    requires!("nft", "ip");
    isolated(|| one_way_is_gone("dport"));
}

#[test]
fn what_reaches_the_client_no_more_takes_another_way() {
    requires!("nft", "ip");
    isolated(|| one_way_is_gone("sport"));
}

/// UDP between client and relay passes in one direction only. A game notices for four seconds at most.
fn one_way_is_gone(blocked: &str) {
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let client = site.expose(&[Service::udp(port, target)]);
    client.wait_until_up_over("quic");
    let crowd = Crowd::new();
    crowd.echo(target);
    let game = crowd.gamer(site.public(port), 100, TICK, usize::MAX);
    eventually("a game", || (game.answered() > 50).then_some(()));
    game.take_silences();
    let relay = site.listen.port();
    filter(&format!(
        "chain in {{ type filter hook input priority 0; udp {blocked} {relay} drop; }}"
    ));
    let before = game.answered();
    eventually("answers", || (game.answered() > before + 50).then_some(()));
    let silences = game.take_silences();
    assert!(silences.longest <= Duration::from_secs(4), "{silences:?}");
}

#[test]
fn udp_that_comes_and_goes_is_left_alone_for_longer_and_longer() {
    requires!("nft", "ip");
    let _turn = heavy();
    isolated(|| {
        // What a game beside it waits for, which is on lanes all the while, is the machine's.
        let [site, steady] = [(); 2].map(|()| Site::start());
        block("udp", &steady);
        let crowd = Crowd::new();
        let [(client, game), (_beside, other)] =
            [(&site, "quic"), (&steady, "lane")].map(|(site, way)| {
                let (port, target) = (ports::one(), local_address());
                let client = site.expose(&[Service::udp(port, target)]);
                client.wait_until_up_over(way);
                crowd.echo(target);
                let game = crowd.gamer(site.public(port), 100, TICK, usize::MAX);
                (client, game)
            });
        for game in [&game, &other] {
            eventually("a game", || (game.answered() > 50).then_some(()));
            game.take_silences();
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(120) {
            block("udp", &steady);
            thread::sleep(Duration::from_secs(8));
            block_all("udp", &[&site, &steady]);
            thread::sleep(Duration::from_secs(20));
        }
        let [silences, machine] = [&game, &other].map(|game| game.take_silences());
        let sum = silences.sum.saturating_sub(machine.sum);
        assert!(sum <= Duration::from_secs(6), "{silences:?} {machine:?}");
        let longest = silences.longest.saturating_sub(machine.longest);
        assert!(
            longest <= Duration::from_secs(1),
            "{silences:?} {machine:?}"
        );
        let on_quic = client.count_lines(|line| line.contains("is up over quic"));
        assert!(on_quic <= 3, "{on_quic} times on QUIC in five");
    });
}

/// Between two datagrams of a game.
const TICK: Duration = Duration::from_millis(20);

/// The ports of all UDP sockets of this network that have no address: those on which the client speaks to its relay.
fn udp_ports() -> Vec<u16> {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let local = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1));
    let any = local.filter_map(|local| local?.strip_prefix("00000000:"));
    any.map(|port| u16::from_str_radix(port, 16).unwrap())
        .collect()
}

fn everything_gets_through(site: &Site) {
    let _turn = heavy();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("world.bin");
    write_noise(&file, 16 << 20);
    let web = nginx(files.path());
    let target = local_address();
    let game = ports::one();
    let mut services = vec![Service::udp(game, target).named("game")];
    let choices = ["latency", "throughput", "auto"].map(|choice| (choice, ports::one()));
    for (choice, port) in choices {
        let service = Service::tcp(port, web.address).named(choice);
        services.push(service.optimized_for(choice));
    }
    let _client = site.expose(&services);
    let server = udp_server(target);
    let player = udp_player(site.public(game));
    for size in [1, 100, 1_400, 8_000, 65_000] {
        converse(&player, &server, size);
    }
    for (choice, port) in choices {
        let url = format!("http://{}/world.bin", site.public(port));
        assert_eq!(curl_sha256(&url), sha256(&file), "{choice}");
    }
    fs::remove_file(file).unwrap();
}
