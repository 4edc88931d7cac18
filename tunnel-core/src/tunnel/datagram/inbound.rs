//! Datagrams out of the tunnel: read, put together again, and counted where that fails.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    metrics::Metrics,
    proto::{
        datagram::{DatagramHead, Kind, Scheme},
        fragment::{Reassembler, ReassemblyLimits},
        redundancy::{Dedup, Repairer},
    },
    tunnel::datagram::protection::Protection,
};

/// Reads the datagrams of one transport.
#[derive(Debug)]
pub(crate) struct Inbound {
    reassembler: Reassembler,
    /// What came of datagrams that are copied, from the first one on.
    copied: Option<Box<Dedup>>,
    /// What came of datagrams that are repaired, from the first one on.
    repairer: Option<Box<Repairer>>,
    /// How many datagrams came; wraps around.
    arrived: u32,
    /// What answers probes and hears answers, over QUIC.
    protection: Option<Arc<Protection>>,
    metrics: Arc<Metrics>,
}

/// A datagram as a player or a target sent it.
#[derive(Debug)]
pub(crate) struct Reassembled {
    pub(crate) head: DatagramHead,
    pub(crate) payload: Bytes,
}

impl Inbound {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            copied: None,
            repairer: None,
            arrived: 0,
            protection: None,
            metrics,
        }
    }

    /// The same for datagrams of QUIC, which are protected the other way.
    pub(crate) fn over_quic(metrics: Arc<Metrics>, protection: Option<Arc<Protection>>) -> Self {
        Self {
            protection,
            ..Self::new(metrics)
        }
    }

    /// Takes a datagram; yields one that is whole. What it repairs is in [`next_repaired`](Self::next_repaired).
    pub(crate) fn handle(&mut self, datagram: Bytes) -> Option<Reassembled> {
        let Ok((head, payload)) = DatagramHead::decode(datagram.clone()) else {
            self.metrics.drop_malformed.one();
            return None;
        };
        let before = self.arrived;
        self.arrived = before.wrapping_add(1);
        if head.kind == Kind::Probe {
            if let Some(protection) = &self.protection {
                protection.handle_probe(&payload, before);
            }
            return None;
        }
        // Copies are told before fragments are put together: each fragment has a number of its own.
        if let Some(redundancy) = head.redundancy {
            let sequence = redundancy.sequence;
            let is_new = match redundancy.scheme {
                Scheme::Copied => self.copied.get_or_insert_default().accept(sequence),
                Scheme::Source => {
                    let repairer = self.repairer.get_or_insert_default();
                    repairer.handle_source(sequence, &datagram)
                }
                Scheme::Repair(repair) => {
                    let repairer = self.repairer.get_or_insert_default();
                    repairer.handle_repair(sequence, &repair, &payload);
                    return None;
                }
            };
            if !is_new {
                self.metrics.drop_duplicate.one();
                return None;
            }
        }
        self.reassemble(head, payload)
    }

    /// A datagram that was lost and that what came now has brought back; call until `None`. It is looked at like any
    /// other.
    pub(crate) fn next_repaired(&mut self) -> Option<Reassembled> {
        loop {
            let datagram = self.repairer.as_mut()?.poll_repaired()?;
            self.metrics.repaired.one();
            let Ok((head, payload)) = DatagramHead::decode(datagram) else {
                self.metrics.drop_malformed.one();
                continue;
            };
            if let Some(whole) = self.reassemble(head, payload) {
                return Some(whole);
            }
        }
    }

    fn reassemble(&mut self, head: DatagramHead, payload: Bytes) -> Option<Reassembled> {
        let Some(fragment) = head.fragment else {
            return Some(Reassembled { head, payload });
        };
        let whole = self
            .reassembler
            .handle_fragment(Instant::now(), head.flow, fragment, payload);
        // Refused fragments are in the reassembler's own counts.
        let payload = whole.ok().flatten()?;
        Some(Reassembled { head, payload })
    }

    /// Forgets packets whose fragments did not come in time, and counts what was discarded.
    pub(crate) fn handle_timeout(&mut self) {
        let now = Instant::now();
        if self
            .reassembler
            .poll_timeout()
            .is_some_and(|due| due <= now)
        {
            self.reassembler.handle_timeout(now);
        }
        let discarded = self.reassembler.drain_discarded();
        let lost =
            discarded.timeout + discarded.evicted + discarded.contradictory + discarded.too_large;
        self.metrics.drop_fragments.add(lost);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;

    use super::*;
    use crate::proto::{
        datagram::{FlowId, FragmentHead, RedundancyHead},
        redundancy::{Protector, ProtectorSettings},
    };

    fn datagram(sequence: u16, fragment: Option<FragmentHead>, payload: &[u8]) -> Bytes {
        let mut head = DatagramHead::data(FlowId(7));
        head.redundancy = Some(RedundancyHead {
            sequence,
            scheme: Scheme::Copied,
        });
        head.fragment = fragment;
        let mut out = BytesMut::new();
        head.encode(&mut out);
        out.extend_from_slice(payload);
        out.freeze()
    }

    #[test]
    fn a_copy_is_handed_on_once() {
        let metrics = Arc::new(Metrics::default());
        let mut inbound = Inbound::new(metrics.clone());
        let copy = datagram(1, None, b"move");
        assert_eq!(inbound.handle(copy.clone()).unwrap().payload, &b"move"[..]);
        assert!(inbound.handle(copy).is_none());
        assert_eq!(metrics.snapshot().drop_duplicate, 1);
    }

    #[test]
    fn copies_of_fragments_do_not_make_a_packet_twice() {
        let mut inbound = Inbound::new(Arc::default());
        let part = |index| {
            Some(FragmentHead {
                packet: 3,
                index,
                count: 2,
            })
        };
        let (first, second) = (datagram(1, part(0), b"ab"), datagram(2, part(1), b"c"));
        assert!(inbound.handle(first.clone()).is_none());
        assert!(inbound.handle(first.clone()).is_none());
        assert_eq!(inbound.handle(second.clone()).unwrap().payload, &b"abc"[..]);
        assert!(inbound.handle(first).is_none());
        assert!(inbound.handle(second).is_none());
    }

    #[test]
    fn what_a_repair_brings_back_is_handed_on_and_counted_once() {
        let metrics = Arc::new(Metrics::default());
        let mut inbound = Inbound::new(metrics.clone());
        let mut protector = Protector::new(ProtectorSettings::default());
        let now = Instant::now();
        let mut sent = Vec::new();
        for n in 0..5_u8 {
            let scheme = Scheme::Source;
            let sequence = protector.sequence(scheme);
            let mut head = DatagramHead::data(FlowId(n.into()));
            head.redundancy = Some(RedundancyHead { sequence, scheme });
            let mut out = BytesMut::new();
            head.encode(&mut out);
            out.extend_from_slice(&[n; 50]);
            // Each in a packet of its own.
            protector.handle_source(now + Duration::from_millis(n.into()), sequence, &out);
            sent.push(out.freeze());
        }
        let mut repair = BytesMut::new();
        assert!(protector.poll_repair(now + Duration::from_millis(6), &mut repair));
        let repair = repair.freeze();
        for n in [0, 1, 3, 4] {
            assert!(inbound.handle(sent[n].clone()).is_some());
        }
        assert!(inbound.next_repaired().is_none());
        for _ in 0..2 {
            assert!(inbound.handle(repair.clone()).is_none(), "of no flow");
        }
        let repaired = inbound.next_repaired().unwrap();
        assert_eq!(repaired.head.flow, FlowId(2));
        assert_eq!(repaired.payload, [2; 50][..]);
        assert!(inbound.next_repaired().is_none());
        assert!(inbound.handle(sent[2].clone()).is_none(), "late");
        let counted = metrics.snapshot();
        assert_eq!((counted.repaired, counted.drop_duplicate), (1, 1));
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let metrics = Arc::new(Metrics::default());
        let mut inbound = Inbound::new(metrics.clone());
        assert!(inbound.handle(Bytes::from_static(&[0x1f])).is_none());
        assert!(inbound.handle(Bytes::new()).is_none());
        assert_eq!(metrics.snapshot().drop_malformed, 2);
    }
}
