//! A router: it stands between a client and its relay's port, and can do what routers do.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::watch,
};

/// Forwards TCP to one address, and UDP if it is asked to; otherwise nothing listens on its UDP port.
pub(crate) struct Forwarder {
    address: SocketAddr,
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

struct State {
    to: SocketAddr,
    faults: watch::Sender<Faults>,
    refuses: AtomicBool,
    /// The address that the relay sees.
    outside: watch::Sender<IpAddr>,
    /// Somebody on the path has every eighth UDP packet come from here instead, and drops what is sent there.
    spoofed: Mutex<Option<Arc<UdpSocket>>>,
    packets: Mutex<Packets>,
}

/// What befalls UDP packets, in either direction, and what passed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Packets {
    pub(crate) passed: u64,
    pub(crate) lost: u64,
    /// Those of a thousand bytes and more.
    pub(crate) lost_large: u64,
    /// Of what came, lost or not.
    pub(crate) bytes: u64,
    /// Packets of a thousand that are lost.
    permille: u64,
    random: u64,
    /// Packets that pass at least after one that was lost.
    apart: u64,
    since_lost: u64,
    /// The next one as long as this is lost.
    next_over: Option<usize>,
}

impl Packets {
    fn passes(&mut self, length: usize) -> bool {
        // IPv4's and UDP's heads count on a line.
        self.bytes += length as u64 + 28;
        // SplitMix64: a seed loses the same packets, by their order.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let is_hit = (z ^ (z >> 31)) % 1_000 < self.permille && self.since_lost >= self.apart;
        let is_next = self.next_over.is_some_and(|over| length >= over);
        if is_next {
            self.next_over = None;
        }
        let is_lost = is_hit || is_next;
        self.since_lost = if is_lost { 0 } else { self.since_lost + 1 };
        self.lost += u64::from(is_lost);
        self.lost_large += u64::from(is_lost && length >= 1_000);
        self.passed += u64::from(!is_lost);
        !is_lost
    }
}

/// What has befallen the connections, which are numbered from 0 as they come.
#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    come: u64,
    /// Those below have ended.
    cut: u64,
    /// Those below stand, and carry nothing any more.
    frozen: u64,
}

impl Forwarder {
    /// Of this one only TCP gets through.
    pub(crate) async fn start(ip: IpAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        Self::with(listener, None, ip, to)
    }

    /// This one carries both.
    pub(crate) async fn router(ip: IpAddr, to: SocketAddr) -> Self {
        loop {
            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                return Self::with(listener, Some(udp), ip, to);
            }
        }
    }

    fn with(listener: TcpListener, udp: Option<UdpSocket>, ip: IpAddr, to: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            to,
            faults: watch::Sender::default(),
            refuses: AtomicBool::new(false),
            outside: watch::Sender::new(ip),
            spoofed: Mutex::default(),
            packets: Mutex::default(),
        });
        let mut tasks = vec![tokio::spawn(accept(listener, state.clone()))];
        tasks.extend(udp.map(|udp| tokio::spawn(forward_udp(udp, state.clone()))));
        Self {
            address,
            state,
            tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, as a router does that restarts.
    pub(crate) fn cut(&self) {
        let faults = &self.state.faults;
        faults.send_modify(|faults| faults.cut = faults.come);
    }

    /// Every connection so far carries nothing any more, and nobody is told.
    pub(crate) fn freeze_all(&self) {
        let faults = &self.state.faults;
        faults.send_modify(|faults| faults.frozen = faults.come);
    }

    /// The first `count` connections carry nothing any more, and nobody is told.
    pub(crate) fn freeze(&self, count: u64) {
        let faults = &self.state.faults;
        faults.send_modify(|faults| faults.frozen = count);
    }

    /// Lets no new connection through, or does again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::Relaxed);
    }

    /// From now on loses `permille` of a thousand UDP packets, and counts anew. Returns the count so far.
    pub(crate) fn lose(&self, permille: u64, seed: u64) -> Packets {
        let next = Packets {
            permille,
            random: seed,
            ..Packets::default()
        };
        std::mem::replace(&mut *self.state.packets.lock().unwrap(), next)
    }

    /// As [`lose`](Self::lose), but at least `apart` packets pass after one that was lost.
    pub(crate) fn lose_apart(&self, permille: u64, apart: u64, seed: u64) -> Packets {
        let packets = self.lose(permille, seed);
        self.state.packets.lock().unwrap().apart = apart;
        packets
    }

    /// Loses the next UDP packet that is as long as this, in either direction.
    pub(crate) fn lose_next(&self, over: usize) {
        self.state.packets.lock().unwrap().next_over = Some(over);
    }

    /// How many UDP packets were lost since the count began.
    pub(crate) fn lost(&self) -> u64 {
        self.state.packets.lock().unwrap().lost
    }

    /// The provider gives the line another address: UDP comes from there, and no connection from the old one lives.
    pub(crate) fn move_to(&self, outside: IpAddr) {
        self.freeze_all();
        self.state.outside.send_replace(outside);
    }
}

impl Forwarder {
    /// From now on every eighth UDP packet of clients comes from another address, to which no answer gets through.
    pub(crate) async fn spoof(&self, from: IpAddr) {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.connect(self.state.to).await.unwrap();
        *self.state.spoofed.lock().unwrap() = Some(Arc::new(socket));
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if !state.refuses.load(Ordering::Relaxed) {
            let mut number = 0;
            state.faults.send_modify(|faults| {
                number = faults.come;
                faults.come += 1;
            });
            tokio::spawn(forward(near, number, state.clone()));
        }
    }
}

async fn forward(mut near: TcpStream, number: u64, state: Arc<State>) {
    let mut faults = state.faults.subscribe();
    let socket = TcpSocket::new_v4().unwrap();
    let outside = *state.outside.borrow();
    socket.bind((outside, 0).into()).unwrap();
    // A relay that is not there: the connection ends at once, as it would without the router.
    let Ok(mut far) = socket.connect(state.to).await else {
        return;
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let befallen = |faults: &Faults| number < faults.cut || number < faults.frozen;
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, SIZE, SIZE) => {
            return drop(copied);
        }
        _ = faults.wait_for(befallen) => {}
    }
    // One that is frozen stays open, until the router restarts.
    drop(faults.wait_for(|faults| number < faults.cut).await);
}

/// Forwards each sender's datagrams by a socket of its own, as NAT does.
async fn forward_udp(inside: UdpSocket, state: Arc<State>) {
    let inside = Arc::new(inside);
    let mut outsides = HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    let mut moves = state.outside.subscribe();
    let mut buffer = vec![0; 65_535];
    let mut count = 0_u64;
    loop {
        let (length, sender) = tokio::select! {
            // A client that is gone shows as an error, and the next one comes.
            received = inside.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(_) => continue,
            },
            moved = moves.changed() => {
                if moved.is_err() {
                    return;
                }
                outsides.clear();
                continue;
            }
        };
        let outside = match outsides.get(&sender) {
            Some(outside) => outside.clone(),
            None => {
                let ip = *moves.borrow();
                let outside = Arc::new(UdpSocket::bind((ip, 0)).await.unwrap());
                outside.connect(state.to).await.unwrap();
                outsides.insert(sender, outside.clone());
                let answers = answer(
                    inside.clone(),
                    Arc::downgrade(&outside),
                    sender,
                    state.clone(),
                );
                tokio::spawn(answers);
                outside
            }
        };
        let passes = state.packets.lock().unwrap().passes(length);
        if passes {
            let spoofed = state.spoofed.lock().unwrap().clone();
            count += 1;
            let way = spoofed
                .filter(|_| count.is_multiple_of(8))
                .unwrap_or(outside);
            drop(way.send(&buffer[..length]).await);
        }
    }
}

/// Brings back what comes to one of the outer sockets, until it is given up.
async fn answer(
    inside: Arc<UdpSocket>,
    outside: std::sync::Weak<UdpSocket>,
    sender: SocketAddr,
    state: Arc<State>,
) {
    let mut buffer = vec![0; 65_535];
    loop {
        let Some(outside) = outside.upgrade() else {
            return;
        };
        let look = std::time::Duration::from_millis(100);
        if let Ok(Ok(length)) = tokio::time::timeout(look, outside.recv(&mut buffer)).await {
            let passes = state.packets.lock().unwrap().passes(length);
            if !passes {
                continue;
            }
            drop(inside.send_to(&buffer[..length], sender).await);
        }
    }
}

const SIZE: usize = 256 * 1024;
