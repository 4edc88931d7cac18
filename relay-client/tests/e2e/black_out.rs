//! Networks that are not there for a while, or not yet.

use std::{fs, thread, time::Duration};

use crate::harness::{
    crowd::Crowd,
    eventually,
    namespace::{clear_filter, filter, ip, isolated, own_hosts},
    players::{converse, try_converse, udp_player, udp_server},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site, instance},
};

#[test]
fn a_black_out_of_ten_seconds_breaks_no_stream_and_no_flow() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let [latency, throughput, game] = [(); 3].map(|()| (ports::one(), local_address()));
        let client = site.expose(&[
            Service::tcp(latency.0, latency.1)
                .named("latency")
                .optimized_for("latency"),
            Service::tcp(throughput.0, throughput.1)
                .named("throughput")
                .optimized_for("throughput"),
            Service::udp(game.0, game.1).named("game"),
        ]);
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
    let port = site.listen.port();
    filter(&format!(
        "chain in {{ type filter hook input priority 0; \
         udp dport {port} drop; udp sport {port} drop; tcp dport {port} drop; tcp sport {port} drop; }}"
    ));
}
