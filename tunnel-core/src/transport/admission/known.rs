//! Where clients have been let in: a bounded number of sources, and no network takes the places of others. Where all are
//! taken, the network that has most makes room.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use super::source::Source;

/// Sources that are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Each with the number of the time when a client came from there last.
    sources: HashMap<Source, u64>,
    times: u64,
    /// Of the networks that providers have, and of those that one customer may have.
    wide: Shares,
    narrow: Shares,
}

/// How many sources each network has, and since when it has any.
#[derive(Debug, Default)]
struct Shares(HashMap<IpAddr, (usize, u64)>);

impl Known {
    pub(super) fn has(&self, source: Source) -> bool {
        self.sources.contains_key(&source)
    }

    pub(super) fn add(&mut self, source: Source) {
        self.times += 1;
        if let Some(last) = self.sources.get_mut(&source) {
            *last = self.times;
            return;
        }
        if self.sources.len() >= MOST
            && let Some(leaving) = self.oldest_of_the_largest()
        {
            self.sources.remove(&leaving);
            self.wide.remove(leaving.wide());
            self.narrow.remove(leaving.narrow());
        }
        self.sources.insert(source, self.times);
        self.wide.add(source.wide(), self.times);
        self.narrow.add(source.narrow(), self.times);
    }

    fn oldest_of_the_largest(&self) -> Option<Source> {
        let wide = self.wide.largest(|_| true)?;
        let narrow = self
            .narrow
            .largest(|narrow| Source(narrow).wide() == wide)?;
        let its = self
            .sources
            .iter()
            .filter(|(source, _)| source.narrow() == narrow);
        its.min_by_key(|(_, last)| **last)
            .map(|(source, _)| *source)
    }
}

impl Shares {
    fn add(&mut self, network: IpAddr, now: u64) {
        self.0.entry(network).or_insert((0, now)).0 += 1;
    }

    fn remove(&mut self, network: IpAddr) {
        if let Some((sources, _)) = self.0.get_mut(&network) {
            *sources -= 1;
            if *sources == 0 {
                self.0.remove(&network);
            }
        }
    }

    /// The network that has most, of equal ones the one that came first.
    fn largest(&self, counts: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let networks = self.0.iter().filter(|(network, _)| counts(**network));
        networks
            .max_by_key(|(_, (sources, since))| (*sources, Reverse(*since)))
            .map(|(network, _)| *network)
    }
}

/// 4,096, more than a relay has clients.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(bits: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(bits).into())
    }

    fn v6(bits: u128) -> Source {
        Source::of(Ipv6Addr::from_bits(bits).into())
    }

    #[test]
    fn sources_are_bounded_and_the_oldest_goes() {
        let mut known = Known::default();
        for number in 0..MOST as u32 {
            known.add(v4(0x0a00_0000 + number));
        }
        known.add(v4(0x0a00_0000));
        known.add(v4(0x0a00_ffff));
        assert_eq!(known.sources.len(), MOST);
        assert!(known.has(v4(0x0a00_0000)) && known.has(v4(0x0a00_ffff)));
        assert!(!known.has(v4(0x0a00_0001)));
    }

    #[test]
    fn who_has_a_large_network_takes_no_place_of_others() {
        let mut known = Known::default();
        let others: Vec<_> = (0..100)
            .map(|i| v6((0x2001_0db8_0000 + i) << 80))
            .chain((0..100).map(|i| v6((0x2400_0000 + i) << 96)))
            .chain((0..100).map(|i| v4(0x0a00_0000 + (i << 16))))
            .collect();
        for other in &others {
            known.add(*other);
        }
        // A /48 of a provider that others have too, a provider's /32 of its own, and a /16.
        let enemies = (0..3_000)
            .flat_map(|i| {
                [
                    0x2001_0db8_ffff << 80 | i << 64,
                    0x2a00_1234 << 96 | i << 64,
                ]
                .map(v6)
            })
            .chain((0..3_000).map(|i| v4(0xc0a8_0000 + i)));
        for enemy in enemies {
            known.add(enemy);
        }
        assert_eq!(known.sources.len(), MOST);
        assert_eq!(others.iter().filter(|other| !known.has(**other)).count(), 0);
        for shares in [&known.wide, &known.narrow] {
            assert_eq!(
                shares.0.values().map(|(sources, _)| sources).sum::<usize>(),
                MOST
            );
        }
    }
}
