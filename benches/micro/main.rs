//! What each step of the hot path costs by itself.
//!
//! `cargo bench -p benches --bench micro [-- PART OF A NAME]`; with `-- --test` each runs once.

mod datagrams;
mod records;
mod tables;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    records::seal_and_open,
    datagrams::heads,
    datagrams::fragments,
    datagrams::redundancy,
    datagrams::dear_repairs,
    datagrams::queue,
    tables::flows,
    tables::registry,
    tables::stream,
);
criterion_main!(benches);
