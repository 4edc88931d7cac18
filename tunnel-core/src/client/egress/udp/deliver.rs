//! The relay's datagrams, each to the socket of its flow, which the first one opens.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{
        egress::{
            reason::reason,
            udp::{
                answers::{Answers, send_close},
                flow::{Flow, FlowKey},
                flows::Found,
            },
        },
        room::{Held, NoRoom, Room},
        shared::Shared,
        targets::{Over, Target},
    },
    event::Limit,
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, Kind},
        handshake::ProcessId,
        stream::frame::ResetCode,
    },
    socket,
    tunnel::{
        datagram::{DatagramHandler, DatagramSender, Inbound, Reassembled},
        fault, supervise,
    },
};

/// Takes datagrams out of one transport and hands them to their flows.
pub(crate) struct Egress {
    shared: Arc<Shared>,
    inbound: Inbound,
    /// Which process of the relay says so.
    relay: ProcessId,
}

impl Egress {
    pub(crate) fn new(shared: Arc<Shared>, relay: ProcessId) -> Self {
        let inbound = Inbound::new(shared.metrics.clone());
        Self {
            shared,
            inbound,
            relay,
        }
    }

    /// The same for datagrams of QUIC, whose answers leave by `sender`.
    pub(crate) fn over_quic(
        shared: Arc<Shared>,
        relay: ProcessId,
        sender: &DatagramSender,
    ) -> Self {
        let inbound = Inbound::over_quic(shared.metrics.clone(), sender.protection());
        Self {
            inbound,
            ..Self::new(shared, relay)
        }
    }
}

impl DatagramHandler for Egress {
    fn handle(&mut self, datagram: Bytes) {
        // Otherwise one datagram would end those of every other service.
        if catch_unwind(AssertUnwindSafe(|| self.handle_one(datagram))).is_err() {
            self.shared.reporter().panicked("a datagram of a flow");
        }
    }

    fn flush(&mut self) {
        self.inbound.handle_timeout();
    }
}

impl Egress {
    fn handle_one(&mut self, datagram: Bytes) {
        if let Some(whole) = self.inbound.handle(datagram) {
            self.hand_on(whole);
        }
        while let Some(repaired) = self.inbound.next_repaired() {
            self.hand_on(repaired);
        }
    }

    fn hand_on(&self, Reassembled { head, payload }: Reassembled) {
        match head.kind {
            Kind::Data => self.shared.deliver(self.relay, &head, &payload),
            Kind::Close => self.shared.flows.close(self.relay, head.flow),
            _ => {}
        }
    }
}

impl Shared {
    fn deliver(self: &Arc<Self>, relay: ProcessId, head: &DatagramHead, payload: &[u8]) {
        match self.flow_of(relay, head) {
            Ok(flow) => self.send_to_target(&flow, payload),
            Err(why) => self.wait_or_drop(why, relay, *head, payload),
        }
    }

    /// Delivers a datagram once there is what its flow needs, if that is to come. As many wait as the target has places, and
    /// none that is longer than a packet.
    fn wait_or_drop(
        self: &Arc<Self>,
        why: NoFlow,
        relay: ProcessId,
        head: DatagramHead,
        payload: &[u8],
    ) {
        let target = match &why {
            NoFlow::Unresolved(target) | NoFlow::NotYet(target, _) => Some(target.clone()),
            _ => None,
        };
        let target = target.filter(|_| payload.len() <= WAITING_LENGTH);
        let place = target.and_then(|target| {
            let place = target.waiting.clone().try_acquire_owned().ok()?;
            Some((target, place))
        });
        let Some((target, place)) = place else {
            return self.drop_for(why, relay, head.flow);
        };
        let (shared, payload) = (self.clone(), Bytes::copy_from_slice(payload));
        supervise::spawn(self.reporter(), "a datagram that waits", async move {
            let ready = async {
                match &why {
                    NoFlow::NotYet(_, gone) => gone.cancelled().await,
                    _ => drop(target.resolved(Over::Udp).await),
                }
            };
            tokio::select! {
                () = ready => {}
                () = target.cancelled.cancelled() => return,
            }
            drop(place);
            match shared.flow_of(relay, &head) {
                Ok(flow) => shared.send_to_target(&flow, &payload),
                // Another player was faster.
                Err(why @ NoFlow::NotYet(..)) => shared.wait_or_drop(why, relay, head, &payload),
                Err(why) => shared.drop_for(why, relay, head.flow),
            }
        });
    }

    fn send_to_target(&self, flow: &Flow, payload: &[u8]) {
        fault!("a datagram to {}", flow.target.service.public);
        flow.touch_sent();
        let (sent, lost) = flow.send(payload);
        if sent.is_ok() {
            self.metrics.datagrams_in.one();
            self.metrics.datagram_bytes_in.add(payload.len() as u64);
        }
        self.count_lost(flow, lost, ResetCode::Refused);
        if let Err(error) = sent {
            self.count_lost(flow, 1, reason(&error));
        }
    }

    /// A datagram has no flow: counts it, and tells whom it concerns.
    fn drop_for(&self, why: NoFlow, relay: ProcessId, flow: FlowId) {
        match why {
            NoFlow::Unknown => {
                self.metrics.drop_unknown_flow.one();
                self.say_unknown(relay, flow);
            }
            NoFlow::Stale => self.metrics.drop_unknown_flow.one(),
            NoFlow::NoService => self.metrics.drop_unknown_service.one(),
            NoFlow::Mismatch => self.metrics.drop_mismatch.one(),
            NoFlow::Unresolved(target) => {
                self.metrics.drop_unresolved.one();
                self.tell_unserved(&target, ResetCode::Unresolved);
                target.refresh();
            }
            NoFlow::Limit(target, limit, most) => {
                self.metrics.drop_limit.one();
                self.tell_crowded(&target, limit, most);
            }
            NoFlow::NoSocket(target) | NoFlow::NotYet(target, _) => {
                self.metrics.drop_no_socket.one();
                self.tell_unserved(&target, ResetCode::Limit);
            }
        }
    }

    /// The flow that a datagram is for, opened or taken up again if it says so.
    fn flow_of(
        self: &Arc<Self>,
        relay: ProcessId,
        head: &DatagramHead,
    ) -> Result<Arc<Flow>, NoFlow> {
        let found = self.flows.find(relay, head.flow);
        match (found, &head.open) {
            (Found::Flow(flow), None) => Ok(flow),
            (Found::Flow(flow), Some(open)) => {
                let (.., key) = self.named(open)?;
                matching(flow, &key)
            }
            (Found::Unknown, Some(open)) => self.open_flow(relay, head.flow, open),
            (Found::Unknown, None) => Err(NoFlow::Unknown),
            (Found::Stale, _) => Err(NoFlow::Stale),
        }
    }

    /// Makes the flow that a datagram opens, or takes up the one that the player had, if the client has that service.
    fn open_flow(
        self: &Arc<Self>,
        relay: ProcessId,
        id: FlowId,
        open: &FlowOpen,
    ) -> Result<Arc<Flow>, NoFlow> {
        let (target, port, key) = self.named(open)?;
        if let Some(flow) = self.flows.resume(relay, id, &key) {
            self.metrics.flows_resumed.one();
            return Ok(flow);
        }
        let candidates = target.candidates(Over::Udp);
        if candidates.is_empty() {
            return Err(NoFlow::Unresolved(target));
        }
        let Some(slot) = self.flows.reserve() else {
            return Err(NoFlow::Limit(target, Limit::ClientFlows, self.limits.flows));
        };
        let room = self.room(&target)?;
        let leads_to = (&*candidates, port);
        let (means, metrics) = (&self.means, &self.metrics);
        let player = (key, open.local);
        let opened = Flow::open(player, target.clone(), leads_to, means, room, metrics);
        let flow = opened.map(Arc::new).map_err(|error| {
            let is_used_up =
                socket::is_exhausted(&error) || error.kind() == io::ErrorKind::AddrInUse;
            let made = is_used_up.then(|| self.make_room(&target)).flatten();
            made.unwrap_or(NoFlow::NoSocket(target))
        })?;
        match self.flows.insert(relay, id, flow.clone(), slot) {
            Found::Unknown => {}
            Found::Flow(faster) => return matching(faster, &key),
            Found::Stale => return Err(NoFlow::Stale),
        }
        self.metrics.flows_opened.one();
        let answers = Answers {
            shared: self.clone(),
            flow: flow.clone(),
        };
        supervise::spawn(self.reporter(), "a player's flow", answers.run());
        Ok(flow)
    }

    /// Room for one more flow of a service: a local port and a descriptor.
    fn room(&self, target: &Arc<Target>) -> Result<[Held; 2], NoFlow> {
        let take = |room: &Arc<Room>, own: usize, limit: Limit| {
            room.take(own).map_err(|none| {
                let made = (none == NoRoom::Full).then(|| self.make_room(target));
                let refused = || NoFlow::Limit(target.clone(), limit, own);
                made.flatten().unwrap_or_else(refused)
            })
        };
        let flows = target.flows.load(Ordering::Relaxed);
        Ok([
            take(&self.means.room, flows, Limit::LocalPorts)?,
            take(&self.descriptors, target.sockets(), Limit::Descriptors)?,
        ])
    }

    /// A parked flow goes, if there is one.
    fn make_room(&self, target: &Arc<Target>) -> Option<NoFlow> {
        let gone = self.flows.give_one_up()?;
        Some(NoFlow::NotYet(target.clone(), gone))
    }

    /// What an opening names, if the client has that service.
    fn named(&self, open: &FlowOpen) -> Result<(Arc<Target>, u16, FlowKey), NoFlow> {
        let target = self.targets.load().get(&open.service).cloned();
        let port = target
            .as_ref()
            .filter(|target| target.service.protocol.udp())
            .and_then(|target| target.port(open.port_index));
        let (Some(target), Some(port)) = (target, port) else {
            return Err(NoFlow::NoService);
        };
        let key = FlowKey::new(&target, open.port_index, open.player);
        Ok((target, port, key))
    }

    /// The relay takes a flow for known that is not there, and would say nothing more of it.
    fn say_unknown(&self, relay: ProcessId, flow: FlowId) {
        // The way first, as for answers: to another process the id means another flow.
        let sender = self.sender.load();
        if let (Some(sender), Found::Unknown) = (sender.as_ref(), self.flows.find(relay, flow)) {
            send_close(sender, flow);
        }
    }
}

/// The flow, if it is what the relay says of it: another player's datagrams never reach its socket.
fn matching(flow: Arc<Flow>, key: &FlowKey) -> Result<Arc<Flow>, NoFlow> {
    match flow.key == *key {
        true => Ok(flow),
        false => Err(NoFlow::Mismatch),
    }
}

/// Why a datagram has no flow.
enum NoFlow {
    /// The client has none of that id, and the datagram opens none.
    Unknown,
    /// The id is of another process of the relay.
    Stale,
    /// The client has no such service.
    NoService,
    /// The flow of that id is another player's, or leads elsewhere.
    Mismatch,
    /// The target's name is not resolved.
    Unresolved(Arc<Target>),
    /// There is no room for it, and how much there is.
    Limit(Arc<Target>, Limit, usize),
    /// The system gives no socket.
    NoSocket(Arc<Target>),
    /// A parked flow makes room for it, and tells when it has.
    NotYet(Arc<Target>, CancellationToken),
}

/// Longest datagram that waits for what its flow needs: a packet.
const WAITING_LENGTH: usize = 1_500;
