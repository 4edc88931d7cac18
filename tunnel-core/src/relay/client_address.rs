//! Where a client is, as far as it has been shown.
//!
//! QUIC follows the newest packet to wherever it came from and validates that address afterwards. Somebody on the path can
//! have any packet come from an address of his own. So a client is taken to have moved once it has answered what it was asked
//! since it was first seen there, and its packets have come from nowhere else meanwhile.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::transport::admission::Source;

/// Follows a client's address.
#[derive(Debug)]
pub(crate) struct ClientAddress {
    shown: IpAddr,
    claimed: Option<Claim>,
}

/// Packets come from another address than the one that was shown.
#[derive(Debug)]
struct Claim {
    ip: IpAddr,
    since: Instant,
    /// The challenges that QUIC had sent by then: it sends some whenever the address changes.
    challenges: u64,
    asked: Instant,
}

/// What QUIC says of a client's address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuicPath {
    /// Where the newest packet has come from.
    pub(crate) ip: IpAddr,
    /// PATH_CHALLENGE frames that have been sent so far.
    pub(crate) challenges: u64,
}

/// What follows from a look at the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressChange {
    /// Packets come from elsewhere: the client is to be asked whether it is there.
    Claimed,
    /// It is there, in the same network as before: the address that it had may still be its own.
    Near,
    /// It is there, in another network.
    Far,
}

impl ClientAddress {
    pub(crate) const fn new(shown: IpAddr) -> Self {
        Self {
            shown,
            claimed: None,
        }
    }

    /// Looks where packets come from now. The client has answered what left at `lived_at`.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        path: QuicPath,
        lived_at: Option<Instant>,
    ) -> Option<AddressChange> {
        if path.ip == self.shown {
            self.claimed = None;
            return None;
        }
        let claim = self.claimed.get_or_insert(Claim {
            ip: path.ip,
            since: now,
            challenges: path.challenges,
            asked: now,
        });
        let is_new = claim.since == now;
        if claim.ip != path.ip || claim.challenges != path.challenges {
            claim.ip = path.ip;
            claim.since = now;
            claim.challenges = path.challenges;
        } else if lived_at.is_some_and(|at| at > claim.since) {
            let is_near = Source::of(self.shown) == Source::of(path.ip);
            *self = Self::new(path.ip);
            return Some(if is_near {
                AddressChange::Near
            } else {
                AddressChange::Far
            });
        }
        // Heartbeats ask each second anyway.
        if is_new || (claim.since == now && now - claim.asked >= ASK_AGAIN) {
            claim.asked = now;
            return Some(AddressChange::Claimed);
        }
        None
    }
}

/// Least time between two questions to a client whose address changes all the time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

    #[test]
    fn a_client_has_moved_once_it_has_answered_from_there() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let asked = Some(AddressChange::Claimed);
        // When, where packets come from, challenges, when what the client has answered had left; what follows.
        for (name, looks) in [
            (
                "a move",
                vec![
                    (0, HOME, 0, None, None),
                    (10, AWAY, 2, Some(5), asked),
                    (20, AWAY, 2, Some(5), None),
                    (30, AWAY, 2, Some(11), Some(AddressChange::Far)),
                    (40, AWAY, 2, Some(11), None),
                ],
            ),
            (
                "a move whose challenges leave later",
                vec![
                    (10, AWAY, 0, None, asked),
                    (150, AWAY, 2, Some(11), asked),
                    (160, AWAY, 2, Some(11), None),
                    (170, AWAY, 2, Some(151), Some(AddressChange::Far)),
                ],
            ),
            (
                "a packet from elsewhere",
                vec![
                    (10, AWAY, 2, Some(5), asked),
                    (20, HOME, 4, Some(11), None),
                    (30, AWAY, 6, Some(21), asked),
                    (40, HOME, 8, Some(31), None),
                ],
            ),
            (
                "packets from elsewhere whenever it is looked at",
                vec![
                    (10, AWAY, 2, Some(5), asked),
                    (20, AWAY, 6, Some(11), None),
                    (30, AWAY, 10, Some(21), None),
                    (140, AWAY, 14, Some(31), asked),
                    (150, AWAY, 18, Some(141), None),
                ],
            ),
            (
                "two addresses",
                vec![
                    (10, AWAY, 2, Some(5), asked),
                    (20, OTHER, 4, Some(11), None),
                    (30, OTHER, 4, Some(11), None),
                    (40, OTHER, 4, Some(21), Some(AddressChange::Far)),
                ],
            ),
        ] {
            let mut address = ClientAddress::new(HOME);
            for (now, ip, challenges, lived_at, expected) in looks {
                let path = QuicPath { ip, challenges };
                let change = address.handle(at(now), path, lived_at.map(at));
                assert_eq!(change, expected, "{name} at {now}");
            }
        }
    }

    #[test]
    fn a_temporary_address_of_the_same_network_is_near() {
        let start = Instant::now();
        let [first, second] = [1u16, 2]
            .map(|last| IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last)));
        let mut address = ClientAddress::new(first);
        let path = QuicPath {
            ip: second,
            challenges: 2,
        };
        let later = start + Duration::from_millis(1);
        assert_eq!(
            address.handle(start, path, None),
            Some(AddressChange::Claimed)
        );
        assert_eq!(
            address.handle(later, path, Some(later)),
            Some(AddressChange::Near)
        );
    }
}
