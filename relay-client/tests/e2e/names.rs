//! Targets by name, in a world where the name's addresses are the test's to choose.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::harness::{
    eventually,
    namespace::own_hosts,
    players::{converse, reaches, try_converse, udp_player, udp_server},
    ports,
    process::Process,
    requires,
    site::{Service, Site, instance},
};

#[test]
fn a_name_with_two_addresses_reaches_the_one_that_listens() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n::1 srv_1\n") else {
        return;
    };
    for listens in ["127.0.0.5", "::1"] {
        let target = SocketAddr::new(listens.parse().unwrap(), world.target_port);
        assert!(reaches(world.public, target), "{target}");
    }
}

#[test]
fn a_name_is_looked_up_for_each_stream() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n") else {
        return;
    };
    assert!(reaches(world.public, world.target([127, 0, 0, 5])));
    world.is_now("127.0.0.6 srv_1\n");
    eventually("a look-up", || {
        reaches(world.public, world.target([127, 0, 0, 6])).then_some(())
    });
}

#[test]
fn a_live_flow_follows_a_name_that_moves() {
    requires!("unshare", "mount");
    let Some(world) = World::new("127.0.0.5 srv_1\n") else {
        return;
    };
    let player = udp_player(world.public);
    let old = udp_server(world.target([127, 0, 0, 5]));
    converse(&player, &old, 100);
    // As when a container is made anew: the old one is gone, the new one has another address.
    drop(old);
    let new = udp_server(world.target([127, 0, 0, 6]));
    world.is_now("127.0.0.6 srv_1\n");
    eventually("the player at the new server", || {
        try_converse(&player, &new, 100)
    });
}

/// A relay, and a client with a service whose target is `srv_1`.
struct World {
    public: SocketAddr,
    target_port: u16,
    hosts: PathBuf,
    _client: Process,
    _site: Site,
}

impl World {
    fn new(hosts: &str) -> Option<Self> {
        let site = Site::start();
        let hosts_file = site.path("hosts");
        fs::write(&hosts_file, hosts).unwrap();
        let prefix = own_hosts(&hosts_file)?;
        let node = site.node("node-1");
        let (port, target_port) = (ports::one(), ports::one());
        let target = format!("srv_1:{target_port}");
        let service = Service::new("both", port.to_string(), target);
        node.configure(&instance("game-1", &[service]));
        let client = node.start_inside(&prefix);
        client.wait_until_ready();
        Some(Self {
            public: site.public(port),
            target_port,
            hosts: hosts_file,
            _client: client,
            _site: site,
        })
    }

    /// Changes what the client's machine knows about names.
    fn is_now(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).unwrap();
    }

    fn target(&self, ip: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(ip.into(), self.target_port)
    }
}
