//! Tries of a way to the relay that run side by side: addresses, of which some may lead nowhere, and fresh tries beside old
//! ones, for what was sent into a black-out is repeated ever more slowly.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// Tries that run side by side, the oldest first.
pub(crate) struct Race<'a, T> {
    tries: Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>,
    most: usize,
}

impl<'a, T> Race<'a, T> {
    /// So many run at once.
    pub(crate) const fn new(most: usize) -> Self {
        Self {
            tries: Vec::new(),
            most,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.tries.is_empty()
    }

    /// One more, in the place of the second oldest if there are too many: the oldest has its whole time, so that a path
    /// that is slow and no longer black is found too.
    pub(crate) fn add(&mut self, tried: impl Future<Output = T> + Send + 'a) {
        if self.tries.len() == self.most {
            drop(self.tries.remove(1));
        }
        self.tries.push(Box::pin(tried));
    }

    /// What the next one comes to that ends; never while there is none. Cancel safe.
    pub(crate) async fn next(&mut self) -> T {
        poll_fn(|context| {
            for place in 0..self.tries.len() {
                if let Poll::Ready(outcome) = self.tries[place].as_mut().poll(context) {
                    drop(self.tries.remove(place));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Gives all of them up.
    pub(crate) fn clear(&mut self) {
        self.tries.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn whichever_ends_first_is_first() {
        let mut race = Race::new(4);
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
        let mut race = Race::<()>::new(4);
        let long = std::time::Duration::from_secs(3600);
        assert!(timeout(long, race.next()).await.is_err());
    }

    #[tokio::test]
    async fn the_oldest_stays_and_the_newest_take_turns() {
        let mut race = Race::new(4);
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
