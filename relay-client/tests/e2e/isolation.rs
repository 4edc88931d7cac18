//! A neighbour notices nothing of what happens beside it.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{runtime::Builder, task::JoinSet};
use tunnel_core::{
    client::{Client, ClientIdentity},
    event::Event,
    key::{Psk, SecretKey},
};

use crate::harness::{
    crowd::Crowd,
    eventually, heavy,
    players::reaches,
    ports,
    programs::local_address,
    site::{Service, Site, instance},
};

#[test]
fn a_neighbour_loses_nothing_to_200_changes_a_flood_and_a_thousand_refused_handshakes() {
    let _turn = heavy();
    let mut site = Site::start();
    // A thousand refusals would take their time at the usual share of a core.
    let mut settings = fs::read_to_string(site.relay_config()).unwrap();
    settings += "\n[limits]\nhandshake_cpu_permille = 1000\n";
    fs::write(site.relay_config(), settings).unwrap();
    site.restart_relay();
    let node = site.node("node-1");
    let [game, talk, bulk, within, beside] = [(); 5].map(|()| (ports::one(), local_address()));
    let neighbour = [
        Service::udp(game.0, game.1).named("game"),
        Service::tcp(talk.0, talk.1)
            .named("talk")
            .optimized_for("latency"),
        Service::tcp(bulk.0, bulk.1)
            .named("bulk")
            .optimized_for("throughput"),
    ];
    let before = instance("neighbour", &neighbour);
    node.configure(&before);
    let client = node.start();
    client.wait_until_ready();
    let enemy = site.node("node-2");
    let [flooded, visited] = [(); 2].map(|()| (ports::one(), local_address()));
    enemy.configure(&instance(
        "flooded",
        &[
            Service::udp(flooded.0, flooded.1).named("flooded"),
            Service::tcp(visited.0, visited.1).named("visited"),
        ],
    ));
    let enemy = enemy.start();
    enemy.wait_until_ready();

    let crowd = Crowd::new();
    for (_, target) in [game, talk, bulk, visited] {
        crowd.echo(target);
    }
    crowd.sink(flooded.1);
    // They are so few at once that they fit into any socket's buffer and into the smallest window that QUIC ever has: whatever is
    // lost, Adit has lost.
    let pace = Duration::from_millis(3);
    let players = [
        crowd.gamer(site.public(game.0), 200, pace, 3),
        crowd.gamer(site.public(game.0), 1_100, pace, 3),
        // Cut into fragments.
        crowd.gamer(site.public(game.0), 4_000, pace, 1),
        crowd.talker(site.public(talk.0), 300),
        crowd.talker(site.public(bulk.0), 100_000),
    ];
    let enough = AtomicBool::new(false);
    let refused = AtomicU32::new(0);
    thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            knock(&node.client_identity(), &refused, &enough);
        });
        let finish = Finish(&enough);
        let floods = [
            crowd.flooder(site.public(flooded.0), 5_000),
            crowd.visitors(site.public(visited.0)),
        ];
        for round in 0..200 {
            // Another instance, and a further service of the neighbour's own.
            let more = [
                &neighbour[..],
                &[Service::tcp(within.0, within.1).named("more")],
            ]
            .concat();
            node.configure(
                &(instance("neighbour", &more)
                    + &instance("beside", &[Service::both(beside.0, beside.1)])),
            );
            client.signal(Signal::HUP);
            for (public, target) in [within, beside] {
                eventually("the service", || {
                    reaches(site.public(public), target).then_some(())
                });
            }
            node.configure(&before);
            client.signal(Signal::HUP);
            for (public, _) in [within, beside] {
                eventually_refuses(site.public(public));
            }
            assert!(!strangers.is_finished(), "round {round}");
        }
        eventually("a thousand refusals", || {
            (refused.load(Ordering::Relaxed) >= 1_000).then_some(())
        });
        for flood in floods {
            assert!(flood.answered() + flood.sent() > 1_000, "{flood:?}");
        }
        drop(finish);
    });
    for player in players {
        player.finish();
        player.assert_undisturbed();
        assert!(player.answered() > 100, "{player:?}");
    }
    assert_eq!(client.stdout(), "ready\n");
    let log = client.log();
    assert!(!log.contains("is down"), "the tunnel was lost");
}

/// Comes with one wrong key after the other, over QUIC and lanes, until there are enough.
fn knock(known: &ClientIdentity, refused: &AtomicU32, enough: &AtomicBool) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut knocking = JoinSet::new();
        while !enough.load(Ordering::Relaxed) {
            let mut stranger = known.clone();
            stranger.psk = Psk::generate().unwrap();
            // In turn: the neighbour's own key without its secret, and a key that nobody knows.
            if refused.load(Ordering::Relaxed) % 4 < 2 {
                stranger.secret_key = SecretKey::generate().unwrap();
            }
            knocking.spawn(knock_once(stranger));
            if knocking.len() >= AT_ONCE {
                let tried = knocking.join_next().await.unwrap().unwrap();
                refused.fetch_add(tried, Ordering::Relaxed);
            }
        }
    });
}

/// How many handshakes the relay refused in one try.
async fn knock_once(stranger: ClientIdentity) -> u32 {
    let client = Client::builder(stranger).start().unwrap();
    let mut events = client.events();
    loop {
        match events.next().await.unwrap().unwrap() {
            Event::TunnelUp { .. } => panic!("a stranger was let in"),
            Event::Reconnecting { reason, .. } => {
                let ways = ["QUIC: ", "lane: "];
                return ways.iter().filter(|way| reason.contains(**way)).count() as u32;
            }
            _ => {}
        }
    }
}

/// Strangers at the door at one time.
const AT_ONCE: usize = 4;

/// Ends the strangers, also when the test fails, so that their thread can be joined.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn eventually_refuses(public: SocketAddr) {
    eventually("the end of the service", || {
        let error = TcpStream::connect(public).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}
