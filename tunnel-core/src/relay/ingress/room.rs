//! Room for a new flow where there are as many as there may be, and word of it.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;

use crate::{
    event::Limit,
    proto::flow::{FlowDrop, FlowKey},
    relay::{
        directory::FlowService,
        ingress::{service::Route, shard::UdpShard},
    },
};

impl UdpShard {
    /// Ends a flow, so that one of this key may come; whether there was one that could go.
    pub(super) fn make_room(
        &self,
        now: Instant,
        full: FlowDrop,
        key: &FlowKey,
        scratch: &mut BytesMut,
    ) -> bool {
        let own: Arc<dyn FlowService> = self.service.clone();
        let service = match full {
            FlowDrop::AddressFull | FlowDrop::ServiceFull => own,
            FlowDrop::ClientFull => self.directory.fattest(&own),
            _ => (self.shared.directories).fattest(&self.directory, &own),
        };
        service.make_room(now, full, key, scratch)
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
