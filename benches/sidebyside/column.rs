//! What is measured: the direct path, Adit in its three ways, and the peers that are found. Each is two processes.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::roles::{ECHO, Role, start_role};

/// A way from a player to the game server.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Direct,
    /// `latency`, `throughput` or `auto`.
    Adit(&'static str),
    Rathole {
        program: PathBuf,
        noise: bool,
    },
}

impl Kind {
    /// All that this machine has. A smoke test is about Adit alone.
    pub(crate) fn found(smoke: bool) -> Vec<Self> {
        let mut kinds = vec![
            Self::Direct,
            Self::Adit("latency"),
            Self::Adit("throughput"),
            Self::Adit("auto"),
        ];
        if smoke {
            return kinds;
        }
        match rathole() {
            Some(program) => {
                for noise in [false, true] {
                    let program = program.clone();
                    kinds.push(Self::Rathole { program, noise });
                }
            }
            None => eprintln!(
                "rathole is not here: set {RATHOLE}, or cargo install rathole; going on without it"
            ),
        }
        kinds
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Adit("latency") => "adit-latency",
            Self::Adit("throughput") => "adit-throughput",
            Self::Adit(_) => "adit-auto",
            Self::Rathole { noise: false, .. } => "rathole",
            Self::Rathole { noise: true, .. } => "rathole-noise",
        }
    }

    /// Starts it before `target` and waits until TCP and UDP pass.
    pub(crate) fn start(&self, target: SocketAddr) -> Result<Column> {
        let mut column = match self {
            Self::Direct => Column {
                address: target,
                relay: None,
                client: None,
                files: None,
                is_peer: false,
            },
            Self::Adit(optimize) => start_adit(optimize, target)?,
            Self::Rathole { program, noise } => start_rathole(program, *noise, target)?,
        };
        wait_until_it_works(&mut column)
            .with_context(|| format!("{} does not work", self.name()))?;
        Ok(column)
    }
}

/// A way that works.
#[derive(Debug)]
pub(crate) struct Column {
    /// Where players go, with TCP and UDP.
    pub(crate) address: SocketAddr,
    pub(crate) relay: Option<Process>,
    pub(crate) client: Option<Process>,
    files: Option<PathBuf>,
    is_peer: bool,
}

impl Column {
    /// Whether its failure is somebody else's.
    pub(crate) const fn is_peer(&self) -> bool {
        self.is_peer
    }

    /// CPU seconds that its processes have used so far.
    pub(crate) fn cpu(&self) -> Option<f64> {
        Some(self.relay.as_ref()?.cpu()? + self.client.as_ref()?.cpu()?)
    }

    fn check(&mut self) -> Result<()> {
        for process in [&mut self.relay, &mut self.client].into_iter().flatten() {
            if let Some(status) = process.0.try_wait()? {
                bail!("a process of it has ended: {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Column {
    fn drop(&mut self) {
        if let Some(files) = &self.files {
            drop(fs::remove_dir_all(files));
        }
    }
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// User and system time, in seconds. `None` where there is no `/proc`.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).ok()?;
        // The name may hold spaces; the fields behind it are counted from its bracket: 14 and 15 of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / TICKS)
    }

    /// Resident memory, in bytes. `None` where there is no `/proc`.
    pub(crate) fn memory(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start_adit(optimize: &str, target: SocketAddr) -> Result<Column> {
    let (relay, listens) = start_role(Role::Relay, &[])?;
    let port = free_port()?;
    let arguments = [
        listens,
        port.to_string(),
        target.to_string(),
        optimize.to_owned(),
    ];
    let (client, _) = start_role(Role::Client, &arguments)?;
    Ok(Column {
        address: (Ipv4Addr::LOCALHOST, port).into(),
        relay: Some(relay),
        client: Some(client),
        files: None,
        is_peer: false,
    })
}

fn start_rathole(program: &Path, noise: bool, target: SocketAddr) -> Result<Column> {
    let (listen, port) = (free_port()?, free_port()?);
    let files = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rathole-{port}"));
    fs::create_dir_all(&files)?;
    let (mut server_transport, mut client_transport) = (String::new(), String::new());
    if noise {
        let (secret, public) = rathole_keys(program)?;
        let head = "[ROLE.transport]\ntype = \"noise\"\n[ROLE.transport.noise]\n";
        server_transport =
            head.replace("ROLE", "server") + &format!("local_private_key = \"{secret}\"\n");
        client_transport =
            head.replace("ROLE", "client") + &format!("remote_public_key = \"{public}\"\n");
    }
    let services = |role: &str, key: &str, address: String| {
        ["tcp", "udp"].map(|protocol| {
            format!("[{role}.services.{protocol}]\ntype = \"{protocol}\"\n{key} = \"{address}\"\n")
        })
    };
    let server = format!(
        "[server]\nbind_addr = \"127.0.0.1:{listen}\"\ndefault_token = \"bench\"\n{server_transport}{}",
        services("server", "bind_addr", format!("127.0.0.1:{port}")).concat()
    );
    let client = format!(
        "[client]\nremote_addr = \"127.0.0.1:{listen}\"\ndefault_token = \"bench\"\n{client_transport}{}",
        services("client", "local_addr", target.to_string()).concat()
    );
    let start = |side: &str, config: String| -> Result<Process> {
        let path = files.join(format!("{side}.toml"));
        fs::write(&path, config)?;
        let mut command = command(program);
        command.arg(format!("--{side}")).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Process(command.stderr(Stdio::null()).spawn()?))
    };
    Ok(Column {
        address: (Ipv4Addr::LOCALHOST, port).into(),
        relay: Some(start("server", server)?),
        client: Some(start("client", client)?),
        files: Some(files),
        is_peer: true,
    })
}

/// A pair of keys, from rathole's own generator.
fn rathole_keys(program: &Path) -> Result<(String, String)> {
    let output = command(program).arg("--genkey").output()?;
    let text = String::from_utf8(output.stdout)?;
    let after = |title: &str| {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
        lines.nth(1).map(|key| key.trim().to_owned())
    };
    after("Private")
        .zip(after("Public"))
        .context("rathole --genkey printed no keys")
}

#[expect(clippy::disallowed_methods, reason = "a bench starts its peers")]
pub(crate) fn command(program: &Path) -> Command {
    Command::new(program)
}

fn rathole() -> Option<PathBuf> {
    let named = env::var_os(RATHOLE).map(PathBuf::from);
    named.or_else(|| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path)
            .map(|directory| directory.join("rathole"))
            .find(|program| program.is_file())
    })
}

/// A port that is free for TCP and UDP at this moment.
fn free_port() -> Result<u16> {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
}

fn wait_until_it_works(column: &mut Column) -> Result<()> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        column.check()?;
        match works(column.address) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn works(address: SocketAddr) -> Result<()> {
    let patience = Some(Duration::from_millis(500));
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(patience)?;
    tcp.write_all(&[ECHO])?;
    tcp.read_exact(&mut [0])?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    udp.connect(address)?;
    udp.set_read_timeout(patience)?;
    udp.send(&[1; 16])?;
    udp.recv(&mut [0; 64])?;
    Ok(())
}

/// Where to find rathole, if not on `PATH`.
const RATHOLE: &str = "ADIT_BENCH_RATHOLE";
/// Linux counts CPU time in hundredths of a second for programs, whatever its own clock is.
const TICKS: f64 = 100.0;
/// rathole's client takes a second or two when its server was not there yet.
const START_PATIENCE: Duration = Duration::from_secs(15);
