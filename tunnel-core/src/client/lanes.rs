//! The lanes of a tunnel: opened as the relay wants them, and served while it uses them.
//!
//! Only the client can open a TCP connection, and only the relay knows how many it will need: it names a number of idle lanes,
//! and the client keeps that many open. A lane serves one stream after another; where there is no QUIC, some carry datagrams.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::{
    client::{
        dial::{Dialer, FurtherSecret},
        egress::{tcp, udp::Egress},
        race::Race,
        shared::Shared,
        streams::Attach,
        tunnel::ClientTunnel,
    },
    event::Event,
    metrics::Gauge,
    proto::{
        backoff::Backoff,
        record::RecordType,
        stream::frame::{Frame, ResetCode, StreamHeader, StreamId},
    },
    transport::lane::{self, LaneError},
    tunnel::{
        datagram::DatagramHandler,
        lane::{IDLE_PING, Lane, carry, probe},
        stream::Channel,
        supervise,
    },
};

/// Opens lanes whenever fewer stand idle than the relay wants.
pub(crate) async fn keep_idle_lanes(
    tunnel: Arc<ClientTunnel>,
    shared: Arc<Shared>,
    dialer: Dialer,
    secret: FurtherSecret,
) {
    tokio::select! {
        () = open_lanes(&tunnel, &shared, &dialer, &secret) => {}
        () = tunnel.ended() => {}
    }
}

async fn open_lanes(
    tunnel: &Arc<ClientTunnel>,
    shared: &Arc<Shared>,
    dialer: &Dialer,
    secret: &FurtherSecret,
) {
    let lanes = &tunnel.lanes;
    let mut wanted = lanes.wanted.subscribe();
    let mut backoff = Backoff::new(RETRY_LEAST, RETRY_MOST);
    let mut refused = Backoff::new(REFUSED_LEAST, REFUSED_MOST);
    loop {
        if lanes.used.swap(false, Ordering::Relaxed) {
            refused.reset();
        }
        if lanes.refused.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(refused.next(shared.random())).await;
        }
        let missing = usize::try_from(*wanted.borrow_and_update())
            .unwrap_or(usize::MAX)
            .saturating_sub(lanes.idle.load(Ordering::Relaxed));
        if missing == 0 {
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = lanes.taken.notified() => {}
            }
            continue;
        }
        let mut opening = Race::new(OPEN_AT_ONCE);
        for _ in 0..missing.min(OPEN_AT_ONCE) {
            opening.add((), open_lane(tunnel, dialer, secret));
        }
        let mut failed = None;
        while !opening.is_empty() {
            match opening.next().await.1 {
                Ok(lane) => {
                    backoff.reset();
                    handle_opened(tunnel, shared, lane);
                }
                Err(error) => {
                    shared.metrics.lanes_failed.one();
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed {
            handle_failed(tunnel, shared, &error);
            tokio::time::sleep(backoff.next(shared.random())).await;
        }
    }
}

fn handle_opened(tunnel: &Arc<ClientTunnel>, shared: &Arc<Shared>, lane: Lane) {
    if tunnel.lanes.blocked.swap(false, Ordering::Relaxed) {
        shared.emit(Event::LanesBack);
    }
    tunnel.lanes.idle.fetch_add(1, Ordering::Relaxed);
    let served = serve_lane(tunnel.clone(), shared.clone(), lane, None);
    supervise::spawn(shared.reporter(), "a lane", served);
}

fn handle_failed(tunnel: &ClientTunnel, shared: &Shared, error: &LaneError) {
    tracing::debug!("no lane: {error}");
    let is_beside_quic = tunnel.quic.is_some() && !tunnel.broken.is_cancelled();
    if is_beside_quic && !tunnel.lanes.blocked.swap(true, Ordering::Relaxed) {
        shared.emit(Event::LanesBlocked {
            reason: error.to_string(),
        });
    }
}

async fn open_lane(
    tunnel: &ClientTunnel,
    dialer: &Dialer,
    secret: &FurtherSecret,
) -> Result<Lane, LaneError> {
    let opened = async {
        let io = dialer.connect_lane(tunnel.peer).await?;
        let number = tunnel.lanes.next.fetch_add(1, Ordering::Relaxed);
        let lane = lane::connect_further(io, &secret.exporter, number, secret.suite).await;
        let lane = Box::new(lane?);
        tunnel.lanes.watch.add(&lane);
        Ok(lane)
    };
    match tokio::time::timeout(LANE_PATIENCE, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Serves one stream after another on a lane, `taken` first. An idle lane was counted by who opened it.
async fn serve_lane(
    tunnel: Arc<ClientTunnel>,
    shared: Arc<Shared>,
    mut lane: Lane,
    mut taken: Option<Taken>,
) {
    let _open = Gauge::new(&shared.metrics, |m| &m.lanes);
    // From here on, so that a change while a stream uses the lane ends it afterwards.
    let mut path = tunnel.path.subscribe();
    loop {
        let taken = match taken.take() {
            Some(taken) => taken,
            None => {
                let used = until_used(&tunnel, &mut path, &mut lane).await;
                tunnel.lanes.idle.fetch_sub(1, Ordering::Relaxed);
                tunnel.lanes.taken.notify_one();
                let Some(Use::Stream(taken)) = used else {
                    return;
                };
                taken
            }
        };
        let channel = Channel::lane(*lane);
        let served = match taken {
            Taken::Open(header) => tcp::serve(&shared, &tunnel, header, channel).await,
            Taken::Attach(stream, received) => {
                lend(&tunnel, &shared, channel, stream, Some(received)).await
            }
            Taken::Beside(stream) => lend(&tunnel, &shared, channel, stream, None).await,
        };
        let Some(halves) = served.and_then(Channel::into_lane) else {
            return;
        };
        *lane = halves;
        tunnel.lanes.idle.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps an idle lane until the relay uses it; `None` when it is gone, or of no more use.
async fn until_used(
    tunnel: &ClientTunnel,
    path: &mut watch::Receiver<u64>,
    lane: &mut Lane,
) -> Option<Use> {
    tokio::select! {
        used = idle(tunnel, lane) => {
            let flag = match used {
                Some(_) => &tunnel.lanes.used,
                None => &tunnel.lanes.refused,
            };
            flag.store(true, Ordering::Relaxed);
            used
        }
        _ = path.changed() => None,
        () = tunnel.ended() => None,
    }
}

/// Keeps an idle lane until the relay uses it; `None` when it is gone. Something is sent on it now and then, and when
/// lanes are in doubt, so that one that leads nowhere is found.
async fn idle(tunnel: &ClientTunnel, lane: &mut Lane) -> Option<Use> {
    let mut doubts = tunnel.lanes.watch.doubts();
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

/// Lends a lane to a stream that is on another channel, until the stream has left it. `received` is what the relay has of
/// the stream if that channel is broken.
async fn lend(
    tunnel: &Arc<ClientTunnel>,
    shared: &Shared,
    channel: Channel,
    stream: StreamId,
    received: Option<u64>,
) -> Option<Channel> {
    let (back, returned) = oneshot::channel();
    let attach = Box::new(Attach {
        tunnel: tunnel.clone(),
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
pub(crate) async fn keep_datagram_lane(
    tunnel: Arc<ClientTunnel>,
    shared: Arc<Shared>,
    dialer: Dialer,
    secret: FurtherSecret,
) {
    let mut backoff = Backoff::new(RETRY_LEAST, RETRY_MOST);
    let keep = async {
        loop {
            // What it was lost for shows when it is opened again.
            _ = carry_datagrams(&tunnel, &shared, &dialer, &secret, &mut backoff).await;
            tokio::time::sleep(backoff.next(shared.random())).await;
        }
    };
    tokio::select! {
        () = keep => {}
        () = tunnel.ended() => {}
    }
}

async fn carry_datagrams(
    tunnel: &Arc<ClientTunnel>,
    shared: &Arc<Shared>,
    dialer: &Dialer,
    secret: &FurtherSecret,
    backoff: &mut Backoff,
) -> Result<(), LaneError> {
    let mut lane = open_lane(tunnel, dialer, secret).await?;
    lane.writer
        .write_frame(RecordType::Datagram, &probe())
        .await?;
    match first_use(&mut lane).await {
        Some(Use::Datagrams(first)) => {
            let _open = Gauge::new(&shared.metrics, |m| &m.lanes);
            let mut egress = Egress::new(shared.clone(), tunnel.relay);
            egress.handle(first);
            let queue = tunnel.lanes.queues.add(shared.metrics.clone());
            carry(lane, None, queue, &mut egress).await
        }
        // The relay took the lane for a player before it knew what it was meant for.
        Some(Use::Stream(taken)) => {
            let serving = serve_lane(tunnel.clone(), shared.clone(), lane, Some(taken));
            supervise::spawn(shared.reporter(), "a lane", serving);
            backoff.reset();
            Ok(())
        }
        None => Ok(()),
    }
}

/// What the relay uses an idle lane for.
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
                    Ok(Frame::Join { stream }) => Some(Use::Stream(Taken::Beside(stream))),
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

/// Lanes opened side by side: a burst of players is served within two round trips.
const OPEN_AT_ONCE: usize = 8;
/// How long opening a lane may take.
const LANE_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses after the relay has taken no further lane, or each would be opened again at once: short, for players wait for
/// lanes as soon as others end.
const REFUSED_LEAST: Duration = Duration::from_millis(50);
const REFUSED_MOST: Duration = Duration::from_secs(2);
const RETRY_LEAST: Duration = Duration::from_millis(500);
/// TCP may be blocked for good: then a try every half minute notices when it no longer is.
const RETRY_MOST: Duration = Duration::from_secs(30);
