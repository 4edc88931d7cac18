//! When protection is worth its bytes.

use std::time::Duration;

use crate::proto::{
    datagram::Scheme,
    redundancy::evidence::{PathEvidence, Sample},
};

/// Decides by what is known of the path whether datagrams are protected, and how.
///
/// Loss is the sender's own: QUIC's acknowledgements say which packets of this direction did not arrive, or came so late that only the
/// other side knows.
#[derive(Clone, Debug, Default)]
pub struct Adaptive {
    choice: Choice,
    evidence: PathEvidence,
    /// Bytes of datagrams that would be protected, and the time in which they came: of about [`MEMORY`].
    bytes: f64,
    seconds: f64,
}

/// How datagrams are protected at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Not at all.
    Off,
    /// By delayed copies: until it is known otherwise.
    #[default]
    Duplicate,
    /// By repairs.
    Fec,
}

impl Choice {
    /// How a datagram is protected with which there were `bytes` bytes since the last sample: what is more than copies may
    /// cost is repaired, whatever was seen before.
    pub fn scheme(self, bytes: u64) -> Option<Scheme> {
        match self {
            Self::Off => None,
            Self::Duplicate if bytes <= COPIED_AT_ONCE => Some(Scheme::Copied),
            Self::Duplicate | Self::Fec => Some(Scheme::Source),
        }
    }
}

impl Adaptive {
    /// Goes on from what is known of the path.
    pub fn new(evidence: PathEvidence) -> Self {
        let mut adaptive = Self {
            evidence,
            ..Self::default()
        };
        adaptive.choose();
        adaptive
    }

    /// Takes a measurement, of a second or less; yields the choice from now on.
    pub fn handle_sample(&mut self, sample: Sample) -> Choice {
        self.evidence.handle_sample(&sample);
        let seconds = sample.time.as_secs_f64();
        let fades = (-seconds / MEMORY.as_secs_f64()).exp();
        self.bytes = self.bytes * fades + sample.bytes as f64;
        self.seconds = self.seconds * fades + seconds;
        self.choose();
        self.choice
    }

    fn choose(&mut self) {
        let rate = self.bytes / self.seconds.max(LEAST.as_secs_f64());
        self.choice = match self.choice {
            _ if self.evidence.is_full() || self.evidence.is_proven() => Choice::Off,
            // Between the two bounds what holds goes on.
            Choice::Duplicate if rate <= COPIED_MOST * 1.25 => Choice::Duplicate,
            Choice::Fec if rate >= COPIED_MOST * 0.75 => Choice::Fec,
            _ if rate <= COPIED_MOST => Choice::Duplicate,
            _ => Choice::Fec,
        };
    }

    /// The choice that holds.
    pub const fn choice(&self) -> Choice {
        self.choice
    }

    /// Whether the other side is to be asked what arrives: losses were seen, and may be none.
    pub fn is_in_doubt(&self) -> bool {
        self.evidence.is_in_doubt()
    }

    /// What is known of the path, for the next tunnel.
    pub const fn evidence(&self) -> PathEvidence {
        self.evidence
    }

    /// Nothing was looked at for so long.
    pub fn handle_silence(&mut self, age: Duration) {
        self.evidence = self.evidence.aged(age);
        self.choose();
    }
}

/// Time over which the rate is averaged, once there is so much.
const MEMORY: Duration = Duration::from_secs(10);
/// Shortest time that a rate is taken of.
const LEAST: Duration = Duration::from_millis(500);
/// Bytes a second up to which all is sent twice: 128 kbit/s, which no uplink misses. A player or two send too rarely for
/// repairs to come sooner than a copy; beyond that repairs do, for less than half as many bytes again.
const COPIED_MOST: f64 = 16_000.0;
/// The same between two samples, half a second apart.
const COPIED_AT_ONCE: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::redundancy::probe::Told;

    const HALF: Duration = Duration::from_millis(500);

    fn new() -> Adaptive {
        Adaptive::new(PathEvidence::default())
    }

    /// On a path that has proved clean.
    fn proven() -> Adaptive {
        let mut adaptive = new();
        assert!(until(&mut adaptive, Choice::Off, 200, 0.0, 0) <= 10);
        adaptive
    }

    /// Half seconds until the choice is this one, within a minute.
    fn until(adaptive: &mut Adaptive, wanted: Choice, sent: u64, loss: f64, bytes: u64) -> usize {
        let mut owed = 0.0;
        (1..=120)
            .find(|_| {
                owed += sent as f64 * loss;
                let lost = owed as u64;
                owed -= lost as f64;
                let sample = Sample {
                    time: HALF,
                    sent,
                    lost,
                    bytes,
                    told: Told::default(),
                };
                adaptive.handle_sample(sample) == wanted
            })
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn the_first_datagram_is_protected_and_so_is_every_one_until_the_path_is_proven() {
        let mut adaptive = new();
        assert_eq!(adaptive.choice().scheme(0), Some(Scheme::Copied));
        let off = until(&mut adaptive, Choice::Off, 200, 0.0, 2_000);
        assert!((5..=20).contains(&off), "{off} half seconds");
        assert_eq!(adaptive.choice().scheme(0), None);
        let known = Adaptive::new(adaptive.evidence());
        assert_eq!(known.choice(), Choice::Off, "the next tunnel knows");
        adaptive.handle_silence(Duration::from_secs(3_600));
        assert_eq!(adaptive.choice(), Choice::Duplicate, "it is forgotten");
    }

    #[test]
    fn copies_of_more_than_they_may_cost_are_repairs_before_anything_is_measured() {
        let choice = Choice::default();
        assert_eq!(choice.scheme(9_999), Some(Scheme::Copied));
        assert_eq!(choice.scheme(10_001), Some(Scheme::Source));
        let mut adaptive = new();
        assert_eq!(until(&mut adaptive, Choice::Fec, 200, 0.0, 40_000), 1);
    }

    #[test]
    fn loss_turns_it_on_within_seconds_and_a_clean_path_off() {
        let mut adaptive = proven();
        let (sent, bytes) = (200, 30_000);
        assert_eq!(
            until(&mut adaptive, Choice::Fec, sent, 0.0, bytes),
            usize::MAX
        );
        let on = until(&mut adaptive, Choice::Fec, sent, 0.01, bytes);
        assert!(on <= 20, "{on} half seconds");
        let off = until(&mut adaptive, Choice::Off, sent, 0.0, bytes);
        // The loss has to fade, and then to stay away.
        assert!((40..=110).contains(&off), "{off} half seconds");
    }

    #[test]
    fn few_bytes_are_sent_twice_and_many_are_repaired() {
        let mut adaptive = proven();
        let few = until(&mut adaptive, Choice::Duplicate, 50, 0.02, 2_500);
        assert!(few <= 20, "{few} half seconds");
        assert_eq!(
            until(&mut adaptive, Choice::Fec, 50, 0.02, 8_500),
            usize::MAX,
            "a little more than the bound changes nothing"
        );
        assert!(until(&mut adaptive, Choice::Fec, 50, 0.02, 20_000) < 40);
        assert_eq!(
            until(&mut adaptive, Choice::Duplicate, 50, 0.02, 7_500),
            usize::MAX,
            "nor does a little less"
        );
    }

    #[test]
    fn a_single_burst_on_a_busy_path_does_not_turn_it_on() {
        let mut adaptive = proven();
        until(&mut adaptive, Choice::Fec, 2_000, 0.0, 100_000);
        let burst = Sample {
            time: HALF,
            sent: 2_000,
            lost: 20,
            bytes: 100_000,
            told: Told::default(),
        };
        assert_eq!(adaptive.handle_sample(burst), Choice::Off);
    }

    #[test]
    fn a_path_that_is_full_is_not_filled_further() {
        let mut adaptive = new();
        assert!(until(&mut adaptive, Choice::Fec, 1_000, 0.05, 100_000) < 20);
        assert!(until(&mut adaptive, Choice::Off, 1_000, 0.4, 100_000) < 40);
        assert_eq!(
            until(&mut adaptive, Choice::Fec, 1_000, 0.4, 100_000),
            usize::MAX
        );
        assert!(until(&mut adaptive, Choice::Fec, 1_000, 0.05, 100_000) < 120);
    }

    #[test]
    fn the_first_packets_do_not_make_a_path_full() {
        let mut adaptive = new();
        for lost in [1, 1, 0, 1] {
            let sample = Sample {
                time: HALF,
                sent: 3,
                lost,
                bytes: 100,
                told: Told::default(),
            };
            assert_eq!(adaptive.handle_sample(sample), Choice::Duplicate);
        }
    }

    #[test]
    fn a_spell_of_loss_does_not_keep_it_on() {
        let mut adaptive = proven();
        let (sent, bytes) = (200, 30_000);
        until(&mut adaptive, Choice::Fec, sent, 0.0, bytes);
        for _ in 0..4 {
            adaptive.handle_sample(Sample {
                time: HALF,
                sent,
                lost: sent / 20,
                bytes,
                told: Told::default(),
            });
        }
        assert_eq!(adaptive.choice(), Choice::Fec);
        let off = until(&mut adaptive, Choice::Off, sent, 0.0, bytes);
        assert!(off <= 110, "{off} half seconds");
        assert_eq!(
            until(&mut adaptive, Choice::Fec, sent, 0.0, bytes),
            usize::MAX
        );
    }

    #[test]
    fn loss_between_the_bounds_changes_nothing() {
        let mut adaptive = proven();
        assert_eq!(
            until(&mut adaptive, Choice::Fec, 1_000, 0.002, 100_000),
            usize::MAX
        );
        assert!(until(&mut adaptive, Choice::Fec, 1_000, 0.01, 100_000) < 20);
        assert_eq!(
            until(&mut adaptive, Choice::Off, 1_000, 0.002, 100_000),
            usize::MAX
        );
    }
}
