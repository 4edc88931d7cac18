//! Whether what is sent over TCP arrives.
//!
//! A firewall that has forgotten a lane's connection drops what belongs to it without a word, and TCP alone would wait for
//! minutes: the lane is ended as soon as that is clear, and who was on it goes on elsewhere. A player or a target has no other
//! way, so it is waited for as long as it may yet come back, and no longer.
//!
//! The kernel's own bound (`TCP_USER_TIMEOUT`) would end an idle lane for a single lost keep-alive, and a player who pauses.

use std::{
    net::Shutdown,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use socket2::SockRef;

use tokio::{
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::watch,
};

use crate::{metrics::Metrics, sync::lock, tunnel::lane::pool::Lane};

/// The lanes of a tunnel. While there are any, a task looks after them.
#[derive(Debug)]
pub(crate) struct LaneWatch {
    state: Mutex<State>,
    /// Counts the reasons to doubt lanes of which nothing was heard since.
    doubts: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<Watched>,
    is_running: bool,
}

#[derive(Debug)]
struct Watched {
    tcp: Weak<OwnedWriteHalf>,
    /// It was stuck at the last look, too.
    was_stuck: bool,
}

impl LaneWatch {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            doubts: watch::Sender::new(0),
            metrics,
        })
    }

    /// Looks after a lane for as long as it is there.
    pub(crate) fn add(self: &Arc<Self>, lane: &Lane) {
        let Some(tcp) = lane.writer.tcp() else {
            return;
        };
        let mut state = lock(&self.state);
        state.lanes.push(Watched {
            tcp: Arc::downgrade(tcp),
            was_stuck: false,
        });
        if !state.is_running {
            state.is_running = true;
            tokio::spawn(look_after(self.clone()));
        }
    }

    /// One lane leads nowhere: the others may not either.
    pub(crate) fn doubt(&self) {
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    /// Tells of doubts from now on.
    pub(crate) fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }

    /// Ends the lanes that are stuck. Returns whether any are left.
    fn look(&self) -> bool {
        let mut state = lock(&self.state);
        let mut stuck = 0;
        state.lanes.retain_mut(|lane| {
            let Some(tcp) = lane.tcp.upgrade() else {
                return false;
            };
            let tcp: &TcpStream = (*tcp).as_ref();
            if !std::mem::replace(&mut lane.was_stuck, is_stuck(tcp)) || !lane.was_stuck {
                return true;
            }
            // Both halves find the end, wherever they are. An error says that it is gone already.
            drop(SockRef::from(tcp).shutdown(Shutdown::Both));
            stuck += 1;
            false
        });
        if state.lanes.is_empty() {
            *state = State::default();
        }
        let is_running = state.is_running;
        drop(state);
        if stuck > 0 {
            self.metrics.lanes_stuck.add(stuck);
            tracing::debug!("{stuck} lanes do not get through any more");
            self.doubt();
        }
        is_running
    }
}

async fn look_after(watch: Arc<LaneWatch>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !watch.look() {
            return;
        }
    }
}

#[cfg(target_os = "linux")]
fn is_stuck(tcp: &TcpStream) -> bool {
    use std::os::fd::AsFd;

    use crate::socket::tcp::TcpState;

    (TcpState::of(tcp.as_fd())).is_ok_and(|known| known.unacked > 0 && known.repeats >= REPEATS)
}

/// What other systems know of their connections is not asked.
#[cfg(not(target_os = "linux"))]
const fn is_stuck(_: &TcpStream) -> bool {
    false
}

/// How often lanes are looked at. One that is stuck at two looks is left.
const LOOK: Duration = Duration::from_millis(500);

/// Repetitions in a row that were not acknowledged: the third comes 1.4 s after the first sending on a short path, and later
/// where the round trip is long. With a tenth of all packets lost, one sending in 10,000 meets that.
#[cfg(target_os = "linux")]
const REPEATS: u8 = 3;
