//! What a long-running program sets up for itself.

use std::{io, time::Duration};

use tokio::{
    runtime::Builder,
    time::{self, MissedTickBehavior},
};

/// Runs a program's main task to its end on the runtime that relays and clients use. This is the one place that says
/// which flavour. What still runs in threads that may block is left behind: the process ends with its main task.
///
/// One thread carries some 6 Gbit/s or 60,000 packets/s, more than the uplink of a machine with two cores has, and it
/// needs no wakes from core to core: a game with 100 players took 65 % of a core where several threads took 90 %
/// (docs/performance.md). Larger machines use all of their cores.
pub fn block_on<T>(task: impl Future<Output = T>) -> io::Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if cores <= SMALL_MACHINE {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let runtime = builder.enable_all().build()?;
    let outcome = runtime.block_on(task);
    runtime.shutdown_background();
    Ok(outcome)
}

/// Cores of a machine on which one thread does the work.
const SMALL_MACHINE: usize = 2;

/// Raises the limit of open descriptors to the hard limit, as far as the system allows: every player's connection,
/// flow and public port is one.
pub fn raise_descriptor_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of open descriptors stays as it is"),
    }
}

/// Ticks at once and then every `period`; ticks that were missed are not made up for.
pub fn every(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
