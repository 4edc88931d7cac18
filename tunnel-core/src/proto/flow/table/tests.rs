use std::collections::BTreeMap;

use super::*;
use crate::proto::{flow::*, testing::XorShift};

const SECOND: Duration = Duration::from_secs(1);

/// A table, its clock and its allocator.
struct World {
    table: FlowTable,
    start: Instant,
    next: u64,
}

impl World {
    fn new(per_address: u32, per_service: u32) -> Self {
        Self {
            table: FlowTable::new(FlowLimits {
                idle: 120 * SECOND,
                per_address,
                per_service,
            }),
            start: Instant::now() + 1_000_000 * SECOND,
            next: 0,
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// The flow that a packet goes to, and those that make room for it.
    fn packet(&mut self, ms: u64, player: &str) -> Result<(u64, Vec<u64>), FlowDrop> {
        let key = FlowKey::new(player.parse().unwrap(), [198, 51, 100, 1].into(), 0);
        let now = self.at(ms);
        let mut evicted = Vec::new();
        loop {
            let allocate = || {
                self.next += 1;
                FlowId(self.next)
            };
            match self.table.handle_player_packet(now, key, 0, allocate) {
                Ok(admitted) => return Ok((admitted.flow.id.0, evicted)),
                Err(full) => {
                    let rank = self.table.victim(now, full, &key);
                    let flow = self.table.make_room(now, full, &key);
                    assert_eq!(rank.is_some(), flow.is_some());
                    evicted.push(flow.ok_or(full)?.id.0);
                }
            }
        }
    }

    /// `times` questions of a player and answers of the game, all within a millisecond; returns the flow.
    fn talk(&mut self, ms: u64, player: &str, times: u8) -> u64 {
        let mut flow = None;
        for _ in 0..times {
            let (id, _) = self.packet(ms, player).unwrap();
            assert!(self.reply(ms, id));
            assert!(flow.is_none_or(|before| before == id));
            flow = Some(id);
        }
        flow.unwrap()
    }

    fn reply(&mut self, ms: u64, id: u64) -> bool {
        let now = self.at(ms);
        self.table
            .handle_reply(now, FlowId(id), 0)
            .is_ok_and(|flow| flow.open_acknowledged)
    }

    fn expired(&mut self, ms: u64) -> Vec<u64> {
        let now = self.at(ms);
        std::iter::from_fn(|| self.table.poll_expired(now))
            .map(|flow| flow.id.0)
            .collect()
    }

    fn next_timeout(&self) -> Option<Duration> {
        self.table
            .poll_timeout()
            .map(|at| at.saturating_duration_since(self.start))
    }
}

#[test]
fn packets_of_one_player_are_one_flow() {
    let mut world = World::new(64, 64);
    assert_eq!(world.packet(0, "192.0.2.1:1000"), Ok((1, vec![])));
    assert_eq!(world.packet(1, "192.0.2.1:1000"), Ok((1, vec![])));
    assert_eq!(world.packet(1, "[::ffff:192.0.2.1]:1000"), Ok((1, vec![])));
    assert_eq!(world.packet(2, "192.0.2.1:1001"), Ok((2, vec![])));
    assert_eq!(world.packet(2, "192.0.2.2:1000"), Ok((3, vec![])));
    for (player, local, port_index) in [
        ("192.0.2.1:1000", [198, 51, 100, 1], 1),
        ("192.0.2.1:1000", [198, 51, 100, 2], 0),
    ] {
        let key = FlowKey::new(player.parse().unwrap(), local.into(), port_index);
        let now = world.start;
        let admitted = world
            .table
            .handle_player_packet(now, key, 0, || FlowId(100));
        assert!(admitted.unwrap().created);
        world.table.remove(FlowId(100));
    }
    assert_eq!(world.table.len(), 3);
    let flow = *world.table.get(FlowId(1)).unwrap();
    assert_eq!(flow.key.player(), "192.0.2.1:1000".parse().unwrap());
    assert!(!flow.open_acknowledged);
}

#[test]
fn reply_acknowledges_the_flow() {
    let mut world = World::new(64, 64);
    assert!(!world.reply(0, 1), "unknown flows are not there");
    world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(0, 1));
    assert!(world.table.get(FlowId(1)).unwrap().open_acknowledged);
    assert_eq!(world.table.remove(FlowId(1)).unwrap().id, FlowId(1));
    assert!(!world.reply(0, 1));
    assert_eq!(world.next_timeout(), None);
    // The same player again is another flow: ids never repeat.
    assert_eq!(world.packet(0, "192.0.2.1:1"), Ok((2, vec![])));
}

#[test]
fn answered_flows_expire_by_their_idle_time() {
    let mut world = World::new(64, 64);
    world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(10, 1));
    assert_eq!(world.next_timeout(), Some(Duration::from_millis(121_010)));
    world.packet(50_000, "192.0.2.1:1").unwrap();
    world.packet(50_900, "192.0.2.1:1").unwrap();
    assert_eq!(world.expired(170_899), []);
    assert_eq!(world.expired(171_000), [1]);
    assert!(world.table.is_empty());
    assert_eq!(world.next_timeout(), None);
}

#[test]
fn replies_keep_a_flow_too() {
    let mut world = World::new(64, 64);
    world.packet(0, "192.0.2.1:1").unwrap();
    for second in 0..1000 {
        assert!(world.reply(second * 1000, 1));
        assert_eq!(world.expired(second * 1000), []);
    }
}

#[test]
fn unanswered_flows_live_ten_seconds() {
    let mut world = World::new(64, 64);
    world.packet(0, "192.0.2.1:1").unwrap();
    world.packet(500, "192.0.2.2:1").unwrap();
    world.packet(500, "192.0.2.3:1").unwrap();
    assert!(world.reply(600, 2));
    assert_eq!(world.expired(10_999), []);
    assert_eq!(world.expired(11_000), [1]);
    assert_eq!(world.expired(11_500), [3]);
    assert_eq!(world.table.len(), 1);
}

#[test]
fn a_full_service_makes_room_of_what_was_never_answered_then_of_what_is_over() {
    let mut world = World::new(64, 3);
    world.packet(0, "192.0.2.1:1").unwrap();
    world.packet(1, "192.0.2.2:1").unwrap();
    world.packet(2, "192.0.2.3:1").unwrap();
    assert!(world.reply(3, 1));
    assert_eq!(world.packet(4, "192.0.2.4:1"), Ok((4, vec![2])));
    // Flow 3 was heard of again, flow 4 was not.
    world.packet(2000, "192.0.2.3:1").unwrap();
    assert_eq!(world.packet(2001, "192.0.2.5:1"), Ok((5, vec![4])));
    assert!(world.reply(2002, 3) && world.reply(2002, 5));
    assert_eq!(
        world.packet(2003, "192.0.2.1:1"),
        Ok((1, vec![])),
        "who is in stays in"
    );
    // All have been answered: 1 was so longest ago.
    assert_eq!(world.packet(2003, "192.0.2.6:1"), Ok((6, vec![1])));
    assert_eq!(world.packet(2004, "192.0.2.7:1"), Ok((7, vec![6])));
}

#[test]
fn a_service_full_of_conversations_refuses_the_newest() {
    let mut world = World::new(64, 2);
    let [one, two] = ["192.0.2.1:1", "192.0.2.2:1"].map(|it| world.talk(0, it, SETTLED));
    let newest = "192.0.2.3:1";
    assert_eq!(world.packet(1, newest), Err(FlowDrop::ServiceFull));
    assert_eq!(world.next, 2, "a refused packet takes no id");
    world.talk(9_000, "192.0.2.2:1", 1);
    assert_eq!(world.packet(10_999, newest), Err(FlowDrop::ServiceFull));
    // One has not been answered for so long that nobody plays on it.
    assert_eq!(world.packet(11_000, newest), Ok((3, vec![one])));
    assert!(world.table.get(FlowId(two)).is_some());
}

#[test]
fn flood_does_not_touch_answered_flows() {
    let mut world = World::new(64, 100);
    world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(0, 1));
    for i in 0..10_000u32 {
        let forged = IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        assert!(world.packet(1, &format!("{forged}:1")).is_ok());
        assert!(world.table.len() <= 100);
    }
    assert!(world.table.get(FlowId(1)).is_some());
    assert_eq!(world.table.len(), 100, "memory is bounded by the cap");
    assert_eq!(world.table.counts.addresses().len(), 100);
    assert_eq!(world.table.by_address.len(), 100);
}

#[test]
fn one_address_has_its_share() {
    let mut world = World::new(2, 64);
    let players = [
        "192.0.2.1:1",
        "192.0.2.1:2",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
    ];
    for player in players {
        world.talk(0, player, SETTLED);
    }
    assert_eq!(world.packet(0, "192.0.2.1:3"), Err(FlowDrop::AddressFull));
    assert_eq!(
        world.packet(0, "[2001:db8::3]:1"),
        Err(FlowDrop::AddressFull),
        "of IPv6, a /64 is one address"
    );
    assert!(world.packet(0, "[2001:db8:0:1::3]:1").is_ok());
    assert!(world.packet(0, "192.0.2.2:3").is_ok());
    world.table.remove(FlowId(1)).unwrap();
    assert_eq!(world.packet(0, "192.0.2.1:3"), Ok((7, vec![])));
}

/// What happens at one address that may have three flows; others are full of what would go first.
#[test]
fn at_its_cap_an_address_makes_room_of_its_own_longest_silent_flow() {
    let (a, b, c) = ("192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3");
    // When, whose flow, how many answers the player gets; 0 is a question that nobody answers. In the end: who goes.
    type Deeds<'a> = &'a [(u64, &'a str, u8)];
    let cases: [(&str, Deeds<'_>, u64, Result<&str, FlowDrop>); 9] = [
        (
            "never answered goes before silent for longer",
            &[(0, a, 1), (3_000, b, 0), (4_000, c, 1)],
            5_000,
            Ok(b),
        ),
        (
            "of those never answered, the one silent for longest",
            &[(0, a, 0), (1_000, b, 0), (2_000, a, 0), (2_500, c, 0)],
            3_000,
            Ok(b),
        ),
        (
            "the one whose game has been silent for longest",
            &[(0, a, 1), (1_000, b, 1), (1_500, c, 1), (2_600, b, 0)],
            4_000,
            Ok(a),
        ),
        (
            "a player who talks to a game that has gone",
            &[(0, a, 9), (5_000, b, 9), (8_000, c, 9), (11_500, a, 0)],
            12_000,
            Ok(a),
        ),
        (
            "an answer on its way is waited for",
            &[(0, a, 9), (100, b, 1), (200, c, 0)],
            300,
            Ok(b),
        ),
        (
            "unless nothing else can go",
            &[(0, a, 9), (100, b, 9), (200, c, 0)],
            300,
            Ok(c),
        ),
        (
            "a scan goes round beside a player",
            &[(0, a, 9), (100, b, 1), (200, c, 1)],
            1_000,
            Ok(b),
        ),
        (
            "who has paused for longer than anybody plays",
            &[(0, a, 20), (2_000, b, 20), (11_900, c, 3)],
            12_000,
            Ok(a),
        ),
        (
            "all are live",
            &[(0, a, 8), (100, b, 20), (200, c, 9)],
            9_000,
            Err(FlowDrop::AddressFull),
        ),
    ];
    for (what, deeds, end, expected) in cases {
        let mut world = World::new(3, 64);
        // Theirs is nobody else's: never answered, and older than anything.
        let beside = ["192.0.2.2:1", "192.0.2.2:2", "[2001:db8::1]:1"];
        let mut ids = HashMap::new();
        for neighbour in beside {
            ids.insert(neighbour, world.packet(0, neighbour).unwrap().0);
        }
        for &(ms, player, answers) in deeds {
            let id = match answers {
                0 => world.packet(ms, player).unwrap().0,
                _ => world.talk(ms, player, answers),
            };
            ids.insert(player, id);
        }
        let got = world.packet(end, "192.0.2.1:9").map(|(_, evicted)| evicted);
        assert_eq!(got, expected.map(|goes| vec![ids[goes]]), "{what}");
    }
}

#[test]
fn every_query_of_a_monitor_is_answered_and_no_player_beside_it_goes() {
    let mut world = World::new(64, 16_384);
    let players: Vec<_> = (0..60).map(|n| format!("192.0.2.1:{}", 1 + n)).collect();
    let mut flows = Vec::new();
    for player in &players {
        flows.push(world.talk(0, player, SETTLED));
    }
    let mut asked = std::collections::VecDeque::new();
    for query in 0..3_000_u64 {
        // A thousand in a second, each from a fresh port, each answered after three others have been asked.
        let ms = 10 + query;
        let (id, evicted) = world
            .packet(ms, &format!("192.0.2.1:{}", 10_000 + query))
            .unwrap();
        assert!(evicted.iter().all(|id| !flows.contains(id)));
        asked.push_back(id);
        if asked.len() > 3 {
            assert!(world.reply(ms, asked.pop_front().unwrap()), "{query}");
        }
        if query % 50 == 0 {
            let player = &players[query as usize / 50 % players.len()];
            world.talk(ms, player, 1);
        }
    }
    assert!(
        flows
            .iter()
            .all(|id| world.table.get(FlowId(*id)).is_some())
    );
    assert_eq!(world.table.len(), 64);
}

#[test]
fn memory_that_a_crowd_took_is_given_back() {
    let mut world = World::new(64, 100_000);
    for n in 0..50_000_u32 {
        let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        assert!(world.packet(1, &format!("{ip}:1")).is_ok());
    }
    // The last to come stay.
    for n in 0..20 {
        assert!(world.reply(2, 50_000 - n));
    }
    assert_eq!(world.expired(20_000).len(), 49_980);
    let table = &world.table;
    let held = [
        table.entries.capacity(),
        table.by_key.capacity(),
        table.by_id.capacity(),
        table.by_address.capacity(),
        table.counts.addresses().capacity(),
    ];
    assert!(held.iter().all(|capacity| *capacity < 1_000), "{held:?}");
    for n in 0..20 {
        assert!(world.reply(20_001, 50_000 - n));
    }
}

#[test]
fn changed_limits_hold_for_flows_to_come_and_clocks_at_once() {
    let mut world = World::new(64, 2);
    for player in ["192.0.2.1:1", "192.0.2.2:1"] {
        world.talk(0, player, SETTLED);
    }
    world.table.set_limits(FlowLimits {
        idle: 10 * SECOND,
        per_address: 1,
        per_service: 1,
    });
    assert_eq!(world.table.len(), 2);
    assert_eq!(world.packet(1, "192.0.2.3:1"), Err(FlowDrop::ServiceFull));
    assert_eq!(world.expired(11_000), [1, 2]);
}

#[test]
fn time_may_jump() {
    let mut world = World::new(64, 64);
    world.packet(5_000, "192.0.2.1:1").unwrap();
    world.packet(0, "192.0.2.1:1").unwrap();
    let past = world.start - 900_000 * SECOND;
    let key = FlowKey::new("192.0.2.9:1".parse().unwrap(), [198, 51, 100, 1].into(), 0);
    world
        .table
        .handle_player_packet(past, key, 0, || FlowId(50))
        .unwrap();
    assert!(world.table.handle_reply(past, FlowId(1), 0).is_ok());
    assert_eq!(world.table.poll_expired(past), None);
    world.expired(1 << 40);
    assert!(world.table.is_empty());
    // A clock that would overflow is a flow that does not expire, not a panic.
    world.table.set_limits(FlowLimits {
        idle: Duration::MAX,
        ..FlowLimits::default()
    });
    world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(0, 2));
    assert_eq!(world.next_timeout(), None);
}

/// The table beside a plain map that scans everything.
#[test]
fn table_agrees_with_a_model() {
    const CAPS: (usize, usize) = (4, 16);
    let mut random = XorShift::new(13);
    let mut world = World::new(CAPS.0 as u32, CAPS.1 as u32);
    let mut model: BTreeMap<u64, Modelled> = BTreeMap::new();
    let mut ms = 0;
    let (mut evictions, mut refusals) = (0, 0);
    for _ in 0..200_000 {
        // Now and then a silence in which flows end.
        let most = [0, 1, 50, if random.below(50) == 0 { 150_000 } else { 600 }];
        ms += most[random.below(4)] / (1 + random.below(20) as u64);
        // Mostly one who is there, or hardly anybody would ever settle.
        let one = model.values().nth(random.below(17));
        let player = one.map_or_else(|| random.below(30), |flow| flow.player);
        let name = format!("192.0.2.{}:{}", player % 5, player);
        match random.below(40) {
            0..18 => {
                let known = model.iter_mut().find(|(_, flow)| flow.player == player);
                if let Some((id, flow)) = known {
                    flow.handle_question(ms);
                    assert_eq!(world.packet(ms, &name), Ok((*id, vec![])));
                    continue;
                }
                let mut left = model.clone();
                let expected = loop {
                    let of_address = |flow: &Modelled| flow.player % 5 == player % 5;
                    let (among, full) =
                        if left.values().filter(|it| of_address(it)).count() >= CAPS.0 {
                            (Among::Address, FlowDrop::AddressFull)
                        } else if left.len() >= CAPS.1 {
                            (Among::All, FlowDrop::ServiceFull)
                        } else {
                            break Ok(());
                        };
                    let concerned = left
                        .iter()
                        .filter(|(_, flow)| among == Among::All || of_address(flow));
                    let ranked = concerned.filter_map(|(id, flow)| {
                        let since = world.at(flow.since);
                        Some((rank(among, flow.talk.standing(), since, world.at(ms))?, *id))
                    });
                    let Some((_, id)) = ranked.min() else {
                        break Err(full);
                    };
                    left.remove(&id);
                };
                let got = world.packet(ms, &name);
                let evicted = got.clone().map(|(_, evicted)| evicted).unwrap_or_default();
                // Of several with one rank either may go.
                let ranks = |ids: &mut dyn Iterator<Item = u64>| {
                    let mut ranks: Vec<_> = ids
                        .map(|id| &model[&id])
                        .map(|it| (it.talk.standing() == Standing::Unanswered, it.since))
                        .collect();
                    ranks.sort_unstable();
                    ranks
                };
                let wanted = &mut model.keys().copied().filter(|id| !left.contains_key(id));
                assert_eq!(ranks(&mut evicted.iter().copied()), ranks(wanted));
                assert_eq!(got.clone().map(drop), expected);
                evictions += evicted.len();
                model.retain(|id, _| !evicted.contains(id));
                match got {
                    Ok((id, _)) => drop(model.insert(id, Modelled::new(player, ms))),
                    Err(_) => refusals += 1,
                }
            }
            18..38 => {
                let one = model.keys().nth(random.below(17));
                let id = one.copied().unwrap_or(random.below(1_000) as u64);
                let known = model.get_mut(&id);
                assert_eq!(world.reply(ms, id), known.is_some());
                if let Some(flow) = known {
                    flow.handle_reply(ms);
                }
            }
            38 => {
                let id = world.next.saturating_sub(random.below(30) as u64);
                let removed = world.table.remove(FlowId(id)).is_some();
                assert_eq!(removed, model.remove(&id).is_some());
            }
            _ => {
                let ends =
                    |flow: &Modelled| flow.touched + if flow.answered { 121_000 } else { 11_000 };
                let mut got = world.expired(ms);
                got.sort_unstable();
                let over: Vec<u64> = model
                    .iter()
                    .filter(|(_, flow)| ends(flow) <= ms)
                    .map(|(id, _)| *id)
                    .collect();
                assert_eq!(got, over);
                model.retain(|_, flow| ends(flow) > ms);
                let next = model.values().map(ends).min().map(Duration::from_millis);
                assert_eq!(world.next_timeout(), next);
            }
        }
        let loose = |flow: &&Modelled| flow.talk.standing().is_loose();
        let loose = model.values().filter(loose).count() as u32;
        assert_eq!(
            (world.table.len(), world.table.counts.loose()),
            (model.len(), loose)
        );
    }
    let happened = (world.next, evictions, refusals);
    assert!(
        happened.0 > 1_000 && happened.1 > 500 && happened.2 > 50,
        "{happened:?}"
    );
}

#[derive(Clone, Debug)]
struct Modelled {
    player: usize,
    answered: bool,
    touched: u64,
    talk: Talk,
    since: u64,
}

impl Modelled {
    fn new(player: usize, ms: u64) -> Self {
        let mut talk = Talk::default();
        talk.handle_question();
        Self {
            player,
            answered: false,
            touched: ms,
            talk,
            since: ms,
        }
    }

    fn handle_question(&mut self, ms: u64) {
        self.talk.handle_question();
        let asked_in_vain = self.talk.standing() == Standing::Unanswered;
        for (mark, counts) in [(&mut self.since, asked_in_vain), (&mut self.touched, true)] {
            if counts && ms - *mark >= 1000 {
                *mark = ms;
            }
        }
    }

    fn handle_reply(&mut self, ms: u64) {
        if !std::mem::replace(&mut self.answered, true) || ms - self.touched >= 1000 {
            self.touched = ms;
        }
        let before = self.talk.standing();
        if self.talk.handle_reply() && (self.talk.standing() != before || ms - self.since >= 1000) {
            self.since = ms;
        }
    }
}

#[test]
fn a_new_process_of_the_client_is_told_of_every_flow_again() {
    let mut world = World::new(8, 8);
    let (id, _) = world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(1, id));
    let changed = world.at(2);
    world.table.handle_client_changed(changed);
    assert!(!world.table.get(FlowId(id)).unwrap().open_acknowledged);
    assert_eq!(world.packet(3, "192.0.2.1:1"), Ok((id, vec![])));
    // Never answered by the new process, it ends as soon as any other such flow.
    assert_eq!(world.expired(13_000), [id]);
}

#[test]
fn a_new_process_of_the_client_finds_who_plays() {
    let mut world = World::new(2, 8);
    let player = world.talk(0, "192.0.2.1:1", SETTLED);
    world.packet(0, "192.0.2.1:2").unwrap();
    let changed = world.at(3_000);
    world.table.handle_client_changed(changed);
    // Nothing of it makes the player's flow one that was never answered.
    assert_eq!(world.packet(3_001, "192.0.2.1:3"), Ok((3, vec![2])));
    assert!(world.table.get(FlowId(player)).is_some());
}

#[test]
fn tables_of_one_service_share_its_caps() {
    let limits = FlowLimits {
        idle: 120 * SECOND,
        per_address: 2,
        per_service: 3,
    };
    let counts = Arc::<FlowCounts>::default();
    let (start, local) = (Instant::now(), IpAddr::from([198, 51, 100, 1]));
    let mut tables = [0, 1].map(|_| FlowTable::sharing(limits, counts.clone()));
    let key = |player: &str| FlowKey::new(player.parse().unwrap(), local, 0);
    let mut next = 0;
    let mut packet = |table: &mut FlowTable, ms: u64, player: &str| {
        let allocate = || {
            next += 1;
            FlowId(next)
        };
        let now = start + Duration::from_millis(ms);
        let admitted = table.handle_player_packet(now, key(player), 0, allocate);
        admitted.map(|it| it.flow.id.0)
    };
    let [near, far] = &mut tables;
    assert_eq!(packet(near, 0, "192.0.2.1:1"), Ok(1));
    assert_eq!(packet(far, 1, "192.0.2.1:2"), Ok(2));
    // Which of them goes is what both say together.
    let (full, third) = (FlowDrop::AddressFull, key("192.0.2.1:3"));
    for table in [&mut *near, &mut *far] {
        assert_eq!(packet(table, 2, "192.0.2.1:3"), Err(full));
    }
    let now = start + Duration::from_millis(2);
    let ranks = [&*near, &*far].map(|table| table.victim(now, full, &third).unwrap());
    assert!(ranks[0] < ranks[1]);
    assert_eq!(near.make_room(now, full, &third).unwrap().id.0, 1);
    assert_eq!(near.victim(now, full, &third), None);
    assert_eq!(packet(far, 2, "192.0.2.1:3"), Ok(3));

    assert_eq!(packet(near, 3, "192.0.2.2:1"), Ok(4));
    assert_eq!(packet(near, 3, "192.0.2.3:1"), Err(FlowDrop::ServiceFull));
    assert_eq!((near.len(), far.len(), counts.loose()), (1, 2, 3));
    drop(tables);
    assert_eq!(counts.loose(), 0);
    assert!(counts.addresses().is_empty());
}
