//! Room for a new flow where there are as many as there may be, and word of it.

use std::time::Instant;

use bytes::BytesMut;

use super::UdpService;
use crate::{
    event::Limit,
    proto::flow::{FlowDrop, FlowKey},
    relay::ingress::{PublicService, Route},
    sync::lock,
};

impl UdpService {
    /// Ends a flow, so that one of this key may come; whether there was one that could go.
    pub(super) fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool {
        let service = match full {
            FlowDrop::AddressFull | FlowDrop::ServiceFull => self.service.clone(),
            FlowDrop::ClientFull => self.directory.fattest(&self.service),
            _ => (self.shared.directories).fattest(&self.directory, &self.service),
        };
        service.make_room(now, full, key, scratch)
    }

    /// The same of this shard's flows.
    fn give_way(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool {
        let _order = lock(&self.order);
        let mut flows = lock(&self.flows);
        let Some(evicted) = flows.table.make_room(now, full, key) else {
            return false;
        };
        self.forgotten(&mut flows, evicted.id);
        drop(flows);
        self.shared.metrics.flows_evicted.one();
        if let Some(route) = self.service.route() {
            // Or the client would keep a socket for each packet of a flood.
            route.send_close(&evicted, scratch);
        }
        true
    }

    /// Says which limit a new flow has met, and what comes of it.
    pub(super) fn tell(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        route: &Route,
        has_room: bool,
    ) {
        let (flows, limits) = (&route.service.flows, &self.shared.config.limits);
        let (limit, most) = match full {
            FlowDrop::AddressFull => (Limit::FlowsPerAddress, flows.per_address as usize),
            FlowDrop::ServiceFull => (Limit::MaxFlows, flows.per_service as usize),
            FlowDrop::ClientFull => (Limit::FlowsPerClient, limits.flows_per_client),
            _ => (Limit::Flows, limits.flows),
        };
        let address = (full == FlowDrop::AddressFull).then(|| key.address());
        let service = &self.service;
        service.tell_crowded(&self.shared, now, (limit, most), address, !has_room);
    }
}

impl PublicService {
    /// Ends the flow of this service that is to go first for one of this key.
    fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool {
        loop {
            let ranked = self.shards().filter_map(|shard| {
                let rank = lock(&shard.flows).table.victim(now, full, key)?;
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
