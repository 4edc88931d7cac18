//! Look-ups: a player's flow, a service's port, a stream's offsets.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::Criterion;
use tunnel_core::{
    bench_support::Services,
    instance::FlowLimits,
    proto::{
        datagram::FlowId,
        flow::{FlowKey, FlowTable},
        stream::{RecvHalf, SendHalf},
    },
};

/// A packet of a player whose flow is there, and an answer to it, in tables of several sizes.
pub(crate) fn flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    for count in [1, 1_000, 10_000] {
        let start = Instant::now();
        let (mut table, keys) = table(start, count);
        let mut at = 0;
        // Far apart, as players' packets are, and a millisecond later each time.
        let mut next = move || {
            at += 1;
            let place = (at as usize).wrapping_mul(7_919) % keys.len();
            (start + Duration::from_millis(at), place, keys[place])
        };
        group.bench_function(format!("player's packet/{count}"), |bencher| {
            bencher.iter(|| {
                let (now, _, key) = next();
                let admitted = table.handle_player_packet(now, key, 100, || FlowId(0));
                admitted.map(|admitted| admitted.flow.id)
            });
        });
        group.bench_function(format!("answer/{count}"), |bencher| {
            bencher.iter(|| {
                let (now, place, _) = next();
                let flow = table.handle_reply(now, FlowId(place as u64), 100);
                flow.map(|flow| flow.key)
            });
        });
    }
}

fn table(now: Instant, count: usize) -> (FlowTable, Vec<FlowKey>) {
    let mut table = FlowTable::new(FlowLimits {
        per_service: u32::MAX,
        ..FlowLimits::default()
    });
    let local = IpAddr::from(Ipv4Addr::new(198, 51, 100, 1));
    let keys = (0..count).map(|n| {
        let ip = Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
        FlowKey::new((ip, 50_000).into(), local, 0)
    });
    let keys: Vec<_> = keys.collect();
    for (n, key) in keys.iter().enumerate() {
        let admitted = table.handle_player_packet(now, *key, 100, || FlowId(n as u64));
        admitted.expect("there is room");
    }
    (table, keys)
}

/// One service moves to another port, in registries of several sizes.
pub(crate) fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for count in [10, 1_000, 10_000] {
        let mut services = Services::new(count);
        let mut turn = 0;
        group.bench_function(format!("a service moves/{count}"), |bencher| {
            bencher.iter(|| {
                turn ^= 1;
                let touched = services.declare(count / 2, 60_000 + turn);
                assert_eq!(touched, 2);
            });
        });
    }
}

/// 16 KiB sent, delivered and acknowledged.
pub(crate) fn stream(criterion: &mut Criterion) {
    let data = Bytes::from(vec![7; 16 * 1024]);
    criterion.bench_function("stream/send, deliver, acknowledge", |bencher| {
        let mut now = Instant::now();
        let (mut send, mut recv) = (SendHalf::new(now), RecvHalf::new());
        bencher.iter(|| {
            now += Duration::from_micros(100);
            assert!(send.allowance(1 << 20) > 0);
            send.handle_sent(now, data.clone());
            recv.handle_data(data.len() as u64).expect("it fits");
            recv.handle_delivered(data.len() as u64);
            let offset = recv.poll_ack().expect("it is owed");
            send.handle_ack(now, offset).expect("it was sent")
        });
    });
}
