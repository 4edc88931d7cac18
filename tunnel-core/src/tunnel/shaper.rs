//! Holds the lanes of a tunnel that carry bulk to what the line bears: asks the kernel how they fare, lets
//! [`Shape`](crate::proto::shape) decide, tells the kernel how fast each may go.

use std::sync::Arc;

use tokio::net::tcp::OwnedWriteHalf;

use crate::{
    metrics::Metrics,
    transport::lane::{Place, ShapesLanes},
};

#[cfg(target_os = "linux")]
pub(crate) use linux::Shaper;

/// The lanes of a tunnel run as fast as the system lets them.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Shaper;

#[cfg(not(target_os = "linux"))]
impl Shaper {
    pub(crate) fn new(_: Arc<Metrics>) -> Self {
        Self
    }
}

#[cfg(not(target_os = "linux"))]
impl ShapesLanes for Shaper {
    fn add(self: Arc<Self>, _: &Arc<OwnedWriteHalf>) -> Option<Place> {
        None
    }

    fn remove(&self, _: u64) {}
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        os::fd::{AsFd, BorrowedFd},
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
        time::{Duration, Instant},
    };

    use super::{Arc, Metrics, OwnedWriteHalf, Place, ShapesLanes};
    use crate::{
        proto::shape::{LANE_LEAST, Newest, Sample, Shape, divide},
        socket::tcp::{TcpState, pace},
        tunnel::datagrams::lock,
    };

    /// The lanes of a tunnel that carry bulk. While there are any, a task looks after them.
    #[derive(Debug)]
    pub(crate) struct Shaper {
        state: Mutex<State>,
        metrics: Arc<Metrics>,
    }

    #[derive(Debug)]
    struct State {
        shape: Shape,
        lanes: Vec<Lane>,
        is_running: bool,
        next: u64,
        /// The place of the lane to be asked next.
        turn: usize,
        /// Bytes that lanes have delivered since the tunnel began.
        delivered: u64,
        /// The last round trip that was told.
        rtt: Option<Duration>,
        /// The limit that the metrics know.
        told: u64,
        /// The queue that they know, in microseconds.
        told_queue: Option<u64>,
        uses: Vec<Option<f64>>,
        shares: Vec<f64>,
    }

    #[derive(Debug)]
    struct Lane {
        id: u64,
        /// Its own task writes to it meanwhile.
        tcp: Arc<OwnedWriteHalf>,
        is_kept: Arc<AtomicBool>,
        newest: Newest,
        segments: u32,
        /// Bytes per second of late.
        used: f64,
        is_hungry: bool,
        pace: Option<u64>,
        moved: Instant,
        looked: Instant,
    }

    impl Shaper {
        pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
            let state = State {
                shape: Shape::new(Instant::now()),
                lanes: Vec::new(),
                is_running: false,
                next: 0,
                turn: 0,
                delivered: 0,
                rtt: None,
                told: 0,
                told_queue: None,
                uses: Vec::new(),
                shares: Vec::new(),
            };
            Self {
                state: Mutex::new(state),
                metrics,
            }
        }

        /// Looks at some lanes and sets the pace of all. Returns when to look again, if there are any.
        fn look(&self, now: Instant) -> Option<Duration> {
            let state = &mut *lock(&self.state);
            let before = state.lanes.len() as u64;
            let was = state.shape.phase();
            state.ask(now);
            self.metrics
                .lanes_shaped
                .change(before, state.lanes.len() as u64);
            let rate = if state.lanes.is_empty() {
                state.is_running = false;
                None
            } else {
                state.sample(now);
                state.shape.rate()
            };
            state.spread(now, rate);
            if was != state.shape.phase() {
                let queue = state.shape.queue();
                tracing::trace!(
                    lanes = before,
                    rate,
                    ?queue,
                    "lanes: {}",
                    state.shape.phase()
                );
            }
            let told = rate.unwrap_or(0);
            self.metrics.lane_pace.change(state.told, told);
            state.told = told;
            let queue = (state.is_running).then(|| state.shape.queue().as_micros() as u64);
            self.metrics.lane_queue_changed(state.told_queue, queue);
            state.told_queue = queue;
            state.is_running.then(|| state.shape.interval())
        }
    }

    impl Drop for Shaper {
        fn drop(&mut self) {
            let state = lock(&self.state);
            self.metrics.lane_pace.change(state.told, 0);
            self.metrics.lane_queue_changed(state.told_queue, None);
        }
    }

    impl ShapesLanes for Shaper {
        fn add(self: Arc<Self>, tcp: &Arc<OwnedWriteHalf>) -> Option<Place> {
            let known = TcpState::of(fd(tcp)).ok()?;
            let now = Instant::now();
            let mut state = lock(&self.state);
            if state.lanes.is_empty() {
                state.shape.handle_start();
            }
            state.shape.handle_rtt(now, known.lowest);
            let id = state.next;
            state.next += 1;
            let is_kept = Arc::new(AtomicBool::new(true));
            let mut lane = Lane {
                id,
                tcp: tcp.clone(),
                is_kept: is_kept.clone(),
                newest: Newest::new(known.rtt, known.delivered),
                segments: known.delivered,
                used: 0.0,
                is_hungry: true,
                pace: None,
                moved: now,
                looked: now,
            };
            let lanes = state.lanes.len() as u64 + 1;
            let share = |rate: u64| (rate / lanes).max(LANE_LEAST as u64);
            lane.set_pace(state.shape.rate().map(share), EXACT);
            state.lanes.push(lane);
            self.metrics.lanes_shaped.one();
            if !state.is_running {
                state.is_running = true;
                tokio::spawn(look_after(self.clone(), state.shape.interval()));
            }
            drop(state);
            Some(Place {
                shaper: self,
                id,
                is_kept,
            })
        }

        fn remove(&self, id: u64) {
            let mut state = lock(&self.state);
            let before = state.lanes.len();
            state.lanes.retain(|lane| lane.id != id);
            let gone = (before - state.lanes.len()) as u64;
            self.metrics.lanes_shaped.change(gone, 0);
        }
    }

    async fn look_after(shaper: Arc<Shaper>, first: Duration) {
        let mut pause = first;
        loop {
            tokio::time::sleep(pause).await;
            match shaper.look(Instant::now()) {
                Some(next) => pause = next,
                None => return,
            }
        }
    }

    impl State {
        /// Asks lanes how they fare, of many those whose turn it is, and lets those go that have nothing to send any
        /// more.
        fn ask(&mut self, now: Instant) {
            let mut newest: Option<Duration> = None;
            for _ in 0..self.lanes.len().min(LANES_PER_LOOK) {
                if self.turn >= self.lanes.len() {
                    self.turn = 0;
                }
                let Some(lane) = self.lanes.get_mut(self.turn) else {
                    break;
                };
                let Ok(known) = TcpState::of(fd(&lane.tcp)) else {
                    self.lanes.swap_remove(self.turn);
                    continue;
                };
                self.delivered += lane.handle_state(now, &known);
                let rtt = (lane.newest).handle_average(known.rtt, known.delivered, known.lowest);
                // Where a path treats lanes apart, the shortest queue is that of the game.
                newest = newest.into_iter().chain(rtt).min();
                let is_quiet = known.unsent == 0 && known.unacked == 0;
                if is_quiet && now.saturating_duration_since(lane.moved) > QUIET {
                    self.lanes.swap_remove(self.turn);
                } else {
                    self.turn += 1;
                }
            }
            self.rtt = newest.or(self.rtt);
        }

        fn sample(&mut self, now: Instant) {
            let Some(rtt) = self.rtt else { return };
            let sample = Sample {
                rtt,
                delivered: self.delivered,
                hungry: self.lanes.iter().filter(|lane| lane.is_hungry).count(),
            };
            self.shape.handle_sample(now, sample);
        }

        fn spread(&mut self, now: Instant, rate: Option<u64>) {
            let Some(rate) = rate else {
                (self.lanes.iter_mut()).for_each(|lane| lane.set_pace(None, EXACT));
                return;
            };
            let uses = |lane: &Lane| (!lane.is_hungry).then_some(lane.used);
            self.uses.clear();
            self.uses.extend(self.lanes.iter().map(uses));
            divide(rate as f64, &self.uses, &mut self.shares);
            // Who has nothing to send may begin with an equal share: what it does not use costs nobody anything.
            let equal = rate as f64 / self.lanes.len() as f64;
            for (lane, share) in self.lanes.iter_mut().zip(&self.shares) {
                let least = if lane.is_hungry { 0.0 } else { equal };
                // Setting it costs as much as asking: the others' turn comes, unless it matters now.
                let part = if lane.looked == now { EXACT } else { ROUGH };
                lane.set_pace(Some(share.max(least).max(lane.slowest()) as u64), part);
            }
        }
    }

    impl Lane {
        /// Returns the bytes that have arrived since the last time.
        fn handle_state(&mut self, now: Instant, known: &TcpState) -> u64 {
            let segments = known.delivered.wrapping_sub(self.segments);
            self.segments = known.delivered;
            if segments > 0 {
                self.moved = now;
            }
            let bytes = u64::from(segments) * u64::from(known.segment);
            let passed = now.saturating_duration_since(self.looked).as_secs_f64();
            self.looked = now;
            // An average over a quarter of a second.
            let weight = (passed * 4.0).min(1.0);
            let rate = bytes as f64 / passed.max(1e-6);
            self.used += (rate - self.used) * weight;
            self.is_hungry = known.unsent > 0;
            bytes
        }

        /// What the kernel has made ready at one pace leaves at the next, and takes its time there: up to a millisecond's
        /// worth, so a pace falls in steps.
        fn slowest(&self) -> f64 {
            self.pace.map_or(self.used, |pace| pace as f64) / STEP_DOWN
        }

        /// A change by less than this part is left out.
        fn set_pace(&mut self, rate: Option<u64>, part: u64) {
            let is_near = match (self.pace, rate) {
                (None, None) => true,
                (Some(old), Some(new)) => old.abs_diff(new) <= old / part,
                _ => false,
            };
            // If it fails, the connection is gone.
            if !is_near && pace(fd(&self.tcp), rate).is_ok() {
                self.pace = rate;
            }
        }
    }

    fn fd(tcp: &OwnedWriteHalf) -> BorrowedFd<'_> {
        tcp.as_ref().as_fd()
    }

    /// However it leaves, nothing holds it back after.
    impl Drop for Lane {
        fn drop(&mut self) {
            self.is_kept.store(false, Ordering::Relaxed);
            self.set_pace(None, EXACT);
        }
    }

    /// A lane that had nothing to send for so long carries no bulk any more.
    const QUIET: Duration = Duration::from_secs(1);
    /// To ask one takes about a microsecond.
    const LANES_PER_LOOK: usize = 64;
    /// To a quarter at most from one look to the next: a millisecond's worth takes four then.
    const STEP_DOWN: f64 = 4.0;
    const EXACT: u64 = 200;
    const ROUGH: u64 = 16;

    #[cfg(test)]
    mod tests {
        use std::net::Ipv4Addr;

        use tokio::net::{TcpListener, TcpStream};

        use super::*;

        /// Lanes over loopback, each with its far end.
        async fn lanes<const N: usize>() -> [(Arc<OwnedWriteHalf>, TcpStream); N] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let mut lanes = Vec::new();
            for _ in 0..N {
                let near = TcpStream::connect(listener.local_addr().unwrap()).await;
                let near = Arc::new(near.unwrap().into_split().1);
                lanes.push((near, listener.accept().await.unwrap().0));
            }
            lanes.try_into().unwrap()
        }

        fn most(lane: &OwnedWriteHalf) -> u64 {
            TcpState::of(fd(lane)).unwrap().most
        }

        /// A line of 1 MB/s and 20 ms, whose queue has just shown.
        fn narrow(shaper: &Shaper) -> u64 {
            let shape = &mut lock(&shaper.state).shape;
            let start = Instant::now();
            for n in 0..20_u32 {
                let sample = Sample {
                    rtt: Duration::from_millis((20 + n).into()),
                    delivered: u64::from(n) * 10_000,
                    hungry: 1,
                };
                shape.handle_sample(start + n * Duration::from_millis(10), sample);
            }
            shape.rate().unwrap()
        }

        #[tokio::test]
        async fn lanes_share_the_rate_while_they_carry_bulk() {
            let metrics = Arc::new(Metrics::default());
            let shaper = Arc::new(Shaper::new(metrics.clone()));
            let [(one, _far), (two, _other)] = lanes().await;
            let first = shaper.clone().add(&one).unwrap();
            assert_eq!(Arc::strong_count(&one), 2, "shared: it takes no descriptor");
            assert_eq!(most(&one), u64::MAX, "no queue has shown");
            let rate = narrow(&shaper);
            let second = shaper.clone().add(&two).unwrap();
            assert_eq!(most(&two), rate / 2, "at once");
            assert_eq!(metrics.snapshot().lanes_shaped, 2);
            shaper.look(Instant::now());
            let told = lock(&shaper.state).told;
            assert!(most(&one) + most(&two) <= told, "{told}");
            assert_eq!(metrics.snapshot().lane_pace, told);
            let queue = lock(&shaper.state).shape.queue().as_micros() as u64;
            assert_eq!(metrics.snapshot().lane_queue, queue);
            drop(second);
            assert_eq!(most(&two), u64::MAX, "nothing holds it back after");
            drop(first);
            assert_eq!(most(&one), u64::MAX);
            assert_eq!(metrics.snapshot().lanes_shaped, 0);
            assert!(shaper.look(Instant::now()).is_none(), "nobody looks on");
            assert_eq!(metrics.snapshot().lane_pace, 0);
            assert_eq!(metrics.snapshot().lane_queue, 0);
        }

        #[tokio::test]
        async fn of_many_lanes_some_are_asked_at_each_look_and_all_in_turn() {
            let shaper = Arc::new(Shaper::new(Arc::default()));
            let lanes = lanes::<{ LANES_PER_LOOK + 6 }>().await;
            let places = lanes.each_ref();
            let places = places.map(|(lane, _)| shaper.clone().add(lane).unwrap());
            let rate = narrow(&shaper);
            let asked = |now: Instant| {
                assert!(shaper.look(now).is_some());
                let lanes = &lock(&shaper.state).lanes;
                let asked = |lane: &&Lane| lane.looked == now;
                let asked: Vec<u64> = lanes.iter().filter(asked).map(|lane| lane.id).collect();
                asked
            };
            let now = Instant::now();
            let mut all = asked(now);
            assert_eq!(all.len(), LANES_PER_LOOK);
            let least = LANE_LEAST as u64;
            for (lane, _) in &lanes {
                let most = most(lane);
                assert!((least..=rate / 2).contains(&most), "each is held: {most}");
            }
            drop(places);
            assert!(lanes.iter().all(|(lane, _)| most(lane) == u64::MAX));
            let places = lanes.each_ref();
            let _places = places.map(|(lane, _)| shaper.clone().add(lane).unwrap());
            all = asked(now + QUIET / 4);
            all.extend(asked(now + QUIET / 2));
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), LANES_PER_LOOK + 6);
        }

        #[tokio::test]
        async fn a_lane_that_is_quiet_is_let_go() {
            let metrics = Arc::new(Metrics::default());
            let shaper = Arc::new(Shaper::new(metrics.clone()));
            let [(lane, _far)] = lanes().await;
            let place = shaper.clone().add(&lane).unwrap();
            narrow(&shaper);
            let now = Instant::now();
            assert!(shaper.look(now + QUIET / 2).is_some());
            assert!(most(&lane) < u64::MAX);
            assert!(shaper.look(now + QUIET * 2).is_none());
            assert_eq!(most(&lane), u64::MAX);
            assert!(!place.is_kept.load(Ordering::Relaxed));
            assert_eq!(metrics.snapshot().lanes_shaped, 0);
            drop(place);
            assert_eq!(metrics.snapshot().lanes_shaped, 0);
        }
    }
}
