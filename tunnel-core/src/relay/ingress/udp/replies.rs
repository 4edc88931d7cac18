//! Answers out of a client's tunnel, runs to one player in one call.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use quinn_udp::Transmit;
use tokio::io::Interest;

use super::{Directory, UdpService};
use crate::{
    proto::{
        datagram::{FlowId, Kind},
        handshake::ProcessId,
    },
    relay::tunnel::RelayTunnel,
    socket::family,
    sync::lock,
    tunnel::{
        datagram::{DatagramHandler, Inbound, Reassembled},
        fault,
        supervise::Reporter,
    },
};

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    player: SocketAddr,
    local: IpAddr,
    port: usize,
}

/// Takes answers out of one client's transport and hands them to their players, runs to one player in one call.
pub(crate) struct Replies {
    inbound: Inbound,
    directory: Arc<Directory>,
    /// Which process of the client says so.
    process: ProcessId,
    reporter: Reporter,
    run: Option<Run>,
    /// The datagrams of the run, one behind the other.
    gathered: BytesMut,
}

/// Answers to one player, all of one size but perhaps the last.
struct Run {
    service: Arc<UdpService>,
    to: Destination,
    segment: usize,
    count: usize,
    /// A shorter datagram ended it.
    is_closed: bool,
}

impl Replies {
    pub(crate) fn new(tunnel: &RelayTunnel, reporter: Reporter) -> Self {
        let inbound = Inbound::new(reporter.metrics.clone());
        Self {
            inbound,
            directory: tunnel.flows.clone(),
            process: tunnel.process,
            reporter,
            run: None,
            gathered: BytesMut::new(),
        }
    }

    /// The same for datagrams of QUIC.
    pub(crate) fn over_quic(tunnel: &RelayTunnel, reporter: Reporter) -> Self {
        let protection = tunnel.datagrams.protection();
        let inbound = Inbound::over_quic(reporter.metrics.clone(), protection);
        Self {
            inbound,
            ..Self::new(tunnel, reporter)
        }
    }

    fn gather(&mut self, service: Arc<UdpService>, to: Destination, payload: &[u8]) {
        let joins = self.run.as_ref().is_some_and(|run| {
            !run.is_closed
                && run.to == to
                && Arc::ptr_eq(&run.service, &service)
                && payload.len() <= run.segment
                && run.segment <= SEGMENT_MAX
                && !payload.is_empty()
                && run.count < run.service.max_segments(to.port)
                && self.gathered.len() + payload.len() <= RUN_MAX
        });
        if !joins {
            self.send_run();
            self.run = Some(Run {
                service,
                to,
                segment: payload.len(),
                count: 0,
                is_closed: payload.is_empty(),
            });
        }
        if let Some(run) = &mut self.run {
            run.count += 1;
            run.is_closed |= payload.len() < run.segment;
        }
        self.gathered.extend_from_slice(payload);
    }

    fn send_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let contents = self.gathered.split();
        let sent = run.service.send_run(&run, &contents);
        if sent.is_err() {
            // A full socket buffer or an unreachable player: never waited for, others are behind.
            self.reporter.metrics.drop_socket.add(run.count as u64);
        }
        self.reporter.metrics.datagrams_out.add(run.count as u64);
        self.reporter
            .metrics
            .datagram_bytes_out
            .add(contents.len() as u64);
    }
}

impl DatagramHandler for Replies {
    fn handle(&mut self, datagram: Bytes) {
        // Or one datagram would end those of every other service of the client.
        if catch_unwind(AssertUnwindSafe(|| self.handle_one(datagram))).is_err() {
            self.reporter.panicked("an answer of a flow");
        }
    }

    fn flush(&mut self) {
        self.send_run();
        self.inbound.handle_timeout();
    }
}

impl Replies {
    fn handle_one(&mut self, datagram: Bytes) {
        if let Some(whole) = self.inbound.handle(datagram) {
            self.hand_on(whole);
        }
        while let Some(repaired) = self.inbound.next_repaired() {
            self.hand_on(repaired);
        }
    }

    fn hand_on(&mut self, Reassembled { head, payload }: Reassembled) {
        let service = self.directory.get(head.flow);
        match (head.kind, &service) {
            (Kind::Data, _) => {}
            (Kind::Close, Some(service)) => return service.forget(self.process, head.flow),
            _ => return,
        }
        let found = service.and_then(|service| {
            let to = service.route_of_reply(Instant::now(), self.process, head.flow)?;
            Some((service, to))
        });
        match found {
            Some((service, to)) => {
                fault!("an answer to {}", service.service.binding.public);
                self.gather(service, to, &payload);
            }
            None => self.reporter.metrics.drop_unknown_flow.one(),
        }
    }
}

impl UdpService {
    /// Where an answer of this process goes; nowhere if the flow is another process' by now.
    fn route_of_reply(&self, now: Instant, process: ProcessId, id: FlowId) -> Option<Destination> {
        let mut flows = lock(&self.flows);
        if flows.process != Some(process) {
            return None;
        }
        let flow = flows.table.handle_reply(now, id)?;
        Some(Destination {
            player: flow.key.player(),
            local: flow.key.local(),
            port: usize::from(flow.key.port_index()),
        })
    }

    /// This process of the client has forgotten a flow.
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

    fn send_run(&self, run: &Run, contents: &[u8]) -> io::Result<()> {
        let socket = self
            .sockets
            .get(run.to.port)
            .ok_or(io::ErrorKind::NotFound)?;
        let is_v6 = self.shared.config.public_bind.is_ipv6();
        let transmit = Transmit {
            destination: family(run.to.player, is_v6),
            ecn: None,
            contents,
            segment_size: (run.count > 1).then_some(run.segment),
            src_ip: (!run.to.local.is_unspecified())
                .then(|| family(SocketAddr::new(run.to.local, 0), is_v6).ip()),
        };
        socket.io.try_io(Interest::WRITABLE, || {
            socket.state.try_send((&socket.io).into(), &transmit)
        })
    }
}

/// Bytes of one run: what one GSO call carries.
const RUN_MAX: usize = 65_000;
/// Largest datagram that joins a run: 1,200 bytes pass every link, and one that has to be cut cannot be a segment.
const SEGMENT_MAX: usize = 1200;
