//! What people set up by hand: userspace WireGuard from a relay to home, and nftables on the relay that send its public port
//! through the tunnel.
//!
//! ```text
//! players ── veth ── relay ══ WireGuard, over veth or the emulated line ══ home
//! ```
//!
//! The relay has a namespace of its own. Players and home are where the topology has them, or in namespaces of their own on
//! loopback. The game server behind the tunnel listens on home's address in it.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::find::find;
use crate::{
    compare::{ports, running::Running},
    link,
    namespace::{self, Namespace},
    process::Process,
    topology::{Side, Topology},
    worker::Worker,
};

/// The programs that it takes, besides `ip`.
#[derive(Debug, Clone)]
pub(crate) struct WireGuard {
    pub(super) boringtun: PathBuf,
    wg: PathBuf,
    nft: PathBuf,
}

impl WireGuard {
    /// The programs that it takes; otherwise what is missing, in words.
    pub(super) fn found() -> Result<Self, String> {
        if let Some(reason) = link::unavailable() {
            return Err(reason);
        }
        let program = |name: &str, key: &str, from: &str| {
            find(name, key).ok_or_else(|| format!("{name} is missing ({from})"))
        };
        Ok(Self {
            boringtun: program(
                "boringtun-cli",
                "BORINGTUN",
                "cargo install boringtun-cli, or say in ADIT_BENCH_BORINGTUN where it is",
            )?,
            wg: program("wg", "WG", "apt-get install wireguard-tools")?,
            nft: program("nft", "NFT", "apt-get install nftables")?,
        })
    }

    pub(super) fn start(&self, topology: &dyn Topology) -> Result<Running> {
        let grounds = match (
            topology.namespace(Side::Outside),
            topology.namespace(Side::Home),
        ) {
            (Some(_), Some(_)) => None,
            _ => Some(Arc::new(Grounds {
                players: Namespace::new("players")?,
                home: Namespace::new("home")?,
            })),
        };
        let topology: &dyn Topology = match &grounds {
            Some(grounds) => &**grounds,
            None => topology,
        };
        let side = |side| topology.namespace(side).context("it has a namespace");
        let (players, home) = (side(Side::Outside)?, side(Side::Home)?);
        let relay = Namespace::new("relay")?;
        let net = Net::next();
        net.join_players(players, &relay)?;
        let route = match &grounds {
            Some(_) => {
                net.join_home(&relay, home)?;
                None
            }
            None => Some(net.route_over_line(topology, players, &relay, home)?),
        };

        let files = tempfile::Builder::new().prefix("adit-bench-").tempdir()?;
        let key = |name| self.key(&relay, &files, name);
        let (relay_key, home_key) = (key("relay")?, key("home")?);
        let port = ports::free()?;
        let mut far = Tunnel::start(self, &relay, &net.device('r'), &relay_key)?;
        far.set(&["listen-port", &port.to_string()])?;
        far.set(&[
            "peer",
            &home_key.public,
            "allowed-ips",
            &host(net.home_inside()),
        ])?;
        far.bring_up(net.relay_inside(), &[net.home_inside()])?;
        let mut near = Tunnel::start(self, home, &net.device('h'), &home_key)?;
        let peers = [net.relay_inside(), net.players()];
        let endpoint = match &grounds {
            Some(_) => net.relay_to_home(),
            None => net.relay(),
        };
        near.set(&[
            "peer",
            &relay_key.public,
            "endpoint",
            &SocketAddr::new(endpoint.into(), port).to_string(),
            "allowed-ips",
            &peers.map(host).join(","),
            "persistent-keepalive",
            "25",
        ])?;
        near.bring_up(net.home_inside(), &peers)?;
        // The relay knows where home is from its first packet on.
        home.visit(|| {
            let socket = UdpSocket::bind((net.home_inside(), 0))?;
            socket.send_to(&[0], (net.relay_inside(), port))?;
            Ok(())
        })?;

        let bind = net.home_inside().into();
        let mut server = Process::worker(topology, Side::Home, &Worker::Target { bind })?;
        let target: SocketAddr = server.says(PATIENCE).context("the game server")?;
        let public = ports::free()?;
        self.forward(&relay, public, target)?;
        Ok(Running {
            address: (net.relay(), public).into(),
            relay: Some(far.take()?),
            client: Some(near.take()?),
            topology: grounds.clone().map(|grounds| grounds as Arc<dyn Topology>),
            _kept: Some(Box::new(Kept {
                _server: server,
                _sockets: [far.socket, near.socket],
                _route: route,
                _relay: relay,
                _files: files,
                _grounds: grounds,
            })),
        })
    }

    fn key(&self, namespace: &Namespace, files: &TempDir, name: &str) -> Result<Key> {
        let private = run(namespace.command(&self.wg).arg("genkey"), "")?;
        let public = run(namespace.command(&self.wg).arg("pubkey"), &private)?;
        let file = files.path().join(name);
        fs::write(&file, private)?;
        Ok(Key {
            file,
            public: public.trim().to_owned(),
        })
    }

    /// The relay's public port is the game server's.
    fn forward(&self, relay: &Namespace, public: u16, target: SocketAddr) -> Result<()> {
        let rule = |protocol: &str| format!("    {protocol} dport {public} dnat to {target}\n");
        let rules = format!(
            "table ip adit {{\n  chain players {{\n    type nat hook prerouting priority dstnat;\n{}{}  }}\n}}\n",
            rule("tcp"),
            rule("udp")
        );
        run(relay.command(&self.nft).args(["-f", "-"]), &rules)?;
        Ok(())
    }
}

/// Where it is where the topology has no namespaces.
#[derive(Debug)]
struct Grounds {
    players: Namespace,
    home: Namespace,
}

impl Topology for Grounds {
    fn command(&self, side: Side, program: &Path) -> Command {
        let namespace = match side {
            Side::Outside => &self.players,
            Side::Home => &self.home,
        };
        namespace.command(program)
    }

    /// Nobody asks: each end has its own addresses.
    fn address(&self, _: Side) -> IpAddr {
        Ipv4Addr::UNSPECIFIED.into()
    }

    fn namespace(&self, side: Side) -> Option<&Namespace> {
        Some(match side {
            Side::Outside => &self.players,
            Side::Home => &self.home,
        })
    }
}

/// What goes with the column, in this order.
#[derive(Debug)]
struct Kept {
    _server: Process,
    _sockets: [ControlSocket; 2],
    _route: Option<Route>,
    _relay: Namespace,
    _files: TempDir,
    _grounds: Option<Arc<Grounds>>,
}

/// The addresses of one set-up, of the range for measurements (RFC 2544) that no emulated line uses.
#[derive(Debug, Clone, Copy)]
struct Net(u8);

impl Net {
    fn next() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        Self(COUNT.fetch_add(1, Ordering::Relaxed))
    }

    const fn host(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.0, host)
    }

    const fn players(self) -> Ipv4Addr {
        self.host(1)
    }

    const fn relay(self) -> Ipv4Addr {
        self.host(2)
    }

    const fn relay_inside(self) -> Ipv4Addr {
        self.host(5)
    }

    const fn home_inside(self) -> Ipv4Addr {
        self.host(6)
    }

    const fn relay_to_home(self) -> Ipv4Addr {
        self.host(9)
    }

    const fn home(self) -> Ipv4Addr {
        self.host(10)
    }

    /// A WireGuard device: its control socket lies where all processes of this machine have theirs.
    fn device(self, end: char) -> String {
        format!("wg{}{end}{}", std::process::id(), self.0)
    }

    fn join_players(self, players: &Namespace, relay: &Namespace) -> Result<()> {
        let (near, far) = (format!("ap{}", self.0), format!("ar{}", self.0));
        join(
            players,
            (&near, self.players()),
            relay,
            (&far, self.relay()),
        )?;
        relay.set_system("ipv4/ip_forward", "1")
    }

    fn join_home(self, relay: &Namespace, home: &Namespace) -> Result<()> {
        let (near, far) = (format!("au{}", self.0), format!("ah{}", self.0));
        join(
            relay,
            (&near, self.relay_to_home()),
            home,
            (&far, self.home()),
        )
    }

    /// The relay's packets to home go through where the players are, as through a provider's router.
    fn route_over_line(
        self,
        topology: &dyn Topology,
        players: &Namespace,
        relay: &Namespace,
        home: &Namespace,
    ) -> Result<Route> {
        players.set_system("ipv4/ip_forward", "1")?;
        relay.configure(&format!("route add default via {}\n", self.players()))?;
        let route = format!(
            "{} via {}",
            host(self.relay()),
            topology.address(Side::Outside)
        );
        home.configure(&format!("route add {route}\n"))?;
        Ok(Route {
            namespace: home.name().to_owned(),
            route,
        })
    }
}

/// Two namespaces by a cable, which goes with either of them.
fn join(
    one: &Namespace,
    (near, address): (&str, Ipv4Addr),
    other: &Namespace,
    (far, far_address): (&str, Ipv4Addr),
) -> Result<()> {
    one.configure(&format!(
        "link set lo up\n\
         link add {near} type veth peer name {far} netns {}\n\
         address add {address}/30 dev {near}\n\
         link set {near} up\n",
        other.name()
    ))?;
    other.configure(&format!(
        "link set lo up\n\
         address add {far_address}/30 dev {far}\n\
         link set {far} up\n"
    ))
}

/// A way in a namespace that stays.
#[derive(Debug)]
struct Route {
    namespace: String,
    route: String,
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut args = vec!["-netns", &self.namespace, "route", "delete"];
        args.extend(self.route.split(' '));
        // The namespace may have gone before.
        drop(namespace::ip(&args));
    }
}

/// A static key.
struct Key {
    /// Where the private one is.
    file: PathBuf,
    public: String,
}

/// One end.
struct Tunnel<'a> {
    wg: &'a Path,
    namespace: &'a Namespace,
    device: String,
    process: Option<Process>,
    socket: ControlSocket,
}

impl<'a> Tunnel<'a> {
    fn start(
        tools: &'a WireGuard,
        namespace: &'a Namespace,
        device: &str,
        key: &Key,
    ) -> Result<Self> {
        let socket = ControlSocket(Path::new(SOCKETS).join(format!("{device}.sock")));
        let mut command = namespace.command(&tools.boringtun);
        command.args(["--foreground", "--disable-drop-privileges", device]);
        let mut process = Process::start(command)?;
        let until = Instant::now() + PATIENCE;
        while !socket.0.exists() {
            if let Some(status) = process.ended()? {
                bail!("boringtun-cli has ended: {status}");
            }
            ensure!(Instant::now() < until, "boringtun-cli does not begin");
            thread::sleep(LOOK);
        }
        let tunnel = Self {
            wg: &tools.wg,
            namespace,
            device: device.to_owned(),
            process: Some(process),
            socket,
        };
        let file = key.file.to_str().context("a path of odd letters")?;
        tunnel.set(&["private-key", file])?;
        Ok(tunnel)
    }

    fn set(&self, words: &[&str]) -> Result<()> {
        let mut wg = self.namespace.command(self.wg);
        run(wg.args(["set", &self.device]).args(words), "")?;
        Ok(())
    }

    /// With an address, and ways to what is behind it.
    fn bring_up(&self, address: Ipv4Addr, to: &[Ipv4Addr]) -> Result<()> {
        let Self { device, .. } = self;
        let mut lines = format!(
            "address add {} dev {device}\nlink set {device} mtu {MTU} up\n",
            host(address)
        );
        for to in to {
            lines += &format!("route add {} dev {device}\n", host(*to));
        }
        self.namespace.configure(&lines)
    }

    fn take(&mut self) -> Result<Process> {
        self.process.take().context("it was started")
    }
}

/// What a process that is killed leaves behind.
#[derive(Debug)]
struct ControlSocket(PathBuf);

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // It may have been removed.
        drop(fs::remove_file(&self.0));
    }
}

fn host(address: Ipv4Addr) -> String {
    format!("{address}/32")
}

/// What a program says that is told something.
fn run(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().to_owned();
    let what = || format!("cannot run {}", program.display());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(what)?;
    let mut stdin = child.stdin.take().context("it has an input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let arguments: Vec<_> = command
        .get_args()
        .map(|one| one.to_string_lossy())
        .collect();
    ensure!(
        output.status.success(),
        "{} {}: {}",
        program.display(),
        arguments.join(" "),
        said.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Where WireGuard's programs expect each other.
const SOCKETS: &str = "/var/run/wireguard";
/// What Ethernet's 1,500 bytes leave for a packet inside.
const MTU: u16 = 1420;
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
