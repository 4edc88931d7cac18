//! Two sides, each with a TUN device, and the threads between the devices.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    shape::{LinkConfig, Shape},
    wire::{Control, Counts, MTU, Restart, Wire},
};
use crate::{
    namespace::{self, Namespace},
    topology::{Side, Topology},
};

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From home to the outside.
    Up,
    /// From the outside to home.
    Down,
}

/// Why this machine can have no lab, in words; `None` where it can.
pub fn unavailable() -> Option<String> {
    namespace::unavailable()
}

/// Two sides and the link between them; all of it goes with its value.
#[derive(Debug)]
pub struct Lab {
    // Devices go before the namespaces that hold them.
    link: Link,
    outside: Namespace,
    home: Namespace,
    /// The last byte of home's address.
    host: Mutex<u8>,
    seed: AtomicU64,
}

impl Lab {
    /// Makes both sides and joins them.
    pub fn start(config: &LinkConfig) -> Result<Self> {
        if let Some(reason) = unavailable() {
            bail!("no lab here: {reason}");
        }
        namespace::sweep();
        let outside = Namespace::new("outside")?;
        let home = Namespace::new("home")?;
        let near = Arc::new(device(&outside, OUTSIDE)?);
        let far = Arc::new(device(&home, home_address(FIRST_HOME))?);
        Ok(Self {
            link: Link::start(&near, &far, config)?,
            outside,
            home,
            host: Mutex::new(FIRST_HOME),
            seed: AtomicU64::new(config.seed),
        })
    }

    /// Moves the calling thread to that side for good: the sockets that it opens from then on are there.
    pub fn enter(&self, side: Side) -> Result<()> {
        self.side(side).enter()
    }

    /// Calls `body` on a thread of its own on that side.
    pub fn visit<T: Send>(&self, side: Side, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.side(side).visit(body)
    }

    /// For people: `ip netns exec NAME …` runs something there.
    pub fn name(&self, side: Side) -> &str {
        self.side(side).name()
    }

    /// What the link is set to.
    pub fn config(&self) -> LinkConfig {
        LinkConfig {
            up: self.link.up.shape(),
            down: self.link.down.shape(),
            seed: self.seed.load(Ordering::Relaxed),
        }
    }

    /// Holds for what is sent from now on; what is on its way keeps its time.
    pub fn set(&self, direction: Direction, shape: Shape) {
        self.link.control(direction).set(shape);
    }

    /// Lets chance begin again from this seed, and the clock of timetables, pauses and drifting jitter from this moment of
    /// theirs: the same packets meet the same fate as after the same restart. What is on its way keeps its own.
    pub fn restart(&self, seed: u64, clock: Duration) {
        self.seed.store(seed, Ordering::Relaxed);
        let at = Instant::now();
        for (direction, seed) in [(Direction::Up, seed), (Direction::Down, down_seed(seed))] {
            let restart = Restart { seed, at, clock };
            self.link.control(direction).restart(restart);
        }
    }

    /// Swallows everything that is sent from now on, both ways, or no longer.
    pub fn set_dark(&self, dark: bool) {
        for direction in [Direction::Up, Direction::Down] {
            self.link.control(direction).set_dark(dark);
        }
    }

    /// Gives home another address and takes the old one away, as a provider does at night.
    pub fn move_home(&self) -> Result<()> {
        let mut host = lock(&self.host);
        let next = if *host == u8::MAX - 1 {
            FIRST_HOME
        } else {
            *host + 1
        };
        let (old, new) = (home_address(*host), home_address(next));
        self.home.configure(&format!(
            "address delete {old}/{PREFIX} dev {DEVICE}\naddress add {new}/{PREFIX} dev {DEVICE}\n"
        ))?;
        *host = next;
        Ok(())
    }

    /// The congestion control of TCP connections that ask for none of their own, on both sides.
    pub fn set_congestion_control(&self, name: &str) -> Result<()> {
        let _allowed = namespace::allow_congestion_control(name)?;
        for side in [&self.outside, &self.home] {
            side.set_system(CONGESTION_CONTROL, name)?;
        }
        Ok(())
    }

    /// What has become of a direction's packets so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.link.control(direction).counts()
    }

    fn side(&self, side: Side) -> &Namespace {
        match side {
            Side::Outside => &self.outside,
            Side::Home => &self.home,
        }
    }
}

impl Topology for Lab {
    fn command(&self, side: Side, program: &Path) -> Command {
        self.side(side).command(program)
    }

    /// Home's is another one after each [`move_home`](Self::move_home).
    fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Outside => OUTSIDE.into(),
            Side::Home => home_address(*lock(&self.host)).into(),
        }
    }

    fn namespace(&self, side: Side) -> Option<&Namespace> {
        Some(self.side(side))
    }
}

/// The threads between the devices.
#[derive(Debug)]
struct Link {
    up: Arc<Control>,
    down: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    fn start(
        outside: &Arc<SyncDevice>,
        home: &Arc<SyncDevice>,
        config: &LinkConfig,
    ) -> Result<Self> {
        let mut link = Self {
            up: Arc::new(Control::new(config.up.clone())?),
            down: Arc::new(Control::new(config.down.clone())?),
            threads: Vec::new(),
        };
        let down_seed = down_seed(config.seed);
        let ways = [
            ("link-up", home, outside, &link.up, config.seed),
            ("link-down", outside, home, &link.down, down_seed),
        ];
        for (name, from, to, control, seed) in ways {
            let wire = Wire::new(from.clone(), to.clone(), control.clone(), seed);
            let run = move || {
                if let Err(error) = wire.run() {
                    report(name, &error);
                }
            };
            let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
            link.threads.push(thread);
        }
        Ok(link)
    }

    fn control(&self, direction: Direction) -> &Control {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.up.stop();
        self.down.stop();
        for thread in self.threads.drain(..) {
            // It holds nothing but its packets, however it ended.
            drop(thread.join());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a link that has failed ends the measurement: somebody must see why"
)]
fn report(name: &str, error: &io::Error) {
    eprintln!("{name} has failed: {error}");
}

/// A TUN device on that side, up, with its address.
fn device(side: &Namespace, address: Ipv4Addr) -> Result<SyncDevice> {
    let device = side.visit(|| {
        let device = DeviceBuilder::new()
            .name(DEVICE)
            .mtu(MTU as u16)
            .enable(false)
            .build_sync()
            .context("cannot make a TUN device")?;
        device.set_nonblocking(true)?;
        Ok(device)
    })?;
    // Router solicitations would draw from the link's chance at times of their own.
    side.set_system(&format!("ipv6/conf/{DEVICE}/disable_ipv6"), "1")?;
    for (key, value) in SYSTEM {
        side.set_system(key, value)?;
    }
    side.configure(&format!(
        "link set lo up\n\
         address add {address}/{PREFIX} dev {DEVICE}\n\
         link set dev {DEVICE} txqueuelen {DEVICE_QUEUE} up\n"
    ))?;
    Ok(device)
}

/// Each way has chances of its own.
const fn down_seed(seed: u64) -> u64 {
    !seed
}

fn home_address(host: u8) -> Ipv4Addr {
    let [a, b, c, _] = OUTSIDE.octets();
    Ipv4Addr::new(a, b, c, host)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the range for measurements (RFC 2544); every lab has it to itself.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PREFIX: u8 = 24;
const FIRST_HOME: u8 = 2;
const DEVICE: &str = "adit";
/// Packets that wait for a thread that is late: 1 Gbit/s of full ones for 120 ms.
const DEVICE_QUEUE: u32 = 10_000;

const CONGESTION_CONTROL: &str = "ipv4/tcp_congestion_control";
/// What a side has that a kernel's default has not.
const SYSTEM: [(&str, &str); 3] = [
    // Twice 1 Gbit/s at 150 ms, and half of a receive buffer is overhead: buffers must not be the bottleneck.
    ("ipv4/tcp_rmem", "4096 131072 67108864"),
    ("ipv4/tcp_wmem", "4096 65536 67108864"),
    // One round's path must not teach the next one's connections.
    ("ipv4/tcp_no_metrics_save", "1"),
];
