use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::{
    client::{
        egress::udp::Means,
        ports::LocalPorts,
        room::Room,
        source::Origins,
        targets::{Target, tests::target},
    },
    instance::Protocol,
};

const SECOND: Duration = Duration::from_secs(1);

/// A table of two flows at most, and what flows are made of.
struct World {
    flows: Flows,
    means: Means,
    room: Arc<Room>,
    metrics: Arc<Metrics>,
    targets: [Arc<Target>; 2],
    start: Instant,
}

impl World {
    fn new() -> Self {
        let limits = ClientLimits {
            flows: 2,
            ..ClientLimits::default()
        };
        let metrics = Arc::default();
        let world = Self {
            flows: Flows::new(&limits, &metrics),
            means: Means::new(&Arc::new(LocalPorts::of_system()), Origins::new().unwrap()),
            room: Room::new(100),
            metrics,
            // Nobody sends anything there.
            targets: ["one", "two"].map(|id| target(id, Protocol::Udp, 9)),
            start: Instant::now(),
        };
        world.flows.lead_to(process(1), world.start);
        world
    }

    fn key(&self, target: usize, player: u16) -> FlowKey {
        let player = SocketAddr::from(([192, 0, 2, 1], player));
        FlowKey::new(&self.targets[target], 0, player)
    }

    /// A flow of a player to the first target.
    fn flow(&self, player: u16) -> Arc<Flow> {
        let (key, target) = (self.key(0, player), self.targets[0].clone());
        let candidates = [IpAddr::from([127, 0, 0, 1])];
        let room = [(); 2].map(|()| self.room.take(0).unwrap());
        let (means, metrics) = (&self.means, &self.metrics);
        let flow = Flow::open((key, None), target, (&candidates, 9), means, room, metrics);
        Arc::new(flow.unwrap())
    }

    /// The same, with an id of the first process.
    fn open(&self, id: u64, player: u16) -> Option<Arc<Flow>> {
        let slot = self.flows.reserve()?;
        let flow = self.flow(player);
        let found = (self.flows).insert(process(1), FlowId(id), flow.clone(), slot);
        assert!(matches!(found, Found::Unknown), "{found:?}");
        assert_eq!(flow.id(), Some(FlowId(id)));
        Some(flow)
    }

    fn end_idle(&self, now: Instant) -> Option<Instant> {
        let mut silent = Vec::new();
        let next = self.flows.end_idle(now, &mut silent);
        assert!(silent.is_empty(), "nobody waits");
        next
    }

    /// What is found of it by the first process, and by the second.
    fn found(&self, id: u64) -> [&'static str; 2] {
        [1, 2].map(
            |number| match self.flows.find(process(number), FlowId(id)) {
                Found::Flow(_) => "flow",
                Found::Unknown => "unknown",
                Found::Stale => "stale",
            },
        )
    }

    fn held(&self) -> (usize, u64) {
        let parked = self.metrics.snapshot().flows_parked;
        (self.flows.held.load(Ordering::Relaxed), parked)
    }
}

fn process(number: u8) -> ProcessId {
    ProcessId::from([number; 16])
}

#[tokio::test]
async fn ids_are_those_of_one_process_and_a_player_is_known_by_what_is_not_an_id() {
    let world = World::new();
    let flow = world.open(5, 1_000).unwrap();
    assert_eq!(world.found(5), ["flow", "stale"]);
    // Before the client is led to it, a process has no flows, and what it says is not heard.
    let (own, next) = (world.key(0, 1_000), FlowId(5));
    assert!(world.flows.resume(process(2), next, &own).is_none());
    world.flows.close(process(2), FlowId(5));
    assert_eq!(world.found(5), ["flow", "stale"]);

    world.flows.lead_to(process(2), world.start);
    assert!(!world.flows.is_led_to(process(1)) && world.flows.is_led_to(process(2)));
    assert_eq!(flow.id(), None);
    assert_eq!(world.held(), (1, 1));
    // The old tunnel's datagrams lead nowhere, and the new one's same number is nobody's yet.
    assert_eq!(world.found(5), ["stale", "unknown"]);
    world.flows.close(process(1), FlowId(5));
    // Not another service's, another player's, nor for the old process.
    for key in [world.key(1, 1_000), world.key(0, 1_001)] {
        assert!(world.flows.resume(process(2), next, &key).is_none());
    }
    assert!(world.flows.resume(process(1), next, &own).is_none());
    let resumed = world.flows.resume(process(2), FlowId(9), &own).unwrap();
    assert!(Arc::ptr_eq(&resumed, &flow));
    assert_eq!(flow.id(), Some(FlowId(9)));
    assert_eq!(world.held(), (1, 0));
    assert_eq!(
        (world.found(5), world.found(9)),
        (["stale", "unknown"], ["stale", "flow"])
    );
    assert!(
        world.flows.resume(process(2), FlowId(10), &own).is_none(),
        "once"
    );
    world.flows.close(process(2), FlowId(9));
    assert!(flow.has_ended());
    assert_eq!(world.held(), (0, 0));
}

#[tokio::test]
async fn the_relay_is_told_of_the_end_of_what_it_knows_and_of_nothing_else() {
    let world = World::new();
    let flow = world.open(5, 1_000).unwrap();
    assert_eq!(world.flows.leave(&flow), Some(FlowId(5)));
    assert_eq!(world.flows.leave(&flow), None, "once");
    let flow = world.open(6, 1_000).unwrap();
    world.flows.close(process(1), FlowId(6));
    assert_eq!(world.flows.leave(&flow), None, "it has closed it");
    let flow = world.open(7, 1_000).unwrap();
    world.flows.lead_to(process(2), world.start);
    assert_eq!(world.flows.leave(&flow), None, "it is parked");
    assert_eq!(world.held(), (0, 0));
    // One whose task has ended is neither parked nor resumed.
    world.flows.lead_to(process(1), world.start);
    let flow = world.open(8, 1_000).unwrap();
    flow.end();
    world.flows.lead_to(process(2), world.start);
    assert_eq!(world.held(), (0, 0));
    let key = world.key(0, 1_000);
    assert!(world.flows.resume(process(2), FlowId(1), &key).is_none());
}

#[tokio::test]
async fn a_parked_flow_lives_for_its_time_and_makes_room_first() {
    let world = World::new();
    let (one, two) = (world.open(1, 1_000).unwrap(), world.open(2, 1_001).unwrap());
    assert!(world.open(3, 1_002).is_none(), "two at most");
    tokio::time::sleep(Duration::from_millis(20)).await;
    one.touch_heard();
    world.flows.lead_to(process(2), world.start);
    world.flows.lead_to(process(1), world.start);
    assert_eq!(world.held(), (2, 2));
    let three = world.open(3, 1_002).unwrap();
    assert!(
        two.has_ended() && !one.has_ended(),
        "who was silent for longest"
    );
    assert_eq!(world.held(), (2, 1));
    let next = world.end_idle(world.start + 59 * SECOND);
    assert_eq!(next, Some(world.start + 60 * SECOND));
    assert!(!one.has_ended());
    world.end_idle(world.start + 60 * SECOND);
    assert!(one.has_ended());
    assert_eq!(world.held(), (1, 0));
    // Looked at every ten seconds at least, so that an idle time that is shortened under it takes effect.
    let game = &world.targets[0];
    game.follow(&{
        let mut service = game.service.clone();
        service.flows.idle = Duration::ZERO;
        service
    });
    let look = world.end_idle(world.start + 70 * SECOND).unwrap();
    assert_eq!(
        look,
        world.start + 71 * SECOND,
        "looked at again in a second"
    );
    assert!(three.has_ended());
}

#[tokio::test]
async fn a_parked_flow_that_makes_room_tells_when_it_has() {
    let world = World::new();
    let flow = world.open(1, 1_000).unwrap();
    assert!(world.flows.give_one_up().is_none(), "its player is here");
    world.flows.lead_to(process(2), world.start);
    let own = flow.ends.load().port().unwrap();
    let gone = world.flows.give_one_up().unwrap();
    // Its task still has it.
    assert!(flow.has_ended() && !gone.is_cancelled());
    drop(flow);
    assert!(gone.is_cancelled());
    std::net::UdpSocket::bind(("127.0.0.1", own)).unwrap();
}

#[tokio::test]
async fn of_two_readers_that_open_one_flow_the_first_does() {
    let world = World::new();
    let flow = world.open(5, 1_000).unwrap();
    let slot = world.flows.reserve().unwrap();
    let late = world.flow(1_000);
    let found = (world.flows).insert(process(1), FlowId(5), late, slot);
    let Found::Flow(found) = found else {
        panic!("{found:?}");
    };
    assert!(Arc::ptr_eq(&found, &flow));
    assert_eq!(world.held(), (1, 0), "its slot is free again");
}
