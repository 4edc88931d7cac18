//! Lists of addresses: who may not play.

use std::net::IpAddr;

pub use ipnet::IpNet;

/// Networks of both families. A look-up takes 17 steps for 100,000 networks and allocates nothing. IPv4-mapped addresses of IPv6 are
/// those of IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressList {
    /// First and last addresses, sorted, without overlap.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl AddressList {
    /// Whether an address is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => is_in(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => is_in(&self.v6, v6.to_bits()),
        }
    }

    /// How many separate ranges there are, once networks that touch are one.
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no address is in it.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<IpNet> for AddressList {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut list = Self::default();
        for network in networks {
            let (first, last) = (network.network(), network.broadcast());
            match (first.to_canonical(), last.to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    list.v4.push((first.to_bits(), last.to_bits()));
                }
                _ => {
                    let bits = |ip| match ip {
                        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                        IpAddr::V6(v6) => v6.to_bits(),
                    };
                    list.v6.push((bits(first), bits(last)));
                }
            }
        }
        list.v4 = merged(list.v4, |last| last.checked_add(1));
        list.v6 = merged(list.v6, |last| last.checked_add(1));
        list
    }
}

fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && ranges[after - 1].1 >= address
}

/// The same addresses in as few ranges as there can be.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(end) if next(end.1).is_none_or(|next| first <= next) => end.1 = end.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.shrink_to_fit();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(networks: &[&str]) -> AddressList {
        networks
            .iter()
            .map(|it| it.parse::<IpNet>().unwrap())
            .collect()
    }

    #[test]
    fn an_address_is_in_the_list_if_it_is_in_one_of_the_networks() {
        let networks = [
            "192.0.2.0/25",
            "192.0.2.128/25",
            "192.0.2.7/32",
            "255.255.255.0/24",
            "198.51.100.9/32",
            "2001:db8::/32",
            "2001:db8:1::/48",
            "::ffff:203.0.113.0/120",
            "ffff::/16",
        ];
        let all = list(&networks);
        assert_eq!(all.len(), 6);
        for (address, expected) in [
            ("192.0.1.255", false),
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.9", true),
            ("255.255.255.255", true),
            ("255.255.254.255", false),
            ("198.51.100.8", false),
            ("198.51.100.9", true),
            ("203.0.113.77", true),
            ("0.0.0.0", false),
            ("2001:db7:ffff::", false),
            ("2001:db8::", true),
            ("2001:db8:ffff:ffff::1", true),
            ("2001:db9::", false),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
        ] {
            assert_eq!(
                all.contains(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        assert!(list(&[]).is_empty());
        assert!(list(&["0.0.0.0/0"]).contains("203.0.113.1".parse().unwrap()));
        assert!(!list(&["0.0.0.0/0"]).contains("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn a_long_list_agrees_with_its_networks_one_by_one() {
        let networks: Vec<IpNet> = (0..3_000_u32)
            .map(|n| {
                let bits = n.wrapping_mul(2_654_435_761);
                let length = 12 + (n % 21) as u8;
                IpNet::new(IpAddr::V4(bits.into()), length).unwrap()
            })
            .collect();
        let all: AddressList = networks.iter().copied().collect();
        for n in 0..3_000_u32 {
            let address = IpAddr::V4((n.wrapping_mul(40_503) << 8 | n & 255).into());
            let expected = networks.iter().any(|it| it.contains(&address));
            assert_eq!(all.contains(address), expected, "{address}");
        }
    }
}
