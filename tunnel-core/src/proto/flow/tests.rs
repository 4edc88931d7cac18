use std::collections::BTreeMap;

use super::*;
use crate::proto::testing::XorShift;

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

    /// The flow that a packet goes to, and the one that it evicts.
    fn packet(&mut self, ms: u64, player: &str) -> Result<(u64, Option<u64>), FlowDrop> {
        let key = FlowKey::new(player.parse().unwrap(), [198, 51, 100, 1].into(), 0);
        let now = self.at(ms);
        self.table
            .handle_player_packet(now, key, || {
                self.next += 1;
                FlowId(self.next)
            })
            .map(|admitted| (admitted.flow.id.0, admitted.evicted.map(|flow| flow.id.0)))
    }

    fn reply(&mut self, ms: u64, id: u64) -> bool {
        let now = self.at(ms);
        self.table
            .handle_reply(now, FlowId(id))
            .is_some_and(|flow| flow.open_acknowledged)
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
    assert_eq!(world.packet(0, "192.0.2.1:1000"), Ok((1, None)));
    assert_eq!(world.packet(1, "192.0.2.1:1000"), Ok((1, None)));
    assert_eq!(world.packet(1, "[::ffff:192.0.2.1]:1000"), Ok((1, None)));
    assert_eq!(world.packet(2, "192.0.2.1:1001"), Ok((2, None)));
    assert_eq!(world.packet(2, "192.0.2.2:1000"), Ok((3, None)));
    for (player, local, port_index) in [
        ("192.0.2.1:1000", [198, 51, 100, 1], 1),
        ("192.0.2.1:1000", [198, 51, 100, 2], 0),
    ] {
        let key = FlowKey::new(player.parse().unwrap(), local.into(), port_index);
        let now = world.start;
        let admitted = world.table.handle_player_packet(now, key, || FlowId(100));
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
    assert_eq!(world.packet(0, "192.0.2.1:1"), Ok((2, None)));
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
fn full_service_evicts_the_oldest_unanswered_flow() {
    let mut world = World::new(64, 3);
    world.packet(0, "192.0.2.1:1").unwrap();
    world.packet(1, "192.0.2.2:1").unwrap();
    world.packet(2, "192.0.2.3:1").unwrap();
    assert!(world.reply(3, 1));
    assert_eq!(world.packet(4, "192.0.2.4:1"), Ok((4, Some(2))));
    // Flow 3 was heard of again, flow 4 was not.
    world.packet(2000, "192.0.2.3:1").unwrap();
    assert_eq!(world.packet(2001, "192.0.2.5:1"), Ok((5, Some(4))));
    assert!(world.reply(2002, 3) && world.reply(2002, 5));
    assert_eq!(
        world.packet(2003, "192.0.2.6:1"),
        Err(FlowDrop::ServiceFull)
    );
    assert_eq!(
        world.packet(2004, "192.0.2.1:1"),
        Ok((1, None)),
        "who is in stays in"
    );
    assert_eq!(world.next, 5, "a refused packet takes no id");
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
    assert_eq!(world.table.nodes.len(), 100, "memory is bounded by the cap");
    assert_eq!(world.table.counts.addresses().len(), 100);
}

#[test]
fn one_address_has_its_share() {
    let mut world = World::new(2, 64);
    for player in [
        "192.0.2.1:1",
        "192.0.2.1:2",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
    ] {
        assert!(world.packet(0, player).is_ok());
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
    assert!(world.packet(0, "192.0.2.1:3").is_ok());
}

#[test]
fn changed_limits_hold_for_flows_to_come_and_clocks_at_once() {
    let mut world = World::new(64, 2);
    for player in ["192.0.2.1:1", "192.0.2.2:1"] {
        world.packet(0, player).unwrap();
    }
    assert!(world.reply(0, 1) && world.reply(0, 2));
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
        .handle_player_packet(past, key, || FlowId(50))
        .unwrap();
    assert!(world.table.handle_reply(past, FlowId(1)).is_some());
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
    #[derive(Debug)]
    struct Model {
        player: usize,
        answered: bool,
        touched: u64,
    }
    const CAP: usize = 20;
    let mut random = XorShift::new(13);
    let mut world = World::new(4, CAP as u32);
    let mut model: BTreeMap<u64, Model> = BTreeMap::new();
    let mut ms = 0;
    let touch = |flow: &mut Model, ms: u64| {
        if ms - flow.touched >= 1000 {
            flow.touched = ms;
        }
    };
    for _ in 0..100_000 {
        ms += [0, 1, 50, 3000][random.below(4)] / (1 + random.below(20) as u64);
        let player = random.below(60);
        let name = format!("192.0.2.{}:{}", player % 12, player);
        match random.below(10) {
            0..5 => {
                let known = model.iter_mut().find(|(_, flow)| flow.player == player);
                let of_address = |flow: &&Model| flow.player % 12 == player % 12;
                let expected = if let Some((id, flow)) = known {
                    touch(flow, ms);
                    Ok((*id, None))
                } else if model.values().filter(of_address).count() >= 4 {
                    Err(FlowDrop::AddressFull)
                } else {
                    let full = model.len() >= CAP;
                    let unanswered = model.iter().filter(|(_, flow)| !flow.answered);
                    let evicted = unanswered
                        .min_by_key(|(_, flow)| flow.touched)
                        .map(|(id, _)| *id)
                        .filter(|_| full);
                    if full && evicted.is_none() {
                        Err(FlowDrop::ServiceFull)
                    } else {
                        Ok((world.next + 1, evicted))
                    }
                };
                let got = world.packet(ms, &name);
                if let (Ok((_, Some(got))), Ok((_, Some(wanted)))) = (got, expected) {
                    // Of several touched in one millisecond either may go.
                    assert_eq!(model[&got].touched, model[&wanted].touched);
                    assert!(!model[&got].answered);
                    model.remove(&got);
                } else {
                    assert_eq!(got, expected);
                }
                if let Ok((id, _)) = got {
                    model.entry(id).or_insert(Model {
                        player,
                        answered: false,
                        touched: ms,
                    });
                }
            }
            5..8 => {
                let id = world.next.saturating_sub(random.below(30) as u64);
                let known = model.get_mut(&id);
                assert_eq!(world.reply(ms, id), known.is_some());
                if let Some(flow) = known {
                    if flow.answered {
                        touch(flow, ms);
                    } else {
                        flow.answered = true;
                        flow.touched = ms;
                    }
                }
            }
            8 => {
                let id = world.next.saturating_sub(random.below(30) as u64);
                let removed = world.table.remove(FlowId(id)).is_some();
                assert_eq!(removed, model.remove(&id).is_some());
            }
            _ => {
                let ends =
                    |flow: &Model| flow.touched + if flow.answered { 121_000 } else { 11_000 };
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
        assert_eq!(world.table.len(), model.len());
    }
    assert!(world.next > 1000);
}

#[test]
fn a_new_process_of_the_client_is_told_of_every_flow_again() {
    let mut world = World::new(8, 8);
    let (id, _) = world.packet(0, "192.0.2.1:1").unwrap();
    assert!(world.reply(1, id));
    let changed = world.at(2);
    world.table.handle_client_changed(changed);
    assert!(!world.table.get(FlowId(id)).unwrap().open_acknowledged);
    assert_eq!(world.packet(3, "192.0.2.1:1").unwrap(), (id, None));
    // Never answered by the new process, it ends as soon as any other such flow.
    assert_eq!(world.expired(13_000), [id]);
}

#[test]
fn tables_of_one_service_share_its_caps() {
    let limits = FlowLimits {
        idle: 120 * SECOND,
        per_address: 2,
        per_service: 3,
    };
    let counts = Arc::<FlowCounts>::default();
    let (now, local) = (Instant::now(), IpAddr::from([198, 51, 100, 1]));
    let mut tables = [0, 1].map(|_| FlowTable::sharing(limits, counts.clone()));
    let mut next = 0;
    let mut packet_with = |place, table: &mut FlowTable, player: &str| {
        let key = FlowKey::new(player.parse().unwrap(), local, 0);
        next += 1;
        let admitted = table.handle_player_packet_with(place, now, key, || FlowId(next));
        admitted.map(|it| (it.flow.id.0, it.evicted.map(|flow| flow.id.0)))
    };
    let [near, far] = &mut tables;
    assert_eq!(packet_with(None, near, "192.0.2.1:1"), Ok((1, None)));
    assert_eq!(packet_with(None, far, "192.0.2.1:2"), Ok((2, None)));
    for table in [&mut *near, &mut *far] {
        assert_eq!(
            packet_with(None, table, "192.0.2.1:3"),
            Err(FlowDrop::AddressFull)
        );
    }
    assert_eq!(packet_with(None, near, "192.0.2.2:1"), Ok((5, None)));
    // Full: each table's own oldest makes room, and the count stays.
    assert_eq!(packet_with(None, far, "192.0.2.3:1"), Ok((6, Some(2))));
    assert_eq!((near.len(), far.len(), counts.unanswered()), (2, 1, 3));
    // One whose flows are all answered has to ask the other.
    assert!(far.handle_reply(now, FlowId(6)).is_some());
    assert_eq!(
        packet_with(None, far, "192.0.2.4:1"),
        Err(FlowDrop::ServiceFull)
    );
    let (evicted, place) = near.evict().unwrap();
    assert_eq!(evicted.id.0, 1);
    assert_eq!(
        packet_with(None, far, "192.0.2.1:4"),
        Err(FlowDrop::ServiceFull)
    );
    assert_eq!(packet_with(Some(place), far, "192.0.2.1:4"), Ok((9, None)));
    assert_eq!(packet_with(None, far, "192.0.2.1:5"), Ok((10, Some(9))));
    // A place that nobody takes is free again.
    drop(near.evict().unwrap());
    assert_eq!(packet_with(None, far, "192.0.2.5:1"), Ok((11, None)));
    for table in [&mut *near, &mut *far] {
        let ids: Vec<_> = table.iter().map(|flow| flow.id).collect();
        assert!(ids.into_iter().all(|id| table.remove(id).is_some()));
    }
    assert_eq!(
        (counts.flows.load(Ordering::Relaxed), counts.unanswered()),
        (0, 0)
    );
    assert!(counts.addresses().is_empty());
}
