//! Where a relay is: what its name leads to, and where it was reached last.
//!
//! A look-up runs beside the tries and never before them, so that a name server that is gone keeps nobody from a relay
//! that was there a moment ago. One runs at a time, however many ask: a resolver that hangs holds one thread.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::instance::{Host, HostPort};

/// The addresses of one relay.
#[derive(Debug)]
pub(crate) struct Addresses {
    relay: HostPort,
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the last look-up that worked has found, in the order in which to try.
    found: Vec<SocketAddr>,
    /// Where the relay was reached last.
    good: Option<SocketAddr>,
    is_looking: bool,
    /// Why the last look-up found nothing.
    failed: Option<Arc<io::Error>>,
}

/// The addresses for one try, each once: those that are known, and those that a look-up finds meanwhile.
#[derive(Debug)]
pub(crate) struct Candidates {
    known: watch::Receiver<Known>,
    tried: Vec<SocketAddr>,
}

impl Addresses {
    /// Nothing is known of a name yet.
    pub(crate) fn new(relay: HostPort) -> Arc<Self> {
        let found = match relay.host {
            Host::Ip(ip) => vec![SocketAddr::new(ip, relay.port)],
            Host::Name(_) => Vec::new(),
        };
        let known = Known {
            found,
            ..Known::default()
        };
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
                let found = found.map(|found| in_order(found.take(ADDRESSES_MAX).collect()));
                addresses.known.send_modify(|known| known.handle(found));
            });
        }
        Candidates {
            known: self.known.subscribe(),
            tried: Vec::new(),
        }
    }

    /// The relay was reached here: the next try begins with it.
    pub(crate) fn handle_reached(&self, address: SocketAddr) {
        self.known.send_modify(|known| known.good = Some(address));
    }
}

impl Known {
    fn handle(&mut self, looked: io::Result<Vec<SocketAddr>>) {
        self.is_looking = false;
        self.failed = looked.map(|found| self.found = found).err().map(Arc::new);
    }

    /// The next address that is not among those.
    fn next(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let mut all = self.good.iter().chain(&self.found);
        all.find(|address| !tried.contains(address)).copied()
    }
}

impl Candidates {
    /// The next one; `None` once no more are known and no look-up runs. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<SocketAddr> {
        loop {
            let (next, is_looking) = {
                let known = self.known.borrow_and_update();
                (known.next(&self.tried), known.is_looking)
            };
            if next.is_some() || !is_looking || self.known.changed().await.is_err() {
                self.tried.extend(next);
                return next;
            }
        }
    }

    /// Whether [`next`](Self::next) would have to wait for a look-up, or comes to nothing.
    pub(crate) fn is_dry(&self) -> bool {
        self.known.borrow().next(&self.tried).is_none()
    }

    /// Why the last look-up found nothing, if it did not.
    pub(crate) fn failed(&self) -> Option<Arc<io::Error>> {
        self.known.borrow().failed.clone()
    }
}

/// The families take turns, the resolver's first choice first (RFC 8305 §4): a family that leads nowhere costs the other
/// one step.
fn in_order(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first =
        |address: &SocketAddr| Some(address.is_ipv4()) == found.first().map(SocketAddr::is_ipv4);
    let (mut first, mut second) = (
        found.iter().filter(|address| is_first(address)),
        found.iter().filter(|address| !is_first(address)),
    );
    let mut ordered = Vec::new();
    for _ in 0..found.len() {
        ordered.extend(first.next().into_iter().chain(second.next()));
    }
    ordered
}

/// 16 addresses of a name: four seconds of tries, each a quarter behind the one before.
pub(crate) const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let six = |n: u16| at(&format!("[2001:db8::{n}]:4433"));
        let four = |n: u16| at(&format!("192.0.2.{n}:4433"));
        for (found, ordered) in [
            (vec![], vec![]),
            (vec![four(1)], vec![four(1)]),
            (
                vec![six(1), six(2), six(3), four(1), four(2)],
                vec![six(1), four(1), six(2), four(2), six(3)],
            ),
            (vec![four(1), six(1), six(2)], vec![four(1), six(1), six(2)]),
        ] {
            assert_eq!(in_order(found), ordered);
        }
    }

    #[tokio::test]
    async fn the_last_good_address_comes_first_and_no_look_up_takes_it_away() {
        let addresses = Addresses::new("relay.example:4433".parse().unwrap());
        let (one, two, three) = (
            at("192.0.2.1:4433"),
            at("192.0.2.2:4433"),
            at("[2001:db8::3]:4433"),
        );
        let look_up = |found: io::Result<Vec<SocketAddr>>| {
            addresses.known.send_modify(|known| known.handle(found));
        };
        let all = async || {
            let mut candidates = Candidates {
                known: addresses.known.subscribe(),
                tried: Vec::new(),
            };
            let mut all = Vec::new();
            while let Some(next) = candidates.next().await {
                all.push(next);
            }
            assert!(candidates.is_dry());
            all
        };
        look_up(Ok(vec![one, two]));
        assert_eq!(all().await, [one, two]);
        addresses.handle_reached(two);
        assert_eq!(all().await, [two, one]);
        look_up(Err(io::ErrorKind::NotFound.into()));
        assert_eq!(all().await, [two, one]);
        look_up(Ok(vec![three]));
        assert_eq!(all().await, [two, three]);
        look_up(Ok(vec![]));
        assert_eq!(all().await, [two]);
    }

    #[tokio::test]
    async fn what_is_found_meanwhile_is_tried_too() {
        let addresses = Addresses::new("relay.example:4433".parse().unwrap());
        let (one, two) = (at("192.0.2.1:4433"), at("192.0.2.2:4433"));
        addresses.known.send_modify(|known| {
            known.good = Some(one);
            known.is_looking = true;
        });
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
