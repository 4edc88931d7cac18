//! Where a relay is: the addresses that its name resolves to, and the one where it was reached last.
//!
//! A look-up runs beside the attempts to connect and never before them, so that a name server that is gone keeps nobody from
//! a relay that was there a moment ago. One runs at a time, however many ask: a resolver that hangs holds one thread.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::{
    client::policy::order::AddressOrder,
    instance::{Host, HostPort},
};

/// The addresses of one relay.
#[derive(Debug)]
pub(crate) struct Addresses {
    relay: HostPort,
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Known {
    order: AddressOrder,
    is_looking: bool,
    /// Why the last look-up found nothing.
    failed: Option<Arc<io::Error>>,
}

/// The addresses for one attempt, each once: those that are known, and those that a look-up finds meanwhile.
#[derive(Debug)]
pub(crate) struct Candidates {
    known: watch::Receiver<Known>,
    tried: Vec<SocketAddr>,
}

impl Addresses {
    /// Of a name, nothing is known yet.
    pub(crate) fn new(relay: HostPort) -> Arc<Self> {
        let mut known = Known::default();
        if let Host::Ip(ip) = relay.host {
            known.order.handle_found(&[SocketAddr::new(ip, relay.port)]);
        }
        Arc::new(Self {
            relay,
            known: watch::Sender::new(known),
        })
    }

    pub(crate) const fn relay(&self) -> &HostPort {
        &self.relay
    }

    /// What to try now; a name is looked up meanwhile.
    pub(crate) fn candidates(self: &Arc<Self>) -> Candidates {
        if let Host::Name(name) = &self.relay.host
            && !self.known.borrow().is_looking
        {
            self.known.send_modify(|known| known.is_looking = true);
            let (name, addresses) = (name.clone(), self.clone());
            tokio::spawn(async move {
                let found = tokio::net::lookup_host((&*name, addresses.relay.port)).await;
                let found = found.map(|found| found.take(ADDRESSES_MAX).collect());
                addresses.known.send_modify(|known| known.handle(found));
            });
        }
        Candidates {
            known: self.known.subscribe(),
            tried: Vec::new(),
        }
    }

    /// The relay was reached here: the next attempt begins with it.
    pub(crate) fn handle_reached(&self, address: SocketAddr) {
        self.known
            .send_modify(|known| known.order.handle_reached(address));
    }
}

impl Known {
    fn handle(&mut self, looked: io::Result<Vec<SocketAddr>>) {
        self.is_looking = false;
        self.failed = looked
            .map(|found| self.order.handle_found(&found))
            .err()
            .map(Arc::new);
    }
}

impl Candidates {
    /// The next one; `None` once no more are known and no look-up runs. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<SocketAddr> {
        loop {
            let (next, is_looking) = {
                let known = self.known.borrow_and_update();
                (known.order.next(&self.tried), known.is_looking)
            };
            if next.is_some() || !is_looking || self.known.changed().await.is_err() {
                self.tried.extend(next);
                return next;
            }
        }
    }

    /// Whether [`next`](Self::next) would have to wait for a look-up, or comes to nothing.
    pub(crate) fn is_dry(&self) -> bool {
        self.known.borrow().order.next(&self.tried).is_none()
    }

    /// Why the last look-up found nothing, if it did not.
    pub(crate) fn failed(&self) -> Option<Arc<io::Error>> {
        self.known.borrow().failed.clone()
    }
}

/// 16 addresses of a name: four seconds of tries, each a quarter behind the one before.
pub(crate) const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses() -> Arc<Addresses> {
        Addresses::new("relay.example:4433".parse().unwrap())
    }

    #[tokio::test]
    async fn a_look_up_that_fails_takes_nothing_away() {
        let (addresses, one) = (addresses(), at("192.0.2.1:4433"));
        let looks = [Ok(vec![one]), Err(io::ErrorKind::NotFound.into())];
        for (look, fails) in looks.into_iter().zip([false, true]) {
            addresses.known.send_modify(|known| known.handle(look));
            let mut candidates = Candidates {
                known: addresses.known.subscribe(),
                tried: Vec::new(),
            };
            assert_eq!(candidates.next().await, Some(one));
            assert_eq!(candidates.next().await, None);
            assert!(candidates.is_dry());
            assert_eq!(candidates.failed().is_some(), fails);
        }
    }

    #[tokio::test]
    async fn what_is_found_meanwhile_is_tried_too() {
        let addresses = addresses();
        let (one, two) = (at("192.0.2.1:4433"), at("192.0.2.2:4433"));
        addresses.handle_reached(one);
        addresses.known.send_modify(|known| known.is_looking = true);
        let mut candidates = addresses.candidates();
        assert_eq!(candidates.next().await, Some(one));
        assert!(candidates.is_dry());
        let found = addresses.clone();
        let task = tokio::spawn(async move {
            tokio::task::yield_now().await;
            found
                .known
                .send_modify(|known| known.handle(Ok(vec![one, two])));
        });
        assert_eq!(candidates.next().await, Some(two));
        assert_eq!(candidates.next().await, None);
        task.await.unwrap();
    }
}
