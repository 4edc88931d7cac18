//! Tries of a way to the relay that run side by side: what was sent into a black-out is repeated ever more slowly, and a
//! fresh try finds a path that is back sooner than an old one.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// Tries that run side by side, the oldest first.
pub(crate) struct Race<T>(Vec<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> Race<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One more, in the place of the second oldest if there are too many: the oldest has its whole time, so that a path
    /// that is slow and no longer black is found too.
    pub(crate) fn add(&mut self, tried: impl Future<Output = T> + Send + 'static) {
        if self.0.len() == AT_ONCE {
            drop(self.0.remove(1));
        }
        self.0.push(Box::pin(tried));
    }

    /// What the next one comes to that ends; never while there is none. Cancel safe.
    pub(crate) async fn next(&mut self) -> T {
        poll_fn(|context| {
            for place in 0..self.0.len() {
                if let Poll::Ready(outcome) = self.0[place].as_mut().poll(context) {
                    drop(self.0.remove(place));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Gives all of them up.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Four: at two a second, each but the oldest has two seconds, of which a handshake over a long path takes one.
const AT_ONCE: usize = 4;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn whichever_ends_first_is_first() {
        let mut race = Race::new();
        race.add(pending());
        race.add(ready(2));
        race.add(ready(3));
        assert_eq!((race.next().await, race.next().await), (2, 3));
        assert!(!race.is_empty());
        race.clear();
        assert!(race.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_of_no_try() {
        let mut race = Race::<()>::new();
        let long = std::time::Duration::from_secs(3600);
        assert!(timeout(long, race.next()).await.is_err());
    }

    #[tokio::test]
    async fn the_oldest_stays_and_the_newest_take_turns() {
        let mut race = Race::new();
        let mut tried: Vec<_> = (0..10)
            .map(|number| {
                let (end, ended) = oneshot::channel::<()>();
                race.add(async move {
                    drop(ended.await);
                    number
                });
                end
            })
            .collect();
        let runs = |end: &oneshot::Sender<()>| !end.is_closed();
        let running: Vec<_> = (0..10).filter(|number| runs(&tried[*number])).collect();
        assert_eq!(running, [0, 7, 8, 9]);
        drop(tried.remove(0));
        assert_eq!(race.next().await, 0);
    }
}
