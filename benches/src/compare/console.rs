//! What a run says to whoever has started it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures"
)]

pub(super) fn progress(round: usize, rounds: usize, place: &str, title: &str) {
    eprintln!("round {} of {rounds}, {place}: {title}", round + 1);
}

/// Says what went wrong.
pub fn warn(what: &str) {
    eprintln!("{what}");
}

pub(super) fn note(what: &str) {
    println!("{what}");
}
