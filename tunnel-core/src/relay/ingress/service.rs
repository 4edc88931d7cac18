//! A service whose public ports are open, and where its players go: what its TCP and its UDP ports share.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock, Weak},
    time::Instant,
};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    event::{Crowded, Event, Limit},
    key::PublicKey,
    proto::{
        flow::{FlowCounts, FlowDrop, FlowKey},
        message::ServiceDeclaration,
    },
    relay::{
        directory::{FlowService, FlowShard},
        registry::Binding,
        shared::Shared,
        tunnel::RelayTunnel,
    },
};

/// A service whose public ports are open.
#[derive(Debug)]
pub(crate) struct PublicService {
    pub(crate) binding: Binding,
    /// Whose it is.
    pub(crate) owner: PublicKey,
    /// Where players go: the tunnel and the declaration in force. `None` while no tunnel stands.
    pub(crate) route: watch::Sender<Option<Arc<Route>>>,
    /// Closes the TCP listeners: whoever connects is refused. Ends with `cancelled` at the latest.
    pub(crate) listening: CancellationToken,
    /// Ends the ports and all of their players.
    pub(crate) cancelled: CancellationToken,
    /// Comes when the last socket is closed: then the ports can be opened again.
    pub(crate) closed: CancellationToken,
    /// What its flows are counted by, over all of its sockets.
    pub(crate) flows: Arc<FlowCounts>,
    pub(super) udp: OnceLock<Vec<Weak<dyn FlowShard>>>,
}

/// Held by whoever has one of a service's sockets: word of the last one's closing, and what the sockets count for.
#[derive(Debug)]
pub(crate) struct OpenSockets {
    pub(super) _closed: DropGuard,
    pub(super) _shards: Option<OwnedSemaphorePermit>,
}

/// Where a service's players go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) tunnel: Arc<RelayTunnel>,
    pub(crate) service: ServiceDeclaration,
}

impl PublicService {
    /// The route in force, if a tunnel stands.
    pub(crate) fn route(&self) -> Option<Arc<Route>> {
        self.route.borrow().clone()
    }

    /// Whether a tunnel stands and a datagram of some player has passed since then.
    pub(crate) fn has_flows_since(&self, then: Instant) -> bool {
        self.route.borrow().is_some() && self.shards().any(|shard| shard.is_alive_since(then))
    }

    /// The shards of its UDP ports, as long as they are open.
    pub(crate) fn shards(&self) -> impl Iterator<Item = Arc<dyn FlowShard>> {
        self.udp
            .get()
            .into_iter()
            .flatten()
            .filter_map(Weak::upgrade)
    }

    /// Says once a minute, for each address, that a limit has been met: what it is called, how much it allows, and
    /// whether those who come are refused.
    pub(crate) fn tell_crowded(
        &self,
        shared: &Shared,
        now: Instant,
        (limit, most): (Limit, usize),
        address: Option<IpAddr>,
        refuses: bool,
    ) {
        let port = self.binding.public.first();
        if !shared.notices.is_due(now, (limit, address, port)) {
            return;
        }
        let service = self
            .route
            .borrow()
            .as_ref()
            .map(|it| it.service.name.clone());
        shared.emit(Event::Crowded(Crowded {
            instance: self.binding.instance.clone(),
            service,
            port,
            limit,
            most,
            address,
            refuses,
        }));
    }
}

impl Route {
    /// Leads players of a service to a tunnel, which has lanes ready for them.
    pub(crate) fn new(tunnel: &Arc<RelayTunnel>, service: ServiceDeclaration) -> Arc<Self> {
        tunnel.warm_up(&service);
        Arc::new(Self {
            tunnel: tunnel.clone(),
            service,
        })
    }

    /// Whether new players may take it.
    pub(crate) fn takes_players(&self, shared: &Shared) -> bool {
        !shared.draining.is_cancelled() && !self.tunnel.draining.is_cancelled()
    }
}

impl FlowService for PublicService {
    fn loose(&self) -> u32 {
        self.flows.loose()
    }

    fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool {
        loop {
            let ranked = self.shards().filter_map(|shard| {
                let rank = shard.victim(now, full, key)?;
                Some((rank, shard))
            });
            let Some((_, shard)) = ranked.min_by_key(|(rank, _)| *rank) else {
                return false;
            };
            // Another shard's newcomer may have been faster: then it is somebody else's turn.
            if shard.give_way(now, full, key, scratch) {
                return true;
            }
        }
    }
}

/// Lets everybody else go on, every now and then.
pub(super) async fn pause(at: usize) {
    if at % SLICE == SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Ports opened at a stretch: 16, some 300 µs.
pub(super) const SLICE: usize = 16;
