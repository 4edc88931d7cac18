//! Two players who come to the public port, and check what the game tells them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::Instant,
};

/// Plays one round.
pub(crate) async fn play(public: SocketAddr) -> Result<()> {
    let (mut anna, mut ben) = (Player::new(public).await?, Player::new(public).await?);
    anna.digs(5).await?;
    anna.until(|state| state.players == 1).await?;
    ben.digs(7).await?;
    // Both see the same world.
    let both = |state: &State| state.found == 12 && state.players == 2;
    let (of_anna, of_ben) = tokio::try_join!(anna.until(both), ben.until(both))?;
    println!("anna sees {of_anna:?}, ben sees {of_ben:?}");
    let each = anna.ticks(TICKS).await? / TICKS;
    println!("a tick comes every {} ms", each.as_millis());

    let (mut anna, mut ben) = (Talker::new(public).await?, Talker::new(public).await?);
    for line in ["anna: hello", "anna: are you there?"] {
        anna.says(line).await?;
        ensure!(ben.hears().await? == line && anna.hears().await? == line);
    }
    ben.says("ben: yes").await?;
    ensure!(anna.hears().await? == "ben: yes");
    println!("anna and ben have talked");
    Ok(())
}

/// How many ticks are waited for.
const TICKS: u32 = 20;

/// The world as a player is told it.
#[derive(Clone, Copy, Debug)]
struct State {
    tick: u64,
    found: u64,
    players: usize,
}

/// Who plays over UDP.
struct Player {
    socket: UdpSocket,
    /// The newest tick that was told: an older one that comes later is passed over.
    tick: u64,
}

impl Player {
    async fn new(public: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(public).await?;
        Ok(Self { socket, tick: 0 })
    }

    async fn digs(&self, strength: u32) -> Result<()> {
        let said = format!("dig {strength}");
        self.socket.send(said.as_bytes()).await?;
        Ok(())
    }

    /// The next state.
    async fn state(&mut self) -> Result<State> {
        let mut buffer = [0; 1500];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let told = std::str::from_utf8(&buffer[..length])?;
            let state = parse(told).with_context(|| format!("no state of the world: {told}"))?;
            if state.tick > self.tick {
                self.tick = state.tick;
                return Ok(state);
            }
        }
    }

    /// The first state that is as it should be.
    async fn until(&mut self, is: impl Fn(&State) -> bool) -> Result<State> {
        loop {
            let state = self.state().await?;
            if is(&state) {
                return Ok(state);
            }
        }
    }

    /// How long `count` ticks take.
    async fn ticks(&mut self, count: u32) -> Result<Duration> {
        let start = Instant::now();
        let first = self.state().await?.tick;
        let last = self
            .until(|state| state.tick >= first + u64::from(count))
            .await?;
        Ok(start.elapsed() * count / (last.tick - first) as u32)
    }
}

fn parse(told: &str) -> Option<State> {
    let mut words = told.split(' ');
    let mut number = |name| {
        let found = words.next() == Some(name);
        words.next().filter(|_| found)?.parse::<u64>().ok()
    };
    Some(State {
        tick: number("tick")?,
        found: number("found")?,
        players: number("players")? as usize,
    })
}

/// Who talks over TCP.
struct Talker {
    lines: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Talker {
    /// Comes in, and waits until the others can be heard.
    async fn new(public: SocketAddr) -> Result<Self> {
        let (from, to) = TcpStream::connect(public).await?.into_split();
        let lines = BufReader::new(from).lines();
        let mut talker = Self { lines, to };
        ensure!(talker.hears().await? == "welcome");
        Ok(talker)
    }

    async fn says(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        Ok(self.to.write_all(line.as_bytes()).await?)
    }

    async fn hears(&mut self) -> Result<String> {
        let line = self.lines.next_line().await?;
        line.context("the game has hung up")
    }
}
