//! Sends the answers that come out of a client's tunnel to their players, consecutive ones to one player in one system call.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use crate::{
    proto::{datagram::Kind, flow::ReplyDrop, handshake::ProcessId},
    relay::{
        directory::{Destination, Directory, FlowShard},
        tunnel::RelayTunnel,
    },
    tunnel::{
        datagram::{DatagramHandler, Inbound, Reassembled},
        supervise::Reporter,
    },
};

/// Takes answers from one transport of a client and sends them to their players.
pub(crate) struct Replies {
    inbound: Inbound,
    directory: Arc<Directory>,
    /// The client's process at the other end.
    process: ProcessId,
    reporter: Reporter,
    run: Option<Run>,
    /// The datagrams of the run, concatenated.
    gathered: BytesMut,
}

/// Consecutive answers to one player, all of one size except that the last may be shorter.
struct Run {
    shard: Arc<dyn FlowShard>,
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

    fn gather(&mut self, shard: Arc<dyn FlowShard>, to: Destination, payload: &[u8]) {
        let joins = self.run.as_ref().is_some_and(|run| {
            !run.is_closed
                && run.to == to
                && Arc::ptr_eq(&run.shard, &shard)
                && payload.len() <= run.segment
                && run.segment <= SEGMENT_MAX
                && !payload.is_empty()
                && run.count < shard.max_segments(to.port)
                && self.gathered.len() + payload.len() <= RUN_MAX
        });
        if !joins {
            self.send_run();
            self.run = Some(Run {
                shard,
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
        let segment = (run.count > 1).then_some(run.segment);
        let sent = (run.shard).send(&run.to, &contents, segment);
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
        // Otherwise one datagram would end the answers of all services of the client.
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
        let shard = self.directory.get(head.flow);
        match (head.kind, &shard) {
            (Kind::Data, _) => {}
            (Kind::Close, Some(shard)) => return shard.forget(self.process, head.flow),
            _ => return,
        }
        let metrics = &self.reporter.metrics;
        let Some(shard) = shard else {
            return metrics.drop_unknown_flow.one();
        };
        match shard.destination(Instant::now(), self.process, head.flow, payload.len()) {
            Ok(to) => self.gather(shard, to, &payload),
            Err(ReplyDrop::Unproved) => metrics.drop_unproved.one(),
            Err(_) => metrics.drop_unknown_flow.one(),
        }
    }
}

/// Bytes of one run: what one GSO call carries.
const RUN_MAX: usize = 65_000;
/// Largest datagram that joins a run: 1,200 bytes pass every link, and one that has to be cut cannot be a segment.
const SEGMENT_MAX: usize = 1200;
