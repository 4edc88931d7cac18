//! The processes that the bench starts of itself: a relay, a client, and the game server behind them.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tunnel_core::{
    client::{Client, ClientIdentity},
    instance::{Instance, RawInstance, RawService},
    key::{Psk, SecretKey},
    relay::{Relay, StaticAuthority},
};

use crate::column::{Process, command};

/// What a process of the bench is. Each prints one line when it is ready, and ends with its standard input.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    /// Prints where it listens.
    Relay,
    /// Needs the relay's address, a public port, the target and what to optimize for.
    Client,
    /// Prints where it listens.
    Target,
}

impl Role {
    pub(crate) fn run(self, with: &[String]) -> Result<()> {
        thread::spawn(|| {
            // The bench has ended, however it did.
            drop(io::copy(&mut io::stdin(), &mut io::sink()));
            std::process::exit(0);
        });
        match self {
            Self::Relay => adit_daemon::runtime::block_on(relay())?,
            Self::Client => adit_daemon::runtime::block_on(client(with))?,
            Self::Target => target(),
        }
    }
}

/// Starts a role and waits for what it prints.
pub(crate) fn start_role(role: Role, with: &[String]) -> Result<(Process, String)> {
    let name = role.to_possible_value().context("a role has a name")?;
    let mut command = command(&env::current_exe()?);
    command.args(["--role", name.get_name()]);
    if !with.is_empty() {
        command.arg("--with").arg(with.join(","));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process(command.spawn()?);
    let stdout = process.0.stdout.take().context("it has an output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        return Err(anyhow!("the {} has ended", name.get_name()));
    }
    Ok((process, line.trim().to_owned()))
}

async fn relay() -> Result<()> {
    let authority = StaticAuthority::new().client(
        "node-1",
        SecretKey::from(NODE_KEY).public_key(),
        Psk::from(PSK),
        "1024-65535".parse()?,
    );
    let authority = Arc::new(authority);
    let mut tries = 0;
    let relay = loop {
        let relay = Relay::builder(SecretKey::from(RELAY_KEY), authority.clone())
            .listen((Ipv4Addr::LOCALHOST, 0).into())
            .public_bind(Ipv4Addr::LOCALHOST.into());
        match relay.start().await {
            Ok(relay) => break relay,
            // The UDP port that the system chose may be taken as a TCP port.
            Err(_) if tries < 20 => tries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    println!("{}", relay.local_addr().context("it listens")?);
    std::future::pending().await
}

async fn client(with: &[String]) -> Result<()> {
    let [relay, port, target, optimize] = with else {
        return Err(anyhow!("a client needs four arguments"));
    };
    let game = RawService {
        name: "bench".into(),
        protocol: "both".into(),
        public_port: Some(port.clone()),
        target: target.clone(),
        optimize: Some(optimize.clone()),
        ..RawService::default()
    };
    let instance = Instance::try_from(&RawInstance {
        id: "bench".into(),
        services: vec![game],
    })?;
    let identity = ClientIdentity {
        relay: relay.parse()?,
        relay_public_key: SecretKey::from(RELAY_KEY).public_key(),
        secret_key: SecretKey::from(NODE_KEY),
        psk: Psk::from(PSK),
    };
    let client = Client::builder(identity).instances([instance]).start()?;
    client.bound().await;
    println!("ready");
    std::future::pending().await
}

/// The game server, in a process of its own.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Target {
    pub(crate) fn start() -> Result<Self> {
        let (process, address) = start_role(Role::Target, &[])?;
        Ok(Self {
            address: address.parse()?,
            _process: process,
        })
    }
}

fn target() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            if let Ok(udp) = std::net::UdpSocket::bind(tcp.local_addr()?) {
                break (tcp, udp);
            }
        };
        drop(socket2::SockRef::from(&udp).set_recv_buffer_size(4 << 20));
        thread::spawn(move || echo_udp(&udp));
        println!("{}", tcp.local_addr()?);
        loop {
            let (player, _) = tcp.accept().await?;
            tokio::spawn(serve(player));
        }
    })
}

fn echo_udp(socket: &std::net::UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error is an ICMP message about a player that has gone.
        if let Ok((length, player)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], player));
        }
    }
}

/// The first byte says what the player wants.
async fn serve(mut player: TcpStream) -> io::Result<()> {
    player.set_nodelay(true)?;
    let mut byte = [0];
    player.read_exact(&mut byte).await?;
    match byte[0] {
        SINK | TALK => {
            // As a program would that does nothing else: with a thread and no runtime.
            let player = player.into_std()?;
            player.set_nonblocking(false)?;
            let serve = if byte[0] == SINK { sink } else { talk };
            thread::spawn(move || serve(player));
        }
        _ => {
            // Thousands of these stand idle: a byte at a time, in little memory.
            player.write_all(&byte).await?;
            while player.read(&mut byte).await? > 0 {
                player.write_all(&byte).await?;
            }
        }
    }
    Ok(())
}

/// Takes everything, then says how much that was.
fn sink(mut player: std::net::TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        match player.read(&mut buffer)? {
            0 => return player.write_all(&total.to_be_bytes()),
            length => total += length as u64,
        }
    }
}

/// Echoes.
fn talk(mut player: std::net::TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match player.read(&mut buffer)? {
            0 => return Ok(()),
            length => player.write_all(&buffer[..length])?,
        }
    }
}

/// First byte of a connection that is echoed, this byte included.
pub(crate) const ECHO: u8 = b'E';
/// First byte of a connection of which everything is taken and counted.
pub(crate) const SINK: u8 = b'S';
/// First byte of a connection of which everything behind it is echoed at once.
pub(crate) const TALK: u8 = b'T';
/// 128 KiB a call, as iperf3.
pub(crate) const BLOCK: usize = 128 * 1024;

/// Everybody may know these: they never leave loopback.
const RELAY_KEY: [u8; 32] = [1; 32];
const NODE_KEY: [u8; 32] = [2; 32];
const PSK: [u8; 32] = [3; 32];
