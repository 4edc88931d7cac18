//! Front ends whose word is taken for who connects.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A network of front ends, such as `10.0.0.0/8` or `2001:db8::1`, each of whose connections begins with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrustedProxy(IpNet);

impl TrustedProxy {
    /// Whether an address is in it; an IPv4 address also as a mapped one.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for TrustedProxy {
    type Err = TrustedProxyError;

    fn from_str(text: &str) -> Result<Self, TrustedProxyError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => (text.parse()).map_err(|_| TrustedProxyError::Form(shown(text)))?,
        };
        if network.addr() != network.network() {
            return Err(TrustedProxyError::HostBits(network.trunc().to_string()));
        }
        if network.prefix_len() == 0 {
            return Err(TrustedProxyError::Everybody);
        }
        if network.addr().to_canonical() != network.addr() {
            return Err(TrustedProxyError::Mapped);
        }
        Ok(Self(network))
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<TrustedProxy> for IpNet {
    fn from(TrustedProxy(network): TrustedProxy) -> Self {
        network
    }
}

/// Why a text is no network of front ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustedProxyError {
    /// Neither an address nor a network.
    #[error("not an address or a network: {0:?} (expected 10.0.0.0/8 or 2001:db8::1)")]
    Form(String),
    /// An address within the network stands for it.
    #[error("the address has bits behind its prefix: the network is {0}")]
    HostBits(String),
    /// A network of all addresses.
    #[error("every player could claim to be any other: name the front ends alone")]
    Everybody,
    /// An IPv4 network in the form of IPv6.
    #[error("write IPv4 as such, 10.0.0.0/8, not as a mapped address")]
    Mapped,
}

/// As much of a text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written_and_hold_what_is_in_them() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            let network: TrustedProxy = text.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
    }

    #[test]
    fn what_is_no_network_or_trusts_everybody_is_refused() {
        for (text, error) in [
            (
                "10.0.0.1/8",
                TrustedProxyError::HostBits("10.0.0.0/8".into()),
            ),
            ("0.0.0.0/0", TrustedProxyError::Everybody),
            ("::/0", TrustedProxyError::Everybody),
            ("::ffff:10.0.0.0/104", TrustedProxyError::Mapped),
            ("::ffff:10.0.0.1", TrustedProxyError::Mapped),
            ("10.0.0.0/33", TrustedProxyError::Form("10.0.0.0/33".into())),
            (
                "proxy.example",
                TrustedProxyError::Form("proxy.example".into()),
            ),
            ("", TrustedProxyError::Form(String::new())),
        ] {
            assert_eq!(text.parse::<TrustedProxy>(), Err(error), "{text}");
        }
        let long = "a".repeat(100_000).parse::<TrustedProxy>().unwrap_err();
        assert!(long.to_string().len() < 200);
    }
}
