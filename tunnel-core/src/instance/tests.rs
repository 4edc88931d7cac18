use std::time::Duration;

use super::*;

fn service(
    name: &str,
    protocol: Protocol,
    public: Option<&str>,
    target: &str,
) -> Result<Service, ServiceError> {
    let service = Service::new(name, protocol, target)?;
    match public {
        Some(ports) => service.public_ports(ports.parse()?),
        None => Ok(service),
    }
}

#[test]
fn public_port_is_the_targets_unless_said() {
    let game = service("game", Protocol::Both, None, "srv_123:7777").unwrap();
    assert_eq!(game.public(), PortRange::new(7777, 7777).unwrap());
    assert_eq!(game.target().host, Host::Name("srv_123".into()));
    assert_eq!(game.warning(), None);
    let game = game.public_port(7778).unwrap();
    assert_eq!(game.public(), PortRange::new(7778, 7778).unwrap());
    assert!(matches!(game.public_port(0), Err(ServiceError::Ports(_))));
}

#[test]
fn a_remapped_game_is_warned_about() {
    let remapped = |name| service(name, Protocol::Udp, Some("7778"), "127.0.0.1:7777").unwrap();
    assert!(remapped("game").warning().unwrap().contains("7778"));
    assert_eq!(remapped("beacon").warning(), None);
}

#[test]
fn ranges_have_equal_length() {
    let ranges = |public| service("a", Protocol::Udp, Some(public), "[::1]:40000-40009");
    assert_eq!(ranges("30000-30009").unwrap().public().count(), 10);
    assert!(matches!(
        ranges("30000-30008"),
        Err(ServiceError::Lengths { .. })
    ));
    assert!(matches!(
        service("a", Protocol::Udp, None, "h:1-65535"),
        Err(ServiceError::RangeTooLong(_))
    ));
}

#[test]
fn a_target_is_an_address_with_a_port() {
    let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let game = Service::new("game", Protocol::Udp, at(7777)).unwrap();
    assert_eq!(game.target().to_string(), "127.0.0.1:7777");
    assert!(matches!(
        Service::new("game", Protocol::Udp, at(0)),
        Err(ServiceError::Target(_))
    ));
}

#[test]
fn hosts_are_addresses_or_names() {
    for good in [
        "srv_123:1",
        "a.b.example:65535",
        "127.0.0.1:1",
        "[2001:db8::1]:80",
        "x.:9",
    ] {
        assert!(good.parse::<HostPort>().is_ok(), "{good}");
    }
    for bad in [
        "", ":", "a:", "a:0", "a:65536", "a:+1", "::1:80", "[::1]", "a b:1", "1.2.3:4", "a..b:1",
    ] {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
}

#[test]
fn names_are_not_folded() {
    assert!("srv_1-a".parse::<InstanceId>().is_ok());
    for bad in ["", "Srv", "a b", "ä", &"a".repeat(64)] {
        assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
    }
}

#[test]
fn two_services_may_share_a_port_number_only_across_protocols() {
    let instance = |a: (&str, Protocol, &str), b: (&str, Protocol, &str)| {
        let [a, b] = [a, b].map(|(name, protocol, target)| service(name, protocol, None, target));
        Instance::new("i", [a?, b?])
    };
    assert!(instance(("a", Protocol::Tcp, "h:5"), ("b", Protocol::Udp, "h:5")).is_ok());
    assert!(matches!(
        instance(("a", Protocol::Both, "h:5"), ("b", Protocol::Udp, "h:4-6")),
        Err(ServiceError::PortTwice { .. })
    ));
    assert!(matches!(
        instance(("a", Protocol::Tcp, "h:5"), ("a", Protocol::Udp, "h:5")),
        Err(ServiceError::NameTwice(_))
    ));
}

#[test]
fn an_instance_has_services_and_not_more_than_fit() {
    let game = |n: u16| Service::new(&*format!("s{n}"), Protocol::Udp, &*format!("h:{}", 1 + n));
    let of = |count: u16| Instance::new("i", (0..count).map(|n| game(n).unwrap()));
    assert!(matches!(of(0), Err(ServiceError::NoServices(_))));
    assert!(of(64).is_ok());
    assert!(matches!(of(65), Err(ServiceError::TooManyServices(_))));
}

#[test]
fn port_sets_merge() {
    let set: PortSet = "30000-30010, 7777,30011".parse().unwrap();
    assert_eq!(set.to_string(), "7777,30000-30011");
    assert!(set.covers("30005-30011".parse().unwrap()));
    assert!(!set.covers("30005-30012".parse().unwrap()));
    assert!("".parse::<PortSet>().is_err());
    assert!(PortSet::all().covers(PortRange::new(1, 65535).unwrap()));
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    for flows in [
        FlowLimits {
            idle: Duration::from_secs(5),
            ..FlowLimits::default()
        },
        FlowLimits {
            per_address: 0,
            ..FlowLimits::default()
        },
        FlowLimits {
            per_service: 1 << 21,
            ..FlowLimits::default()
        },
    ] {
        let service = service("a", Protocol::Udp, None, "h:5").unwrap();
        assert!(matches!(
            service.with_flow_limits(flows),
            Err(ServiceError::OutOfBounds { .. })
        ));
    }
}

#[test]
fn port_sets_intersect() {
    let a: PortSet = "1024-2000,7777,30000-30010".parse().unwrap();
    let b: PortSet = "1500-8000,30005".parse().unwrap();
    assert_eq!(a.intersection(&b).to_string(), "1500-2000,7777,30005");
    assert_eq!(a.intersection(&PortSet::all()), a);
    assert!(a.intersection(&PortSet::default()).is_empty());
}

#[test]
fn version_1_of_proxy_protocol_is_for_tcp_alone() {
    use ProxyDatagrams::{Every, First, Off};
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Both] {
        for proxy in ProxyProtocol::ALL {
            for datagrams in ProxyDatagrams::ALL {
                let service = service("a", protocol, None, "h:5").unwrap();
                let made = service.with_proxy_protocol(proxy, datagrams);
                let is_wrong = proxy == ProxyProtocol::V1 && protocol.udp() && datagrams != Off;
                if is_wrong {
                    assert_eq!(made, Err(ServiceError::ProxyV1OverUdp));
                    continue;
                }
                let made = made.unwrap();
                assert_eq!(
                    (made.proxy_protocol(), made.proxy_datagrams()),
                    (proxy, datagrams)
                );
                let tells = proxy == ProxyProtocol::V2 && protocol.udp() && datagrams != Off;
                assert_eq!(made.tells_datagrams(), tells);
            }
        }
    }
    let plain = service("a", Protocol::Both, None, "h:5").unwrap();
    assert_eq!(plain.proxy_protocol(), ProxyProtocol::Off);
    assert_eq!(plain.proxy_datagrams(), First);
    for word in ["off", "v1", "v2"] {
        assert_eq!(word.parse::<ProxyProtocol>().unwrap().to_string(), word);
    }
    for (word, datagrams) in [("off", Off), ("first", First), ("every", Every)] {
        assert_eq!(word.parse(), Ok(datagrams));
        assert_eq!(datagrams.to_string(), word);
    }
    for wrong in ["", "V2", "v3", "on", "First"] {
        assert!(wrong.parse::<ProxyProtocol>().is_err());
        assert!(wrong.parse::<ProxyDatagrams>().is_err());
    }
}
