//! What a long-running program sets up for itself.

use std::{io, time::Duration};

use tokio::{
    runtime::Builder,
    time::{self, MissedTickBehavior},
};

use crate::environment;

/// Runs a program's main task to its end on the runtime that relays and clients use. This is the one place that says
/// which flavour. What still runs in threads that may block is left behind: the process ends with its main task.
///
/// One thread carries some 6 Gbit/s or 60,000 packets/s, more than the uplink of a machine with two cores has, and it
/// needs no wakes from core to core: a game with 100 players took 65 % of a core where several threads took 90 %
/// (docs/performance.md). Larger machines use all of their cores.
///
/// `ADIT_THREADS` says otherwise, so that the measurement can be repeated where the machine or the load is another.
pub fn block_on<T>(task: impl Future<Output = T>) -> io::Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let written = environment::text(THREADS).map_err(io::Error::other)?;
    let wanted = written.as_deref().map(parse_threads).transpose()?;
    let runtime = match threads(wanted, cores) {
        1 => Builder::new_current_thread().enable_all().build()?,
        threads => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?,
    };
    let outcome = runtime.block_on(task);
    runtime.shutdown_background();
    Ok(outcome)
}

/// Runs a task in a thread and a runtime of its own, which leave the processor to who carries players: work for operators comes
/// in bursts, and waits where both want a core.
pub fn beside<T>(name: &str, task: impl FnOnce() -> T + Send + 'static) -> io::Result<()>
where
    T: Future<Output = ()>,
{
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(move || {
            yield_to_others();
            runtime.block_on(task());
            runtime.shutdown_background();
        })
        .map(drop)
}

/// Takes less of the processor than other threads of the process, where both want it.
fn yield_to_others() {
    // A thread's own on Linux; elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// A fifth of the processor's time where another thread wants all of it.
#[cfg(target_os = "linux")]
const NICE: i32 = 7;

/// How many threads there are: those asked for, or what was measured to be best for this number of cores.
fn threads(wanted: Option<usize>, cores: usize) -> usize {
    match wanted {
        Some(threads) => threads,
        None if cores <= SMALL_MACHINE => 1,
        None => cores,
    }
}

fn parse_threads(written: &str) -> io::Result<usize> {
    let threads = written.parse().ok();
    threads
        .filter(|threads| (1..=THREADS_MAX).contains(threads))
        .ok_or_else(|| {
            let text = format!("{THREADS}={written}: a number from 1 to {THREADS_MAX} is wanted");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
}

const THREADS: &str = "ADIT_THREADS";
/// 256: more than any machine gains from.
const THREADS_MAX: usize = 256;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cores_have_one_thread_and_more_have_one_each() {
        assert_eq!([1, 2, 3, 8].map(|cores| threads(None, cores)), [1, 1, 3, 8]);
        assert_eq!([1, 2, 8].map(|cores| threads(Some(4), cores)), [4; 3]);
    }

    #[test]
    fn a_number_of_threads_that_cannot_be_is_an_error_that_names_it() {
        assert_eq!(parse_threads("4").unwrap(), 4);
        assert_eq!(parse_threads("256").unwrap(), 256);
        for written in ["", "0", "257", "-1", "many"] {
            let error = parse_threads(written).unwrap_err();
            assert!(error.to_string().contains("ADIT_THREADS"), "{error}");
        }
    }
}
