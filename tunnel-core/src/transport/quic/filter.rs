//! Which datagrams quinn gets to see. A pure decision on bytes: see the table in [`super`] for what it prevents.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use quinn::Side;

use super::{
    cid::CidKey,
    keys::{Suites, initial_secret, suite_of},
};
use crate::{
    key::PublicKey,
    proto::{
        handshake::Suite,
        wire::{Reader, WireError},
    },
    sync::lock,
    transport::admission::{self, Source},
};

/// Why a datagram was dropped unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// A long header of a QUIC version that is not ours, version negotiation included.
    ForeignVersion,
    /// Not a packet: cut off, or of a kind that never comes this way.
    Malformed,
    /// An Initial in less than 1,200 bytes (RFC 9000 §14.1).
    ShortInitial,
    /// An Initial that was not sealed for this relay: its author does not know the relay's public key.
    ForeignInitial,
    /// An Initial that was not opened, because strangers have had their share of the CPU.
    Unopened,
}

/// Decides which datagrams quinn gets to see.
pub(crate) struct Filter {
    cids: CidKey,
    /// What a relay opens Initials with; a client gets none from strangers.
    relay: Option<RelayFilter>,
}

struct RelayFilter {
    public_key: PublicKey,
    suites: Suites,
    admission: admission::Shared,
}

impl Filter {
    pub(super) const fn relay(
        public_key: PublicKey,
        suites: Suites,
        cids: CidKey,
        admission: admission::Shared,
    ) -> Self {
        Self {
            cids,
            relay: Some(RelayFilter {
                public_key,
                suites,
                admission,
            }),
        }
    }

    pub(super) const fn client(cids: CidKey) -> Self {
        Self { cids, relay: None }
    }

    /// Whether quinn may see `datagram` of `sender`; only its first packet matters, since only that one makes quinn
    /// answer.
    pub(crate) fn check(&self, datagram: &[u8], sender: IpAddr) -> Result<(), DropReason> {
        match datagram.first() {
            None => Err(DropReason::Malformed),
            // A short header: quinn asks the connection id's key before it answers.
            Some(first) if first & LONG == 0 => Ok(()),
            Some(_) => self.check_long(datagram, sender),
        }
    }

    fn check_long(&self, datagram: &[u8], sender: IpAddr) -> Result<(), DropReason> {
        let header = LongHeader::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let suite = suite_of(header.version).ok_or(DropReason::ForeignVersion)?;
        match (header.kind, &self.relay) {
            (Kind::Handshake, _) | (Kind::Retry, None) => Ok(()),
            (Kind::ZeroRtt, _) | (Kind::Retry, Some(_)) => Err(DropReason::Malformed),
            (Kind::Initial, None) if self.cids.made(header.destination) => Ok(()),
            (Kind::Initial, None) => Err(DropReason::ForeignInitial),
            (Kind::Initial, Some(relay)) => {
                if datagram.len() < MIN_INITIAL {
                    return Err(DropReason::ShortInitial);
                }
                let made = self.cids.made(header.destination);
                relay.check_initial(suite, datagram, header.destination, made, sender)
            }
        }
    }
}

impl RelayFilter {
    /// An Initial with an id that we `made` answers our Retry, or is of a connection that has begun: its keys follow
    /// from an id that need not be in the packet, so quinn opens it.
    fn check_initial(
        &self,
        suite: Suite,
        datagram: &[u8],
        destination: &[u8],
        made: bool,
        sender: IpAddr,
    ) -> Result<(), DropReason> {
        if !made && destination.len() < MIN_DESTINATION {
            return Err(DropReason::ForeignInitial);
        }
        let source = Source::of(sender);
        let started = Instant::now();
        if !lock(&self.admission).may_spend(started, source, made) {
            return Err(DropReason::Unopened);
        }
        if made {
            lock(&self.admission).charge(started, source, OPENING);
            return Ok(());
        }
        let opened = opens(&self.suites, suite, &self.public_key, datagram, destination);
        let now = Instant::now();
        // quinn makes the same keys and opens the same packet again.
        let times = if opened { 2 } else { 1 };
        lock(&self.admission).charge(now, source, times * (now - started));
        if opened {
            Ok(())
        } else {
            Err(DropReason::ForeignInitial)
        }
    }
}

/// What RFC 9000 §17.2 has in the clear.
struct LongHeader<'a> {
    kind: Kind,
    version: u32,
    destination: &'a [u8],
}

#[derive(Clone, Copy)]
enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

impl<'a> LongHeader<'a> {
    fn parse(datagram: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(datagram);
        let kind = match reader.u8()? >> 4 & 3 {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        };
        let version = reader.u32()?;
        let destination = cid(&mut reader)?;
        Ok(Self {
            kind,
            version,
            destination,
        })
    }
}

/// Whether the Initial packet at the start of `datagram` was sealed by someone who knows `relay`.
pub(super) fn opens(
    suites: &Suites,
    suite: Suite,
    relay: &PublicKey,
    datagram: &[u8],
    destination: &[u8],
) -> bool {
    let Ok((number_at, end)) = protected_part(datagram) else {
        return false;
    };
    let keys = suites.raw(suite, &initial_secret(relay, destination), Side::Server);
    let mut packet = datagram[..end].to_vec();
    let (header, rest) = packet.split_at_mut(number_at);
    let Some((number, sealed)) = rest.split_first_chunk_mut::<4>() else {
        return false;
    };
    let Some(sample) = sealed.get(..keys.remote.header.sample_len()) else {
        return false;
    };
    let unmasked = keys
        .remote
        .header
        .decrypt_in_place(sample, &mut header[0], number);
    if unmasked.is_err() {
        return false;
    }
    let number_len = usize::from(header[0] & 3) + 1;
    let number = number[..number_len]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (header, payload) = packet.split_at_mut(number_at + number_len);
    keys.remote
        .packet
        .decrypt_in_place(number, header, payload)
        .is_ok()
}

/// Where an Initial's packet number begins, and where the packet ends.
pub(super) fn protected_part(datagram: &[u8]) -> Result<(usize, usize), WireError> {
    let mut reader = Reader::new(datagram);
    reader.bytes(5)?;
    cid(&mut reader)?;
    cid(&mut reader)?;
    reader.prefixed(u64::MAX)?;
    let length = reader.varint_as::<usize>()?;
    let number_at = datagram.len() - reader.remaining();
    reader.bytes(length)?;
    Ok((number_at, datagram.len() - reader.remaining()))
}

fn cid<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let length = reader.u8()?;
    if length > MAX_CID {
        return Err(WireError::OutOfRange);
    }
    reader.bytes(usize::from(length))
}

const LONG: u8 = 0x80;
/// RFC 9000 §17.2.
const MAX_CID: u8 = 20;
/// RFC 9000 §7.2: quinn closes what comes with a shorter one, and so answers it.
const MIN_DESTINATION: usize = 8;
/// What an Initial that we do not open costs quinn: keys and a token, as measured, rounded up.
const OPENING: Duration = Duration::from_micros(25);
/// RFC 9000 §14.1. Clients pad every datagram with an Initial in it.
const MIN_INITIAL: usize = 1_200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::SecretKey,
        proto::{handshake::keys::Secret, testing::XorShift},
        transport::admission::{Admission, AdmissionLimits},
    };
    use quinn_proto::ConnectionIdGenerator;

    const SENDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// With CPU time for all that a test does.
    fn admission() -> admission::Shared {
        Admission::shared(AdmissionLimits {
            cpu_permille: 1_000,
            burst: Duration::from_secs(3_600),
            ..AdmissionLimits::default()
        })
    }

    fn relay() -> (Filter, PublicKey, CidKey) {
        let public_key = SecretKey::from([1; 32]).public_key();
        let cids = CidKey::new(Secret::from([2; 32]));
        let suites = Suites::load().unwrap();
        (
            Filter::relay(public_key, suites, cids.clone(), admission()),
            public_key,
            cids,
        )
    }

    /// An Initial of 1,200 bytes as a client with `relay`'s key makes it.
    fn initial(suite: Suite, relay: &PublicKey, destination: &[u8]) -> Vec<u8> {
        let keys =
            Suites::load()
                .unwrap()
                .raw(suite, &initial_secret(relay, destination), Side::Client);
        let mut header = vec![0xc1];
        header.extend_from_slice(&super::super::keys::version_of(suite).to_be_bytes());
        header.push(destination.len() as u8);
        header.extend_from_slice(destination);
        header.extend_from_slice(&[0, 0]);
        let number_at = header.len() + 2;
        let length = MIN_INITIAL - number_at;
        header.extend_from_slice(&(0x4000 | length as u16).to_be_bytes());
        header.extend_from_slice(&[0, 7]);
        let mut payload = vec![1; length - 2 - 16];
        let tag = keys
            .local
            .packet
            .encrypt_in_place(7, &header, &mut payload)
            .unwrap();
        let mut packet = header;
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let (head, rest) = packet.split_at_mut(number_at);
        let (number, sealed) = rest.split_at_mut(4);
        let sample = sealed[..16].to_vec();
        keys.local
            .header
            .encrypt_in_place(&sample, &mut head[0], &mut number[..2])
            .unwrap();
        packet
    }

    #[test]
    fn only_an_initial_sealed_for_this_relay_passes() {
        let (filter, public_key, mut cids) = relay();
        let stranger = SecretKey::from([9; 32]).public_key();
        for suite in Suite::ALL {
            let good = initial(suite, &public_key, &[5; 20]);
            assert_eq!(good.len(), MIN_INITIAL);
            assert_eq!(filter.check(&good, SENDER), Ok(()));
            for at in [0, 7, 30, 1_199] {
                let mut damaged = good.clone();
                damaged[at] ^= 1;
                assert_eq!(
                    filter.check(&damaged, SENDER),
                    Err(DropReason::ForeignInitial)
                );
            }
            let foreign = initial(suite, &stranger, &[5; 20]);
            assert_eq!(
                filter.check(&foreign, SENDER),
                Err(DropReason::ForeignInitial)
            );
            // quinn would close a connection with so short an id, and tell.
            let short_id = initial(suite, &public_key, &[5; 7]);
            assert_eq!(
                filter.check(&short_id, SENDER),
                Err(DropReason::ForeignInitial)
            );
            for end in 1..MIN_INITIAL {
                assert!(filter.check(&good[..end], SENDER).is_err(), "{end}");
            }
            // Later Initials carry the relay's id, and are quinn's to open.
            let later = initial(suite, &stranger, &cids.generate_cid());
            assert_eq!(filter.check(&later, SENDER), Ok(()));
        }
    }

    #[test]
    fn initials_beyond_the_share_are_dropped_unopened() {
        let (filter, public_key, mut cids) = relay();
        let Some(relay) = &filter.relay else {
            panic!("a relay's filter");
        };
        let other = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        let spend = |seconds| {
            for n in 0..seconds {
                let cost = Duration::from_secs(1);
                lock(&relay.admission).charge(Instant::now(), Source::of(other(n)), cost);
            }
        };
        let fresh = initial(Suite::Aes256Gcm, &public_key, &[5; 20]);
        let retried = initial(Suite::Aes256Gcm, &public_key, &cids.generate_cid());
        spend(2_600);
        assert_eq!(filter.check(&fresh, SENDER), Ok(()));
        // Three quarters are gone: the rest is for those whose address is proved, or known.
        spend(200);
        assert_eq!(filter.check(&fresh, SENDER), Err(DropReason::Unopened));
        assert_eq!(filter.check(&retried, SENDER), Ok(()));
        lock(&relay.admission).let_in(Source::of(SENDER));
        assert_eq!(filter.check(&fresh, SENDER), Ok(()));
        spend(1_000);
        assert_eq!(filter.check(&retried, SENDER), Err(DropReason::Unopened));
    }

    #[test]
    fn foreign_versions_are_dropped_and_short_headers_are_not() {
        let (filter, _, _) = relay();
        for version in [0u32, 1, 0x6b33_43cf, 0x0a1a_2a3a, 0x4144_4903] {
            let mut datagram = vec![0xc0];
            datagram.extend_from_slice(&version.to_be_bytes());
            datagram.resize(1_300, 0);
            assert_eq!(
                filter.check(&datagram, SENDER),
                Err(DropReason::ForeignVersion)
            );
        }
        assert_eq!(filter.check(&[0x40; 60], SENDER), Ok(()));
        assert_eq!(filter.check(&[], SENDER), Err(DropReason::Malformed));
    }

    #[test]
    fn a_client_takes_initials_to_its_own_ids_only() {
        let mut cids = CidKey::new(Secret::from([3; 32]));
        let filter = Filter::client(cids.clone());
        let (_, public_key, _) = relay();
        let suite = Suite::Aes256Gcm;
        let ours = initial(suite, &public_key, &cids.generate_cid());
        assert_eq!(filter.check(&ours, SENDER), Ok(()));
        let other = initial(suite, &public_key, &[5; 12]);
        assert_eq!(
            filter.check(&other, SENDER),
            Err(DropReason::ForeignInitial)
        );
    }

    #[test]
    fn random_bytes_never_panic() {
        let (filter, _, _) = relay();
        let mut random = XorShift::new(5);
        for round in 0..20_000 {
            let mut bytes = random.bytes(if round % 50 == 0 { 1_500 } else { 80 });
            if bytes.len() > 5 && round % 2 == 0 {
                bytes[0] |= LONG;
                bytes[1..5].copy_from_slice(&0x4144_4901u32.to_be_bytes());
            }
            let long = bytes.first().is_some_and(|first| first & LONG != 0);
            let handshake = bytes.first().is_some_and(|first| first >> 4 & 3 == 2);
            if long && !handshake {
                assert!(filter.check(&bytes, SENDER).is_err());
            } else {
                let _either = filter.check(&bytes, SENDER);
            }
        }
    }
}
