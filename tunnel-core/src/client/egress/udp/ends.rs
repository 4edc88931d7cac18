//! A flow's end towards its target: a connected socket, so that only the target's answers come in.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket, sync::OwnedSemaphorePermit};

use crate::{
    client::{
        egress::udp::preface::Preface,
        ports::{LocalPorts, Purpose},
        source::Origin,
        targets::Target,
    },
    socket,
    sync::lock,
};

/// One port of this machine, connected to the target.
#[derive(Debug)]
pub(super) struct Ends {
    main: UdpSocket,
    remote: SocketAddr,
    /// The same port, for answers from another address of this machine; none once the target has answered from where it is asked.
    twin: ArcSwapOption<Twin>,
    /// Whom the target knows at this port.
    pub(super) preface: Preface,
}

#[derive(Debug)]
struct Twin {
    socket: UdpSocket,
    /// Where answers come from. As long as that is not known, whatever comes is heard.
    from: OnceLock<IpAddr>,
    /// Its place among those of the target that listen.
    listens: Mutex<Option<OwnedSemaphorePermit>>,
    /// Senders that were looked at.
    looked_at: AtomicU8,
}

/// What has come to a flow's port.
#[derive(Debug)]
pub(super) enum Came {
    /// An answer of the target.
    Answer {
        length: usize,
        from: IpAddr,
        /// It is the first from there.
        is_news: bool,
    },
    /// Something that is no answer of this target.
    Foreign(SocketAddr),
}

impl Ends {
    pub(super) fn open(
        ports: &LocalPorts,
        origin: Origin,
        remote: SocketAddr,
        target: &Target,
    ) -> io::Result<Self> {
        let main = ports.udp(Purpose::Player(origin), remote)?;
        let local = main.local_addr()?;
        // From where the kernel has a server on every address of this machine answer.
        let preferred = match origin {
            Origin::Machine => Some(local.ip()),
            Origin::Loopback(_) => Some(Ipv4Addr::LOCALHOST.into()),
            // Such a target is on another machine, or in a network of its own.
            Origin::Player(_) => None,
        };
        let twin = match preferred {
            Some(preferred) if local.ip() == remote.ip() || ports.is_ours(remote.ip()) => {
                Twin::of(&main, (local, preferred), remote, target)
            }
            _ => None,
        };
        Ok(Self {
            main: UdpSocket::from_std(main)?,
            remote,
            twin: ArcSwapOption::from_pointee(twin),
            preface: Preface::default(),
        })
    }

    /// The port of this machine.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.main.local_addr()?.port())
    }

    /// Sends a datagram, with a header in front if there is one.
    pub(super) fn send(&self, header: Option<&[u8]>, payload: &[u8]) -> io::Result<usize> {
        // Not through tokio, which refuses to send until it has seen a new socket's readiness: a flow's first datagram
        // would be lost.
        let socket = SockRef::from(&self.main);
        let sent = match header {
            None => socket.send(payload),
            Some(header) => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(payload)]),
        };
        if let Err(error) = &sent
            && (header.is_some() || error.kind() == io::ErrorKind::ConnectionRefused)
        {
            self.preface.handle_lost();
        }
        sent
    }

    /// Hears, from now on, who else sends to this port, if one more of the target's flows may. Returns whether it does.
    pub(super) fn listen(&self, target: &Target) -> bool {
        let before = self.twin.load_full();
        if before
            .as_ref()
            .is_some_and(|twin| twin.from.get().is_none())
        {
            return false;
        }
        let sockets: Vec<_> = [Some(&self.main), before.as_ref().map(|twin| &twin.socket)]
            .into_iter()
            .flatten()
            .map(SockRef::from)
            .collect();
        let local = self.main.local_addr();
        let twin = local.ok().and_then(|local| {
            let place = target.listening.clone().try_acquire_owned().ok()?;
            Twin::listening(&sockets, local, place).ok()
        });
        let is_new = twin.is_some();
        if let Some(twin) = twin {
            self.twin.store(Some(Arc::new(twin)));
        }
        is_new
    }

    /// Waits for an answer, or the news that there will be none.
    pub(super) async fn ready(&self) -> io::Result<()> {
        // That nobody listens makes a socket no more readable.
        let main = self.main.ready(Interest::READABLE | Interest::ERROR);
        match self.twin.load_full() {
            None => main.await.map(drop),
            Some(twin) => tokio::select! {
                ready = main => ready.map(drop),
                ready = twin.socket.readable() => ready,
            },
        }
    }

    pub(super) fn try_recv(&self, ports: &LocalPorts, buffer: &mut [u8]) -> io::Result<Came> {
        self.try_take_error()?;
        let twin = self.twin.load();
        match (self.main.try_recv(buffer), &*twin) {
            (Err(error), Some(twin)) if error.kind() == io::ErrorKind::WouldBlock => {
                twin.try_recv(ports, self.remote, buffer)
            }
            (received, twin) => {
                let length = received?;
                if twin.is_some() {
                    // From where it is asked: then nobody else does.
                    self.twin.store(None);
                }
                Ok(Came::Answer {
                    length,
                    from: self.remote.ip(),
                    is_news: twin.is_some(),
                })
            }
        }
    }

    fn try_take_error(&self) -> io::Result<()> {
        let taken = self.main.try_io(Interest::ERROR, || {
            let told = SockRef::from(&self.main).take_error()?;
            Err::<(), _>(told.unwrap_or(io::ErrorKind::WouldBlock.into()))
        });
        match taken {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.preface.handle_lost();
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

impl Twin {
    /// The twin of a socket at `local` towards a target on this machine, if it is of use. Without one, most servers are
    /// heard all the same: they answer from where they are asked.
    fn of(
        main: &std::net::UdpSocket,
        (local, preferred): (SocketAddr, IpAddr),
        remote: SocketAddr,
        target: &Target,
    ) -> Option<Self> {
        let known = lock(&target.heard).origin(remote.ip());
        if known.is_none()
            && let Ok(place) = target.listening.clone().try_acquire_owned()
        {
            return Self::listening(&[main.into()], local, place).ok();
        }
        // A server on every address of this machine answers from the one that the kernel prefers, which is the one that
        // it has given us: 127.0.0.1 for 127.0.1.1.
        let elsewhere = |ip: &IpAddr| *ip != remote.ip();
        let from = known.filter(elsewhere).unwrap_or(preferred);
        if !elsewhere(&from) {
            return None;
        }
        let socket = socket::join_udp(&[main.into()], local).ok()?;
        socket.connect((from, remote.port())).ok()?;
        Self::new(socket, Some(from), None).ok()
    }

    fn listening(
        sockets: &[SockRef<'_>],
        local: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        Self::new(socket::join_udp(sockets, local)?, None, Some(place))
    }

    fn new(
        socket: std::net::UdpSocket,
        from: Option<IpAddr>,
        listens: Option<OwnedSemaphorePermit>,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            from: from.map_or_else(OnceLock::new, OnceLock::from),
            listens: Mutex::new(listens),
            looked_at: AtomicU8::new(0),
        })
    }

    fn try_recv(
        &self,
        ports: &LocalPorts,
        remote: SocketAddr,
        buffer: &mut [u8],
    ) -> io::Result<Came> {
        let (length, sender) = self.socket.try_recv_from(buffer)?;
        let from = sender.ip();
        let is_news = self.from.get().is_none();
        let is_answer = sender.port() == remote.port()
            && match self.from.get() {
                Some(known) => *known == from,
                None => self.may_look() && ports.is_certainly_ours(sender),
            };
        if !is_answer {
            return Ok(Came::Foreign(sender));
        }
        if is_news {
            // The kernel keeps everybody else out from now on. If it does not, we do.
            drop(SockRef::from(&self.socket).connect(&sender.into()));
            self.from.get_or_init(|| from);
            drop(lock(&self.listens).take());
        }
        Ok(Came::Answer {
            length,
            from,
            is_news,
        })
    }

    /// Whether another sender is worth a look: who floods a port with forged ones costs no more than the first few.
    fn may_look(&self) -> bool {
        let more = |looked_at: u8| (looked_at < LOOKED_AT_MOST).then(|| looked_at + 1);
        let looked_at = &self.looked_at;
        (looked_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)).is_ok()
    }
}

/// Senders from the target's port that a flow looks at: as many as a machine may have addresses, and four system calls each.
const LOOKED_AT_MOST: u8 = 64;

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket as StdUdp, time::Duration};

    use super::*;
    use crate::{
        event::EventSink,
        instance::{Instance, Protocol, Service},
        tunnel::supervise::Reporter,
    };

    const HANG: Duration = Duration::from_secs(30);

    fn target(at: SocketAddr) -> Arc<Target> {
        let game = Service::new("game", Protocol::Udp, at).unwrap();
        let instance = Instance::new("srv", [game]).unwrap();
        let reporter = Reporter {
            events: EventSink::new(),
            metrics: Arc::default(),
        };
        let service = instance.services()[0].clone();
        Target::new(instance.id().clone(), service, &reporter)
    }

    async fn next(ends: &Ends, ports: &LocalPorts) -> io::Result<Came> {
        loop {
            let ready = tokio::time::timeout(HANG, ends.ready());
            ready.await.unwrap().unwrap();
            match ends.try_recv(ports, &mut [0; 16]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                came => return came,
            }
        }
    }

    #[tokio::test]
    async fn that_nobody_listens_is_heard_without_another_word() {
        let ports = LocalPorts::of_system();
        for ip in ["127.0.0.1", "::1"] {
            let nobody = StdUdp::bind((ip, 0)).unwrap();
            let remote = nobody.local_addr().unwrap();
            drop(nobody);
            // With a twin, which hears nothing of that, and without.
            let target = target(remote);
            for places in [4, 0] {
                let held = target.listening.try_acquire_many(4 - places);
                let ends = Ends::open(&ports, Origin::Machine, remote, &target).unwrap();
                assert_eq!(ends.twin.load().is_some(), places > 0);
                for _ in 0..2 {
                    ends.send(None, b"hello").unwrap();
                    let error = next(&ends, &ports).await.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{ip}");
                    let nothing = ends.try_recv(&ports, &mut [0]).unwrap_err();
                    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
                }
                drop(held);
            }
        }
    }

    #[tokio::test]
    async fn who_answers_first_from_this_machine_is_the_one_that_is_heard() {
        let ports = LocalPorts::of_system();
        let asked = StdUdp::bind("127.0.0.3:0").unwrap();
        let remote = asked.local_addr().unwrap();
        let target = target(remote);
        let [there, liar] =
            ["127.0.0.9", "127.0.0.10"].map(|ip| StdUdp::bind((ip, remote.port())).unwrap());
        let ends = Ends::open(&ports, Origin::Machine, remote, &target).unwrap();
        assert_eq!(target.listening.available_permits(), 3);
        ends.send(None, b"hello").unwrap();
        let (_, player) = asked.recv_from(&mut [0; 16]).unwrap();
        // Another port is another program's.
        let other = StdUdp::bind("127.0.0.9:0").unwrap();
        other.send_to(b"a lie", player).unwrap();
        let came = next(&ends, &ports).await.unwrap();
        assert!(matches!(came, Came::Foreign(from) if from == other.local_addr().unwrap()));
        for is_first in [true, false] {
            there.send_to(b"welcome", player).unwrap();
            let came = next(&ends, &ports).await.unwrap();
            let Came::Answer {
                length,
                from,
                is_news,
            } = came
            else {
                panic!("{came:?}");
            };
            assert_eq!((length, is_news), (7, is_first));
            assert_eq!(from, there.local_addr().unwrap().ip());
            liar.send_to(b"a lie", player).unwrap();
        }
        assert_eq!(target.listening.available_permits(), 4);
        // Until the game answers from where it is asked.
        asked.send_to(b"here", player).unwrap();
        let came = next(&ends, &ports).await.unwrap();
        assert!(matches!(came, Came::Answer { from, .. } if from == remote.ip()));
        assert!(ends.twin.load().is_none());
        there.send_to(b"late", player).unwrap();
        asked.send_to(b"here", player).unwrap();
        let came = next(&ends, &ports).await.unwrap();
        assert!(matches!(came, Came::Answer { length: 4, from, .. } if from == remote.ip()));
    }

    #[tokio::test]
    async fn what_one_flow_has_learnt_the_next_begins_with() {
        let ports = LocalPorts::of_system();
        let remote = StdUdp::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
        let target = target(remote);
        let from = |ip: &str| {
            let now = std::time::Instant::now();
            lock(&target.heard).handle_origin(now, remote.ip(), ip.parse().unwrap());
            let ends = Ends::open(&ports, Origin::Machine, remote, &target).unwrap();
            let twin = ends.twin.load_full().unwrap();
            twin.socket.peer_addr().unwrap().ip().to_string()
        };
        assert_eq!(from("127.0.0.9"), "127.0.0.9");
        // As one that listens everywhere would: it may be started again as such.
        assert_eq!(from("127.0.0.3"), "127.0.0.1");
        assert_eq!(target.listening.available_permits(), 4);
        let ends = Ends::open(&ports, Origin::Machine, remote, &target).unwrap();
        assert!(ends.listen(&target) && !ends.listen(&target));
        assert_eq!(target.listening.available_permits(), 3);
    }
}
