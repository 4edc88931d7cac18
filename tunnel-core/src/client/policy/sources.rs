//! From which addresses of this machine a tunnel's connections leave.

use std::net::IpAddr;

/// From which addresses of this machine a tunnel's connections have left.
///
/// A new address does not make the former one useless: where temporary IPv6 addresses rotate, what stands on the old one goes
/// on for hours. Only what is gone is given up.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<IpAddr>);

/// What a look at them has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceChange {
    /// New connections leave from another address. What stands on the former one may lead nowhere.
    Another,
    /// An address is not this machine's any more: what stands on it hangs for minutes.
    Gone {
        /// It was the first, from which the tunnel's first connection has left.
        is_first: bool,
    },
}

impl Sources {
    /// Connections leave from `now`, as far as there is a network; `is_ours` says whether an address is this machine's.
    pub(crate) fn handle_look(
        &mut self,
        now: Option<IpAddr>,
        is_ours: impl Fn(IpAddr) -> bool,
    ) -> Option<SourceChange> {
        // Without a network there is nothing to compare.
        let now = now?;
        let first = self.0.first().copied();
        let before = self.0.len();
        self.0.retain(|source| *source == now || is_ours(*source));
        let is_gone = self.0.len() < before;
        let is_another = !self.0.contains(&now);
        if is_another {
            if self.0.len() == SOURCES_MAX {
                self.0.remove(1);
            }
            self.0.push(now);
        }
        if is_gone {
            let is_first = first != self.0.first().copied();
            return Some(SourceChange::Gone { is_first });
        }
        (is_another && before > 0).then_some(SourceChange::Another)
    }
}

/// Eight: a day of addresses that rotate every few hours.
const SOURCES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_is_gone_is_given_up() {
        use SourceChange::{Another, Gone};
        let (a, b, c): (IpAddr, IpAddr, IpAddr) = (
            "2001:db8::a".parse().unwrap(),
            "2001:db8::b".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
        );
        let first = Some(Gone { is_first: true });
        let later = Some(Gone { is_first: false });
        // From where connections leave, which addresses this machine has, and what that means.
        type Look<'a> = (Option<IpAddr>, &'a [IpAddr], Option<SourceChange>);
        let cases: [(&str, &[Look<'_>]); 5] = [
            (
                "nothing happens",
                &[(Some(a), &[a], None), (Some(a), &[a], None)],
            ),
            (
                "the network goes and comes back",
                &[
                    (Some(a), &[a], None),
                    (None, &[], None),
                    (Some(a), &[a], None),
                ],
            ),
            (
                "another address takes its place",
                &[
                    (Some(a), &[a], None),
                    (Some(c), &[c], first),
                    (Some(c), &[c], None),
                ],
            ),
            (
                "a temporary address rotates, and the old one ends hours later",
                &[
                    (Some(a), &[a], None),
                    (Some(b), &[a, b], Some(Another)),
                    (Some(b), &[a, b], None),
                    (Some(b), &[b], first),
                    (Some(b), &[b], None),
                ],
            ),
            (
                "a second line comes and goes",
                &[
                    (Some(a), &[a], None),
                    (Some(c), &[a, c], Some(Another)),
                    (Some(a), &[a], later),
                ],
            ),
        ];
        for (name, looks) in cases {
            let mut sources = Sources::default();
            for (at, (now, ours, expected)) in looks.iter().enumerate() {
                let change = sources.handle_look(*now, |source| ours.contains(&source));
                assert_eq!(change, *expected, "{name}, look {at}");
            }
        }
    }

    #[test]
    fn addresses_without_end_take_no_room_without_end() {
        let mut sources = Sources::default();
        for n in 0..100_u16 {
            let now = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
            sources.handle_look(Some(now), |_| true);
        }
        assert_eq!(sources.0.len(), SOURCES_MAX);
        assert_eq!(sources.0[0], "2001:db8::".parse::<IpAddr>().unwrap());
    }
}
