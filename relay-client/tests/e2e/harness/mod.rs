//! What the tests share.

pub(crate) mod crowd;
pub(crate) mod namespace;
pub(crate) mod players;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod refusal;
pub(crate) mod site;
pub(crate) mod world;

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Nothing here takes this long, even on a busy machine: what does, hangs.
pub(crate) const HANG: Duration = Duration::from_secs(90);

/// Ends the test unless the named programs are installed.
macro_rules! requires {
    ($($program:literal),+) => {
        $(if !$crate::harness::available($program) { return; })+
    };
}
pub(crate) use requires;

/// Whether a program is installed; says so if it is not.
pub(crate) fn available(program: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Says that the running test does nothing, and why; fails it where everything must run.
#[expect(
    clippy::explicit_write,
    reason = "the test runner swallows what `eprintln!` writes"
)]
pub(crate) fn skip(reason: &str) {
    assert!(
        env::var_os("ADIT_TEST_REQUIRE_ALL").is_none(),
        "cannot run: {reason}"
    );
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(io::stderr(), "skipped {test}: {reason}").unwrap();
}

/// The path of a program, also of those that only root's PATH has.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    places
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Waits until something is true that nobody announces.
pub(crate) fn eventually<T>(what: &str, holds: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + HANG;
    while Instant::now() < end {
        if let Some(value) = holds() {
            return value;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no {what} within {HANG:?}");
}

/// Held by tests that move much data, so that they do not starve each other of two cores.
pub(crate) fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A short sequence of numbers that is the same in every run (SplitMix64, Steele et al. 2014).
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
