//! A lane's place among those of its tunnel that carry bulk, which share the path (`tunnel/shaper`).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::tcp::OwnedWriteHalf;

use super::conn::WriteHalf;

/// Says how fast lanes may send, all of a tunnel together.
pub(crate) trait ShapesLanes: fmt::Debug + Send + Sync {
    /// A lane begins to carry bulk. `None` if it cannot be held back.
    fn add(self: Arc<Self>, tcp: &Arc<OwnedWriteHalf>) -> Option<Place>;
    /// The lane of this place is gone.
    fn remove(&self, id: u64);
}

/// A lane's place. It ends with its value, or when the lane has carried nothing for a while.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) shaper: Arc<dyn ShapesLanes>,
    pub(crate) id: u64,
    pub(crate) is_kept: Arc<AtomicBool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept.load(Ordering::Relaxed) {
            self.shaper.remove(self.id);
        }
    }
}

/// A lane's part in it: nothing until it carries bulk.
#[derive(Debug)]
pub(super) struct Shaped {
    shaper: Arc<dyn ShapesLanes>,
    place: Option<Place>,
    /// Whether it stays within this machine, where no line is narrow and segments are of 64 KiB; asked once.
    is_local: Option<bool>,
}

impl Shaped {
    pub(super) fn new(shaper: Arc<dyn ShapesLanes>) -> Self {
        Self {
            shaper,
            place: None,
            is_local: None,
        }
    }

    /// Bulk is about to be written.
    pub(super) fn handle_bulk(&mut self, io: &WriteHalf) {
        let has_place =
            (self.place.as_ref()).is_some_and(|place| place.is_kept.load(Ordering::Relaxed));
        if !has_place
            && let Some(tcp) = io.tcp()
            && !*self.is_local.get_or_insert_with(|| leads_to_loopback(tcp))
        {
            self.place = self.shaper.clone().add(tcp);
        }
    }
}

fn leads_to_loopback(tcp: &OwnedWriteHalf) -> bool {
    (tcp.peer_addr()).is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
}
