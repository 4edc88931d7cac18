//! `client.toml`: any text.

use std::collections::HashSet;

use adit_daemon::config::{Invalid, Loaded, Remark};
use tunnel_core::instance::{Instance, Service, ServiceError};

/// A configuration is read as a whole, or refused with remarks that have a place and an end.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match relay_client::fuzz_support::parse(text, KEY) {
        Ok(Loaded { value, warnings }) => {
            let (identity, instances) = value;
            assert_eq!(identity.relay.to_string().parse(), Ok(identity.relay));
            check_instances(&instances);
            check_remarks(text, &warnings);
        }
        Err(invalid) => check_invalid(text, &invalid),
    }
}

/// What every key file holds.
pub(crate) const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

/// There is a reason, and all that is said can be shown.
pub(crate) fn check_invalid(text: &str, invalid: &Invalid) {
    assert!(!invalid.problems.is_empty(), "refused without a reason");
    check_remarks(text, &invalid.problems);
    check_remarks(text, &invalid.warnings);
    assert!(invalid.to_string().lines().count() <= 101);
}

/// `FILE:LINE:COLUMN: ` within the text, and a message that one line of a terminal or two hold.
pub(crate) fn check_remarks(text: &str, remarks: &[Remark]) {
    let lines = text.split('\n').count();
    for remark in remarks {
        let shown = remark.to_string();
        assert!(shown.len() <= 1_000, "{} bytes: {shown}", shown.len());
        let mut parts = shown.splitn(4, ':').skip(1);
        let mut number = || parts.next().unwrap().parse::<usize>().unwrap();
        let (line, column) = (number(), number());
        assert!((1..=lines).contains(&line), "{shown}");
        let width = text.split('\n').nth(line - 1).unwrap().chars().count();
        assert!((1..=width + 1).contains(&column), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

fn check_instances(instances: &[Instance]) {
    let mut ids = HashSet::new();
    let mut ports = HashSet::new();
    for instance in instances {
        assert!(ids.insert(instance.id()));
        assert!((1..=64).contains(&instance.services().len()));
        let mut names = HashSet::new();
        for service in instance.services() {
            check_service(service);
            assert!(names.insert(service.name()));
            for port in service.public().ports() {
                assert!(!service.protocol().tcp() || ports.insert(("tcp", port)));
                assert!(!service.protocol().udp() || ports.insert(("udp", port)));
            }
        }
    }
}

/// A service is within its bounds and comes back from what it would be written as.
pub(crate) fn check_service(service: &Service) {
    assert_eq!(service.public().count(), service.target().ports.count());
    assert!((1..=1_024).contains(&service.public().count()));
    assert_eq!(written_and_read(service).as_ref(), Ok(service));
}

fn written_and_read(service: &Service) -> Result<Service, ServiceError> {
    let name = service.name().to_string();
    let target = service.target().to_string();
    let again = Service::new(&*name, service.protocol().to_string().parse()?, &*target)?
        .public_ports(service.public().to_string().parse()?)?
        .with_optimize(service.optimize().to_string().parse()?)
        .with_redundancy(service.redundancy().to_string().parse()?)
        .with_flow_limits(service.flow_limits())?
        .with_proxy_protocol(service.proxy_protocol(), service.proxy_datagrams())?
        .with_source(service.source())?;
    match service.health() {
        Some(check) => again.with_health(check.clone()),
        None => Ok(again),
    }
}
