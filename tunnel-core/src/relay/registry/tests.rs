use super::*;
use crate::{
    instance::{FlowLimits, Optimize, Protocol},
    proto::message::ServiceId,
};

const LEASE: Duration = Duration::from_secs(30);

const OWNER: OwnerLimits = OwnerLimits {
    instances: 8,
    ports_per_instance: 100,
    ports: 150,
};

fn registry() -> Registry {
    Registry::new("1024-65535".parse().unwrap(), LEASE, OWNER)
}

fn owner(n: u8) -> PublicKey {
    PublicKey::from([n; 32])
}

fn service(id: u32, name: &str, protocol: Protocol, ports: &str) -> ServiceDeclaration {
    ServiceDeclaration {
        id: ServiceId(id),
        name: name.parse().unwrap(),
        protocol,
        public: ports.parse().unwrap(),
        optimize: Optimize::Auto,
        redundancy: crate::instance::Redundancy::Off,
        flows: FlowLimits::default(),
        tells_local: false,
    }
}

fn declare(by: u8, instance: &str, services: Vec<ServiceDeclaration>) -> Change {
    Change::Declare {
        owner: owner(by),
        client: format!("client-{by}").into(),
        permitted: PortSet::all(),
        instance: instance.parse().unwrap(),
        revision: Revision(1),
        services,
    }
}

fn kinds(actions: &[Action]) -> Vec<String> {
    let kind = |action: &Action| match action {
        Action::Bind { binding, .. } => format!("bind {}", binding.public),
        Action::Route { binding, .. } => format!("route {}", binding.public),
        Action::Unbind { binding } => format!("unbind {}", binding.public),
    };
    actions.iter().map(kind).collect()
}

#[test]
fn only_what_differs_is_touched() {
    let now = Instant::now();
    let mut registry = registry();
    let first = vec![
        service(1, "game", Protocol::Both, "7777"),
        service(2, "beacon", Protocol::Udp, "15000"),
    ];
    let actions = registry.apply(now, declare(1, "a", first)).unwrap();
    assert_eq!(kinds(&actions), ["bind 7777", "bind 15000"]);
    let second = vec![
        service(3, "game", Protocol::Both, "7777"),
        service(4, "beacon", Protocol::Udp, "15001"),
    ];
    let actions = registry.apply(now, declare(1, "a", second)).unwrap();
    assert_eq!(
        kinds(&actions),
        ["unbind 15000", "route 7777", "bind 15001"]
    );
    let withdraw = Change::Withdraw {
        owner: owner(1),
        instance: "a".parse().unwrap(),
    };
    assert_eq!(
        kinds(&registry.apply(now, withdraw).unwrap()),
        ["unbind 7777", "unbind 15001"]
    );
}

#[test]
fn a_refusal_changes_nothing() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    for (change, code) in [
        (
            declare(2, "a", vec![service(1, "x", Protocol::Udp, "8000")]),
            Code::IdInUse,
        ),
        (
            declare(2, "b", vec![service(1, "x", Protocol::Both, "7770-7780")]),
            Code::PortInUse,
        ),
        (
            declare(2, "b", vec![service(1, "x", Protocol::Tcp, "80")]),
            Code::NotPermitted,
        ),
        (declare(1, "a", vec![]), Code::ProtocolError),
        (
            declare(
                1,
                "a",
                vec![
                    service(1, "x", Protocol::Tcp, "9000"),
                    service(2, "y", Protocol::Both, "9000"),
                ],
            ),
            Code::ProtocolError,
        ),
    ] {
        assert_eq!(registry.apply(now, change).unwrap_err().code(), code);
    }
    let mut narrow = declare(2, "b", vec![service(1, "x", Protocol::Udp, "8000")]);
    if let Change::Declare { permitted, .. } = &mut narrow {
        *permitted = "9000-9999".parse().unwrap();
    }
    assert_eq!(
        registry.apply(now, narrow).unwrap_err(),
        Refusal::NotPermitted("8000".parse().unwrap())
    );
    let names: Vec<_> = registry
        .instances()
        .map(|(id, ..)| id.to_string())
        .collect();
    assert_eq!(names, ["a"]);
    // The other protocol's port of the same number is free.
    registry
        .apply(
            now,
            declare(2, "b", vec![service(1, "x", Protocol::Tcp, "7777")]),
        )
        .unwrap();
}

#[test]
fn only_the_owner_withdraws() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    let foreign = Change::Withdraw {
        owner: owner(2),
        instance: "a".parse().unwrap(),
    };
    assert_eq!(registry.apply(now, foreign), Ok(vec![]));
    assert_eq!(registry.instances().count(), 1);
}

#[test]
fn ports_of_a_lost_tunnel_are_held_for_the_lease() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    registry
        .apply(now, Change::Lost { owner: owner(1) })
        .unwrap();
    assert_eq!(registry.poll_timeout(), Some(now + LEASE));
    assert!(
        registry
            .handle_timeout(now + LEASE - Duration::from_millis(1))
            .is_empty()
    );
    let foreign = declare(2, "b", vec![service(1, "game", Protocol::Udp, "7777")]);
    assert_eq!(
        registry.apply(now, foreign).unwrap_err().code(),
        Code::PortInUse
    );
    assert_eq!(
        kinds(&registry.handle_timeout(now + LEASE)),
        ["unbind 7777"]
    );
    assert_eq!(registry.poll_timeout(), None);
}

#[test]
fn a_client_that_returns_keeps_its_ports() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    registry
        .apply(now, Change::Lost { owner: owner(1) })
        .unwrap();
    registry
        .apply(now, Change::Returned { owner: owner(1) })
        .unwrap();
    let actions = registry
        .apply(
            now,
            declare(1, "a", vec![service(9, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    assert_eq!(kinds(&actions), ["route 7777"]);
    assert!(registry.handle_timeout(now + 2 * LEASE).is_empty());
}

#[test]
fn what_a_returned_client_does_not_declare_is_released_after_the_lease() {
    let now = Instant::now();
    let mut registry = registry();
    let game = |port: &str| vec![service(1, "game", Protocol::Udp, port)];
    for (id, port) in [("kept", "7777"), ("gone", "7778"), ("changed", "7779")] {
        registry.apply(now, declare(1, id, game(port))).unwrap();
    }
    registry
        .apply(now, declare(2, "other", game("9000")))
        .unwrap();
    registry
        .apply(now, Change::Lost { owner: owner(1) })
        .unwrap();
    let returned = now + LEASE / 2;
    registry
        .apply(returned, Change::Returned { owner: owner(1) })
        .unwrap();
    registry
        .apply(returned, declare(1, "kept", game("7777")))
        .unwrap();
    // A change that is refused leaves what stood, and that is still wanted.
    registry
        .apply(returned, declare(1, "changed", game("9000")))
        .unwrap_err();
    assert_eq!(registry.poll_timeout(), Some(returned + LEASE));
    assert_eq!(
        kinds(&registry.handle_timeout(returned + LEASE)),
        ["unbind 7778"]
    );
    assert_eq!(registry.poll_timeout(), None);
    assert_eq!(registry.instances().count(), 3);
}

#[test]
fn a_client_that_returns_has_time_to_declare_however_short_the_lease() {
    let now = Instant::now();
    let mut registry = Registry::new(PortSet::all(), Duration::ZERO, OWNER);
    let game = vec![service(1, "game", Protocol::Udp, "7777")];
    registry.apply(now, declare(1, "a", game.clone())).unwrap();
    // Another path of a tunnel that was never lost.
    registry
        .apply(now, Change::Returned { owner: owner(1) })
        .unwrap();
    let soon = now + Duration::from_secs(1);
    assert!(registry.handle_timeout(soon).is_empty());
    let actions = registry.apply(soon, declare(1, "a", game)).unwrap();
    assert_eq!(kinds(&actions), ["route 7777"]);
    assert!(registry.handle_timeout(now + LEASE).is_empty());
}

#[test]
fn a_goodbye_releases_at_once_and_only_ones_own() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    registry
        .apply(
            now,
            declare(2, "b", vec![service(1, "game", Protocol::Udp, "7778")]),
        )
        .unwrap();
    let actions = registry
        .apply(now, Change::Released { owner: owner(1) })
        .unwrap();
    assert_eq!(kinds(&actions), ["unbind 7777"]);
    assert_eq!(registry.instances().count(), 1);
}

#[test]
fn a_client_has_a_bounded_number_of_instances() {
    let now = Instant::now();
    let mut registry = registry();
    for n in 0..8 {
        let services = vec![service(1, "game", Protocol::Udp, &(5000 + n).to_string())];
        registry
            .apply(now, declare(1, &format!("i{n}"), services))
            .unwrap();
    }
    let one_more = declare(1, "i8", vec![service(1, "game", Protocol::Udp, "6000")]);
    assert_eq!(
        registry.apply(now, one_more).unwrap_err(),
        Refusal::TooMany(8)
    );
}

#[test]
fn what_could_not_be_carried_out_leaves_what_stood_before() {
    let now = Instant::now();
    let mut registry = registry();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(1, "game", Protocol::Udp, "7777")]),
        )
        .unwrap();
    registry
        .apply(
            now,
            Change::Done {
                instance: "a".parse().unwrap(),
            },
        )
        .unwrap();
    registry
        .apply(
            now,
            declare(1, "a", vec![service(2, "game", Protocol::Udp, "7778")]),
        )
        .unwrap();
    registry
        .apply(
            now,
            Change::Undone {
                instance: "a".parse().unwrap(),
            },
        )
        .unwrap();
    let (_, _, services) = registry.instances().next().unwrap();
    assert_eq!(services, [service(1, "game", Protocol::Udp, "7777")]);
    registry
        .apply(
            now,
            declare(1, "b", vec![service(3, "game", Protocol::Udp, "7779")]),
        )
        .unwrap();
    registry
        .apply(
            now,
            Change::Undone {
                instance: "b".parse().unwrap(),
            },
        )
        .unwrap();
    assert_eq!(registry.instances().count(), 1);
}

#[test]
fn ports_are_bounded_for_an_instance_and_for_a_client() {
    let now = Instant::now();
    let mut registry = registry();
    // 100 for an instance, 150 for a client; a port of both protocols counts twice.
    let of = |ports: &str, protocol| vec![service(1, "game", protocol, ports)];
    let large = declare(1, "a", of("5000-5050", Protocol::Both));
    assert_eq!(
        registry.apply(now, large).unwrap_err(),
        Refusal::InstanceTooLarge {
            wanted: 102,
            most: 100
        }
    );
    registry
        .apply(now, declare(1, "a", of("5000-5049", Protocol::Both)))
        .unwrap();
    let more = declare(1, "b", of("6000-6050", Protocol::Tcp));
    let refusal = registry.apply(now, more).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::TooManyPorts {
            wanted: 151,
            most: 150
        }
    );
    assert_eq!((refusal.code(), refusal.port()), (Code::Limit, None));
    // Another client has its own, and a change counts what it leaves, not what it was.
    registry
        .apply(now, declare(2, "c", of("6000-6050", Protocol::Tcp)))
        .unwrap();
    registry
        .apply(now, declare(1, "a", of("5000-5099", Protocol::Udp)))
        .unwrap();
    registry
        .apply(now, declare(1, "b", of("7000-7049", Protocol::Tcp)))
        .unwrap();
}

#[test]
fn two_services_on_one_port_are_refused_whatever_the_client_checked() {
    let now = Instant::now();
    let mut registry = registry();
    let clash = vec![
        service(1, "game", Protocol::Both, "7777"),
        service(2, "query", Protocol::Udp, "7770-7779"),
    ];
    let refusal = registry.apply(now, declare(1, "a", clash)).unwrap_err();
    assert_eq!(refusal, Refusal::PortTwice("7770-7779".parse().unwrap()));
    assert_eq!(
        (refusal.code(), refusal.port()),
        (Code::ProtocolError, Some(7770))
    );
    let apart = vec![
        service(1, "game", Protocol::Tcp, "7777"),
        service(2, "query", Protocol::Udp, "7777"),
    ];
    registry.apply(now, declare(1, "a", apart)).unwrap();
}

#[test]
fn what_is_found_by_port_and_owner_is_what_is_held() {
    let now = Instant::now();
    let mut registry = registry();
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let (mut taken, mut accepted) = (0, 0);
    for _ in 0..5_000 {
        let by = random(3) as u8;
        let id = format!("i{}", random(12));
        let instance: InstanceId = id.parse().unwrap();
        let wanted: Vec<_> = (0..=random(2))
            .map(|n| {
                let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Both][random(3) as usize];
                let first = 2_000 + random(60);
                let ports = format!("{first}-{}", first + random(6));
                service(n as u32, &format!("s{n}"), protocol, &ports)
            })
            .collect();
        // By looking at all of them.
        let clashes = |service: &ServiceDeclaration| {
            let all = registry.instances();
            let mut others = all.filter(|(other, ..)| **other != instance);
            others.any(|(_, _, held)| {
                held.iter().any(|held| {
                    held.protocol.overlaps(service.protocol) && held.public.overlaps(service.public)
                })
            })
        };
        let is_taken = wanted.iter().any(clashes);
        match random(8) {
            0 => {
                let withdraw = Change::Withdraw {
                    owner: owner(by),
                    instance,
                };
                registry.apply(now, withdraw).unwrap();
            }
            1 => {
                let change = Change::Released { owner: owner(by) };
                registry.apply(now, change).unwrap();
            }
            next => match registry.apply(now, declare(by, &id, wanted)) {
                Ok(_) => {
                    assert!(!is_taken);
                    accepted += 1;
                    let instance = id.parse().unwrap();
                    let change = if next == 2 {
                        Change::Undone { instance }
                    } else {
                        Change::Done { instance }
                    };
                    registry.apply(now, change).unwrap();
                }
                Err(Refusal::PortInUse { .. }) => {
                    assert!(is_taken);
                    taken += 1;
                }
                Err(_) => {}
            },
        }
        let held: usize = (registry.instances()).map(|it| sockets(it.2)).sum();
        let owned: usize = registry.owned.values().map(|it| it.sockets).sum();
        assert_eq!(held, owned);
        let ids: usize = (registry.owned.values()).map(|it| it.instances.len()).sum();
        assert_eq!(ids, registry.instances().count());
    }
    assert!(taken > 100 && accepted > 100, "{taken} {accepted}");
    for n in 0..3 {
        let change = Change::Released { owner: owner(n) };
        registry.apply(now, change).unwrap();
    }
    assert!(registry.owned.is_empty() && registry.taken.is_empty());
}
