//! Other tunnels, where they are found.

mod find;
mod wireguard;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use self::{find::find_peer, wireguard::WireGuard};
use super::{ports, running::Running};
use crate::{
    process::{Process, output},
    topology::{Side, Topology},
};

/// Another tunnel, in one of its ways.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    Rathole {
        program: PathBuf,
        noise: bool,
    },
    Frp {
        server: PathBuf,
        client: PathBuf,
        quic: bool,
    },
    Chisel(PathBuf),
    Bore(PathBuf),
    WireGuard(WireGuard),
}

impl Peer {
    /// Those on `PATH`, or where `ADIT_BENCH_<NAME>` says.
    pub(super) fn found(topology: &dyn Topology) -> Vec<Self> {
        let mut peers = Vec::new();
        if let Some(program) = find_peer("rathole") {
            peers.push(Self::Rathole {
                program: program.clone(),
                noise: false,
            });
            // Not every build has it.
            if rathole_keys(topology, &program).is_ok() {
                let noise = true;
                peers.push(Self::Rathole { program, noise });
            }
        }
        if let (Some(server), Some(client)) = (find_peer("frps"), find_peer("frpc")) {
            for quic in [false, true] {
                let (server, client) = (server.clone(), client.clone());
                peers.push(Self::Frp {
                    server,
                    client,
                    quic,
                });
            }
        }
        peers.extend(find_peer("chisel").map(Self::Chisel));
        peers.extend(find_peer("bore").map(Self::Bore));
        peers.extend(WireGuard::found().ok().map(Self::WireGuard));
        peers
    }

    /// Why there is no WireGuard, in words; `None` where there is. It takes several programs, and root.
    pub(super) fn no_wireguard() -> Option<String> {
        WireGuard::found().err()
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Rathole { noise: false, .. } => RATHOLE,
            Self::Rathole { noise: true, .. } => "rathole-noise",
            Self::Frp { quic: false, .. } => "frp",
            Self::Frp { quic: true, .. } => "frp-quic",
            Self::Chisel(_) => "chisel",
            Self::Bore(_) => "bore",
            Self::WireGuard(_) => WIREGUARD,
        }
    }

    pub(super) const fn carries_udp(&self) -> bool {
        !matches!(self, Self::Bore(_))
    }

    pub(super) fn version(&self, topology: &dyn Topology) -> String {
        let program = match self {
            Self::Rathole { program, .. } | Self::Chisel(program) | Self::Bore(program) => program,
            Self::Frp { server, .. } => server,
            Self::WireGuard(tools) => &tools.boringtun,
        };
        let said = output(topology, program, &["--version"]).unwrap_or_default();
        // A word that begins with a digit, or with a v and a digit.
        let is_version = |word: &&str| {
            let word = word.trim_start_matches('v');
            word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
        };
        let mut words = said.split_whitespace();
        // rathole prints the time of its build first, which has colons.
        let version = words.find(|word| is_version(word) && !word.contains(':'));
        version.unwrap_or("unknown").to_owned()
    }

    /// Starts both of its processes.
    pub(super) fn start(&self, topology: &dyn Topology, target: SocketAddr) -> Result<Running> {
        let setup = Setup {
            topology,
            target,
            listen: ports::free()?,
            public: ports::free()?,
            files: tempfile::Builder::new().prefix("adit-bench-").tempdir()?,
        };
        let (relay, client) = match self {
            Self::Rathole { program, noise } => setup.rathole(program, *noise)?,
            Self::Frp {
                server,
                client,
                quic,
            } => setup.frp(server, client, *quic)?,
            Self::Chisel(program) => setup.chisel(program)?,
            Self::Bore(program) => setup.bore(program)?,
            Self::WireGuard(tools) => return tools.start(topology),
        };
        Ok(Running {
            address: (topology.address(Side::Outside), setup.public).into(),
            relay: Some(relay),
            client: Some(client),
            topology: None,
            _kept: Some(Box::new(setup.files)),
        })
    }
}

/// What a peer is started with.
struct Setup<'a> {
    topology: &'a dyn Topology,
    target: SocketAddr,
    /// Where its server listens for its client.
    listen: u16,
    /// Where its server listens for players.
    public: u16,
    files: TempDir,
}

impl Setup<'_> {
    fn rathole(&self, program: &Path, noise: bool) -> Result<(Process, Process)> {
        let outside = self.topology.address(Side::Outside);
        let (mut server_transport, mut client_transport) = (String::new(), String::new());
        if noise {
            let (secret, public) = rathole_keys(self.topology, program)?;
            let head = "[ROLE.transport]\ntype = \"noise\"\n[ROLE.transport.noise]\n";
            server_transport =
                head.replace("ROLE", "server") + &format!("local_private_key = \"{secret}\"\n");
            client_transport =
                head.replace("ROLE", "client") + &format!("remote_public_key = \"{public}\"\n");
        }
        let services = |role: &str, key: &str, address: SocketAddr| {
            ["tcp", "udp"]
                .map(|protocol| {
                    format!(
                        "[{role}.services.{protocol}]\ntype = \"{protocol}\"\n{key} = \"{address}\"\n"
                    )
                })
                .concat()
        };
        let listen = SocketAddr::new(outside, self.listen);
        let server = format!(
            "[server]\nbind_addr = \"{listen}\"\ndefault_token = \"bench\"\n{server_transport}{}",
            services("server", "bind_addr", (outside, self.public).into())
        );
        let client = format!(
            "[client]\nremote_addr = \"{listen}\"\ndefault_token = \"bench\"\n{client_transport}{}",
            services("client", "local_addr", self.target)
        );
        Ok((
            self.with_file(Side::Outside, program, "--server", "server.toml", &server)?,
            self.with_file(Side::Home, program, "--client", "client.toml", &client)?,
        ))
    }

    /// TLS is on by default, over TCP and over QUIC.
    fn frp(&self, server: &Path, client: &Path, quic: bool) -> Result<(Process, Process)> {
        let outside = self.topology.address(Side::Outside);
        let listen = self.listen;
        let listens = if quic {
            format!("bindPort = {}\nquicBindPort = {listen}\n", ports::free()?)
        } else {
            format!("bindPort = {listen}\n")
        };
        let protocol = if quic { "quic" } else { "tcp" };
        let proxies = ["tcp", "udp"].map(|kind| {
            format!(
                "[[proxies]]\nname = \"{kind}\"\ntype = \"{kind}\"\nlocalIP = \"{}\"\nlocalPort = {}\nremotePort = {}\n",
                self.target.ip(),
                self.target.port(),
                self.public
            )
        });
        let server_file =
            format!("bindAddr = \"{outside}\"\nproxyBindAddr = \"{outside}\"\n{listens}");
        let client_file = format!(
            "serverAddr = \"{outside}\"\nserverPort = {listen}\ntransport.protocol = \"{protocol}\"\n\
             loginFailExit = false\n{}",
            proxies.concat()
        );
        Ok((
            self.with_file(Side::Outside, server, "-c", "frps.toml", &server_file)?,
            self.with_file(Side::Home, client, "-c", "frpc.toml", &client_file)?,
        ))
    }

    fn chisel(&self, program: &Path) -> Result<(Process, Process)> {
        let outside = self.topology.address(Side::Outside);
        let (listen, public, target) = (self.listen.to_string(), self.public, self.target);
        let mut server = self.topology.command(Side::Outside, program);
        server.args(["server", "--reverse", "--host", &outside.to_string()]);
        server.args(["--port", &listen]);
        let mut client = self.topology.command(Side::Home, program);
        client.args(["client", "--max-retry-interval", "1s"]);
        client.arg(format!("http://{outside}:{listen}"));
        client.arg(format!("R:{outside}:{public}:{target}"));
        client.arg(format!("R:{outside}:{public}:{target}/udp"));
        Ok((Process::start(server)?, Process::start(client)?))
    }

    /// Its server listens on a port that cannot be chosen, and its client ends where no server listens yet.
    fn bore(&self, program: &Path) -> Result<(Process, Process)> {
        let outside = self.topology.address(Side::Outside).to_string();
        let mut server = self.topology.command(Side::Outside, program);
        server.args(["server", "--bind-addr", &outside]);
        let server = Process::start(server)?;
        let until = Instant::now() + BORE_PATIENCE;
        loop {
            let mut client = self.topology.command(Side::Home, program);
            client.args(["local", &self.target.port().to_string()]);
            client.args(["--local-host", &self.target.ip().to_string()]);
            client.args(["--to", &outside, "--port", &self.public.to_string()]);
            let mut client = Process::start(client)?;
            let began = Instant::now();
            while client.ended()?.is_none() {
                if began.elapsed() > BORE_STAYS {
                    return Ok((server, client));
                }
                thread::sleep(BORE_STAYS / 10);
            }
            ensure!(Instant::now() < until, "bore's client does not stay");
        }
    }

    fn with_file(
        &self,
        side: Side,
        program: &Path,
        flag: &str,
        name: &str,
        text: &str,
    ) -> Result<Process> {
        let path = self.files.path().join(name);
        fs::write(&path, text)?;
        let mut command = self.topology.command(side, program);
        command.arg(flag).arg(path);
        Process::start(command)
    }
}

/// A pair of keys, from rathole's own generator.
fn rathole_keys(topology: &dyn Topology, program: &Path) -> Result<(String, String)> {
    let text = output(topology, program, &["--genkey"])?;
    let after = |title: &str| {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
        lines.nth(1).map(|key| key.trim().to_owned())
    };
    after("Private")
        .zip(after("Public"))
        .context("rathole --genkey printed no keys")
}

/// The peer that ratios are taken to.
pub(super) const RATHOLE: &str = "rathole";
/// The peer that takes more than a program or two.
pub(super) const WIREGUARD: &str = "wireguard";

/// A client of bore that has not ended by then has found its server.
const BORE_STAYS: Duration = Duration::from_millis(500);
const BORE_PATIENCE: Duration = Duration::from_secs(10);
