//! One shard of a service's UDP ports: its sockets, and the flows that came in by them.
//!
//! On a relay with several threads a port has several sockets, between which the system divides the players. Each has a flow table
//! and a lock of its own, so threads do not wait for each other.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::BytesMut;
use quinn_udp::{Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    instance::FlowLimits,
    metrics::{Level, Metrics},
    proto::{
        datagram::{DatagramHead, FlowId, Kind},
        flow::{Flow, FlowDrop, FlowKey, FlowTable, Rank, ReplyDrop},
        handshake::ProcessId,
    },
    relay::{
        directory::{Destination, Directory, FlowShard, FlowTotals},
        ingress::service::{OpenSockets, PublicService, Route},
        shared::Shared,
    },
    socket::{self, family},
    sync::lock,
    tunnel::{datagram::FairKey, fault},
};

/// A shard of one service: a socket for each of its UDP ports, and the flows that come in there. The packets of one player always
/// come to the same shard, so a packet of a known flow touches nothing that shards share.
#[derive(Debug)]
pub(crate) struct UdpShard {
    pub(super) shared: Arc<Shared>,
    pub(super) service: Arc<PublicService>,
    pub(super) sockets: Vec<PublicSocket>,
    pub(super) flows: Mutex<Flows>,
    /// Held from a packet's look-up until it is sent. Otherwise another shard that gives up the flow could send its close first.
    pub(super) order: Mutex<()>,
    /// Where the answers to this client's flows are looked up.
    pub(super) directory: Arc<Directory>,
    /// Wakes the expiry task for a new flow, which may end before all others.
    pub(super) created: tokio::sync::Notify,
    /// After the sockets in the order of drops.
    _open: Arc<OpenSockets>,
}

#[derive(Debug)]
pub(super) struct Flows {
    pub(super) table: FlowTable,
    /// Their number, as it is shown in the metrics.
    counted: Level,
    /// The client's process that knows the flows.
    process: Option<ProcessId>,
    /// Bytes that have passed, of all flows that there ever were.
    received: u64,
    sent: u64,
    /// The service has ended: a flow that is added would never be removed.
    has_ended: bool,
}

impl Flows {
    /// Announces all flows again if the client has another process, which knows none of them.
    fn open_again_for(&mut self, now: Instant, process: ProcessId) {
        if self.process.replace(process) != Some(process) {
            self.table.handle_client_changed(now);
        }
    }

    fn count(&mut self) {
        self.counted.set(self.table.len() as u64);
    }
}

#[derive(Debug)]
pub(super) struct PublicSocket {
    pub(super) io: UdpSocket,
    pub(super) state: UdpSocketState,
}

impl UdpShard {
    pub(crate) fn new(
        shared: Arc<Shared>,
        service: Arc<PublicService>,
        sockets: Vec<std::net::UdpSocket>,
        limits: FlowLimits,
        open: Arc<OpenSockets>,
    ) -> io::Result<Self> {
        let directory = shared.directory(service.owner);
        let limits_of_all = &shared.config.limits;
        let unanswered = limits_of_all.unanswered_flow_time;
        let unproved = limits_of_all.unproved_bytes as u64;
        let is_v6 = shared.config.public_bind.is_ipv6();
        let sockets = sockets.into_iter().map(|socket| {
            let state = UdpSocketState::new((&socket).into())?;
            socket::allow_fragments(&socket, is_v6)?;
            Ok(PublicSocket {
                io: UdpSocket::from_std(socket)?,
                state,
            })
        });
        let table = FlowTable::sharing(limits, service.flows.clone());
        let counted = Level::new(&shared.metrics, |m| &m.flows);
        Ok(Self {
            shared,
            service,
            sockets: sockets.collect::<io::Result<_>>()?,
            flows: Mutex::new(Flows {
                table: (table.with_unanswered(unanswered)).with_unproved(unproved),
                counted,
                process: None,
                received: 0,
                sent: 0,
                has_ended: false,
            }),
            order: Mutex::default(),
            directory,
            created: tokio::sync::Notify::new(),
            _open: open,
        })
    }

    /// The flow of a player's packet, created where it is new and players are taken: its id, and whether the client knows it.
    pub(super) fn pass(
        self: &Arc<Self>,
        now: Instant,
        key: FlowKey,
        len: usize,
        route: &Route,
    ) -> Result<(FlowId, bool), PacketDrop> {
        let mut flows = lock(&self.flows);
        if flows.has_ended {
            return Err(PacketDrop::Ended);
        }
        flows.open_again_for(now, route.tunnel.process);
        if let Some(known) = flows.table.handle_known_packet(now, &key, len) {
            let (id, answered) = (known.id, known.open_acknowledged);
            flows.received += len as u64;
            return Ok((id, answered));
        }
        if self.service.entrance.is_banned(key.player().ip()) {
            return Err(PacketDrop::Banned);
        }
        if !self.service.takes_players(&self.shared, route) {
            return Err(PacketDrop::Draining);
        }
        if self.service.health.refuses() {
            return Err(PacketDrop::Unhealthy);
        }
        let allocate = || FlowId(self.shared.next_flow());
        let admitted = (flows.table).handle_player_packet(now, key, len, allocate);
        let id = admitted.map_err(PacketDrop::Full)?.flow.id;
        flows.received += len as u64;
        self.shared.metrics.flows_opened.one();
        flows.count();
        self.directory.insert(id, self.clone());
        self.created.notify_one();
        Ok((id, false))
    }

    /// Follows the removal of a flow from the table.
    pub(super) fn forgotten(&self, flows: &mut Flows, id: FlowId) {
        flows.count();
        self.directory.remove(id);
    }

    /// Removes all flows when the service ends. Otherwise the directory would keep the shard alive.
    pub(crate) fn end(&self) {
        let mut flows = lock(&self.flows);
        flows.has_ended = true;
        let ids: Vec<FlowId> = flows.table.iter().map(|flow| flow.id).collect();
        for id in ids {
            flows.table.remove(id);
            self.forgotten(&mut flows, id);
        }
    }
}

impl FlowShard for UdpShard {
    fn destination(
        &self,
        now: Instant,
        process: ProcessId,
        id: FlowId,
        len: usize,
    ) -> Result<Destination, ReplyDrop> {
        let destination = {
            let mut flows = lock(&self.flows);
            if flows.process != Some(process) {
                return Err(ReplyDrop::Unknown);
            }
            let flow = flows.table.handle_reply(now, id, len)?;
            if !flow.is_proved && !lock(&self.service.unproved).take(len as u32, now) {
                return Err(ReplyDrop::Unproved);
            }
            let destination = Destination {
                player: flow.key.player(),
                local: flow.key.local(),
                port: usize::from(flow.key.port_index()),
            };
            flows.sent += len as u64;
            destination
        };
        fault!("an answer to {}", self.service.binding.public);
        Ok(destination)
    }

    fn list(&self) -> Vec<Flow> {
        lock(&self.flows).table.iter().copied().collect()
    }

    fn end_flow(&self, id: FlowId) -> bool {
        let _order = lock(&self.order);
        let mut flows = lock(&self.flows);
        let Some(flow) = flows.table.remove(id) else {
            return false;
        };
        self.forgotten(&mut flows, id);
        drop(flows);
        if let Some(route) = self.service.route() {
            route.send_close(&flow, &mut BytesMut::new());
        }
        true
    }

    fn totals(&self) -> FlowTotals {
        let flows = lock(&self.flows);
        FlowTotals {
            flows: flows.table.len(),
            received: flows.received,
            sent: flows.sent,
        }
    }

    fn forget(&self, process: ProcessId, id: FlowId) {
        let mut flows = lock(&self.flows);
        if flows.process == Some(process) {
            flows.table.remove(id);
            self.forgotten(&mut flows, id);
        }
    }

    fn max_segments(&self, port: usize) -> usize {
        self.sockets
            .get(port)
            .map_or(1, |socket| socket.state.max_gso_segments())
    }

    fn send(&self, to: &Destination, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let socket = self.sockets.get(to.port).ok_or(io::ErrorKind::NotFound)?;
        let is_v6 = self.shared.config.public_bind.is_ipv6();
        let transmit = Transmit {
            destination: family(to.player, is_v6),
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: (!to.local.is_unspecified())
                .then(|| family(SocketAddr::new(to.local, 0), is_v6).ip()),
        };
        socket.io.try_io(Interest::WRITABLE, || {
            socket.state.try_send((&socket.io).into(), &transmit)
        })
    }

    fn is_alive_since(&self, then: Instant) -> bool {
        lock(&self.flows).table.is_alive_since(then)
    }

    fn victim(&self, now: Instant, full: FlowDrop, key: &FlowKey) -> Option<Rank> {
        lock(&self.flows).table.victim(now, full, key)
    }

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
            // Otherwise the client would keep a socket for each packet of a flood.
            route.send_close(&evicted, scratch);
        }
        true
    }
}

/// Why a player's packet is dropped.
pub(super) enum PacketDrop {
    /// The service has ended.
    Ended,
    /// The operator has banned the address.
    Banned,
    Draining,
    Unhealthy,
    Full(FlowDrop),
}

impl PacketDrop {
    pub(super) fn count(&self, metrics: &Metrics) {
        match self {
            Self::Ended => {}
            Self::Banned => metrics.banned.one(),
            Self::Draining => metrics.drop_draining.one(),
            Self::Unhealthy => metrics.drop_unhealthy.one(),
            Self::Full(FlowDrop::AddressFull) => metrics.drop_address_cap.one(),
            Self::Full(FlowDrop::ServiceFull) => metrics.drop_service_cap.one(),
            Self::Full(FlowDrop::ClientFull) => metrics.drop_client_cap.one(),
            Self::Full(_) => metrics.drop_limit.one(),
        }
    }
}

impl Route {
    /// Tells the client that the relay has removed a flow.
    pub(super) fn send_close(&self, flow: &Flow, scratch: &mut BytesMut) {
        let head = DatagramHead {
            kind: Kind::Close,
            ..DatagramHead::data(flow.id)
        };
        // In the player's queue, behind what the flow has sent before.
        let whose = FairKey::address(self.service.public.first(), flow.key.player().ip());
        self.tunnel.datagrams.send(whose, head, &[], scratch);
    }
}
