//! Players of every sort, and game servers that send back what they get.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::tally::{Book, Node};

/// The public ports of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publics {
    pub(crate) node: Node,
    /// UDP.
    pub(crate) game: SocketAddr,
    /// TCP, a QUIC stream each.
    pub(crate) talk: SocketAddr,
    /// TCP, a lane each.
    pub(crate) bulk: SocketAddr,
}

/// A game server over TCP and UDP; where it is.
pub(crate) async fn serve() -> io::Result<SocketAddr> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let address = tcp.local_addr()?;
    let udp = UdpSocket::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((mut player, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = player.split();
                // However it ends, it is the player's connection that ends.
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            // An error is the news of an answer that nobody was there for.
            if let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                udp.send_to(&buffer[..length], from).await.ok();
            }
        }
    });
    Ok(address)
}

/// Lets players of every sort loose on a client's ports, in the current runtime. With a load of 1 they ask for some
/// 260 datagrams, 100 requests, 20 new connections and half a megabyte a second, each way.
pub(crate) fn gather(book: &Arc<Book>, publics: Publics, load: f64) {
    let pace = |seconds: f64| Duration::from_secs_f64(seconds / load);
    for (size, rate) in [
        (60, 60.0),
        (200, 60.0),
        (1_100, 60.0),
        (1_300, 60.0),
        (4_000, 20.0),
    ] {
        tokio::spawn(play(book.clone(), publics, size, pace(1.0 / rate)));
    }
    for public in [publics.talk, publics.bulk] {
        for _ in 0..2 {
            let player = Talker {
                book: book.clone(),
                node: publics.node,
                public,
                size: 300,
                pause: pace(0.04),
            };
            tokio::spawn(player.stay());
        }
        let book = book.clone();
        tokio::spawn(visit(book, publics.node, public, pace(0.1)));
    }
    let bulk = Talker {
        book: book.clone(),
        node: publics.node,
        public: publics.bulk,
        size: 65_536,
        pause: pace(0.125),
    };
    tokio::spawn(bulk.stay());
    for number in 0..IDLE {
        let idle = Talker {
            book: book.clone(),
            node: publics.node,
            public: if number % 2 == 0 {
                publics.talk
            } else {
                publics.bulk
            },
            size: 1,
            pause: Duration::from_secs(15),
        };
        tokio::spawn(idle.stay());
    }
}

/// Notices when the machine has no time for anybody.
pub(crate) async fn watch_clock(book: Arc<Book>) {
    let mut before = Instant::now();
    loop {
        sleep(CLOCK).await;
        let late = before.elapsed().saturating_sub(CLOCK);
        if late > STALL {
            book.stalled(late);
        }
        before = Instant::now();
    }
}

/// Players with numbered datagrams, one after the other, each from an address of its own.
async fn play(book: Arc<Book>, publics: Publics, size: usize, pace: Duration) {
    loop {
        // It fails when the machine has no descriptors left: then nobody could be here.
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await
            && socket.connect(publics.game).await.is_ok()
        {
            session(&book, publics.node, &socket, size, pace).await;
        }
        sleep(pace).await;
    }
}

/// One player's visit.
async fn session(book: &Book, node: Node, socket: &UdpSocket, size: usize, pace: Duration) {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + SESSION;
    let mut unanswered = BTreeMap::<u64, Instant>::new();
    let mut next = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        let now = Instant::now();
        while let Some((&number, &sent)) = unanswered.first_key_value()
            && now > sent + PATIENCE_UDP
        {
            unanswered.remove(&number);
            book.datagram_lost(node, sent);
        }
        if now >= end && unanswered.is_empty() {
            return;
        }
        tokio::select! {
            _ = ticks.tick() => if now < end {
                let mut packet = vec![next as u8; size];
                packet[..8].copy_from_slice(&u64::to_be_bytes(next));
                if socket.send(&packet).await.is_ok() {
                    unanswered.insert(next, now);
                } else {
                    // The relay is not there: it would have been lost.
                    book.datagram_lost(node, now);
                }
                next += 1;
            },
            received = socket.recv(&mut buffer) => {
                // An error is the news that the relay was not there a moment ago.
                let Ok(length) = received else { continue };
                let (head, body) = buffer[..length].split_at(length.min(8));
                let number = head.try_into().map(u64::from_be_bytes);
                let was_due = number.is_ok_and(|number| {
                    let whole = length == size && body.iter().all(|byte| *byte == number as u8);
                    whole && unanswered.remove(&number).is_some()
                });
                book.count(if was_due { &book.datagrams } else { &book.wrong }, 1);
            }
        }
    }
}

/// A player who asks over one connection, waits for the answer, and asks again after a pause.
struct Talker {
    book: Arc<Book>,
    node: Node,
    public: SocketAddr,
    size: usize,
    pause: Duration,
}

impl Talker {
    async fn stay(self) {
        loop {
            // It ends with an error alone.
            let _error = self.talk().await;
            self.book.connection_lost(self.node, Instant::now());
            sleep(BREATH).await;
        }
    }

    async fn talk(&self) -> io::Result<()> {
        let mut player = bounded(TcpStream::connect(self.public)).await?;
        player.set_nodelay(true)?;
        let mut answer = vec![0; self.size];
        for number in 0_usize.. {
            let question: Vec<u8> = (number..number + self.size)
                .map(|byte| byte as u8)
                .collect();
            let (mut reader, mut writer) = player.split();
            let both = async {
                tokio::try_join!(writer.write_all(&question), reader.read_exact(&mut answer))
            };
            bounded(both).await?;
            if question != answer {
                self.book.count(&self.book.wrong, 1);
            }
            self.book.count(&self.book.requests, 1);
            self.book.count(&self.book.bulk_bytes, self.size as u64);
            // Nothing is due: what comes now is the end.
            if let Ok(ended) = timeout(self.pause, player.peek(&mut [0])).await {
                return Err(ended.err().unwrap_or(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }
}

/// Players who come, ask once, and go.
async fn visit(book: Arc<Book>, node: Node, public: SocketAddr, pause: Duration) {
    loop {
        let visit = async {
            let mut player = TcpStream::connect(public).await?;
            player.write_all(b"?").await?;
            player.read_exact(&mut [0]).await
        };
        match bounded(visit).await {
            Ok(_) => book.count(&book.visits, 1),
            Err(_) => book.connection_lost(node, Instant::now()),
        }
        sleep(pause).await;
    }
}

async fn bounded<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(PATIENCE_TCP, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Connections of each client that say a byte every 15 s.
const IDLE: usize = 60;
/// How long a player with datagrams stays.
const SESSION: Duration = Duration::from_secs(15);
/// A datagram whose answer takes longer is lost.
const PATIENCE_UDP: Duration = Duration::from_secs(3);
/// A connection that is silent for longer is broken: that is how long streams outlive their tunnel.
const PATIENCE_TCP: Duration = Duration::from_secs(30);
/// How often the clock is looked at.
const CLOCK: Duration = Duration::from_millis(5);
/// This late, others are late as well: half of the 100 ms after which a datagram that waits is dropped.
const STALL: Duration = Duration::from_millis(50);
/// Between two tries to connect.
const BREATH: Duration = Duration::from_millis(50);
