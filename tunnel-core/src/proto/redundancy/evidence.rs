//! What is known of a path's losses, and how it outlives a tunnel.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use crate::proto::redundancy::probe::Told;

/// What was measured since the last sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How long that was.
    pub time: Duration,
    /// Packets sent.
    pub sent: u64,
    /// Packets found lost.
    pub lost: u64,
    /// Bytes of datagrams that would be protected.
    pub bytes: u64,
    /// What the other side has told.
    pub told: Told,
}

/// What a tunnel has seen its path lose. Nothing at first: a path is taken for lossy until it is proven clean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathEvidence {
    /// Packets of about the last [`MEMORY`], older ones counting less, as QUIC sees them.
    packets: Share,
    /// Datagrams of that time, as the other side has told.
    told: Share,
    /// How long loss has been below [`CLEAN`], and how many packets were sent meanwhile.
    calm: Duration,
    calm_sent: u64,
    has_lost: bool,
    is_proven: bool,
}

/// Things sent and lost, older ones counting less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    sent: f64,
    lost: f64,
}

impl Share {
    fn add(&mut self, fades: f64, sent: u64, lost: f64) {
        self.sent = self.sent * fades + sent as f64;
        self.lost = self.lost * fades + lost;
    }

    fn ratio(self) -> f64 {
        self.lost / self.sent.max(1.0)
    }

    fn is_lossy(self) -> bool {
        self.ratio() >= LOSSY && self.lost >= LOST_LEAST
    }
}

impl PathEvidence {
    /// Takes a measurement.
    pub(super) fn handle_sample(&mut self, sample: &Sample) {
        // Few packets are remembered for longer, for they say as much only together.
        let by_time = sample.time.as_secs_f64() / MEMORY.as_secs_f64();
        let by_packets = sample.sent as f64 / PROOF as f64;
        let fades = (-by_time.min(by_packets)).exp();
        self.packets.add(fades, sample.sent, sample.lost as f64);
        self.told
            .add(fades, sample.told.sent, sample.told.lost as f64);
        self.has_lost |= sample.lost > 0;
        if self.is_clean() {
            self.calm += sample.time;
            self.calm_sent = self.calm_sent.saturating_add(sample.sent);
        } else {
            (self.calm, self.calm_sent) = (Duration::ZERO, 0);
        }
        self.is_proven = if self.is_proven {
            !self.is_lossy()
        } else {
            let least = if self.has_lost { CALM } else { FIRST_CALM };
            self.calm >= least && self.calm_sent >= PROOF
        };
    }

    /// Whether hardly anything is lost: in QUIC's eyes, or in those of the other side, which knows what came late.
    fn is_clean(&self) -> bool {
        self.packets.ratio() < CLEAN
            || self.is_told() && self.told.lost < LOST_LEAST + self.told.sent * TOLD_CLEAN
    }

    fn is_lossy(&self) -> bool {
        self.packets.is_lossy() && (!self.is_told() || self.told.is_lossy())
    }

    /// Whether the other side has told enough.
    fn is_told(&self) -> bool {
        self.told.sent >= TOLD_LEAST
    }

    /// Whether to ask the other side what arrives.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.packets.lost >= DOUBT
    }

    /// Whether the path is known to lose next to nothing.
    pub const fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Whether the path is full or gone: more packets are no help.
    pub(super) fn is_full(&self) -> bool {
        let is_full = |share: Share| share.ratio() >= FULL && share.lost >= FULL_LEAST;
        is_full(self.packets) && (!self.is_told() || is_full(self.told))
    }

    /// What is left of it after so long without a look.
    pub fn aged(self, age: Duration) -> Self {
        if age < FORGOTTEN {
            self
        } else {
            Self::default()
        }
    }
}

/// Evidence kept from one tunnel to the next: of each peer the newest, and of the address at which it was found.
#[derive(Debug)]
pub struct KeptEvidence<Peer, Address> {
    most: usize,
    kept: HashMap<Peer, Kept<Address>>,
}

#[derive(Debug)]
struct Kept<Address> {
    address: Address,
    at: Instant,
    evidence: PathEvidence,
}

impl<Peer: Copy + Eq + Hash, Address: PartialEq> KeptEvidence<Peer, Address> {
    /// Evidence of at most `most` peers.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            kept: HashMap::new(),
        }
    }

    /// What is known of the path to a peer at this address.
    pub fn get(&self, now: Instant, peer: &Peer, address: &Address) -> PathEvidence {
        let kept = self.kept.get(peer).filter(|it| it.address == *address);
        kept.map_or_else(PathEvidence::default, |it| {
            it.evidence.aged(now.saturating_duration_since(it.at))
        })
    }

    /// Keeps what a tunnel knows now. Where too many are kept, the one that was not heard of for longest goes.
    pub fn keep(&mut self, now: Instant, peer: Peer, address: Address, evidence: PathEvidence) {
        if self.kept.len() >= self.most
            && !self.kept.contains_key(&peer)
            && let Some((oldest, _)) = self.kept.iter().min_by_key(|(_, kept)| kept.at)
        {
            let oldest = *oldest;
            self.kept.remove(&oldest);
        }
        let kept = Kept {
            address,
            at: now,
            evidence,
        };
        self.kept.insert(peer, kept);
    }
}

/// Time in which a measurement fades to a third: at 1 % loss ten losses of a single player's 100 packets a second.
const MEMORY: Duration = Duration::from_secs(10);
/// Packets without loss that prove a path: one that loses 1 % shows as many in a row once in two million. Fewer are
/// remembered for longer than [`MEMORY`].
const PROOF: u64 = 1_000;
/// Share lost from which on a proven path is lossy again.
const LOSSY: f64 = 0.003;
/// Share below which a path is clean: there and back it loses less than the one in a thousand that protection leaves.
const CLEAN: f64 = 0.0005;
/// Datagrams that the other side has to have told of: at 1 % five are lost, and of a thousand that follow without a doubt none.
const TOLD_LEAST: f64 = 500.0;
/// Share of them that may seem lost, beside [`LOST_LEAST`], on a clean path: what is late while the other side answers comes later.
const TOLD_CLEAN: f64 = 0.001;
/// Losses from which on the other side is asked: one that is not long ago.
const DOUBT: f64 = 0.3;
/// Share from which on the path is full or gone.
const FULL: f64 = 0.2;
/// Losses below which a path is not full: a few of a few packets say nothing.
const FULL_LEAST: f64 = 10.0;
/// Losses below which a proven path is not lossy: a single one says no more than that there are packets.
const LOST_LEAST: f64 = 2.5;
/// How long a path that has lost stays clean before it is proven: losses come in spells.
const CALM: Duration = Duration::from_secs(20);
/// The same for a path that has never lost: a thousand packets may be gone within a moment.
const FIRST_CALM: Duration = Duration::from_secs(5);
/// Age at which evidence is worth nothing: another time of the day, or a line that somebody else fills.
const FORGOTTEN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::redundancy::Told;

    fn sample(sent: u64, lost: u64) -> Sample {
        Sample {
            time: Duration::from_millis(500),
            sent,
            lost,
            bytes: 0,
            told: Told::default(),
        }
    }

    fn proven() -> PathEvidence {
        let mut evidence = PathEvidence::default();
        for _ in 0..20 {
            evidence.handle_sample(&sample(200, 0));
        }
        assert!(evidence.is_proven());
        evidence
    }

    #[test]
    fn evidence_is_of_one_peer_at_one_address_and_fades() {
        let now = Instant::now();
        let mut kept = KeptEvidence::new(3);
        kept.keep(now, 1, "home", proven());
        assert!(kept.get(now, &1, &"home").is_proven());
        assert!(!kept.get(now, &1, &"elsewhere").is_proven());
        assert!(!kept.get(now, &2, &"home").is_proven());
        let later = now + FORGOTTEN;
        assert!(!kept.get(later, &1, &"home").is_proven());
        kept.keep(later, 1, "elsewhere", proven());
        assert!(kept.get(later, &1, &"elsewhere").is_proven());
        assert!(!kept.get(later, &1, &"home").is_proven(), "one of each");
    }

    #[test]
    fn as_many_peers_are_remembered_as_may_be_and_the_newest_stay() {
        let mut now = Instant::now();
        let mut kept = KeptEvidence::new(3);
        for peer in 0..100 {
            now += Duration::from_secs(1);
            kept.keep(now, peer, (), proven());
            // One that is heard of again and again is never the oldest.
            kept.keep(now, 0, (), proven());
            assert!(kept.kept.len() <= 3);
        }
        let known = (0..100).filter(|peer| kept.get(now, peer, &()).is_proven());
        assert_eq!(known.collect::<Vec<_>>(), [0, 98, 99]);
    }

    #[test]
    fn few_packets_prove_a_path_as_well_as_many_do_only_later() {
        let mut evidence = PathEvidence::default();
        let seconds = (1..).find(|_| {
            evidence.handle_sample(&sample(1, 0));
            evidence.handle_sample(&sample(1, 0));
            evidence.is_proven()
        });
        assert_eq!(seconds, Some(PROOF / 2));
        // Nor is it forgotten between two losses that are a minute apart.
        let seconds = (1..).find(|second| {
            evidence.handle_sample(&sample(2, u64::from(second % 60 == 0)));
            !evidence.is_proven()
        });
        assert!(seconds.is_some_and(|it| it <= 5 * 60), "{seconds:?}");
    }

    #[test]
    fn a_flood_proves_nothing_within_a_moment() {
        let mut evidence = PathEvidence::default();
        for _ in 0..9 {
            evidence.handle_sample(&sample(10_000, 0));
            assert!(!evidence.is_proven());
        }
        evidence.handle_sample(&sample(10_000, 0));
        assert!(evidence.is_proven());
    }
}
