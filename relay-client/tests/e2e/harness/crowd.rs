//! Players that never rest, and game servers that answer each of them.
//!
//! They run on a thread of their own, which is in the network namespace of the thread that made the crowd.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::{Builder, Runtime},
    time::{MissedTickBehavior, interval, sleep},
};

use super::eventually;

/// Players and game servers; dropping it ends them all.
pub(crate) struct Crowd(Option<Runtime>);

/// How a player is doing.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The player says no more.
    over: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    /// Connections that ended although the player had more to say.
    broken: AtomicU64,
    /// Datagrams that a thousand later ones have overtaken.
    lost: AtomicU64,
    /// Answers to what was never asked, or asked once and answered twice.
    wrong: AtomicU64,
    silences: Mutex<Silences>,
}

/// How long a player had no answer.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Silences {
    /// Since when it has none.
    since: Option<Instant>,
    /// At a stretch.
    pub(crate) longest: Duration,
    /// In all, of those that a player notices.
    pub(crate) sum: Duration,
}

impl Silences {
    fn handle_answer(&mut self, now: Instant) {
        if let Some(since) = self.since.replace(now) {
            let silence = now - since;
            self.longest = self.longest.max(silence);
            if silence >= NOTICED {
                self.sum += silence;
            }
        }
    }
}

impl Tally {
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How long it had no answer, up to now and from its first one or the last call on.
    pub(crate) fn take_silences(&self) -> Silences {
        let mut silences = self.silences.lock().unwrap();
        let now = Instant::now();
        if silences.since.is_some() {
            silences.handle_answer(now);
        }
        let since = silences.since;
        std::mem::replace(
            &mut *silences,
            Silences {
                since,
                ..Silences::default()
            },
        )
    }

    /// Lets the player say no more, and waits for the answers to all that it said.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
        eventually("the last answers", || {
            (self.sent() == self.answered()).then_some(())
        });
    }

    /// Fails unless every connection lasted and every answer came once.
    pub(crate) fn assert_undisturbed(&self) {
        let bad = [&self.broken, &self.lost, &self.wrong].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(bad, [0; 3], "{self:?}");
    }

    /// Fails if an answer was not the one that was due; connections may have broken and datagrams been lost.
    pub(crate) fn assert_sane(&self) {
        assert_eq!(self.wrong.load(Ordering::Relaxed), 0, "{self:?}");
    }
}

/// How a player looks to the game, and how long it went without an answer.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The port that the game took the player for first; 0 before that.
    port: AtomicU16,
    /// Answers that say another.
    changed: AtomicU64,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    /// When the newest question was asked that has been answered.
    asked: Option<Instant>,
    /// When the last answer came, and the longest time between two.
    last: Option<Instant>,
    longest_gap: Duration,
}

impl View {
    /// The port that the game has always taken the player for, once it has answered.
    pub(crate) fn port(&self) -> Option<u16> {
        let changed = self.changed.load(Ordering::Relaxed);
        assert_eq!(changed, 0, "the game took the player for another");
        Some(self.port.load(Ordering::Relaxed)).filter(|port| *port != 0)
    }

    /// Whether what the player has asked since then has been answered.
    pub(crate) fn is_answered_since(&self, then: Instant) -> bool {
        let asked = self.answers.lock().unwrap().asked;
        asked.is_some_and(|asked| asked > then)
    }

    pub(crate) fn longest_gap(&self) -> Duration {
        self.answers.lock().unwrap().longest_gap
    }

    fn note(&self, asked: Instant, port: u16) {
        let first = (self.port).compare_exchange(0, port, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|first| first != port) {
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap();
        let gap = answers.last.replace(now).map(|last| now - last);
        answers.longest_gap = gap.unwrap_or_default().max(answers.longest_gap);
        answers.asked = answers.asked.max(Some(asked));
    }
}

impl Crowd {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self(Some(runtime.unwrap()))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().unwrap()
    }

    /// A game server that sends back what it gets, over TCP and UDP.
    pub(crate) fn echo(&self, address: SocketAddr) {
        let (tcp, udp) = self.runtime().block_on(async {
            let tcp = TcpListener::bind(address).await.unwrap();
            (tcp, UdpSocket::bind(address).await.unwrap())
        });
        self.runtime().spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.into_split();
                    // However it ends, it is the player's connection that ends.
                    drop(tokio::io::copy(&mut reader, &mut writer).await);
                });
            }
        });
        self.runtime().spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // An error is the news of an answer that nobody was there for.
                if let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                    udp.send_to(&buffer[..length], from).await.ok();
                }
            }
        });
    }

    /// A game server that answers each datagram with the port that it came from, and the datagram.
    pub(crate) fn witness(&self, address: SocketAddr) {
        let socket = UdpSocket::bind(address);
        let socket = self.runtime().block_on(socket).unwrap();
        self.runtime().spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    let answer = [&from.port().to_be_bytes()[..], &buffer[..length]].concat();
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
    }

    /// A player of a [`Crowd::witness`] who sends a datagram every `pace`, whatever comes back.
    pub(crate) fn seen(&self, public: SocketAddr, pace: Duration) -> Arc<View> {
        let view = Arc::<View>::default();
        let of_task = view.clone();
        self.runtime().spawn(async move {
            let any = SocketAddr::new(public.ip(), 0);
            let socket = UdpSocket::bind(any).await.unwrap();
            socket.connect(public).await.unwrap();
            let mut ticks = interval(pace);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (start, mut question, mut buffer) = (Instant::now(), [7; 100], [0; 256]);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        let now = start.elapsed().as_micros() as u64;
                        question[..8].copy_from_slice(&now.to_be_bytes());
                        // An error is the news of a relay that is not there at the moment.
                        drop(socket.send(&question).await);
                    }
                    received = socket.recv(&mut buffer) => if received.is_ok() {
                        let asked = u64::from_be_bytes(buffer[2..10].try_into().unwrap());
                        let asked = start + Duration::from_micros(asked);
                        of_task.note(asked, u16::from_be_bytes([buffer[0], buffer[1]]));
                    },
                }
            }
        });
        view
    }

    /// A game server that takes datagrams and never answers.
    pub(crate) fn sink(&self, address: SocketAddr) {
        let socket = UdpSocket::bind(address);
        let socket = self.runtime().block_on(socket).unwrap();
        self.runtime().spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                socket.recv_from(&mut buffer).await.ok();
            }
        });
    }

    /// A player who sends blocks of this size over TCP, each when the one before has come back; who is cut off
    /// connects anew.
    pub(crate) fn talker(&self, public: SocketAddr, block: usize) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let of_task = tally.clone();
        self.runtime().spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(public).await {
                    // Until it breaks.
                    drop(talk(&mut stream, block, &of_task).await);
                    of_task.broken.fetch_add(1, Ordering::Relaxed);
                }
                sleep(BREATH).await;
            }
        });
        tally
    }

    /// A player who sends a numbered datagram of this size every `pace`, while fewer than `window` are unanswered.
    pub(crate) fn gamer(
        &self,
        public: SocketAddr,
        size: usize,
        pace: Duration,
        window: usize,
    ) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let of_task = tally.clone();
        self.runtime().spawn(async move {
            let any = SocketAddr::new(public.ip(), 0);
            let socket = UdpSocket::bind(any).await.unwrap();
            socket.connect(public).await.unwrap();
            play(&socket, size, pace, window, &of_task).await;
        });
        tally
    }

    /// A player without manners: this many datagrams a second, whatever comes back.
    pub(crate) fn flooder(&self, public: SocketAddr, per_second: u32) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let of_task = tally.clone();
        self.runtime().spawn(async move {
            let any = SocketAddr::new(public.ip(), 0);
            let socket = UdpSocket::bind(any).await.unwrap();
            socket.connect(public).await.unwrap();
            let mut ticks = interval(BREATH);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let burst = per_second * BREATH.as_millis() as u32 / 1000;
            loop {
                ticks.tick().await;
                for _ in 0..burst {
                    // A full socket is no reason to stop.
                    if socket.try_send(&[0; 600]).is_ok() {
                        of_task.sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        tally
    }

    /// Players who come, say one byte, and go, one after the other.
    pub(crate) fn visitors(&self, public: SocketAddr) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        let of_task = tally.clone();
        self.runtime().spawn(async move {
            loop {
                match visit(public).await {
                    Ok(()) => of_task.answered.fetch_add(1, Ordering::Relaxed),
                    Err(_) => {
                        sleep(BREATH).await;
                        of_task.broken.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        });
        tally
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn talk(stream: &mut TcpStream, size: usize, tally: &Tally) -> io::Result<()> {
    let mut got = vec![0; size];
    for number in 0_u64.. {
        if tally.over.load(Ordering::Relaxed) {
            std::future::pending().await
        }
        let block: Vec<u8> = (0..size).map(|i| (number as usize + i) as u8).collect();
        tally.sent.fetch_add(1, Ordering::Relaxed);
        // Both at once: a block may be larger than what the way holds.
        let (mut reader, mut writer) = stream.split();
        tokio::try_join!(writer.write_all(&block), reader.read_exact(&mut got))?;
        if got != block {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
        }
        tally.answered.fetch_add(1, Ordering::Relaxed);
        tally.silences.lock().unwrap().handle_answer(Instant::now());
    }
    Ok(())
}

async fn play(socket: &UdpSocket, size: usize, pace: Duration, window: usize, tally: &Tally) {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut next, mut latest) = (0_u64, 0);
    let mut unanswered = BTreeSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        tokio::select! {
            _ = ticks.tick(), if unanswered.len() < window && !tally.over.load(Ordering::Relaxed) => {
                let mut packet = vec![next as u8; size.max(8)];
                packet[..8].copy_from_slice(&next.to_be_bytes());
                // An error is the news of a relay that is not there at the moment.
                if socket.send(&packet).await.is_ok() {
                    unanswered.insert(next);
                    tally.sent.fetch_add(1, Ordering::Relaxed);
                }
                next += 1;
            }
            received = socket.recv(&mut buffer) => {
                let Ok(length) = received else { continue };
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                let whole = length == size.max(8) && buffer[8..length].iter().all(|b| *b == number as u8);
                if !whole || !unanswered.remove(&number) {
                    tally.wrong.fetch_add(1, Ordering::Relaxed);
                }
                tally.answered.fetch_add(1, Ordering::Relaxed);
                tally.silences.lock().unwrap().handle_answer(Instant::now());
                latest = latest.max(number);
                while let Some(oldest) = unanswered.first().copied().filter(|n| n + 1000 < latest) {
                    unanswered.remove(&oldest);
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

async fn visit(public: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(public).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

/// Silences of a game that its player notices.
const NOTICED: Duration = Duration::from_millis(150);
/// Between two tries, and between two bursts of a flood.
const BREATH: Duration = Duration::from_millis(10);
