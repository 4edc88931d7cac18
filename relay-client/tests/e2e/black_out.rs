//! Networks that are not there for a while, or not yet.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    crowd::Crowd,
    eventually, heavy,
    namespace::{clear_filter, filter, ip, isolated, own_hosts},
    players::{converse, try_converse, udp_player, udp_server},
    ports,
    process::Process,
    programs::local_address,
    requires,
    site::{Service, Site, instance},
};

#[test]
fn a_black_out_of_ten_seconds_breaks_no_stream_and_no_flow() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let (client, [latency, throughput, game]) = expose_each_kind(&site);
        let crowd = Crowd::new();
        let streams = [latency, throughput].map(|(port, target)| {
            crowd.echo(target);
            crowd.talker(site.public(port), 20_000)
        });
        let server = udp_server(game.1);
        let player = udp_player(site.public(game.0));
        let seen = converse(&player, &server, 100);
        for _ in 0..2 {
            black_out(&site);
            client.wait_for_line("the suspicion", |line| line.contains("missed a heartbeat"));
            // A black-out has a length: long enough for new paths to have been tried in vain.
            thread::sleep(Duration::from_secs(6));
            let before = streams.each_ref().map(|stream| stream.answered());
            clear_filter();
            for (stream, before) in streams.iter().zip(before) {
                // What was under way when the lights went out, and something new.
                eventually("answers", || (stream.answered() > before + 2).then_some(()));
            }
            let again = eventually("an answer", || try_converse(&player, &server, 100));
            assert_eq!(seen, again, "the server sees the same player");
        }
        for stream in streams {
            stream.finish();
            stream.assert_undisturbed();
        }
    });
}

/// A service for each way through the tunnel: TCP for latency and for throughput, and a game. Of each its port and where
/// its server is to listen.
fn expose_each_kind(site: &Site) -> (Process, [(u16, SocketAddr); 3]) {
    let places = [(); 3].map(|()| (ports::one(), local_address()));
    let [latency, throughput, game] = places;
    let client = site.expose(&[
        Service::tcp(latency.0, latency.1)
            .named("latency")
            .optimized_for("latency"),
        Service::tcp(throughput.0, throughput.1)
            .named("throughput")
            .optimized_for("throughput"),
        Service::udp(game.0, game.1).named("game"),
    ]);
    (client, places)
}

#[test]
fn a_second_after_a_black_out_of_five_everybody_is_answered() {
    recovers_within_a_second("");
}

#[test]
fn the_same_where_udp_is_blocked() {
    recovers_within_a_second("udp");
}

/// Lights out for five seconds; `blocked` never passes between client and relay.
fn recovers_within_a_second(blocked: &str) {
    requires!("nft", "ip");
    let _alone = heavy();
    isolated(|| {
        let site = Site::start();
        let block = |protocols: &[&str]| {
            let rules = protocols.iter().map(|protocol| drop_all(&site, protocol));
            filter(&format!(
                "chain in {{ type filter hook input priority 0; {} }}",
                rules.collect::<String>()
            ));
        };
        let lasting: Vec<_> = ["udp", "tcp"]
            .into_iter()
            .filter(|it| *it == blocked)
            .collect();
        block(&lasting);
        let (client, [latency, throughput, game]) = expose_each_kind(&site);
        let crowd = Crowd::new();
        for (_, target) in [latency, throughput, game] {
            crowd.echo(target);
        }
        // Whose bytes under way fill what QUIC may send unanswered.
        let _bulk = crowd.talker(site.public(latency.0), 1 << 20);
        // One exchange at a time, and a game that goes on whether it is heard or not.
        let players = [
            ("latency", crowd.talker(site.public(latency.0), 100)),
            ("throughput", crowd.talker(site.public(throughput.0), 100)),
            (
                "game",
                crowd.gamer(site.public(game.0), 100, TICK, usize::MAX),
            ),
        ];
        for round in 1..=2 {
            for (_, player) in &players {
                let before = player.answered();
                eventually("answers", || (player.answered() > before + 9).then_some(()));
            }
            block(&["udp", "tcp"]);
            thread::sleep(Duration::from_secs(5));
            let before = players.each_ref().map(|(_, player)| player.answered());
            let back = Instant::now();
            block(&lasting);
            let times = Cell::new([None; 3]);
            eventually("answers", || {
                let mut looks = times.get();
                for ((look, (_, player)), before) in looks.iter_mut().zip(&players).zip(before) {
                    if look.is_none() && player.answered() > before {
                        *look = Some(back.elapsed());
                    }
                }
                times.set(looks);
                looks.iter().all(Option::is_some).then_some(())
            });
            for ((name, _), time) in players.iter().zip(times.get()) {
                assert!(
                    time.unwrap() <= Duration::from_secs(1),
                    "{name}, round {round}: {time:?}"
                );
            }
        }
        for (_, player) in &players[..2] {
            player.assert_undisturbed();
        }
        drop(client);
    });
}

#[test]
fn a_client_without_a_network_goes_on_trying_until_there_is_one() {
    requires!("ip");
    isolated(|| {
        let site = Site::start();
        let node = site.node("node-1");
        let (port, target) = (ports::one(), local_address());
        node.configure(&instance("game-1", &[Service::udp(port, target)]));
        ip(&["link", "set", "lo", "down"]);
        let client = node.start();
        client.wait_for_lines("tries in vain", 3, |line| line.contains("next try in"));
        ip(&["link", "set", "lo", "up"]);
        client.wait_until_ready();
        converse(&udp_player(site.public(port)), &udp_server(target), 100);
    });
}

#[test]
fn a_relay_whose_name_does_not_resolve_yet_is_asked_for_again() {
    requires!("ip", "unshare", "mount");
    // In a network that leads nowhere, so that nobody is asked for the name.
    isolated(|| {
        let site = Site::start();
        let mut node = site.node("node-1");
        let hosts = site.path("hosts");
        fs::write(&hosts, "").unwrap();
        let Some(prefix) = own_hosts(&hosts) else {
            return;
        };
        let (port, target) = (ports::one(), local_address());
        node.look_for_relay_at(&format!("relay.invalid:{}", site.listen.port()));
        node.configure(&instance("game-1", &[Service::udp(port, target)]));
        let client = node.start_inside(&prefix);
        client.wait_for_lines("tries in vain", 3, |line| line.contains("cannot resolve"));
        fs::write(&hosts, "127.0.0.1 relay.invalid\n").unwrap();
        client.wait_until_ready();
        converse(&udp_player(site.public(port)), &udp_server(target), 100);
    });
}

/// Drops everything between client and relay; players and servers are not touched.
fn black_out(site: &Site) {
    filter(&format!(
        "chain in {{ type filter hook input priority 0; {} {} }}",
        drop_all(site, "udp"),
        drop_all(site, "tcp")
    ));
}

/// Drops what a protocol carries between client and relay.
fn drop_all(site: &Site, protocol: &str) -> String {
    let port = site.listen.port();
    format!("{protocol} dport {port} drop; {protocol} sport {port} drop;")
}

/// Between two datagrams of a game.
const TICK: Duration = Duration::from_millis(20);
