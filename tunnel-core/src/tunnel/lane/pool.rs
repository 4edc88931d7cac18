//! The relay's pool of idle lanes.
//!
//! Each idle lane is watched by one task, which answers its keep-alives and gives the lane away whole when a stream asks for it.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{proto::record::RecordType, sync::lock, transport::lane::LaneHalves};

/// An open lane as it is handed around: both halves in one place on the heap.
pub(crate) type Lane = Box<LaneHalves>;

/// The relay's idle lanes. Each is watched by a task that gives it away when asked.
#[derive(Debug, Default)]
pub(crate) struct IdleLanes {
    idle: Mutex<VecDeque<oneshot::Sender<oneshot::Sender<Lane>>>>,
    added: Notify,
}

/// What became of an idle lane.
#[derive(Debug)]
pub(crate) enum Watched {
    /// A stream has it.
    Taken,
    /// The client uses it for datagrams: this was the first.
    Datagrams(Lane, Bytes),
    /// It is gone.
    Closed,
}

impl IdleLanes {
    /// Keeps a lane until it is taken, used for datagrams or closed. While it is in doubt, nobody is given it before something
    /// has come on it.
    pub(crate) async fn watch(&self, mut lane: Lane, mut doubts: watch::Receiver<u64>) -> Watched {
        let mut asked = Some(self.offer());
        let mut due = Instant::now() + SILENCE;
        loop {
            let is_offered = asked.is_some();
            tokio::select! {
                biased;
                reply = async {
                    match &mut asked {
                        Some(asked) => asked.await,
                        None => std::future::pending().await,
                    }
                } => {
                    // If the asker is gone meanwhile, the lane goes with it: the client opens another.
                    return match reply.map(|reply| reply.send(lane)) {
                        Ok(Ok(())) => Watched::Taken,
                        _ => Watched::Closed,
                    };
                }
                record = lane.reader.read() => {
                    match record {
                        Ok(Some((RecordType::Datagram, first))) => return Watched::Datagrams(lane, first),
                        Ok(Some((RecordType::Ping, body))) => {
                            if lane.writer.write_frame(RecordType::Pong, &body).await.is_err() {
                                return Watched::Closed;
                            }
                        }
                        Ok(Some((RecordType::Pong, _))) => {}
                        Ok(Some(_) | None) | Err(_) => return Watched::Closed,
                    }
                    due = Instant::now() + SILENCE;
                    asked.get_or_insert_with(|| self.offer());
                    continue;
                }
                Ok(()) = doubts.changed(), if is_offered => {}
                () = sleep_until(due) => if !is_offered {
                    return Watched::Closed;
                },
            }
            asked = None;
            due = Instant::now() + PROOF;
            if lane
                .writer
                .write_frame(RecordType::Ping, &[0; 8])
                .await
                .is_err()
            {
                return Watched::Closed;
            }
        }
    }

    /// Puts a lane into the pool, until what is returned is dropped.
    fn offer(&self) -> oneshot::Receiver<oneshot::Sender<Lane>> {
        let (ask, asked) = oneshot::channel();
        {
            let mut idle = lock(&self.idle);
            // A client that opens lanes and closes them leaves nothing behind.
            if idle.len() == idle.capacity() {
                idle.retain(|ask| !ask.is_closed());
            }
            idle.push_back(ask);
        }
        self.added.notify_one();
        asked
    }

    /// Takes an idle lane, waiting for one at most so long.
    pub(crate) async fn take(&self, patience: Duration) -> Option<Lane> {
        let until = Instant::now() + patience;
        loop {
            let added = self.added.notified();
            while let Some(ask) = self.pop() {
                let (reply, lane) = oneshot::channel();
                if ask.send(reply).is_err() {
                    continue;
                }
                // A lane whose watcher does not answer at once is stuck: the next one serves.
                if let Ok(Ok(lane)) = tokio::time::timeout(HAND_OVER, lane).await {
                    // One wake-up may have stood for several lanes.
                    if !lock(&self.idle).is_empty() {
                        self.added.notify_one();
                    }
                    return Some(lane);
                }
            }
            tokio::time::timeout_at(until, added).await.ok()?;
        }
    }

    fn pop(&self) -> Option<oneshot::Sender<oneshot::Sender<Lane>>> {
        // The lane used last is the most likely to be alive and warm.
        lock(&self.idle).pop_back()
    }
}

/// Silence after which an idle lane has to prove itself: 20 s; a client says something on each every [`IDLE_PING`].
const SILENCE: Duration = Duration::from_secs(20);
/// How often a client says something on an idle lane: 15 s, well below the minute or two after which home routers forget a
/// silent TCP connection at the worst.
pub(crate) const IDLE_PING: Duration = Duration::from_secs(15);
/// How long a lane that has to prove itself may take. One that is stuck ends sooner.
const PROOF: Duration = Duration::from_secs(5);
/// How long an idle lane's watcher may take to hand it over: it does nothing else.
const HAND_OVER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        proto::{
            handshake::{Secret, Suite},
            record::Role,
        },
        transport::lane::Io,
    };

    /// An idle lane, watched, and its other end.
    struct Idle {
        pool: Arc<IdleLanes>,
        doubts: watch::Sender<u64>,
        far: LaneHalves,
        watched: tokio::task::JoinHandle<Watched>,
    }

    impl Idle {
        fn new() -> Self {
            let (near, far) = tokio::io::duplex(4096);
            let lane = |io, role| {
                LaneHalves::new(Io::Mem(io), Suite::Aes256Gcm, &Secret::from([7; 32]), role)
                    .unwrap()
            };
            let (pool, doubts) = (Arc::<IdleLanes>::default(), watch::Sender::new(0));
            let (watching, subscribed) = (pool.clone(), doubts.subscribe());
            let near = Box::new(lane(near, Role::Relay));
            Self {
                pool,
                doubts,
                far: lane(far, Role::Client),
                watched: tokio::spawn(async move { watching.watch(near, subscribed).await }),
            }
        }

        async fn hears_ping(&mut self) {
            let heard = self.far.reader.read().await.unwrap();
            assert!(matches!(heard, Some((RecordType::Ping, _))), "{heard:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_lane_in_doubt_is_given_to_nobody_before_it_has_answered() {
        let mut idle = Idle::new();
        tokio::task::yield_now().await;
        for answer in [RecordType::Pong, RecordType::Ping] {
            idle.doubts.send_modify(|doubts| *doubts += 1);
            idle.hears_ping().await;
            assert!(idle.pool.take(PROOF / 2).await.is_none());
            idle.far.writer.write_frame(answer, &[0; 8]).await.unwrap();
            // It is back in the pool then.
            while lock(&idle.pool.idle).iter().all(oneshot::Sender::is_closed) {
                tokio::task::yield_now().await;
            }
        }
        assert!(idle.pool.take(Duration::ZERO).await.is_some());
        assert!(matches!(idle.watched.await.unwrap(), Watched::Taken));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_lane_that_is_silent_has_to_prove_itself() {
        let mut idle = Idle::new();
        let start = Instant::now();
        idle.hears_ping().await;
        assert_eq!(start.elapsed().as_secs(), SILENCE.as_secs());
        let (pong, body) = (RecordType::Pong, [0; 8]);
        idle.far.writer.write_frame(pong, &body).await.unwrap();
        idle.hears_ping().await;
        assert_eq!(start.elapsed().as_secs(), 2 * SILENCE.as_secs());
        assert!(idle.pool.take(Duration::ZERO).await.is_none());
        assert!(matches!(idle.watched.await.unwrap(), Watched::Closed));
        assert_eq!(start.elapsed().as_secs(), (2 * SILENCE + PROOF).as_secs());
    }
}
