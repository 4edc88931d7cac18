//! A service whose public ports are open: what its TCP and UDP ports share, and the tunnel that its players use.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Instant,
};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    event::{Crowded, Event, Limit},
    instance::ServiceName,
    key::PublicKey,
    proto::{
        datagram::FlowId,
        flow::{FlowCounts, FlowDrop, FlowKey},
        message::ServiceDeclaration,
    },
    relay::{
        directory::{FlowService, FlowShard},
        entrance::{Bans, Entrance, Gate},
        ingress::{
            health::ServiceHealth,
            players::{PlayerId, Streams},
        },
        limit::bucket::TokenBucket,
        registry::Binding,
        shared::Shared,
        status::{PlayerStatus, ServiceStatus},
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
    /// Whom the operator lets in.
    pub(crate) entrance: Entrance,
    /// Who is connected over TCP.
    pub(crate) streams: Streams,
    /// Bounds what addresses are sent together that have not proved to be players'.
    pub(crate) unproved: Mutex<TokenBucket>,
    /// When its ports were opened.
    pub(crate) began: Instant,
    /// How its target is, as the client has told.
    pub(crate) health: ServiceHealth,
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

    /// Whether new players are led to this route.
    pub(crate) fn takes_players(&self, shared: &Shared, route: &Route) -> bool {
        self.entrance.gate() == Gate::Open && route.takes_players(shared)
    }

    /// Moves the gate. Where it closes, whoever is there is ended.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.entrance.set_gate(gate);
        if gate == Gate::Closed {
            self.end_players(|_| true);
        }
    }

    /// Ends those who are banned now.
    pub(crate) fn set_bans(&self, bans: Bans) {
        self.entrance.set_bans(bans);
        self.end_players(|address| self.entrance.is_banned(address));
    }

    /// Ends the streams and flows of these addresses.
    fn end_players(&self, whose: impl Fn(IpAddr) -> bool) {
        let streams = self.streams.list();
        for stream in streams.iter().filter(|it| whose(it.player.ip())) {
            stream.cancelled.cancel();
        }
        for shard in self.shards() {
            for flow in shard.list() {
                if whose(flow.key.player().ip()) {
                    shard.end_flow(flow.id);
                }
            }
        }
    }

    /// Ends one stream or flow. Returns whether there was one.
    pub(crate) fn end_player(&self, player: PlayerId) -> bool {
        match player {
            PlayerId::Stream(id) => {
                let stream = self.streams.get(id);
                stream.is_some_and(|stream| {
                    stream.cancelled.cancel();
                    true
                })
            }
            PlayerId::Flow(id) => self.shards().any(|shard| shard.end_flow(FlowId(id))),
        }
    }

    /// What the client calls it, while that has a tunnel.
    pub(crate) fn name(&self) -> Option<ServiceName> {
        let route = self.route.borrow();
        route.as_ref().map(|route| route.service.name.clone())
    }

    /// Who plays, and how much has passed.
    pub(crate) fn status(&self, declaration: ServiceDeclaration) -> ServiceStatus {
        let (received, sent) = self.streams.traffic();
        let flows = self.shards().map(|shard| shard.totals());
        let flows = flows.reduce(|a, b| a + b).unwrap_or_default();
        ServiceStatus {
            declaration,
            health: self.health.health(),
            bound: self.began.elapsed(),
            streams: self.streams.len(),
            flows: flows.flows,
            received: received + flows.received,
            sent: sent + flows.sent,
        }
    }

    /// Who is connected, over TCP first.
    pub(crate) fn players(&self) -> impl Iterator<Item = PlayerStatus> {
        let (instance, service) = (self.binding.instance.clone(), self.name());
        let first = self.binding.public.first();
        let streams = self.streams.list().into_iter().map(|it| {
            let ids = (PlayerId::Stream(it.id), it.player, it.local);
            let traffic = (it.traffic.read.get(), it.traffic.written.get());
            (ids, it.began, traffic)
        });
        let flows = self.shards().flat_map(|shard| shard.list()).map(move |it| {
            let port = first + it.key.port_index();
            let public = SocketAddr::new(it.key.local(), port);
            let ids = (PlayerId::Flow(it.id.0), it.key.player(), public);
            (ids, it.began, (it.received, it.sent))
        });
        let all = streams.chain(flows);
        all.map(
            move |((id, player, public), began, (received, sent))| PlayerStatus {
                id,
                instance: instance.clone(),
                service: service.clone(),
                player,
                public,
                age: began.elapsed(),
                received,
                sent,
            },
        )
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
        let service = self.name();
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
    fn takes_players(&self, shared: &Shared) -> bool {
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
