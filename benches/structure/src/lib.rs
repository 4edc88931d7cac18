//! What is read from the source of a crate: which file imports which, and what the crate offers.
//!
//! A file imports another when it names something inside of the other's module: in a `use`, in a path of the code, or in what is
//! given to a macro. That a module declares another (`mod name;`) is no import, so a module may use what it declares, and what
//! it declares may not use it in turn. What is compiled for tests alone does not count.

mod api;
mod graph;
mod parse;
mod sources;
mod text;

pub use api::listing;
pub use graph::Graph;

/// The roots of the workspace's crates, and whether the crate has the rooms of the engine.
pub const CRATES: &[(&str, bool)] = &[
    ("tunnel-core/src/lib.rs", true),
    ("tunnel-core/daemon/src/lib.rs", false),
    ("tunnel-core/control/src/lib.rs", false),
    ("tunnel-core/game/src/lib.rs", false),
    ("relay-server/src/lib.rs", false),
    ("relay-client/src/lib.rs", false),
    ("benches/src/lib.rs", false),
    ("benches/soak/main.rs", false),
    ("benches/structure/src/lib.rs", false),
    ("fuzz/checks/src/lib.rs", false),
    ("examples/src/lib.rs", false),
];

/// The rooms of the engine, from the ground up: each may import what stands in a row before its own. Rooms of one row do not
/// import each other.
pub const ROOMS: &[&[&str]] = &[
    &["proto"],
    &["transport"],
    &["tunnel"],
    &["relay", "client"],
    &["bench_support", "fuzz_support"],
];
