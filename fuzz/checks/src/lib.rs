//! What each fuzz target does with its input. It panics where something does not hold: a bound, a round trip, the
//! agreement of two sides, the agreement with a plain model.
//!
//! `fuzz/fuzz_targets` feeds it from libFuzzer, `tests/corpus.rs` from the committed corpus, on any toolchain.
//!
//! To add a target: a module here with `check`, its row in [`TARGETS`], a file of two lines in `fuzz_targets`, and a
//! `[[bin]]` in `fuzz/Cargo.toml`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a check says that something does not hold"
)]

mod input;

pub mod client_config;
pub mod control;
pub mod datagram;
pub mod expose;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod frame;
pub mod game_answer;
pub mod game_request;
pub mod handshake;
pub mod join;
pub mod proxy;
pub mod record;
pub mod redundancy;
pub mod relay_config;
pub mod session;
pub mod stream;
pub mod window;

/// What a target does with one input.
pub type Check = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Check)] = &[
    ("client_config", client_config::check),
    ("control", control::check),
    ("datagram", datagram::check),
    ("expose", expose::check),
    ("filter", filter::check),
    ("flow", flow::check),
    ("fragment", fragment::check),
    ("frame", frame::check),
    ("game_answer", game_answer::check),
    ("game_request", game_request::check),
    ("handshake", handshake::check),
    ("join", join::check),
    ("proxy", proxy::check),
    ("record", record::check),
    ("redundancy", redundancy::check),
    ("relay_config", relay_config::check),
    ("session", session::check),
    ("stream", stream::check),
    ("window", window::check),
];
