//! A small bounded queue for one task that seldom gets anything. A tokio mpsc channel would do the same, and hold 800 bytes
//! for each stream of a client.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::Notify;

use crate::sync::lock;

/// A queue with one reader. It takes no memory for what may come.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
    most: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    queue: VecDeque<T>,
    is_closed: bool,
}

impl<T> Mailbox<T> {
    /// A queue in which at most `most` wait.
    pub(crate) const fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                queue: VecDeque::new(),
                is_closed: false,
            }),
            changed: Notify::const_new(),
            most,
        }
    }

    /// Mailbox something; gives it back if no more is taken.
    pub(crate) fn offer(&self, offer: T) -> Result<(), T> {
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed || waiting.queue.len() >= self.most {
            return Err(offer);
        }
        waiting.queue.push_back(offer);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// The oldest; `None` once it is closed and nothing is left. Cancel safe.
    pub(crate) async fn next(&self) -> Option<T> {
        loop {
            {
                let mut waiting = lock(&self.waiting);
                match waiting.queue.pop_front() {
                    Some(offer) => return Some(offer),
                    None if waiting.is_closed => return None,
                    None => {}
                }
            }
            self.changed.notified().await;
        }
    }

    /// The oldest, if there is one.
    pub(crate) fn try_next(&self) -> Option<T> {
        lock(&self.waiting).queue.pop_front()
    }

    /// Nothing more is taken from now on. What waits stays.
    pub(crate) fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.changed.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).is_closed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn it_takes_no_more_than_it_may() {
        let mailbox = Mailbox::new(2);
        assert_eq!(
            [1, 2, 3].map(|it| mailbox.offer(it)),
            [Ok(()), Ok(()), Err(3)]
        );
        assert_eq!(mailbox.try_next(), Some(1));
        assert_eq!(mailbox.offer(4), Ok(()));
        assert_eq!(
            [(); 3].map(|()| mailbox.try_next()),
            [Some(2), Some(4), None]
        );
    }

    #[tokio::test]
    async fn what_waits_when_it_closes_is_still_there() {
        let mailbox = Mailbox::new(2);
        mailbox.offer(1).unwrap();
        mailbox.close();
        assert_eq!(mailbox.offer(2), Err(2));
        assert_eq!(mailbox.next().await, Some(1));
        assert_eq!(mailbox.next().await, None);
    }

    #[tokio::test]
    async fn its_reader_wakes_for_an_offer_and_for_the_end() {
        let mailbox = Arc::new(Mailbox::new(2));
        let theirs = mailbox.clone();
        let reader = tokio::spawn(async move {
            let first = theirs.next().await;
            (first, theirs.next().await)
        });
        tokio::task::yield_now().await;
        mailbox.offer(1).unwrap();
        tokio::task::yield_now().await;
        mailbox.close();
        assert_eq!(reader.await.unwrap(), (Some(1), None));
    }
}
