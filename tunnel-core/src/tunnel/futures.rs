//! Small combinators of futures that both roles use.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::sync::lock;

/// Polls the future only when something woke that very future. Every poll of a token or a watch takes a lock that all
/// of a tunnel's streams share; a stream that moves data wakes for each packet.
pub(crate) const fn poll_when_woken<F: Future>(future: Pin<&mut F>) -> PollWhenWoken<'_, F> {
    PollWhenWoken {
        future,
        alarm: None,
    }
}

#[derive(Debug)]
pub(crate) struct PollWhenWoken<'a, F> {
    future: Pin<&'a mut F>,
    /// From the first poll on, with the waker that leads to it and the task that it wakes.
    alarm: Option<(Arc<Alarm>, Waker, Waker)>,
}

#[derive(Debug)]
struct Alarm {
    rang: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        lock(&self.task).wake_by_ref();
    }
}

impl<F: Future> Future for PollWhenWoken<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let PollWhenWoken { future, alarm } = &mut *self;
        let (alarm, waker, task) = alarm.get_or_insert_with(|| {
            let task = context.waker().clone();
            let alarm = Arc::new(Alarm {
                rang: AtomicBool::new(true),
                task: Mutex::new(task.clone()),
            });
            (alarm.clone(), Waker::from(alarm), task)
        });
        if !task.will_wake(context.waker()) {
            task.clone_from(context.waker());
            lock(&alarm.task).clone_from(task);
        }
        // The load spares the quiet case a write.
        if !alarm.rang.load(Ordering::Relaxed) || !alarm.rang.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

/// The output of a future that is ready now.
pub(crate) async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Sleeps until then; for ever without a time.
pub(crate) async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, time::Duration};

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_once_for_each_wake_of_its_own() {
        let (token, polls) = (CancellationToken::new(), AtomicU32::new(0));
        let counted = async {
            let mut cancelled = pin!(token.cancelled());
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                cancelled.as_mut().poll(context)
            })
            .await;
        };
        let mut counted = pin!(counted);
        let mut rare = poll_when_woken(counted.as_mut());
        for _ in 0..100 {
            tokio::select! {
                biased;
                () = &mut rare => panic!("nothing happened"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        token.cancel();
        rare.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn it_wakes_the_task_that_has_it_now() {
        let token = CancellationToken::new();
        let theirs = token.clone();
        let waiting = async move {
            let mut cancelled = pin!(theirs.cancelled());
            let mut rare = poll_when_woken(cancelled.as_mut());
            // Polled under another waker first.
            let early = Pin::new(&mut rare).poll(&mut Context::from_waker(Waker::noop()));
            assert!(early.is_pending());
            rare.await;
        };
        let waiting = tokio::spawn(waiting);
        tokio::task::yield_now().await;
        token.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        ended.unwrap().unwrap();
    }
}
