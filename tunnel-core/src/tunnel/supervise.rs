//! Long-lived tasks: a panic in one is caught, counted and the task started again, and touches no other.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, EventSink},
    metrics::Metrics,
    proto::backoff::Backoff,
};

/// Where a supervised task reports.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) events: EventSink,
    pub(crate) metrics: Arc<Metrics>,
}

impl Reporter {
    /// Counts a panic that was caught, and says whose it was.
    pub(crate) fn panicked(&self, task: impl Into<String>) {
        self.metrics.panics.one();
        self.events.emit(Event::Panicked { task: task.into() });
    }

    /// The result of `run`; `None` if it panicked, which is counted.
    ///
    /// What `run` leaves half done must be whole for others: nothing here is behind more than one lock.
    pub(crate) fn catch<T>(&self, task: &str, run: impl FnOnce() -> T) -> Option<T> {
        let caught = catch_unwind(AssertUnwindSafe(run));
        if caught.is_err() {
            self.panicked(task);
        }
        caught.ok()
    }
}

/// A future panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs a future to its end or its panic. It has its place on the heap: an async function would keep room for it once for
/// each hand that it goes through, and a player's stream is some 4 KiB.
pub(crate) fn caught<F: Future>(
    future: F,
) -> impl Future<Output = Result<F::Output, Panicked>> + use<F> {
    let mut future = Box::pin(future);
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}

/// Runs a task that serves one player or one connection: a panic ends it, is counted, and touches no other.
pub(crate) fn spawn<F>(reporter: Reporter, task: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let future = caught(future);
    tokio::spawn(async move {
        if future.await.is_err() {
            reporter.panicked(task);
        }
    });
}

/// Runs what `make` makes, again after each panic, until it ends by itself or is cancelled.
pub(crate) fn supervise<F, T>(
    reporter: Reporter,
    cancelled: CancellationToken,
    task: String,
    mut make: F,
) where
    F: FnMut() -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut backoff = Backoff::new(RESTART_LEAST, RESTART_MOST);
        loop {
            let started = tokio::time::Instant::now();
            let ended = tokio::select! {
                ended = caught(make()) => ended,
                () = cancelled.cancelled() => return,
            };
            if ended.is_ok() {
                return;
            }
            reporter.panicked(&*task);
            if started.elapsed() >= RESTART_MOST {
                backoff.reset();
            }
            // A task that panics at once must not keep a core busy.
            tokio::select! {
                () = tokio::time::sleep(backoff.next(u64::MAX)) => {}
                () = cancelled.cancelled() => return,
            }
        }
    });
}

/// Pause before a task that panicked is started again: long enough to cost nothing, short enough for players.
const RESTART_LEAST: Duration = Duration::from_millis(100);
/// Longest pause of a task that panics again and again. One that ran for as long starts anew with the shortest.
const RESTART_MOST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn reporter() -> Reporter {
        Reporter {
            events: EventSink::new(),
            metrics: Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_between_panics_grow_to_a_bound() {
        let reporter = reporter();
        let (starts, mut started) = tokio::sync::mpsc::channel(1);
        supervise(
            reporter.clone(),
            CancellationToken::new(),
            "a test".into(),
            move || {
                let starts = starts.clone();
                async move {
                    starts.send(tokio::time::Instant::now()).await.unwrap();
                    panic!("each time, on purpose");
                }
            },
        );
        let mut times = Vec::new();
        for _ in 0..12 {
            times.push(started.recv().await.unwrap());
        }
        let pauses: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses[0] < 2 * RESTART_LEAST, "{pauses:?}");
        assert!(pauses[10] >= RESTART_MOST - RESTART_LEAST, "{pauses:?}");
        assert!(pauses[10] <= RESTART_MOST + RESTART_LEAST, "{pauses:?}");
        assert!(reporter.metrics.snapshot().panics >= 11);
    }

    #[tokio::test]
    async fn a_task_that_is_cancelled_lets_go_of_what_it_holds() {
        let cancelled = CancellationToken::new();
        let held = Arc::new(());
        let inside = held.clone();
        supervise(reporter(), cancelled.clone(), "a test".into(), move || {
            let inside = inside.clone();
            async move {
                std::future::pending::<()>().await;
                drop(inside);
            }
        });
        cancelled.cancel();
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_single_task_is_counted() {
        let reporter = reporter();
        let mut events = reporter.events.subscribe();
        spawn(reporter.clone(), "a player", async {
            panic!("on purpose");
        });
        let event = events.next().await;
        assert_eq!(
            event,
            Some(Ok(Event::Panicked {
                task: "a player".into()
            }))
        );
        assert_eq!(reporter.metrics.snapshot().panics, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_started_again() {
        let reporter = reporter();
        let mut events = reporter.events.subscribe();
        let starts = Arc::new(AtomicU32::new(0));
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        let mut done = Some(done);
        let count = starts.clone();
        supervise(
            reporter.clone(),
            CancellationToken::new(),
            "a test".into(),
            move || {
                let start = count.fetch_add(1, Ordering::SeqCst);
                let done = if start == 2 { done.take() } else { None };
                async move {
                    assert!(start >= 2, "panics twice, on purpose");
                    drop(done);
                }
            },
        );
        assert!(ended.await.is_err());
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!(reporter.metrics.snapshot().panics, 2);
        assert_eq!(
            events.next().await,
            Some(Ok(Event::Panicked {
                task: "a test".into()
            }))
        );
    }
}
