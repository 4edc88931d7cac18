//! Long-lived tasks: a panic in one is caught, counted and the task started again, and touches no other.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, EventSink},
    metrics::Metrics,
};

/// Where a supervised task reports.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) events: EventSink,
    pub(crate) metrics: Arc<Metrics>,
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
        loop {
            let mut running = tokio::spawn(make());
            let ended = tokio::select! {
                ended = &mut running => ended,
                () = cancelled.cancelled() => {
                    running.abort();
                    return;
                }
            };
            match ended {
                Err(error) if error.is_panic() => {
                    reporter.metrics.panics.one();
                    reporter.events.emit(Event::Panicked { task: task.clone() });
                }
                _ => return,
            }
            // A task that panics at once must not keep a core busy.
            tokio::select! {
                () = tokio::time::sleep(RESTART_DELAY) => {}
                () = cancelled.cancelled() => return,
            }
        }
    });
}

/// Pause before a task that panicked is started again: long enough to cost nothing, short enough for players.
const RESTART_DELAY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_started_again() {
        let reporter = Reporter {
            events: EventSink::new(),
            metrics: Arc::default(),
        };
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
