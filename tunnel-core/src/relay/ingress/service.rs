//! A service whose public ports are open: what its TCP and UDP ports share, and the tunnel that its players use.

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
    /// The client that has declared it.
    pub(crate) owner: PublicKey,
    /// The tunnel and the declaration in force. `None` while the client has no tunnel.
    pub(crate) route: watch::Sender<Option<Arc<Route>>>,
    /// Cancelled when the TCP listeners close, with `cancelled` at the latest. The system then refuses connections.
    pub(crate) listening: CancellationToken,
    /// Cancelled when the ports close and all of their players end.
    pub(crate) cancelled: CancellationToken,
    /// Cancelled when the last socket is closed. Then the ports can be opened again.
    pub(crate) closed: CancellationToken,
    /// Counts its flows over all shards.
    pub(crate) flows: Arc<FlowCounts>,
    pub(super) udp: OnceLock<Vec<Weak<dyn FlowShard>>>,
}

/// Held by everything that has a socket of a service. When the last one is closed, it completes `closed` and frees the permits.
#[derive(Debug)]
pub(crate) struct OpenSockets {
    pub(super) _closed: DropGuard,
    pub(super) _shards: Option<OwnedSemaphorePermit>,
}

/// The tunnel that a service's players use, and the declaration in force.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) tunnel: Arc<RelayTunnel>,
    pub(crate) service: ServiceDeclaration,
}

impl PublicService {
    /// The route in force, if the client has a tunnel.
    pub(crate) fn route(&self) -> Option<Arc<Route>> {
        self.route.borrow().clone()
    }

    /// Whether the client has a tunnel and a datagram of some player has passed since then.
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

    /// Reports, once a minute for each address, that a limit has been met, and whether new players are refused for it.
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
            // A new flow of another shard may have taken the place: the next one is tried.
            if shard.give_way(now, full, key, scratch) {
                return true;
            }
        }
    }
}

/// Yields to other tasks after each [`SLICE`] ports.
pub(super) async fn pause(at: usize) {
    if at % SLICE == SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Ports that are opened without a yield. 16 take some 300 µs.
pub(super) const SLICE: usize = 16;
