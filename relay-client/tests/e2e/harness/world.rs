//! A client whose game server has a name, in a world where the name's addresses are the test's to choose.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{
    namespace::own_hosts,
    ports,
    process::Process,
    site::{Service, Site, instance},
};

/// One service, TCP and UDP, whose target is `srv_1`.
pub(crate) struct World {
    pub(crate) public: SocketAddr,
    pub(crate) target_port: u16,
    pub(crate) client: Process,
    hosts: PathBuf,
    _site: Site,
}

impl World {
    /// `None` where the machine does not let a process have names of its own.
    pub(crate) fn new(hosts: &str) -> Option<Self> {
        Self::with(hosts, "")
    }

    /// With more in the configuration of both sides.
    pub(crate) fn with(hosts: &str, config: &str) -> Option<Self> {
        let mut site = Site::start();
        if !config.is_empty() {
            let before = fs::read_to_string(site.relay_config()).unwrap();
            fs::write(site.relay_config(), before + config).unwrap();
            site.restart_relay();
        }
        let hosts_file = site.path("hosts");
        fs::write(&hosts_file, hosts).unwrap();
        let prefix = own_hosts(&hosts_file)?;
        let node = site.node("node-1");
        let (port, target_port) = (ports::one(), ports::one());
        let target = format!("srv_1:{target_port}");
        let service = Service::new("both", port.to_string(), target);
        node.configure(&(instance("game-1", &[service]) + config));
        let client = node.start_inside(&prefix);
        client.wait_until_ready();
        Some(Self {
            public: site.public(port),
            target_port,
            client,
            hosts: hosts_file,
            _site: site,
        })
    }

    /// Changes what the client's machine knows about names.
    pub(crate) fn is_now(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).unwrap();
    }

    pub(crate) fn target(&self, ip: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(ip.into(), self.target_port)
    }
}
