//! One tunnel, seen from the client: what serves the relay's streams and datagrams on it.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        Shared,
        dial::{Dialer, Established, FurtherSecret, Transport, tunnel_socket},
        egress::{tcp, udp::Egress},
        offers::Offers,
        path::{HEARD_LOOK, Heard, Hearing, Seen, Sent, SourceChange, Sources},
        ports::LocalPorts,
        streams::Attach,
    },
    event::Event,
    metrics::Gauge,
    proto::{
        backoff::Backoff,
        handshake::{Capabilities, ProcessId},
        record::RecordType,
        stream::frame::{Frame, ResetCode, StreamHeader, StreamId},
    },
    transport::{
        lane::{self, LaneError},
        quic::ClientEndpoint,
    },
    tunnel::{
        control::{self, Control},
        datagram::{DatagramHandler, DatagramSender, LaneQueues, Source, read_quic_datagrams},
        lane::{IDLE_PING, Lane, LaneWatch, carry, probe},
        stream::{Budget, Channel},
        supervise,
    },
};

/// A tunnel that stands.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) transport: crate::Transport,
    /// Which process of the relay it leads to.
    relay: ProcessId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) quic: Option<quinn::Connection>,
    /// What that leaves from.
    endpoint: Option<ClientEndpoint>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) sender: Arc<DatagramSender>,
    /// Ends the tunnel and everything on it.
    pub(crate) closed: CancellationToken,
    /// Its transport has ended.
    pub(crate) broken: CancellationToken,
    /// Both sides can continue a stream on another channel.
    pub(crate) resumes: bool,
    /// Counts how often lanes have become useless: an address of ours is gone, or everything was silent for long.
    pub(crate) path: watch::Sender<u64>,
    /// Wakes the driver after such a change.
    pub(crate) path_changed: Notify,
    /// What the driver has to do about what leaves over QUIC.
    pub(crate) hearing: Offers<Hearing>,
    /// Idle lanes that the relay wants.
    lanes_wanted: watch::Sender<u32>,
    /// And how many it gets at most.
    lanes_most: u32,
    lanes_idle: AtomicUsize,
    /// Wakes the opener: an idle lane was taken.
    lane_taken: Notify,
    /// The relay has ended an idle one: it takes no more.
    lane_refused: AtomicBool,
    /// A stream has used one since.
    lane_used: AtomicBool,
    /// The last try to open one failed.
    lanes_blocked: AtomicBool,
    next_lane: AtomicU64,
    /// Whether what its lanes send arrives.
    watch: Arc<LaneWatch>,
    queues: Arc<LaneQueues>,
}

impl Link {
    /// Puts an established transport to work.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        dialer: Dialer,
        established: Established,
    ) -> Result<(Arc<Self>, Control), quinn::ConnectionError> {
        let Established {
            transport,
            peer,
            secret,
            name,
            relay,
            capabilities,
        } = established;
        let capabilities = Capabilities::SUPPORTED.common(capabilities);
        let metrics = &shared.metrics;
        let queues = Arc::new(LaneQueues::new(shared.limits.queues()));
        let (quic, sender) = match &transport {
            Transport::Quic(connection, _) => {
                let ports = shared.means.ports.clone();
                let source = Source(Arc::new(move |peer| ports.source_towards(peer).ok()));
                let sender = DatagramSender::quic(
                    connection.clone(),
                    metrics.clone(),
                    shared.limits.queues(),
                    capabilities,
                    shared
                        .paths
                        .to(dialer.relay_public_key())
                        .leaving_from(source),
                );
                (Some(connection.clone()), sender)
            }
            Transport::Lane(_) => (None, DatagramSender::lanes(queues.clone(), metrics.clone())),
        };
        let (transport, endpoint) = match transport {
            Transport::Quic(connection, endpoint) => (Ok(connection), Some(endpoint)),
            Transport::Lane(lane) => (Err(lane), None),
        };
        let link = Arc::new(Self {
            transport: name,
            relay,
            peer,
            quic,
            endpoint,
            budget: Arc::new(Budget::new(
                shared.memory.clone(),
                shared.limits.tunnel_memory,
            )),
            sender: Arc::new(sender),
            closed: CancellationToken::new(),
            broken: CancellationToken::new(),
            resumes: capabilities.contains(Capabilities::STREAM_RESUMPTION),
            path: watch::Sender::new(0),
            path_changed: Notify::new(),
            hearing: Offers::new(HEARINGS),
            lanes_wanted: watch::Sender::new(0),
            lanes_most: u32::try_from(shared.limits.idle_lanes).unwrap_or(u32::MAX),
            lanes_idle: AtomicUsize::new(0),
            lane_taken: Notify::new(),
            lane_refused: AtomicBool::new(false),
            lane_used: AtomicBool::new(false),
            lanes_blocked: AtomicBool::new(false),
            next_lane: AtomicU64::new(1),
            watch: LaneWatch::new(metrics.clone()),
            queues,
        });
        let control = match transport {
            Ok(connection) => {
                let (send, recv) = connection.open_bi().await?;
                tokio::spawn(
                    link.clone()
                        .serve_streams(shared.clone(), connection.clone()),
                );
                tokio::spawn(link.clone().watch_quic(connection.clone()));
                tokio::spawn(link.clone().serve_datagrams(shared.clone(), connection));
                control::over_quic(send, recv)
            }
            Err(lane) => {
                let (control, carrier) = control::pair();
                let (link, shared) = (link.clone(), shared.clone());
                let queue = link.queues.add(shared.metrics.clone());
                tokio::spawn(async move {
                    let mut egress = Egress::new(shared, relay);
                    tokio::select! {
                        _ = carry(lane, Some(carrier), queue, &mut egress) => {}
                        () = link.closed.cancelled() => {}
                    }
                    link.broken.cancel();
                });
                control
            }
        };
        if link.quic.is_none() {
            for _ in 0..shared.limits.datagram_lanes {
                tokio::spawn(link.clone().keep_datagram_lane(
                    shared.clone(),
                    dialer.clone(),
                    secret.clone(),
                ));
            }
        }
        tokio::spawn(link.clone().open_lanes(shared.clone(), dialer, secret));
        tokio::spawn(link.clone().watch_address(shared.means.ports.clone()));
        Ok((link, control))
    }

    /// Whether lanes cannot be opened at the moment.
    pub(crate) fn is_without_lanes(&self) -> bool {
        self.lanes_blocked.load(Ordering::Relaxed)
    }

    /// The relay wants so many idle lanes.
    pub(crate) fn want_lanes(&self, wanted: u32) {
        self.lanes_wanted.send_replace(wanted.min(self.lanes_most));
    }

    async fn serve_streams(self: Arc<Self>, shared: Arc<Shared>, connection: quinn::Connection) {
        loop {
            tokio::select! {
                opened = connection.accept_bi() => match opened {
                    Ok((send, recv)) => {
                        let channel = Channel::quic(send, recv);
                        let served = tcp::serve_quic(shared.clone(), self.clone(), channel);
                        supervise::spawn(shared.reporter(), "a player's stream", served);
                    }
                    Err(_) => break,
                },
                () = self.closed.cancelled() => break,
            }
        }
        self.broken.cancel();
    }

    async fn serve_datagrams(self: Arc<Self>, shared: Arc<Shared>, connection: quinn::Connection) {
        let mut egress = Egress::over_quic(shared, self.relay, &self.sender);
        tokio::select! {
            _ = read_quic_datagrams(connection, &mut egress) => {}
            () = self.closed.cancelled() => {}
        }
        self.broken.cancel();
    }

    /// Opens lanes whenever fewer stand idle than the relay wants.
    async fn open_lanes(
        self: Arc<Self>,
        shared: Arc<Shared>,
        dialer: Dialer,
        secret: FurtherSecret,
    ) {
        let mut wanted = self.lanes_wanted.subscribe();
        let mut backoff = Backoff::new(RETRY_LEAST, RETRY_MOST);
        let mut refused = Backoff::new(REFUSED_LEAST, REFUSED_MOST);
        loop {
            if self.lane_used.swap(false, Ordering::Relaxed) {
                refused.reset();
            }
            if self.lane_refused.swap(false, Ordering::Relaxed) {
                tokio::select! {
                    () = tokio::time::sleep(refused.next(shared.random())) => {}
                    () = self.broken.cancelled() => return,
                    () = self.closed.cancelled() => return,
                }
            }
            let missing = usize::try_from(*wanted.borrow_and_update())
                .unwrap_or(usize::MAX)
                .saturating_sub(self.lanes_idle.load(Ordering::Relaxed));
            if missing == 0 {
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = self.lane_taken.notified() => {}
                    () = self.broken.cancelled() => return,
                    () = self.closed.cancelled() => return,
                }
                continue;
            }
            let opening = (0..missing.min(OPEN_AT_ONCE)).map(|_| self.open_lane(&dialer, &secret));
            let mut failed = None;
            for opened in join_all(opening).await {
                match opened {
                    Ok(lane) => {
                        backoff.reset();
                        if self.lanes_blocked.swap(false, Ordering::Relaxed) {
                            shared.emit(Event::LanesBack);
                        }
                        self.lanes_idle.fetch_add(1, Ordering::Relaxed);
                        let served = self.clone().serve_lane(shared.clone(), lane, None);
                        supervise::spawn(shared.reporter(), "a lane", served);
                    }
                    Err(error) => {
                        shared.metrics.lanes_failed.one();
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                tracing::debug!("no lane: {error}");
                let is_beside_quic = self.quic.is_some() && !self.broken.is_cancelled();
                if is_beside_quic && !self.lanes_blocked.swap(true, Ordering::Relaxed) {
                    shared.emit(Event::LanesBlocked {
                        reason: error.to_string(),
                    });
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next(shared.random())) => {}
                    () = self.broken.cancelled() => return,
                    () = self.closed.cancelled() => return,
                }
            }
        }
    }

    async fn open_lane(&self, dialer: &Dialer, secret: &FurtherSecret) -> Result<Lane, LaneError> {
        let opened = async {
            let io = dialer.connect_lane(self.peer).await?;
            let number = self.next_lane.fetch_add(1, Ordering::Relaxed);
            let lane = lane::connect_further(io, &secret.exporter, number, secret.suite).await;
            let lane = Box::new(lane?);
            self.watch.add(&lane);
            Ok(lane)
        };
        match tokio::time::timeout(LANE_PATIENCE, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// Notices that what leaves over QUIC does not arrive.
    async fn watch_quic(self: Arc<Self>, connection: quinn::Connection) {
        let mut heard = Heard::default();
        let watch = async {
            loop {
                tokio::time::sleep(HEARD_LOOK).await;
                let stats = connection.stats();
                let frames = &stats.frame_tx;
                let seen = Seen {
                    sent: Sent {
                        packets: stats.udp_tx.datagrams,
                        frames: frames.datagram + frames.stream + frames.ping,
                    },
                    received: stats.udp_rx.datagrams,
                    acks: stats.frame_rx.acks,
                };
                if let Some(hearing) = heard.handle_look(Instant::now(), seen, stats.path.rtt) {
                    // The driver is busy: it is looked again soon.
                    _ = self.hearing.offer(hearing);
                }
            }
        };
        tokio::select! {
            () = watch => {}
            () = self.broken.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// A target has come that these ports belong to: QUIC goes on from another.
    pub(crate) fn make_way(&self, ports: &LocalPorts, of_targets: &HashSet<u16>) {
        if let (Some(endpoint), Some(peer)) = (&self.endpoint, self.peer)
            && (endpoint.port()).is_some_and(|port| of_targets.contains(&port))
        {
            let moved = tunnel_socket(ports, peer).and_then(|udp| endpoint.move_to(udp));
            if let Err(error) = moved {
                tracing::warn!(%error, "the tunnel's port belongs to a target");
            }
        }
    }

    /// Notices that this machine has got another address on the way to the relay. QUIC goes on from there by itself; TCP
    /// connections from one that is gone hang.
    async fn watch_address(self: Arc<Self>, ports: Arc<LocalPorts>) {
        let Some(peer) = self.peer else { return };
        let mut sources = Sources::default();
        let watch = async {
            loop {
                let now = ports.source_towards(peer).ok();
                match sources.handle_look(now, |ip| ports.is_ours(ip)) {
                    None => {}
                    Some(SourceChange::Another) => {
                        tracing::info!("this machine speaks to the relay from another address");
                        self.watch.doubt();
                        self.path_changed.notify_one();
                    }
                    Some(SourceChange::Gone { is_first }) => {
                        tracing::info!("this machine's address has changed");
                        self.path.send_modify(|changes| *changes += 1);
                        self.path_changed.notify_one();
                        if self.quic.is_none() && is_first {
                            self.broken.cancel();
                        }
                    }
                }
                tokio::time::sleep(ADDRESS_LOOK).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = self.broken.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Serves one stream after another on a lane, `taken` first. An idle lane was counted by who opened it.
    async fn serve_lane(
        self: Arc<Self>,
        shared: Arc<Shared>,
        mut lane: Lane,
        mut taken: Option<Taken>,
    ) {
        let _open = Gauge::new(&shared.metrics, |m| &m.lanes);
        let mut path = self.path.subscribe();
        loop {
            let taken = match taken.take() {
                Some(taken) => taken,
                None => {
                    let used = tokio::select! {
                        used = self.idle(&mut lane) => {
                            let flag = match used {
                                Some(_) => &self.lane_used,
                                None => &self.lane_refused,
                            };
                            flag.store(true, Ordering::Relaxed);
                            used
                        }
                        _ = path.changed() => None,
                        () = self.broken.cancelled() => None,
                        () = self.closed.cancelled() => None,
                    };
                    self.lanes_idle.fetch_sub(1, Ordering::Relaxed);
                    self.lane_taken.notify_one();
                    let Some(Use::Stream(taken)) = used else {
                        return;
                    };
                    taken
                }
            };
            let channel = Channel::lane(*lane);
            let served = match taken {
                Taken::Open(header) => tcp::serve(&shared, &self, header, channel).await,
                Taken::Attach(stream, received) => {
                    self.continue_stream(&shared, channel, stream, Some(received))
                        .await
                }
                Taken::Beside(stream) => self.continue_stream(&shared, channel, stream, None).await,
            };
            let Some(halves) = served.and_then(Channel::into_lane) else {
                return;
            };
            *lane = halves;
            self.lanes_idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps an idle lane until the relay uses it; `None` when it is gone. It is said something on now and then, and when lanes
    /// are in doubt: one that leads nowhere is found.
    async fn idle(&self, lane: &mut Lane) -> Option<Use> {
        let mut doubts = self.watch.doubts();
        loop {
            tokio::select! {
                used = first_use(lane) => return used,
                _ = doubts.changed() => {}
                () = tokio::time::sleep(IDLE_PING) => {}
            }
            lane.writer
                .write_frame(RecordType::Ping, &[0; 8])
                .await
                .ok()?;
        }
    }

    /// Lends a lane to a stream that is on another channel, until it is through. If that channel is broken, the relay
    /// has received so much.
    async fn continue_stream(
        self: &Arc<Self>,
        shared: &Shared,
        channel: Channel,
        stream: StreamId,
        received: Option<u64>,
    ) -> Option<Channel> {
        let (back, returned) = oneshot::channel();
        let attach = Box::new(Attach {
            link: self.clone(),
            channel,
            received: received.unwrap_or_default(),
            is_beside: received.is_none(),
            back: Some(back),
        });
        let given = match received {
            Some(_) => shared.streams.attach(stream, attach),
            None => (shared.streams.stand_beside(stream, attach))
                .map_err(|attach| (attach, ResetCode::Socket)),
        };
        match given {
            Ok(()) => returned.await.ok(),
            Err((mut refused, code)) => {
                refused.channel.tx.abort(Some(code)).await;
                None
            }
        }
    }

    /// Keeps one of the lanes that carry datagrams where there is no QUIC.
    async fn keep_datagram_lane(
        self: Arc<Self>,
        shared: Arc<Shared>,
        dialer: Dialer,
        secret: FurtherSecret,
    ) {
        let mut backoff = Backoff::new(RETRY_LEAST, RETRY_MOST);
        loop {
            let carried = async {
                let mut lane = self.open_lane(&dialer, &secret).await?;
                lane.writer
                    .write_frame(RecordType::Datagram, &probe())
                    .await?;
                match first_use(&mut lane).await {
                    Some(Use::Datagrams(first)) => {
                        let _open = Gauge::new(&shared.metrics, |m| &m.lanes);
                        let mut egress = Egress::new(shared.clone(), self.relay);
                        egress.handle(first);
                        carry(
                            lane,
                            None,
                            self.queues.add(shared.metrics.clone()),
                            &mut egress,
                        )
                        .await
                    }
                    // The relay took the lane for a player before it knew what it was meant for.
                    Some(Use::Stream(taken)) => {
                        let serving = self.clone().serve_lane(shared.clone(), lane, Some(taken));
                        supervise::spawn(shared.reporter(), "a lane", serving);
                        backoff.reset();
                        Ok(())
                    }
                    None => Ok(()),
                }
            };
            tokio::select! {
                _ = carried => {}
                () = self.broken.cancelled() => return,
                () = self.closed.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(shared.random())) => {}
                () = self.broken.cancelled() => return,
                () = self.closed.cancelled() => return,
            }
        }
    }
}

/// What the relay uses a lane for that stood idle.
enum Use {
    /// A player's stream.
    Stream(Taken),
    /// Datagrams, as the client wished: this is the first.
    Datagrams(Bytes),
}

/// Which stream the relay took a lane for.
enum Taken {
    /// A new one.
    Open(StreamHeader),
    /// One that was on another channel, and what of it the relay has.
    Attach(StreamId, u64),
    /// One that is on another channel, and moves here while that works.
    Beside(StreamId),
}

/// The relay's next word on an idle lane; `None` when the lane is gone.
async fn first_use(lane: &mut Lane) -> Option<Use> {
    loop {
        match lane.reader.read().await {
            Ok(Some((RecordType::Frame(kind), body))) => {
                return match Frame::decode_body(kind.number(), &body) {
                    Ok(Frame::Open(header)) => Some(Use::Stream(Taken::Open(header))),
                    Ok(Frame::Attach { stream, received }) => {
                        Some(Use::Stream(Taken::Attach(stream, received)))
                    }
                    Ok(Frame::Beside { stream }) => Some(Use::Stream(Taken::Beside(stream))),
                    _ => None,
                };
            }
            Ok(Some((RecordType::Datagram, first))) => return Some(Use::Datagrams(first)),
            Ok(Some((RecordType::Ping, body))) => {
                lane.writer
                    .write_frame(RecordType::Pong, &body)
                    .await
                    .ok()?;
            }
            Ok(Some((RecordType::Pong, _))) => {}
            Ok(Some(_) | None) | Err(_) => return None,
        }
    }
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

/// Lanes opened side by side: a burst of players is served within two round trips.
const OPEN_AT_ONCE: usize = 8;
/// How often it is looked whether our own address has changed. Half a second: four system calls, and players hardly
/// notice.
const ADDRESS_LOOK: Duration = Duration::from_millis(500);
/// What may wait for the driver.
const HEARINGS: usize = 4;
/// How long opening a lane may take.
const LANE_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses after the relay has taken no further lane, or each would be opened again at once: short, for players wait for
/// lanes as soon as others end.
const REFUSED_LEAST: Duration = Duration::from_millis(50);
const REFUSED_MOST: Duration = Duration::from_secs(2);
const RETRY_LEAST: Duration = Duration::from_millis(500);
/// TCP may be blocked for good: then a try every half minute notices when it no longer is.
const RETRY_MOST: Duration = Duration::from_secs(30);
