//! Floods, and a relay whose CPU time can be told from everybody else's.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tunnel_core::{
    key::{PublicKey, SecretKey},
    metrics::Snapshot,
    relay::{Relay, StaticAuthority},
};

/// Sends packets to a relay at a steady rate, from 32 addresses, until it is stopped.
pub(crate) struct Flood {
    stopped: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    pub(crate) fn start(to: SocketAddr, packets: Vec<Vec<u8>>, per_second: u32) -> Self {
        let (stopped, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop, count) = (stopped.clone(), sent.clone());
        // What an attacker forges, loopback has.
        let sockets: Vec<_> = (1..=32)
            .map(|host| UdpSocket::bind((Ipv4Addr::new(127, 99, 0, host), 0)).unwrap())
            .collect();
        let thread = std::thread::spawn(move || {
            let mut packets = packets.iter().cycle();
            let mut sockets = sockets.iter().cycle();
            let mut last = Instant::now();
            let mut owed = 0.0;
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                // A machine that was busy does not make up for it with a burst.
                owed += last.elapsed().min(Duration::from_millis(20)).as_secs_f64()
                    * f64::from(per_second);
                last = Instant::now();
                while owed >= 1.0 {
                    owed -= 1.0;
                    let (Some(packet), Some(socket)) = (packets.next(), sockets.next()) else {
                        return;
                    };
                    if socket.send_to(packet, to).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self {
            stopped,
            sent,
            thread,
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap())
            .await
            .unwrap();
    }
}

/// A relay with a thread of its own.
pub(crate) struct RelayThread {
    relay: Arc<Relay>,
    address: SocketAddr,
    ask: mpsc::Sender<oneshot::Sender<Duration>>,
}

impl RelayThread {
    pub(crate) fn start() -> Self {
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<Duration>>(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let key = SecretKey::generate().unwrap();
                let relay = Relay::builder(key, Arc::new(StaticAuthority::new()))
                    .listen("127.0.0.1:0".parse().unwrap())
                    .start()
                    .await
                    .unwrap();
                let relay = Arc::new(relay);
                ready.send(relay.clone()).unwrap();
                drop(relay);
                while let Some(reply) = asked.recv().await {
                    reply.send(cpu_of_this_thread()).unwrap();
                }
            });
        });
        let relay = started.recv().unwrap();
        Self {
            address: relay.local_addr().unwrap(),
            relay,
            ask,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.relay.public_key()
    }

    pub(crate) fn metrics(&self) -> Snapshot {
        self.relay.metrics()
    }

    /// CPU time that the relay has taken, the kernel's on its behalf included.
    pub(crate) async fn cpu(&self) -> Duration {
        let (reply, cpu) = oneshot::channel();
        self.ask.send(reply).await.unwrap();
        cpu.await.unwrap()
    }
}

fn cpu_of_this_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// As far as the system allows; returns how far.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    maximum.unwrap_or(u64::MAX)
}
