//! What happens at night: processes die, and nobody is there to do anything about it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::harness::{
    Seeded,
    crowd::{Crowd, Tally},
    eventually, heavy,
    players::udp_player,
    ports,
    process::Process,
    programs::local_address,
    site::{Node, Service, Site, instance},
};

/// The issue's own bound: the one kind of wall-clock time that a test may hold.
const RECOVERY: Duration = Duration::from_secs(3);

#[test]
fn twenty_kills_at_random_moments_are_healed_within_three_seconds_and_leave_nothing_behind() {
    let _turn = heavy();
    let mut town = Town::new();
    let mut moment = Seeded(4);
    // Ten times each, so that what the survivor of ten deaths has kept of them can be counted.
    for victim in [Victim::Client, Victim::Relay] {
        let quiet = town.survivor(victim).descriptors();
        let crowd = town.gather();
        let mut warm = 0;
        for death in 0..10 {
            crowd.is_at_it(moment.below(300));
            let since = town.kill(victim);
            town.serves_new_players();
            crowd.is_at_it(1);
            let took = since.elapsed();
            assert!(
                took < RECOVERY,
                "{victim:?}, death {death}: back after {took:?}"
            );
            if death == 2 {
                warm = town.survivor(victim).memory();
            }
        }
        let memory = town.survivor(victim).memory();
        assert!(
            memory < warm + 16 * 1024,
            "the survivor of {victim:?} grew from {warm} to {memory} KiB"
        );
        crowd.assert_sane();
        drop(crowd);
        // Some idle lanes more than at first, where two players came at once; each death opens and ends dozens.
        eventually("the end of what was opened", || {
            (town.survivor(victim).descriptors() <= quiet + 16).then_some(())
        });
    }
}

#[test]
fn a_dead_clients_ports_are_held_for_its_lease_and_no_longer() {
    let site = Site::start();
    let (port, target) = (ports::one(), local_address());
    let mut first = site.expose(&[Service::both(port, target)]);
    let heir = site.node("node-2");
    heir.configure(&instance("heir", &[Service::both(port, target)]));
    first.kill();
    let heir = heir.start();
    // It may come back within the lease, so nobody else gets them.
    heir.wait_for_line("the refusal", |line| {
        line.contains("instance heir is refused")
    });
    // QUIC tells nobody that a process has died: half a minute of silence, then the lease.
    heir.wait_until_ready();
    let crowd = Crowd::new();
    crowd.echo(target);
    assert!(asks_tcp(site.public(port)));
    // A datagram may grow too old on a busy machine.
    eventually("an answer to a datagram", || {
        asks_udp(site.public(port)).then_some(())
    });
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Relay,
    Client,
}

/// A relay, a client with three services, and the game servers behind them.
struct Town {
    client: Process,
    site: Site,
    node: Node,
    game: SocketAddr,
    talk: SocketAddr,
    bulk: SocketAddr,
    _servers: Crowd,
}

/// Players who use all services all the time.
struct Players {
    _crowd: Crowd,
    tallies: [Arc<Tally>; 4],
}

impl Town {
    fn new() -> Self {
        let site = Site::start();
        let node = site.node("node-1");
        let [game, talk, bulk] = [(); 3].map(|()| (ports::one(), local_address()));
        node.configure(&instance(
            "game-1",
            &[
                // The shortest there is: flows of players who left are gone when the test looks.
                Service::udp(game.0, game.1)
                    .named("game")
                    .forgetting_after(10),
                Service::tcp(talk.0, talk.1)
                    .named("talk")
                    .optimized_for("latency"),
                Service::tcp(bulk.0, bulk.1)
                    .named("bulk")
                    .optimized_for("throughput"),
            ],
        ));
        let servers = Crowd::new();
        for (_, target) in [game, talk, bulk] {
            servers.echo(target);
        }
        let client = node.start();
        client.wait_until_ready();
        Self {
            game: site.public(game.0),
            talk: site.public(talk.0),
            bulk: site.public(bulk.0),
            client,
            site,
            node,
            _servers: servers,
        }
    }

    fn gather(&self) -> Players {
        let crowd = Crowd::new();
        let pace = Duration::from_millis(5);
        let tallies = [
            crowd.gamer(self.game, 200, pace, usize::MAX),
            crowd.gamer(self.game, 1_100, pace, usize::MAX),
            crowd.talker(self.talk, 300),
            crowd.talker(self.bulk, 1 << 20),
        ];
        Players {
            _crowd: crowd,
            tallies,
        }
    }

    fn survivor(&self, victim: Victim) -> &Process {
        match victim {
            Victim::Relay => &self.client,
            Victim::Client => &self.site.relay,
        }
    }

    /// Ends a process without a word and starts it anew at once, as its supervisor does. When that was.
    fn kill(&mut self, victim: Victim) -> Instant {
        match victim {
            Victim::Relay => self.site.relay.kill(),
            Victim::Client => self.client.kill(),
        }
        let since = Instant::now();
        match victim {
            Victim::Relay => self.site.start_relay(),
            Victim::Client => self.client = self.node.start(),
        }
        since
    }

    /// Waits for answers to players who have never been here.
    fn serves_new_players(&self) {
        eventually("an answer over UDP", || asks_udp(self.game).then_some(()));
        for public in [self.talk, self.bulk] {
            eventually("an answer over TCP", || asks_tcp(public).then_some(()));
        }
    }
}

impl Players {
    /// Waits until each has got one more answer, and all together `more` beyond that.
    fn is_at_it(&self, more: u64) {
        let before = self.tallies.each_ref().map(|tally| tally.answered());
        eventually("answers to everybody", || {
            let now = self.tallies.each_ref().map(|tally| tally.answered());
            let all = now.iter().zip(before).all(|(now, before)| *now > before);
            let sum: u64 = now.iter().sum();
            (all && sum >= before.iter().sum::<u64>() + more).then_some(())
        });
    }

    fn assert_sane(&self) {
        for tally in &self.tallies {
            tally.assert_sane();
        }
    }
}

/// Whether a new TCP connection is answered.
fn asks_tcp(public: SocketAddr) -> bool {
    let answer = || {
        let mut player = TcpStream::connect(public)?;
        // Longer than a recovery may take: who is held at the door is not sent away by this.
        player.set_read_timeout(Some(2 * RECOVERY))?;
        player.write_all(b"hello")?;
        player.read_exact(&mut [0; 5])
    };
    answer().is_ok()
}

/// Whether a new UDP conversation is answered.
fn asks_udp(public: SocketAddr) -> bool {
    let player = udp_player(public);
    player
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    player.send(b"hello").is_ok() && player.recv(&mut [0; 5]).is_ok()
}
