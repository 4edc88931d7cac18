//! Where the protocol meets transports and the clock: what both roles share.

pub(crate) mod budget;
pub(crate) mod channel;
pub(crate) mod control;
pub(crate) mod datagrams;
pub(crate) mod fair;
pub(crate) mod inbound;
pub(crate) mod lanes;
pub(crate) mod meter;
pub(crate) mod notices;
pub(crate) mod protection;
pub(crate) mod pump;
pub(crate) mod rare;
pub(crate) mod supervise;
pub(crate) mod turn;
pub(crate) mod waiting;
pub(crate) mod watch;

use std::{future::Future, pin::pin, task::Poll};

pub(crate) use datagrams::QueueLimits;

/// Where tests make a task panic; nothing anywhere else.
macro_rules! fault {
    ($($place:tt)*) => {
        #[cfg(test)]
        $crate::tunnel::supervise::fault::reach(&format!($($place)*));
    };
}
pub(crate) use fault;

/// The output of a future that is ready now.
pub(crate) async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
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
