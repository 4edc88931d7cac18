//! Whether this machine can do what services ask of players' addresses.

#[cfg(target_os = "linux")]
mod netlink;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
};

use crate::{
    client::ports::LocalPorts,
    instance::{Host, Instance, Service, Source},
};

/// What keeps `source` of these instances' services from working on this machine, each once, with what to do about it. It resolves
/// targets' names and asks the system, so it may block for a while.
pub fn source_problems(instances: &[Instance]) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let ports = LocalPorts::of_system();
    for instance in instances {
        for service in instance.services() {
            let problems = match service.source() {
                Source::Default => Vec::new(),
                Source::Loopback => loopback(&ports, service),
                Source::Transparent => transparent(&ports, service),
            };
            for problem in problems {
                let name = format!("{}/{}", instance.id(), service.name());
                found.entry(problem).or_default().push(name);
            }
        }
    }
    let said = found.into_iter().map(|(problem, services)| {
        let shown = services[..services.len().min(SHOWN)].join(", ");
        let more = services.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!(" and {more} more"));
        format!("{shown}{}: {problem}", more.unwrap_or_default())
    });
    said.collect()
}

fn loopback(ports: &LocalPorts, service: &Service) -> Vec<String> {
    let target = service.target();
    let addresses = addresses(service);
    let is_reached = |ip: &IpAddr| ip.is_ipv4() && ports.is_ours(*ip);
    if addresses.is_empty() || addresses.iter().any(is_reached) {
        return Vec::new();
    }
    vec![format!(
        "source = \"loopback\" reaches IPv4 addresses of this machine alone, and {target} is none: \
         for a container's or another machine's use source = \"transparent\" or proxy_protocol"
    )]
}

fn transparent(ports: &LocalPorts, service: &Service) -> Vec<String> {
    let mut problems = Vec::new();
    let addresses = addresses(service);
    if !addresses.is_empty() && addresses.iter().all(|ip| ports.is_ours(*ip)) {
        problems.push(format!(
            "source = \"transparent\" reaches targets in a network beside this machine, such as a container's, and {} is this machine \
             itself: use source = \"loopback\" or proxy_protocol",
            service.target()
        ));
        return problems;
    }
    #[cfg(target_os = "linux")]
    problems.extend(linux(&addresses));
    problems
}

/// The present addresses of the target; none if its name does not resolve, of which the client tells in any case.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let target = service.target();
    match &target.host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => {
            let found = (&**name, target.ports.first()).to_socket_addrs();
            found.map_or_else(
                |_| Vec::new(),
                |found| found.map(|it: SocketAddr| it.ip()).collect(),
            )
        }
    }
}

#[cfg(target_os = "linux")]
fn linux(addresses: &[IpAddr]) -> Vec<String> {
    use std::io;

    use crate::socket;

    if let Err(error) = socket::try_transparent() {
        return vec![format!(
            "source = \"transparent\" needs CAP_NET_RAW or CAP_NET_ADMIN ({error}): \
             install packaging/adit-client-transparent.conf, or start the client with that capability"
        )];
    }
    let mut problems = Vec::new();
    for (is_v4, ip) in [(true, "ip"), (false, "ip -6")] {
        let is_needed = addresses.iter().any(|address| address.is_ipv4() == is_v4);
        if is_needed && !netlink::leads_home(MARK, is_v4).unwrap_or(true) {
            problems.push(format!(
                "source = \"transparent\" needs the way back of packets to players: \
                 {ip} rule add fwmark {MARK:#x} lookup {TABLE}; {ip} route add local default dev lo table {TABLE}"
            ));
        }
    }
    // Who may not read the rules is told nothing of them.
    let is_denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if !netlink::is_marked(MARK).unwrap_or_else(is_denied) {
        problems.push(format!(
            "source = \"transparent\" needs packets to players to be marked {MARK:#x}, and no rule of nftables does: \
             nft -f packaging/adit-transparent.nft"
        ));
    }
    let validates = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/src_valid_mark");
    if validates.is_ok_and(|it| it.trim() == "1") {
        problems.push(
            "source = \"transparent\" and net.ipv4.conf.all.src_valid_mark = 1, which wg-quick sets, exclude each other: \
             answers of targets are dropped as if they came from nowhere"
                .into(),
        );
    }
    problems
}

/// Marks packets to players, and the table that takes them for this machine's.
#[cfg(target_os = "linux")]
const MARK: u32 = 0xad17;
#[cfg(target_os = "linux")]
const TABLE: u32 = 117;
/// Services that a problem names.
const SHOWN: usize = 5;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::instance::Protocol;

    fn problems(source: Source, targets: &[&str]) -> Vec<String> {
        let services = targets.iter().enumerate().map(|(n, target)| {
            let service = Service::new(&*format!("s{n}"), Protocol::Tcp, *target).unwrap();
            let port = 1_000 + n as u16;
            let service = service.public_port(port).unwrap();
            service.with_source(source).unwrap()
        });
        source_problems(&[Instance::new("a", services).unwrap()])
    }

    #[test]
    fn loopback_reaches_this_machine_and_says_so_of_what_is_elsewhere() {
        assert!(problems(Source::Loopback, &["127.0.0.1:80", "127.0.3.4:80"]).is_empty());
        let said = problems(Source::Loopback, &["192.0.2.1:80", "127.0.0.1:80"]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("a/s0: ") && said[0].contains("192.0.2.1:80 is none"),
            "{said:?}"
        );
    }

    #[test]
    fn transparent_is_not_for_this_machine_itself() {
        let said = problems(Source::Transparent, &["127.0.0.1:80"]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("is this machine itself: use source = \"loopback\""),
            "{said:?}"
        );
    }

    #[test]
    fn default_asks_nothing_of_the_machine() {
        assert!(problems(Source::Default, &["192.0.2.1:80"]).is_empty());
    }
}
