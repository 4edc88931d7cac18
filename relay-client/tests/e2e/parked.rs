//! The relay dies, and the game notices nothing of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Seeded,
    crowd::Crowd,
    eventually, heavy,
    namespace::{filter, isolated},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site},
};

/// The issue's own bound: the one kind of wall-clock time that a test may hold.
const RECOVERY: Duration = Duration::from_secs(3);

#[test]
fn twenty_deaths_of_the_relay_leave_twenty_players_who_they_are_to_the_game() {
    let _turn = heavy();
    survives(&mut Site::start());
}

#[test]
fn the_same_where_lanes_carry_everything() {
    requires!("nft", "ip");
    let _turn = heavy();
    isolated(|| {
        let mut site = Site::start();
        let port = site.listen.port();
        filter(&format!(
            "chain in {{ type filter hook input priority 0; udp dport {port} drop; }}"
        ));
        survives(&mut site);
    });
}

/// Twenty players, some load beside them, and twenty deaths at any moment.
fn survives(site: &mut Site) {
    let [game, bulk] = [(); 2].map(|()| (ports::one(), local_address()));
    let _client = site.expose(&[
        Service::udp(game.0, game.1).named("game"),
        Service::tcp(bulk.0, bulk.1).named("bulk"),
    ]);
    let crowd = Crowd::new();
    crowd.witness(game.1);
    crowd.echo(bulk.1);
    let players: Vec<_> = (0..20)
        .map(|_| crowd.seen(site.public(game.0), Duration::from_millis(10)))
        .collect();
    let _load = crowd.talker(site.public(bulk.0), 1 << 20);
    let all_since = |then: Instant| {
        eventually("answers to everybody", || {
            let mut views = players.iter();
            views.all(|view| view.is_answered_since(then)).then_some(())
        });
    };
    all_since(Instant::now());
    let ports: Vec<_> = players.iter().map(|view| view.port().unwrap()).collect();
    let mut moment = Seeded(9);
    let mut times = Vec::new();
    for death in 0..20 {
        // Some come before the tunnel has stood for long.
        thread::sleep(Duration::from_millis(moment.below(1_500)));
        site.relay.kill();
        let since = Instant::now();
        site.start_relay();
        all_since(since);
        let took = since.elapsed();
        assert!(took < RECOVERY, "death {death}: back after {took:?}");
        times.push(took.as_millis());
        let now: Vec<_> = players.iter().map(|view| view.port().unwrap()).collect();
        assert_eq!(now, ports, "death {death}");
    }
    for view in &players {
        let gap = view.longest_gap();
        assert!(gap < RECOVERY, "{gap:?} without an answer");
    }
    times.sort_unstable();
    eprintln!("back after {times:?} ms");
}
