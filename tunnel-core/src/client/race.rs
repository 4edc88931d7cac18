//! Futures that run side by side in one task: attempts to reach the relay, of which the first that succeeds counts.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// Futures that run side by side, the oldest first. Each has a key.
pub(crate) struct Race<'a, K, T> {
    tries: Vec<(K, Tried<'a, T>)>,
    most: usize,
}

type Tried<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<'a, K, T> Race<'a, K, T> {
    /// A race in which at most `most` run at once.
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
    pub(crate) fn add(&mut self, key: K, tried: impl Future<Output = T> + Send + 'a) {
        if self.tries.len() == self.most {
            drop(self.tries.remove(1));
        }
        self.tries.push((key, Box::pin(tried)));
    }

    /// What the next one comes to that ends; never while there is none. Cancel safe.
    pub(crate) async fn next(&mut self) -> (K, T) {
        poll_fn(|context| {
            for place in 0..self.tries.len() {
                if let Poll::Ready(outcome) = self.tries[place].1.as_mut().poll(context) {
                    let (key, _) = self.tries.remove(place);
                    return Poll::Ready((key, outcome));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Drops those whose key is not kept.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&K) -> bool) {
        self.tries.retain(|(key, _)| is_kept(key));
    }

    /// Drops all of them.
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
        race.add('a', pending());
        race.add('b', ready(2));
        race.add('c', ready(3));
        assert_eq!(race.next().await, ('b', 2));
        assert_eq!(race.next().await, ('c', 3));
        assert!(!race.is_empty());
        race.clear();
        assert!(race.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_of_no_try() {
        let mut race = Race::<(), ()>::new(4);
        let long = std::time::Duration::from_secs(3600);
        assert!(timeout(long, race.next()).await.is_err());
    }

    #[tokio::test]
    async fn the_oldest_stays_and_the_newest_take_turns() {
        let mut race = Race::new(4);
        let mut tried: Vec<_> = (0..10)
            .map(|number| {
                let (end, ended) = oneshot::channel::<()>();
                race.add(number, async move {
                    drop(ended.await);
                });
                end
            })
            .collect();
        let runs = |end: &oneshot::Sender<()>| !end.is_closed();
        let running: Vec<_> = (0..10).filter(|number| runs(&tried[*number])).collect();
        assert_eq!(running, [0, 7, 8, 9]);
        drop(tried.remove(0));
        assert_eq!(race.next().await, (0, ()));
        race.retain(|number| *number == 8);
        let running: Vec<_> = (1..10).filter(|number| runs(&tried[*number - 1])).collect();
        assert_eq!(running, [8]);
    }
}
