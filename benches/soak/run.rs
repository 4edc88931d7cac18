//! The soak itself: everything is set up, disturbed as planned, watched, and ended in peace.

use std::{
    fmt::Write as _,
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

use crate::{
    load::{self, Publics},
    plan::{Blow, plan},
    programs::{Programs, Running},
    proxy::Proxy,
    sample::{Life, Sample},
    tally::{Book, Harm, Node},
};

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) length: Duration,
    pub(crate) lives: Vec<Life>,
    pub(crate) happened: Vec<Happened>,
    pub(crate) book: Arc<Book>,
    /// What should not have been, in words.
    pub(crate) problems: Vec<String>,
}

/// Something that was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) at: Duration,
    pub(crate) blow: Blow,
    /// From the restart, the light or the signal until new players were served.
    pub(crate) recovery: Duration,
}

pub(crate) fn run(
    programs: &Programs,
    out: &Path,
    length: Duration,
    seed: u64,
    load: f64,
) -> Result<Record> {
    ensure!(load > 0.0 && load <= 100.0, "--load: above 0, at most 100");
    let world = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    world.spawn(async move {
        // Ctrl-C ends the soak early, with its verdict.
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let mut site = Site::set_up(programs, out, &world)?;
    let start = Instant::now();
    let book = Arc::new(Book::new(start));
    let watch = Watch::start(start, (length / 1_000).max(Duration::from_millis(500)));
    watch.born("relay", site.relay.id());
    watch.born("client 1", site.mortal.id());
    watch.born("client 2", site.lasting.id());

    let players = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    {
        let _entered = players.enter();
        tokio::spawn(load::watch_clock(book.clone()));
        for publics in site.publics {
            load::gather(&book, publics, load);
        }
    }
    let mut happened = Vec::new();
    let mut problems = Vec::new();
    let is_over = || start.elapsed() >= length || interrupted.load(Ordering::Relaxed);
    let mut told = 0;
    for (at, blow) in plan(length, seed) {
        while start.elapsed() < at && !is_over() {
            thread::sleep(TICK.min(at.saturating_sub(start.elapsed())));
        }
        if is_over() {
            break;
        }
        let at = start.elapsed();
        let recovery = site.strike(blow, &book, &watch)?;
        happened.push(Happened { at, blow, recovery });
        site.check_alive(&mut problems)?;
        let minute = start.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            let losses = book.losses();
            println!(
                "{minute} min: {} blows, {} datagrams and {} connections lost without one",
                happened.len(),
                losses.datagrams,
                losses.connections
            );
        }
    }
    while !is_over() {
        thread::sleep(TICK);
    }
    let length = start.elapsed();
    // What is on its way arrives before it is asked for.
    players.shutdown_background();
    let lives = watch.finish();
    site.check_alive(&mut problems)?;
    site.end(&mut problems)?;
    world.shutdown_background();
    Ok(Record {
        length,
        lives,
        happened,
        book,
        problems,
    })
}

/// The programs and what is around them.
struct Site<'a> {
    programs: &'a Programs,
    // Before the directory: fields are dropped in order.
    mortal: Running,
    lasting: Running,
    relay: Running,
    proxy: Proxy,
    configs: Configs,
    publics: [Publics; 2],
    /// The public port of the instance that comes and goes, and whether it is there.
    extra: (SocketAddr, bool),
    logs: PathBuf,
    _dir: tempfile::TempDir,
}

struct Configs {
    relay: PathBuf,
    mortal: PathBuf,
    lasting: PathBuf,
    /// The second client's file without and with the extra instance.
    texts: [String; 2],
}

impl<'a> Site<'a> {
    fn set_up(programs: &'a Programs, out: &Path, world: &Runtime) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("adit-soak-").tempdir()?;
        let logs = out.to_owned();
        for name in ["relay.log", "client-1.log", "client-2.log"] {
            fs::write(logs.join(name), "")?;
        }
        let ports = free_ports(8)?;
        let at = |number: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[number]));
        let listen = at(0);
        let relay_config = programs.init_relay(&dir.path().join("relay"), listen)?;
        let relay = programs.start("relay-server", &relay_config, &logs.join("relay.log"))?;
        eventually("the relay", || TcpStream::connect(listen).is_ok())?;
        let proxy = world.block_on(Proxy::start(listen))?;
        let join =
            |name: &str, via| programs.join(&relay_config, name, &dir.path().join(name), via);
        let mortal = join("mortal", listen)?;
        let lasting = join("lasting", proxy.address())?;
        let publics = |node, first| Publics {
            node,
            game: at(first),
            talk: at(first + 1),
            bulk: at(first + 2),
        };
        let publics = [publics(Node::Mortal, 1), publics(Node::Lasting, 4)];
        let extra = at(7);
        let target = world.block_on(load::serve())?;
        let text = |config: &Path, id: &str, publics: Publics| -> Result<String> {
            Ok(fs::read_to_string(config)? + &instance(id, publics, target))
        };
        let mortal_text = text(&mortal, "mortal", publics[0])?;
        fs::write(&mortal, mortal_text)?;
        let without = text(&lasting, "lasting", publics[1])?;
        fs::write(&lasting, &without)?;
        let with = without.clone() + &extra_instance(extra, target);
        let site = Self {
            programs,
            mortal: programs.start("relay-client", &mortal, &logs.join("client-1.log"))?,
            lasting: programs.start("relay-client", &lasting, &logs.join("client-2.log"))?,
            relay,
            proxy,
            configs: Configs {
                relay: relay_config,
                mortal,
                lasting,
                texts: [without, with],
            },
            publics,
            extra: (extra, false),
            logs,
            _dir: dir,
        };
        for publics in site.publics {
            serves(publics)?;
        }
        Ok(site)
    }

    /// Does it, and waits until new players are served again; how long that took.
    fn strike(&mut self, blow: Blow, book: &Book, watch: &Watch) -> Result<Duration> {
        let [mortal, lasting] = self.publics;
        let log = |name: &str| self.logs.join(name);
        let since;
        match blow {
            Blow::KillRelay => {
                let harm = book.disturbed(None, Harm::Everything);
                let new = || {
                    self.programs
                        .start("relay-server", &self.configs.relay, &log("relay.log"))
                };
                since = reborn(&mut self.relay, new)?;
                watch.born("relay", self.relay.id());
                serves(mortal)?;
                serves(lasting)?;
                book.healed(harm);
            }
            Blow::KillClient => {
                let harm = book.disturbed(Some(Node::Mortal), Harm::Everything);
                let new = || {
                    self.programs
                        .start("relay-client", &self.configs.mortal, &log("client-1.log"))
                };
                since = reborn(&mut self.mortal, new)?;
                watch.born("client 1", self.mortal.id());
                serves(mortal)?;
                book.healed(harm);
            }
            Blow::Dark(length) | Blow::NoUdp(length) => {
                let harm = book.disturbed(Some(Node::Lasting), Harm::Datagrams);
                self.proxy.set_dark([true, matches!(blow, Blow::Dark(_))]);
                thread::sleep(length);
                self.proxy.set_dark([false; 2]);
                since = Instant::now();
                serves(lasting)?;
                book.healed(harm);
            }
            Blow::Change => {
                let (public, was_there) = self.extra;
                fs::write(
                    &self.configs.lasting,
                    &self.configs.texts[usize::from(!was_there)],
                )?;
                self.lasting.signal(Signal::HUP)?;
                since = Instant::now();
                if was_there {
                    eventually("the end of the extra instance", || refuses(public))?;
                } else {
                    eventually("the extra instance", || asks_tcp(public).is_ok())?;
                }
                self.extra.1 = !was_there;
            }
        }
        Ok(since.elapsed())
    }

    /// Nobody ends whom nobody has killed.
    fn check_alive(&mut self, problems: &mut Vec<String>) -> Result<()> {
        let all = [
            ("the relay", &mut self.relay),
            ("client 1", &mut self.mortal),
            ("client 2", &mut self.lasting),
        ];
        for (name, running) in all {
            if let Some(status) = running.ended()? {
                problems.push(format!("{name} has ended by itself: {status}"));
                bail!("{}", problems.join("\n"));
            }
        }
        Ok(())
    }

    /// Ends everything as a supervisor would, and looks whether it leaves anything behind.
    fn end(self, problems: &mut Vec<String>) -> Result<()> {
        for (name, running) in [
            ("client 1", self.mortal),
            ("client 2", self.lasting),
            ("the relay", self.relay),
        ] {
            match running.terminate(Duration::from_secs(60)) {
                Ok(status) if status.success() => {}
                Ok(status) => problems.push(format!("{name} ended with {status}")),
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        }
        for publics in self.publics {
            for port in [publics.game, publics.talk, publics.bulk] {
                // Nobody listens any more; connections in TIME_WAIT may be left.
                if !refuses(port) || UdpSocket::bind(port).is_err() {
                    problems.push(format!("{port} is still held after the end"));
                }
            }
        }
        for name in ["relay.log", "client-1.log", "client-2.log"] {
            let log = fs::read_to_string(self.logs.join(name))?;
            let panics = log.lines().filter(|line| line.contains("panicked")).count();
            if panics > 0 {
                problems.push(format!("{name}: {panics} panics"));
            }
        }
        Ok(())
    }
}

/// Kills a process and starts its successor at once, as a supervisor does; when that was.
fn reborn(old: &mut Running, new: impl FnOnce() -> Result<Running>) -> Result<Instant> {
    old.signal(Signal::KILL)?;
    // A port is free when its process is gone.
    while old.ended()?.is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    let since = Instant::now();
    *old = new()?;
    Ok(since)
}

/// Waits until players who have never been there are served on every port.
fn serves(publics: Publics) -> Result<()> {
    eventually("an answer over UDP", || asks_udp(publics.game).is_ok())?;
    for public in [publics.talk, publics.bulk] {
        eventually("an answer over TCP", || asks_tcp(public).is_ok())?;
    }
    Ok(())
}

fn asks_tcp(public: SocketAddr) -> io::Result<()> {
    let mut player = TcpStream::connect(public)?;
    player.set_read_timeout(Some(Duration::from_secs(6)))?;
    player.write_all(b"?")?;
    player.read_exact(&mut [0])
}

fn asks_udp(public: SocketAddr) -> io::Result<()> {
    let player = UdpSocket::bind("127.0.0.1:0")?;
    player.connect(public)?;
    player.set_read_timeout(Some(Duration::from_millis(100)))?;
    player.send(b"?")?;
    player.recv(&mut [0]).map(drop)
}

fn refuses(public: SocketAddr) -> bool {
    TcpStream::connect(public).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn eventually(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + HANG;
    while !holds() {
        ensure!(Instant::now() < end, "no {what} within {HANG:?}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn instance(id: &str, publics: Publics, target: SocketAddr) -> String {
    let services = [
        ("game", "udp", publics.game, "auto"),
        ("talk", "tcp", publics.talk, "latency"),
        ("bulk", "tcp", publics.bulk, "throughput"),
    ];
    let mut text = format!("\n[[instance]]\nid = \"{id}\"\n");
    for (name, protocol, public, optimize) in services {
        // Flows of players who have left are soon forgotten, so that the curves become level soon.
        _ = writeln!(
            text,
            "[[instance.service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\npublic_port = {}\n\
             target = \"{target}\"\noptimize = \"{optimize}\"\nidle_timeout = 10",
            public.port()
        );
    }
    text
}

fn extra_instance(public: SocketAddr, target: SocketAddr) -> String {
    format!(
        "\n[[instance]]\nid = \"extra\"\n[[instance.service]]\nname = \"extra\"\nprotocol = \"both\"\n\
         public_port = {}\ntarget = \"{target}\"\n",
        public.port()
    )
}

/// Ports below those that the system gives to whoever connects, free at the moment.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let ports: Vec<_> = (first..32_000)
        .filter(|port| {
            let address = (Ipv4Addr::LOCALHOST, *port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        })
        .take(count)
        .collect();
    ensure!(ports.len() == count, "no free ports");
    Ok(ports)
}

/// Takes samples of whoever lives, on a thread of its own.
struct Watch {
    state: Arc<Mutex<Vec<(u32, Life)>>>,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(start: Instant, every: Duration) -> Self {
        let state = Arc::<Mutex<Vec<(u32, Life)>>>::default();
        let over = Arc::new(AtomicBool::new(false));
        let (lives, stop) = (state.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (pid, life) in lock(&lives).iter_mut() {
                    // Who has died has no samples any more; its id is not used again so soon.
                    if let Ok(sample) = Sample::take(*pid, start) {
                        life.samples.push(sample);
                    }
                }
                thread::sleep(every);
            }
        });
        Self {
            state,
            over,
            thread,
        }
    }

    /// A process has started, in the place of the one before it.
    fn born(&self, of: &'static str, pid: u32) {
        let mut lives = lock(&self.state);
        for (before, life) in lives.iter_mut() {
            if life.of == of {
                *before = 0;
            }
        }
        let samples = Vec::new();
        lives.push((pid, Life { of, samples }));
    }

    fn finish(self) -> Vec<Life> {
        self.over.store(true, Ordering::Relaxed);
        // It cannot panic: what fails it passes over.
        self.thread.join().ok();
        let mut lives = lock(&self.state);
        lives.drain(..).map(|(_, life)| life).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing takes this long; what does, hangs.
const HANG: Duration = Duration::from_secs(60);
/// How often is looked whether it is time.
const TICK: Duration = Duration::from_millis(100);
