use super::*;

fn raw(name: &str, protocol: &str, public: Option<&str>, target: &str) -> RawService {
    RawService {
        name: name.into(),
        protocol: protocol.into(),
        public_port: public.map(Into::into),
        target: target.into(),
        ..RawService::default()
    }
}

#[test]
fn public_port_is_the_targets_unless_said() {
    let service = Service::try_from(&raw("game", "both", None, "srv_123:7777")).unwrap();
    assert_eq!(service.public, PortRange::new(7777, 7777).unwrap());
    assert_eq!(service.target.host, Host::Name("srv_123".into()));
    assert_eq!(service.warning(), None);
}

#[test]
fn a_remapped_game_is_warned_about() {
    let service = Service::try_from(&raw("game", "udp", Some("7778"), "127.0.0.1:7777")).unwrap();
    assert!(service.warning().unwrap().contains("7778"));
    let service = Service::try_from(&raw("beacon", "udp", Some("7778"), "127.0.0.1:7777")).unwrap();
    assert_eq!(service.warning(), None);
}

#[test]
fn ranges_have_equal_length() {
    let ok = raw("a", "udp", Some("30000-30009"), "[::1]:40000-40009");
    assert_eq!(Service::try_from(&ok).unwrap().public.count(), 10);
    let short = raw("a", "udp", Some("30000-30009"), "[::1]:40000-40008");
    assert!(matches!(
        Service::try_from(&short),
        Err(ServiceError::Lengths { .. })
    ));
    let long = raw("a", "udp", None, "h:1-65535");
    assert!(matches!(
        Service::try_from(&long),
        Err(ServiceError::RangeTooLong(_))
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
    let instance = |a: RawService, b: RawService| {
        Instance::try_from(&RawInstance {
            id: "i".into(),
            services: vec![a, b],
        })
    };
    assert!(instance(raw("a", "tcp", None, "h:5"), raw("b", "udp", None, "h:5")).is_ok());
    assert!(matches!(
        instance(
            raw("a", "both", None, "h:5"),
            raw("b", "udp", None, "h:4-6")
        ),
        Err(ServiceError::PortTwice { .. })
    ));
    assert!(matches!(
        instance(raw("a", "tcp", None, "h:5"), raw("a", "udp", None, "h:5")),
        Err(ServiceError::NameTwice(_))
    ));
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
    let service = RawService {
        idle_timeout: Some(5),
        ..raw("a", "udp", None, "h:5")
    };
    assert!(matches!(
        Service::try_from(&service),
        Err(ServiceError::OutOfBounds { .. })
    ));
}

#[test]
fn port_sets_intersect() {
    let a: PortSet = "1024-2000,7777,30000-30010".parse().unwrap();
    let b: PortSet = "1500-8000,30005".parse().unwrap();
    assert_eq!(a.intersection(&b).to_string(), "1500-2000,7777,30005");
    assert_eq!(a.intersection(&PortSet::all()), a);
    assert!(a.intersection(&PortSet::default()).is_empty());
}
