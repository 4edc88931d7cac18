//! Makes room for a new flow where a limit is reached, and reports which limit it was.

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
    /// Gives up a flow for one of this key. Returns whether there was one.
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

    /// Reports which limit a new flow has met, and whether there was room all the same.
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
