//! Congestion control of the tunnel's QUIC connection: games first, bulk beside them.
//!
//! A game's datagrams and bulk streams share one connection, so they share one window. quinn puts
//! datagrams before stream data in every packet; what is left to the controller is to keep the
//! *bottleneck's* queue short, and never to hold the game back. [`Level`] steers by a model of the path:
//!
//! - **The model.** The window is what the path carries, times its empty round trip, its jitter and the queue that it may
//!   have. Each is measured ([`path`]), so that no single sample, and no window of the past, can wind it up or down.
//! - **The queue** is short while somebody would feel it, and as long as other controllers keep theirs while nobody would.
//! - **Search** (at first, and when there is suddenly more room): the window doubles each round trip, until a queue shows.
//! - **Drain**: every few seconds the queue runs dry, and all who share it see the path's true delay.
//! - **Loss is not a signal**, but where it begins a queue ends.
//! - **What does not yield is not ours** ([`rival`]): a queue that stays while the window falls is somebody else's, and is
//!   competed with.
//! - **Below the floor the window never goes**, and time without any acknowledgement adds to it, so
//!   that a game's packets keep leaving through a black-out and the first ones after it go at once.
//!
//! quinn has no separate pacing rate: it paces at 1.25 windows per smoothed round trip, from a
//! bucket of 2 ms worth (10 packets at least, 256 at most). The window is the only lever.

mod config;
mod level;
mod loss;
mod model;
mod path;
mod rival;
mod samples;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

pub use self::config::LevelConfig;
use self::config::UNDECLARED;
use self::level::INITIAL_WINDOW;
pub use self::level::Level;

/// Declares to a connection how many bytes of datagrams it sends each second, headers included, or that nobody
/// knows, and whether anybody would feel a queue. It applies to the present path, so it has to be repeated.
pub(crate) fn declare(
    connection: &quinn::Connection,
    bytes_per_second: Option<u64>,
    is_felt: bool,
) {
    // A copy of the controller, with the same settings.
    let controller = connection.congestion_state().into_any();
    if let Ok(level) = controller.downcast::<Level>() {
        level.model.config.set_felt(is_felt);
        match bytes_per_second {
            Some(rate) => level.model.config.set_game_rate(rate),
            None => level
                .model
                .config
                .game_rate
                .store(UNDECLARED, Ordering::Relaxed),
        }
    }
}

/// What is declared to a connection.
#[cfg(test)]
pub(crate) fn declared(connection: &quinn::Connection) -> Option<u64> {
    let controller = connection.congestion_state().into_any();
    controller
        .downcast::<Level>()
        .unwrap()
        .model
        .config
        .game_rate()
}

/// Shuts a connection's window, or lets it be as it is.
#[cfg(test)]
pub(crate) fn choke(connection: &quinn::Connection, is_choked: bool) {
    let controller = connection.congestion_state().into_any();
    let level = controller.downcast::<Level>().unwrap();
    level
        .model
        .config
        .is_choked
        .store(is_choked, Ordering::Relaxed);
}

impl ControllerFactory for LevelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        // The declared rate belongs to the datagrams of one connection.
        let own = Self {
            clock: self.clock,
            ..Self::default()
        };
        Box::new(Level::new(Arc::new(own), now, current_mtu))
    }
}

impl Controller for Level {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.handle_sent(now, bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.handle_ack(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _app_limited: bool, _: Option<u64>) {
        self.handle_acks_end(now, in_flight);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.handle_loss(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.model.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        #[cfg(test)]
        if self.model.config.is_choked.load(Ordering::Relaxed) {
            return 0;
        }
        self.window_at((self.model.config.clock)())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
