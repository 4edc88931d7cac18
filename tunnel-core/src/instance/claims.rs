//! Which public ports are taken, and by whom.

use std::collections::BTreeMap;

use crate::instance::{options::Protocol, port::PortRange};

/// Ranges of public ports that are taken, those of TCP and of UDP apart. `W` says by whom.
///
/// A claim does not check whether another one overlaps it: [`holders`](Self::holders) tells.
#[derive(Debug, Clone)]
pub struct PortClaims<W> {
    tcp: Claims<W>,
    udp: Claims<W>,
    /// Ports of the longest range ever claimed. A range that begins further below a port cannot reach it.
    longest: u16,
}

/// By its first port: the last port of a range, and who has claimed it.
type Claims<W> = BTreeMap<u16, Vec<(u16, W)>>;

impl<W> Default for PortClaims<W> {
    fn default() -> Self {
        Self {
            tcp: BTreeMap::new(),
            udp: BTreeMap::new(),
            longest: 0,
        }
    }
}

impl<W> PortClaims<W> {
    /// Whether no port is taken.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Who has claimed one of these ports: those of TCP first, and of each protocol the one with the highest ports first.
    pub fn holders(&self, protocol: Protocol, ports: PortRange) -> impl Iterator<Item = &W> {
        let (first, last) = (ports.first(), ports.last());
        let reach = first.saturating_sub(self.longest);
        let wanted = [(protocol.tcp(), &self.tcp), (protocol.udp(), &self.udp)];
        wanted
            .into_iter()
            .filter(|(is_wanted, _)| *is_wanted)
            .flat_map(move |(_, claims)| claims.range(reach..=last).rev())
            .flat_map(|(_, claims)| claims)
            .filter(move |(end, _)| *end >= first)
            .map(|(_, whose)| whose)
    }
}

impl<W: Clone + PartialEq> PortClaims<W> {
    /// Claims ports.
    pub fn claim(&mut self, protocol: Protocol, ports: PortRange, whose: &W) {
        self.longest = self.longest.max(ports.count());
        for claims in self.of(protocol) {
            let claims = claims.entry(ports.first()).or_default();
            claims.push((ports.last(), whose.clone()));
        }
    }

    /// Gives up a claim that was made with the same arguments.
    pub fn release(&mut self, protocol: Protocol, ports: PortRange, whose: &W) {
        let (first, claim) = (ports.first(), (ports.last(), whose.clone()));
        for claims in self.of(protocol) {
            let Some(all) = claims.get_mut(&first) else {
                continue;
            };
            if let Some(at) = all.iter().position(|it| *it == claim) {
                all.swap_remove(at);
            }
            if all.is_empty() {
                claims.remove(&first);
            }
        }
    }

    fn of(&mut self, protocol: Protocol) -> impl Iterator<Item = &mut Claims<W>> {
        let tcp = protocol.tcp().then_some(&mut self.tcp);
        let udp = protocol.udp().then_some(&mut self.udp);
        tcp.into_iter().chain(udp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortRange {
        text.parse().unwrap()
    }

    #[test]
    fn whoever_has_one_of_the_ports_is_found() {
        let mut claims = PortClaims::default();
        claims.claim(Protocol::Udp, ports("100-200"), &1);
        claims.claim(Protocol::Tcp, ports("150"), &2);
        claims.claim(Protocol::Both, ports("300"), &3);
        for (protocol, text, wanted) in [
            (Protocol::Udp, "99", &[][..]),
            (Protocol::Udp, "100", &[1]),
            (Protocol::Udp, "200-201", &[1]),
            (Protocol::Udp, "99-1000", &[3, 1]),
            (Protocol::Both, "150", &[2, 1]),
            (Protocol::Both, "199", &[1]),
            (Protocol::Tcp, "199", &[]),
            (Protocol::Tcp, "300", &[3]),
            (Protocol::Both, "201-299", &[]),
        ] {
            let found: Vec<_> = claims.holders(protocol, ports(text)).copied().collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn a_claim_that_is_given_up_leaves_the_others() {
        let mut claims = PortClaims::default();
        // What one gives up and another takes may overlap for a moment.
        claims.claim(Protocol::Both, ports("7-9"), &1);
        claims.claim(Protocol::Udp, ports("7"), &2);
        claims.release(Protocol::Both, ports("7-9"), &1);
        assert!(
            claims
                .holders(Protocol::Tcp, ports("1-100"))
                .next()
                .is_none()
        );
        let left: Vec<_> = claims.holders(Protocol::Both, ports("7")).collect();
        assert_eq!(left, [&2]);
        claims.release(Protocol::Udp, ports("7"), &2);
        assert!(claims.is_empty());
    }
}
