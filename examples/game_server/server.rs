//! The game's sockets: the world over UDP, the chat over TCP, on one port.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::broadcast::{self, error::RecvError},
    time::{self, MissedTickBehavior},
};

use crate::world::{TICKS_PER_SECOND, World};

/// A game server that listens.
#[derive(Debug)]
pub(crate) struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Listens on a free port of 127.0.0.1, over UDP and TCP.
    pub(crate) async fn bind() -> io::Result<Self> {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await?;
            // Usually the UDP port of the same number is free, too.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr()?).await {
                return Ok(Self { udp, tcp });
            }
        }
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves players for ever. The tunnel is no matter of the game: who comes through it has an address of this machine,
    /// each player one of his own.
    pub(crate) async fn run(self) -> io::Result<()> {
        let Self { udp, tcp } = self;
        tokio::select! {
            ended = play(udp) => ended,
            ended = chat(tcp) => ended,
        }
    }
}

/// The loop of the game: hears players, goes on 20 times a second, and tells all of them the state.
async fn play(socket: UdpSocket) -> io::Result<()> {
    let mut world = World::new();
    let mut clock = time::interval(Duration::from_millis(1000 / TICKS_PER_SECOND));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut buffer = [0; 1500];
    loop {
        tokio::select! {
            heard = socket.recv_from(&mut buffer) => {
                // An error is that of one player who has gone.
                if let Ok((length, player)) = heard {
                    world.hears(player, &buffer[..length]);
                }
            }
            _ = clock.tick() => {
                let state = world.advance();
                for player in world.players() {
                    // What is lost is told anew with the next tick.
                    socket.try_send_to(state.as_bytes(), player).ok();
                }
            }
        }
    }
}

/// Passes each line that a player writes on to all of them.
async fn chat(listener: TcpListener) -> io::Result<()> {
    // Who reads slowly misses lines, and holds nobody up.
    let (lines, _) = broadcast::channel(64);
    loop {
        let (player, _) = listener.accept().await?;
        tokio::spawn(talk(player, lines.clone()));
    }
}

async fn talk(mut player: TcpStream, lines: broadcast::Sender<Vec<u8>>) -> io::Result<()> {
    let mut heard = lines.subscribe();
    let (from, mut to) = player.split();
    let mut from = BufReader::new(from);
    to.write_all(b"welcome\n").await?;
    let mut line = Vec::new();
    loop {
        let mut rest = (&mut from).take(LINE - line.len() as u64);
        tokio::select! {
            // What was read stays in `line` when the other branch comes first.
            read = rest.read_until(b'\n', &mut line) => {
                read?;
                if !line.ends_with(b"\n") {
                    return Ok(());
                }
                lines.send(std::mem::take(&mut line)).ok();
            }
            said = heard.recv() => match said {
                Ok(said) => to.write_all(&said).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// The longest line, in bytes; whoever writes a longer one is not read any further.
const LINE: u64 = 512;
