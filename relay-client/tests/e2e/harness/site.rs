//! A relay and its clients, set up with their own commands as a person would.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tunnel_core::client::ClientIdentity;

use super::{
    namespace::filter,
    ports,
    process::{Finished, Process, command, run},
};

/// A relay that is up, and a directory for everything that belongs to it.
pub(crate) struct Site {
    // First: fields are dropped in order, and the programs go before their files.
    pub(crate) relay: Process,
    pub(crate) listen: SocketAddr,
    public_bind: IpAddr,
    /// What comes before the relay's command.
    prefix: Vec<String>,
    dir: TempDir,
}

impl Site {
    /// A relay with its public ports on 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::with_public_bind(Ipv4Addr::LOCALHOST.into())
    }

    /// A relay with its public ports on another address.
    pub(crate) fn with_public_bind(public_bind: IpAddr) -> Self {
        Self::with_options(public_bind, "1024-65535")
    }

    /// A relay that gives no other ports than these.
    pub(crate) fn with_options(public_bind: IpAddr, ports: &str) -> Self {
        Self::set_up(Ipv4Addr::LOCALHOST.into(), public_bind, ports, &[])
    }

    /// A relay at this address with its public ports on every one, started by a command that comes before its own.
    pub(crate) fn elsewhere(address: IpAddr, prefix: &[String]) -> Self {
        let mut site = Self::set_up(address, Ipv4Addr::UNSPECIFIED.into(), "1024-65535", prefix);
        site.public_bind = address;
        site
    }

    fn set_up(address: IpAddr, public_bind: IpAddr, ports: &str, prefix: &[String]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("adit-e2e-")
            .tempdir()
            .unwrap();
        let listen = SocketAddr::new(address, ports::one());
        let init = &mut command(program("relay-server"));
        init.arg("init").arg("--dir").arg(dir.path().join("relay"));
        init.args(["--listen", &listen.to_string()]);
        init.args(["--advertise", &listen.to_string()]);
        init.args(["--public-bind", &public_bind.to_string()]);
        init.args(["--ports", ports]);
        run("relay-server init", init).success();
        let relay = start_relay(prefix, &dir.path().join("relay/relay.toml"));
        relay.wait_until_ready();
        Self {
            relay,
            listen,
            public_bind,
            prefix: prefix.to_vec(),
            dir,
        }
    }

    /// Where players reach a public port.
    pub(crate) fn public(&self, port: u16) -> SocketAddr {
        (self.public_bind, port).into()
    }

    /// The relay's configuration file; its keys lie beside it.
    pub(crate) fn relay_config(&self) -> PathBuf {
        self.path("relay/relay.toml")
    }

    /// A path in the site's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Ends the relay without a word and starts it anew.
    pub(crate) fn restart_relay(&mut self) {
        self.relay.kill();
        self.start_relay();
        self.relay.wait_until_ready();
    }

    /// Starts the relay that has ended; it may not be ready yet.
    pub(crate) fn start_relay(&mut self) {
        self.relay = start_relay(&self.prefix, &self.relay_config());
    }

    /// The command that runs the relay, by one that comes before it.
    pub(crate) fn relay_command(&self, prefix: &[String]) -> Command {
        relay_command(prefix, &self.relay_config())
    }

    /// Ends the relay as systemd would.
    pub(crate) fn stop_relay(self) -> Finished {
        self.relay.terminate()
    }

    /// Runs `relay-server ARGS --config relay.toml`.
    pub(crate) fn administer(&self, args: &[&str]) -> Finished {
        let mut relay_server = command(program("relay-server"));
        relay_server.args(args);
        relay_server.arg("--config").arg(self.relay_config());
        run("relay-server", &mut relay_server)
    }

    /// A join string for a client.
    pub(crate) fn invite(&self, name: &str, options: &[&str]) -> String {
        let args = [&["invite", name], options].concat();
        self.administer(&args).success().trim_end().to_owned()
    }

    /// A client that has joined and does not run yet.
    pub(crate) fn node(&self, name: &str) -> Node {
        self.node_with(name, &[])
    }

    /// As [`Site::node`], with options for its invitation.
    pub(crate) fn node_with(&self, name: &str, options: &[&str]) -> Node {
        let dir = self.path(name);
        join(&self.invite(name, options), &dir).success();
        let identity = fs::read_to_string(dir.join("client.toml")).unwrap();
        Node {
            name: name.to_owned(),
            dir,
            identity,
        }
    }

    /// Writes an enrolled client down in the relay's file, by hand, and forgets all that enrolled. For the relay's next
    /// start.
    pub(crate) fn move_to_file(&self, node: &Node) {
        let list = self.administer(&["clients", "list", "--format", "json"]);
        let list: serde_json::Value = serde_json::from_str(&list.success()).unwrap();
        let clients = list.as_array().unwrap();
        let enrolled = clients.iter().find(|one| one["name"] == *node.name);
        let key = enrolled.unwrap()["public_key"].as_str().unwrap();
        fs::copy(node.dir.join("client.psk"), self.path("relay/node.psk")).unwrap();
        let mut text = fs::read_to_string(self.relay_config()).unwrap();
        text += &format!(
            "\n[[client]]\nname = \"{}\"\npublic_key = \"{key}\"\npsk_file = \"node.psk\"\n",
            node.name
        );
        fs::write(self.relay_config(), text).unwrap();
        fs::remove_file(self.path("relay/state.db")).unwrap();
    }

    /// A client `node-1` that runs, with one instance of these services.
    pub(crate) fn expose(&self, services: &[Service]) -> Process {
        let node = self.node("node-1");
        node.configure(&instance("game-1", services));
        let client = node.start();
        client.wait_until_ready();
        client
    }
}

/// Runs `relay-client join`.
pub(crate) fn join(join_string: &str, dir: &Path) -> Finished {
    let mut join = command(program("relay-client"));
    join.arg("join").arg(join_string).arg("--dir").arg(dir);
    run("relay-client join", &mut join)
}

/// A client's directory.
pub(crate) struct Node {
    name: String,
    dir: PathBuf,
    identity: String,
}

impl Node {
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// Writes the configuration anew: what `join` wrote, and these instances.
    pub(crate) fn configure(&self, instances: &str) {
        fs::write(self.config(), format!("{}\n{instances}", self.identity)).unwrap();
    }

    /// Looks for the relay at another address from now on.
    pub(crate) fn look_for_relay_at(&mut self, relay: &str) {
        let lines = self.identity.lines().map(|line| {
            if line.starts_with("relay =") {
                format!("relay = \"{relay}\"")
            } else {
                line.to_owned()
            }
        });
        self.identity = lines.collect::<Vec<_>>().join("\n");
    }

    /// Whom the relay knows this client as, and which relay that is.
    pub(crate) fn client_identity(&self) -> ClientIdentity {
        let value = |key: &str| {
            let line = self.identity.lines().find(|line| line.starts_with(key));
            line.unwrap().split('"').nth(1).unwrap().to_owned()
        };
        let file = |name| {
            let text = fs::read_to_string(self.dir.join(name)).unwrap();
            text.trim().to_owned()
        };
        ClientIdentity::new(
            value("relay =").parse().unwrap(),
            value("relay_public_key").parse().unwrap(),
            file("client.key").parse().unwrap(),
            file("client.psk").parse().unwrap(),
        )
    }

    /// Starts the client; it may not be ready yet.
    pub(crate) fn start(&self) -> Process {
        self.start_with(&[])
    }

    /// As [`Node::start`], by a command that comes before the client's.
    pub(crate) fn start_inside(&self, prefix: &[String]) -> Process {
        Process::start(self.name.clone(), &mut self.command(prefix))
    }

    /// The command that runs the client, by one that comes before it.
    pub(crate) fn command(&self, prefix: &[String]) -> Command {
        let mut client = prefixed(prefix, "relay-client");
        client.arg("run").arg("--config").arg(self.config());
        client
    }

    /// As [`Node::start`], with further arguments.
    pub(crate) fn start_with(&self, args: &[&str]) -> Process {
        let mut client = command(program("relay-client"));
        client.arg("run").arg("--config").arg(self.config());
        client.args(args);
        Process::start(self.name.clone(), &mut client)
    }
}

/// Starts a client as a container would: configured by the environment alone.
pub(crate) fn container(state_dir: &Path, join_string: &str, expose: &str) -> Process {
    let mut client = command(program("relay-client"));
    client.arg("run");
    client.env("ADIT_STATE_DIR", state_dir);
    client.env("ADIT_JOIN", join_string);
    client.env("ADIT_EXPOSE", expose);
    Process::start("container", &mut client)
}

/// A service as a configuration file writes it.
#[derive(Clone)]
pub(crate) struct Service {
    name: String,
    protocol: &'static str,
    /// `7777`, or `"30000-30009"` with its quotes.
    public_port: String,
    target: String,
    optimize: &'static str,
    idle_timeout: u32,
    /// Further lines.
    more: String,
}

impl Service {
    pub(crate) fn tcp(public_port: u16, target: SocketAddr) -> Self {
        Self::new("tcp", public_port.to_string(), target.to_string())
    }

    pub(crate) fn udp(public_port: u16, target: SocketAddr) -> Self {
        Self::new("udp", public_port.to_string(), target.to_string())
    }

    pub(crate) fn both(public_port: u16, target: SocketAddr) -> Self {
        Self::new("both", public_port.to_string(), target.to_string())
    }

    pub(crate) fn new(protocol: &'static str, public_port: String, target: String) -> Self {
        Self {
            name: "main".to_owned(),
            protocol,
            public_port,
            target,
            optimize: "auto",
            idle_timeout: 120,
            more: String::new(),
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// With further options, a line each.
    pub(crate) fn with(mut self, options: &str) -> Self {
        self.more = format!("{options}\n");
        self
    }

    /// Forgets flows after `seconds` of silence.
    pub(crate) fn forgetting_after(mut self, seconds: u32) -> Self {
        self.idle_timeout = seconds;
        self
    }

    pub(crate) fn optimized_for(mut self, optimize: &'static str) -> Self {
        self.optimize = optimize;
        self
    }
}

/// An instance as a configuration file writes it.
pub(crate) fn instance(id: &str, services: &[Service]) -> String {
    let mut text = format!("[[instance]]\nid = \"{id}\"\n");
    for service in services {
        let Service {
            name,
            protocol,
            public_port,
            target,
            optimize,
            idle_timeout,
            more,
        } = service;
        text += &format!(
            "[[instance.service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\n\
             public_port = {public_port}\ntarget = \"{target}\"\noptimize = \"{optimize}\"\n\
             idle_timeout = {idle_timeout}\n{more}"
        );
    }
    text
}

/// The path of one of the two programs.
pub(crate) fn program(name: &str) -> PathBuf {
    let dir = match env::var_os("ADIT_TEST_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_BIN_EXE_relay-client"))
            .parent()
            .unwrap()
            .to_owned(),
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not built: run `cargo build --workspace --bins` (with --release for release tests)",
        path.display()
    );
    path
}

fn start_relay(prefix: &[String], config: &Path) -> Process {
    Process::start("relay", &mut relay_command(prefix, config))
}

fn relay_command(prefix: &[String], config: &Path) -> Command {
    let mut relay = prefixed(prefix, "relay-server");
    relay.arg("run").arg("--config").arg(config);
    relay
}

/// One of the two programs, by a command that comes before it.
pub(crate) fn prefixed(prefix: &[String], name: &str) -> Command {
    match prefix {
        [] => command(program(name)),
        [first, rest @ ..] => {
            let mut command = command(first);
            command.args(rest).arg(program(name));
            command
        }
    }
}

/// Drops what a protocol carries between client and relay; players and servers are not touched.
pub(crate) fn block(protocol: &str, site: &Site) {
    block_all(protocol, &[site]);
}

/// The same of several relays and their clients, and of no others.
pub(crate) fn block_all(protocol: &str, sites: &[&Site]) {
    let drops = sites.iter().map(|site| {
        let port = site.listen.port();
        format!("{protocol} dport {port} drop; {protocol} sport {port} drop;")
    });
    filter(&format!(
        "chain in {{ type filter hook input priority 0; {} }}",
        drops.collect::<String>()
    ));
}
