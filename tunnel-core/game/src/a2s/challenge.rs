//! Challenges without state: who repeats one has received it at its address.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

/// Issues and checks challenges: an HMAC of the address and of a slot of time, so that nothing is kept of who asks.
#[derive(Debug)]
pub struct Challenges(hmac::Key);

impl Challenges {
    /// `secret` is 32 random bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// What an address has to repeat in this slot of time or the next.
    pub fn issue(&self, player: SocketAddr, slot: u64) -> [u8; 4] {
        let mut input = [0; 26];
        input[..8].copy_from_slice(&slot.to_le_bytes());
        let ip = match player.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        input[8..24].copy_from_slice(&ip.octets());
        input[24..].copy_from_slice(&player.port().to_le_bytes());
        match self.first(&input) {
            // Clients send the one to ask for a challenge, and take the other for none.
            [0xff, 0xff, 0xff, 0xff] | [0, 0, 0, 0] => [1, 0, 0, 0],
            challenge => challenge,
        }
    }

    /// Whether an address has repeated what it was told in this slot of time or in the one before.
    pub fn holds(&self, player: SocketAddr, slot: u64, challenge: [u8; 4]) -> bool {
        [slot, slot.wrapping_sub(1)]
            .into_iter()
            .any(|slot| self.issue(player, slot) == challenge)
    }

    /// A number that belongs to the secret and says nothing about it.
    pub(crate) fn guid(&self) -> u64 {
        let [low, high] = [&b"guid-low"[..], b"guid-high"].map(|name| self.first(name));
        u64::from(u32::from_le_bytes(low)) | u64::from(u32::from_le_bytes(high)) << 32
    }

    fn first(&self, input: &[u8]) -> [u8; 4] {
        let tag = hmac::sign(&self.0, input);
        let mut first = [0; 4];
        for (to, from) in first.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        first
    }
}
