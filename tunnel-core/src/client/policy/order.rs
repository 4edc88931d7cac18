//! The order in which a relay's addresses are tried: where it was reached last comes first.

use std::net::SocketAddr;

/// The addresses that are known of one relay.
#[derive(Debug, Default)]
pub(crate) struct AddressOrder {
    /// What the last look-up that worked has found, in the order in which to try.
    found: Vec<SocketAddr>,
    /// Where the relay was reached last. No look-up takes it away.
    good: Option<SocketAddr>,
}

impl AddressOrder {
    /// A look-up has found these, in the resolver's order of preference.
    pub(crate) fn handle_found(&mut self, found: &[SocketAddr]) {
        self.found = alternate(found);
    }

    /// The relay was reached here.
    pub(crate) const fn handle_reached(&mut self, address: SocketAddr) {
        self.good = Some(address);
    }

    /// The next address that is not among those.
    pub(crate) fn next(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let mut all = self.good.iter().chain(&self.found);
        all.find(|address| !tried.contains(address)).copied()
    }
}

/// The families take turns, the resolver's first choice first (RFC 8305 §4): a family that leads nowhere costs the other
/// one step.
fn alternate(found: &[SocketAddr]) -> Vec<SocketAddr> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn four(n: u16) -> SocketAddr {
        format!("192.0.2.{n}:4433").parse().unwrap()
    }

    fn six(n: u16) -> SocketAddr {
        format!("[2001:db8::{n}]:4433").parse().unwrap()
    }

    fn all(order: &AddressOrder) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        while let Some(next) = order.next(&all) {
            all.push(next);
        }
        all
    }

    #[test]
    fn families_take_turns() {
        for (found, ordered) in [
            (vec![], vec![]),
            (vec![four(1)], vec![four(1)]),
            (
                vec![six(1), six(2), six(3), four(1), four(2)],
                vec![six(1), four(1), six(2), four(2), six(3)],
            ),
            (vec![four(1), six(1), six(2)], vec![four(1), six(1), six(2)]),
        ] {
            let mut order = AddressOrder::default();
            order.handle_found(&found);
            assert_eq!(all(&order), ordered);
        }
    }

    #[test]
    fn the_last_good_address_comes_first_and_no_look_up_takes_it_away() {
        let mut order = AddressOrder::default();
        order.handle_found(&[four(1), four(2)]);
        assert_eq!(all(&order), [four(1), four(2)]);
        order.handle_reached(four(2));
        assert_eq!(all(&order), [four(2), four(1)]);
        order.handle_found(&[six(3)]);
        assert_eq!(all(&order), [four(2), six(3)]);
        order.handle_found(&[]);
        assert_eq!(all(&order), [four(2)]);
    }
}
