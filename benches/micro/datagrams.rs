//! A datagram's way from head to queue.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use tunnel_core::{
    bench_support::FairQueue,
    proto::{
        datagram::{
            BUNDLES_MAX, DatagramHead, FlowId, FlowOpen, FragmentHead, RedundancyHead, RepairHead,
            Scheme,
        },
        fragment::{Reassembler, ReassemblyLimits, split},
        message::ServiceId,
        redundancy::{Dedup, Protector, ProtectorSettings, Repairer},
    },
};

/// Heads of a known flow, of a new one, and of one with redundancy.
pub(crate) fn heads(criterion: &mut Criterion) {
    let known = DatagramHead::data(FlowId(123_456));
    let new = DatagramHead {
        open: Some(FlowOpen {
            service: ServiceId(77),
            port_index: 0,
            player: ([192, 0, 2, 1], 50_000).into(),
            local: None,
        }),
        ..known
    };
    let copied = DatagramHead {
        redundancy: Some(RedundancyHead {
            sequence: 99,
            scheme: Scheme::Copied,
        }),
        ..known
    };
    let mut group = criterion.benchmark_group("datagram");
    for (name, head) in [("known", known), ("new", new), ("copied", copied)] {
        group.bench_function(format!("encode/{name}"), |bencher| {
            let mut out = BytesMut::with_capacity(64);
            bencher.iter(|| {
                out.clear();
                black_box(&head).encode(&mut out);
            });
        });
        let mut encoded = BytesMut::new();
        head.encode(&mut encoded);
        encoded.extend_from_slice(&[7; 200]);
        let encoded = encoded.freeze();
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| DatagramHead::decode(black_box(&encoded).clone()).is_ok());
        });
    }
}

/// A packet that is cut into parts and put together again.
pub(crate) fn fragments(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fragment");
    for parts in [2, 4, 50] {
        let packet = Bytes::from(vec![7; parts * 1_200]);
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(format!("split and reassemble/{parts}"), |bencher| {
            let mut reassembler = Reassembler::new(ReassemblyLimits::default());
            let (mut number, now) = (0_u16, Instant::now());
            bencher.iter(|| {
                number = number.wrapping_add(1);
                let pieces = split(packet.len(), 1_200).expect("it does not fit in one");
                let count = pieces.parts();
                let mut whole = None;
                for (index, range) in pieces.enumerate() {
                    let head = FragmentHead {
                        packet: number,
                        index: index as u8,
                        count,
                    };
                    let piece = packet.slice(range);
                    let result = reassembler.handle_fragment(now, FlowId(1), head, piece);
                    whole = result.expect("it is sound");
                }
                assert!(whole.is_some());
            });
        });
    }
}

/// The window that tells copies.
pub(crate) fn redundancy(criterion: &mut Criterion) {
    criterion.bench_function("redundancy/a packet and its copy", |bencher| {
        let (mut dedup, mut sequence) = (Dedup::new(), 0_u16);
        bencher.iter(|| {
            sequence = sequence.wrapping_add(1);
            dedup.accept(sequence) && !dedup.accept(sequence.wrapping_sub(3))
        });
    });
    // Every tenth packet is lost, and comes back out of the repairs.
    criterion.bench_function("redundancy/protect and repair", |bencher| {
        let (mut protector, mut repairer) = (
            Protector::new(ProtectorSettings::default()),
            Repairer::new(),
        );
        let (mut now, mut repair) = (Instant::now(), BytesMut::with_capacity(4096));
        let datagram = [7; 200];
        bencher.iter(|| {
            now += Duration::from_millis(2);
            let sequence = protector.sequence(Scheme::Source);
            protector.handle_source(now, sequence, &datagram);
            if !sequence.is_multiple_of(10) {
                repairer.handle_source(sequence, &datagram);
            }
            repair.clear();
            while protector.poll_repair(now, &mut repair) {
                let whole = DatagramHead::decode(repair.split().freeze());
                let (head, symbol) = whole.expect("a repair is a datagram");
                if let Some(RedundancyHead {
                    sequence,
                    scheme: Scheme::Repair(repair),
                }) = head.redundancy
                {
                    repairer.handle_repair(sequence, &repair, &symbol);
                }
            }
            std::iter::from_fn(|| repairer.poll_repaired()).count()
        });
    });
}

/// A client that wants to be dear: each repair lacks what the seven before it lack, and each source is a part of all.
pub(crate) fn dear_repairs(criterion: &mut Criterion) {
    criterion.bench_function("redundancy/a source and a repair of lies", |bencher| {
        let (mut repairer, mut round) = (Repairer::new(), 0_u16);
        let small = [7; 60];
        bencher.iter(|| {
            round = round.wrapping_add(1);
            // From the end of each eight: what all lack comes before what each begins with.
            repairer.handle_source(round ^ 7, &small);
            let head = RepairHead {
                number: round as u8,
                bundle: 0,
                counts: [1; BUNDLES_MAX],
            };
            repairer.handle_repair(round.wrapping_add(8), &head, &small);
            std::iter::from_fn(|| repairer.poll_repaired()).count()
        });
    });
}

/// The queue before the tunnel, as full as it gets.
pub(crate) fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fair queue");
    for services in [1, 32] {
        group.bench_function(format!("push and pop/{services} services"), |bencher| {
            let mut queue = FairQueue::default();
            let datagram = Bytes::from_static(&[7; 200]);
            let mut turn = 0_u16;
            let mut next = || {
                turn = (turn + 1) % services;
                turn
            };
            for _ in 0..512 {
                queue.push(next(), datagram.clone(), 1_024);
            }
            bencher.iter(|| {
                queue.push(next(), datagram.clone(), 1_024);
                queue.pop()
            });
        });
    }
    group.bench_function("a flood meets a full queue", |bencher| {
        let mut queue = FairQueue::default();
        let datagram = Bytes::from_static(&[7; 200]);
        for _ in 0..1_024 {
            queue.push(1, datagram.clone(), 1_024);
        }
        bencher.iter(|| queue.push(1, datagram.clone(), 1_024));
    });
}
