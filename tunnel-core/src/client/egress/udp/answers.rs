//! A target's answers, into the tunnel: each flow has a task that carries them.

use std::{cell::RefCell, io, net::IpAddr, pin::pin, sync::Arc, time::Instant};

use bytes::BytesMut;
use tokio::sync::watch;

use crate::{
    client::{
        egress::{
            reason::reason,
            udp::{
                ends::{Came, Ends},
                flow::Flow,
            },
        },
        shared::Shared,
        targets::Over,
    },
    proto::{
        datagram::{DatagramHead, FlowId, Kind},
        stream::frame::ResetCode,
    },
    tunnel::{
        datagram::{DatagramSender, FairKey},
        fault,
        futures::{poll_when_woken, sleep_until},
    },
};

/// A flow's task. It owns the flow's slot in the table: whatever ends it, the slot is given back.
pub(super) struct Answers {
    pub(super) shared: Arc<Shared>,
    pub(super) flow: Arc<Flow>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        // First the way, then the id, as for answers.
        let sender = self.shared.sender.load();
        if let (Some(id), Some(sender)) = (self.shared.flows.leave(&self.flow), sender.as_ref()) {
            send_close(sender, id);
        }
    }
}

/// What may happen to a flow beside its packets.
enum News {
    /// The target's name leads elsewhere.
    Addresses,
    /// The flow has another socket, or waits for an answer.
    Moved,
    /// No answer has come for long enough.
    Silence,
    /// The flow, its service or the client ends.
    Ended,
}

impl Answers {
    /// Carries the target's answers until the flow is closed or its service ends.
    pub(super) async fn run(self) {
        let flow = &self.flow;
        fault!("a flow to {}", flow.target.service.public);
        let mut addresses = flow.target.subscribe();
        loop {
            let ends = flow.ends.load_full();
            let until = flow.poll_timeout();
            let mut news = pin!(self.news(&mut addresses, until));
            // Its parts have locks that flows share; an answer of the target is nothing to them.
            let mut news = poll_when_woken(news.as_mut());
            let news = loop {
                tokio::select! {
                    biased;
                    news = &mut news => break news,
                    ready = ends.ready() => match ready {
                        Ok(()) => self.drain(&ends),
                        Err(_) => return,
                    },
                }
            };
            match news {
                News::Addresses => flow.follow(&flow.target.candidates(Over::Udp)),
                News::Moved => {}
                News::Silence => flow.handle_silence(),
                News::Ended => return,
            }
        }
    }

    /// What happens to a flow beside its packets.
    async fn news(
        &self,
        addresses: &mut watch::Receiver<Arc<[IpAddr]>>,
        until: Option<Instant>,
    ) -> News {
        let flow = &self.flow;
        tokio::select! {
            changed = addresses.changed() => changed.map_or(News::Ended, |()| News::Addresses),
            () = flow.moved.notified() => News::Moved,
            () = sleep_until(until) => News::Silence,
            () = flow.target.cancelled.cancelled() => News::Ended,
            () = flow.closed.cancelled() => News::Ended,
            () = self.shared.stopped.cancelled() => News::Ended,
        }
    }

    /// Sends into the tunnel what the target has answered.
    fn drain(&self, ends: &Arc<Ends>) {
        let metrics = &self.shared.metrics;
        BUFFERS.with_borrow_mut(|(buffer, scratch)| {
            for _ in 0..BATCH {
                match ends.try_recv(&self.shared.means.ports, buffer) {
                    Ok(Came::Foreign(from)) => {
                        metrics.drop_foreign.one();
                        self.shared.tell_foreign(&self.flow.target, from);
                    }
                    Ok(Came::Answer {
                        length,
                        from,
                        is_news,
                    }) => {
                        self.flow.handle_answer(from, is_news);
                        // First the way, then the id: the way to another process of the relay is opened after its
                        // predecessor's ids have been taken away, so that none of them goes there.
                        let sender = self.shared.sender.load();
                        let Some(id) = self.flow.id() else {
                            metrics.drop_parked.one();
                            continue;
                        };
                        let Some(sender) = sender.as_ref() else {
                            metrics.drop_no_tunnel.one();
                            continue;
                        };
                        metrics.datagrams_out.one();
                        metrics.datagram_bytes_out.add(length as u64);
                        let answer = buffer.get(..length).unwrap_or_default();
                        let whose = FairKey::flow(self.flow.target.service.public.first(), id.0);
                        let head = DatagramHead::data(id);
                        let redundancy = self.flow.target.redundancy();
                        sender.send_protected(whose, head, answer, redundancy, scratch);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => {
                        if self.flow.handle_refused(ends) {
                            self.shared.count_lost(&self.flow, 1, reason(&error));
                        }
                        return;
                    }
                }
            }
        });
    }
}

impl Shared {
    /// `lost` datagrams of a flow did not get to its target.
    pub(super) fn count_lost(&self, flow: &Flow, lost: usize, why: ResetCode) {
        if lost > 0 {
            self.metrics.drop_socket.add(lost as u64);
            self.tell_unserved(&flow.target, why);
        }
    }
}

/// Tells the relay that a flow is forgotten here: the player's next datagram opens another.
pub(super) fn send_close(sender: &DatagramSender, flow: FlowId) {
    let head = DatagramHead {
        kind: Kind::Close,
        ..DatagramHead::data(flow)
    };
    BUFFERS.with_borrow_mut(|(_, scratch)| {
        sender.send(FairKey::flow(NOBODY, flow.0), head, &[], scratch)
    });
}

thread_local! {
    /// What a datagram is read into and encoded in: one pair a thread, however many flows there are.
    static BUFFERS: RefCell<(Box<[u8]>, BytesMut)> =
        RefCell::new((vec![0; DATAGRAM_MAX].into(), BytesMut::new()));
}

/// Stands for a service where a flow has none any more: no service has port 0.
const NOBODY: u16 = 0;
/// Largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// Answers of one flow between two looks at the others.
const BATCH: usize = 32;
