//! What becomes of the instances that a handle inserts: each insertion has a receipt, which is settled once.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::{
    client::status::ClientEnd, instance::InstanceId, proto::session::client::InstanceState,
};

/// Tells what the relay says of an inserted instance; from [`Client::insert`](crate::client::Client::insert).
///
/// Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Receipt {
    answer: watch::Receiver<Answer>,
    finished: watch::Receiver<Option<ClientEnd>>,
}

/// Why nothing will be said of an inserted instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsettled {
    /// It was removed, or another version of it took its place, before the relay had answered.
    #[error("the instance was changed or removed before the relay had answered")]
    Withdrawn,
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(#[from] ClientEnd),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Awaited,
    Settled(InstanceState),
    Withdrawn,
}

impl Receipt {
    /// Waits until the relay has bound the instance or refused it, and says which, and why. It may wait for long: a client
    /// without a tunnel goes on dialling. A refused instance is declared again until it is bound or removed, which
    /// [`Client::status`](crate::client::Client::status) and events tell. Cancel safe.
    pub async fn settled(&self) -> Result<InstanceState, Unsettled> {
        let mut answer = self.answer.clone();
        let answer = answer.wait_for(|answer| *answer != Answer::Awaited).await;
        match answer.as_deref() {
            Ok(Answer::Settled(state)) => Ok(state.clone()),
            Ok(_) => Err(Unsettled::Withdrawn),
            // The main task has dropped what it did not answer.
            Err(_) => Err(ClientEnd::of(&self.finished).await.into()),
        }
    }
}

/// The receipts that are not settled yet.
#[derive(Debug)]
pub(crate) struct Receipts {
    open: HashMap<InstanceId, Vec<watch::Sender<Answer>>>,
    finished: watch::Receiver<Option<ClientEnd>>,
}

impl Receipts {
    /// None yet. `finished` says how the client has ended.
    pub(crate) fn new(finished: watch::Receiver<Option<ClientEnd>>) -> Self {
        Self {
            open: HashMap::new(),
            finished,
        }
    }

    /// A receipt for what has been inserted under this id.
    pub(crate) fn open(&mut self, id: InstanceId) -> Receipt {
        let (sender, answer) = watch::channel(Answer::Awaited);
        let open = self.open.entry(id).or_default();
        // Nobody waits any more for those whose receipts are dropped.
        open.retain(|sender| !sender.is_closed());
        open.push(sender);
        Receipt {
            answer,
            finished: self.finished.clone(),
        }
    }

    /// What was inserted under this id is gone: it was removed, or something else has taken its place.
    pub(crate) fn withdraw(&mut self, id: &InstanceId) {
        for sender in self.open.remove(id).into_iter().flatten() {
            sender.send_replace(Answer::Withdrawn);
        }
    }

    /// Settles what the relay has answered, by the state that an instance has now.
    pub(crate) fn settle<'a>(&mut self, state: impl Fn(&InstanceId) -> Option<&'a InstanceState>) {
        self.open.retain(|id, senders| match state(id) {
            None | Some(InstanceState::Pending) => true,
            Some(state) => {
                for sender in senders {
                    sender.send_replace(Answer::Settled(state.clone()));
                }
                false
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::Code;

    fn receipts() -> (watch::Sender<Option<ClientEnd>>, Receipts) {
        let (finish, finished) = watch::channel(None);
        (finish, Receipts::new(finished))
    }

    fn id(id: &str) -> InstanceId {
        id.parse().unwrap()
    }

    #[tokio::test]
    async fn a_receipt_is_settled_once_with_the_first_answer() {
        let (_finish, mut receipts) = receipts();
        let (one, again, other) = (
            receipts.open(id("a")),
            receipts.open(id("a")),
            receipts.open(id("b")),
        );
        let bound = InstanceState::Bound { ports: Vec::new() };
        let refused = InstanceState::Refused {
            code: Code::PortInUse,
            text: "port 7777 is in use".into(),
        };
        receipts.settle(|_| Some(&InstanceState::Pending));
        receipts.settle(|it| (it.as_str() == "a").then_some(&refused));
        receipts.settle(|_| Some(&bound));
        assert_eq!(one.settled().await, Ok(refused.clone()));
        assert_eq!(
            one.settled().await,
            Ok(refused.clone()),
            "as often as asked"
        );
        assert_eq!(again.settled().await, Ok(refused));
        assert_eq!(other.settled().await, Ok(bound));
        assert!(receipts.open.is_empty());
    }

    #[tokio::test]
    async fn what_is_withdrawn_or_whose_client_ends_is_never_settled() {
        let (finish, mut receipts) = receipts();
        let (gone, left) = (receipts.open(id("a")), receipts.open(id("b")));
        receipts.withdraw(&id("a"));
        receipts.withdraw(&id("a"));
        assert_eq!(gone.settled().await, Err(Unsettled::Withdrawn));
        drop(receipts);
        finish.send_replace(Some(ClientEnd::Superseded));
        let ended = Err(Unsettled::Ended(ClientEnd::Superseded));
        assert_eq!(left.settled().await, ended);
    }

    #[test]
    fn receipts_that_nobody_keeps_take_no_room() {
        let (_finish, mut receipts) = receipts();
        for _ in 0..100 {
            drop(receipts.open(id("a")));
        }
        assert_eq!(receipts.open[&id("a")].len(), 1);
    }
}
