//! A lane's records.

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput};
use tunnel_core::proto::{
    handshake::{Secret, Suite},
    record::{Deframer, RECORD_BODY_MAX, RecordType, Role, Sealer, directions},
};

/// A datagram's record, a full one, and the 16 of one write.
pub(crate) fn seal_and_open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for (name, body, count) in [
            ("200 B", 200, 1),
            ("16 KiB", RECORD_BODY_MAX, 1),
            ("16 x 16 KiB", RECORD_BODY_MAX, 16),
        ] {
            let data = vec![7; body];
            group.throughput(Throughput::Bytes((body * count) as u64));
            group.bench_function(format!("seal/{suite:?}/{name}"), |bencher| {
                let (mut sealer, _) = ends(suite);
                let mut out = BytesMut::new();
                bencher.iter(|| {
                    out.clear();
                    seal(&mut sealer, &mut out, &data, count);
                });
            });
            group.bench_function(format!("open/{suite:?}/{name}"), |bencher| {
                let (mut sealer, mut deframer) = ends(suite);
                // Each record opens once, in its place in the order.
                let sealed = || {
                    let mut out = BytesMut::new();
                    seal(&mut sealer, &mut out, &data, count);
                    out
                };
                let open = |sealed: BytesMut| {
                    *deframer.buffer_mut() = sealed;
                    while deframer.poll_record().expect("it is genuine").is_some() {}
                };
                bencher.iter_batched(sealed, open, BatchSize::SmallInput);
            });
        }
    }
}

fn ends(suite: Suite) -> (Sealer, Deframer) {
    let secret = Secret::from([7; 32]);
    let ours = directions(suite, &secret, Role::Client).expect("the keys are made");
    let theirs = directions(suite, &secret, Role::Relay).expect("the keys are made");
    (ours.0, Deframer::new(theirs.1))
}

fn seal(sealer: &mut Sealer, out: &mut BytesMut, data: &[u8], count: usize) {
    for _ in 0..count {
        (sealer.seal_into(out, RecordType::DATA, &[], data)).expect("it is sealed");
    }
}
