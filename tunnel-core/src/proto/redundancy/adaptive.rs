//! When protection is worth its bytes.

use std::time::Duration;

/// Decides by measured loss whether datagrams are protected, and how.
///
/// Loss is the sender's own: QUIC's acknowledgements say which packets of this direction did not arrive.
#[derive(Clone, Debug, Default)]
pub struct Adaptive {
    choice: Choice,
    /// Packets of about the last [`MEMORY`], older ones counting less.
    sent: f64,
    lost: f64,
    /// Bytes a second of datagrams that would be protected, over about [`MEMORY`].
    rate: f64,
    /// How long loss has been below [`CLEAN`].
    clean: Duration,
}

/// How datagrams are protected at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Not at all.
    #[default]
    Off,
    /// By delayed copies.
    Duplicate,
    /// By repairs.
    Fec,
}

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
}

impl Adaptive {
    /// Off, having measured nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a measurement, of a second or less; yields the choice from now on.
    pub fn handle_sample(&mut self, sample: Sample) -> Choice {
        let fades = (-sample.time.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.sent = self.sent * fades + sample.sent as f64;
        self.lost = self.lost * fades + sample.lost as f64;
        self.rate = self.rate * fades + sample.bytes as f64 / MEMORY.as_secs_f64();
        let loss = self.lost / self.sent.max(1.0);
        self.clean = if loss < CLEAN {
            self.clean + sample.time
        } else {
            Duration::ZERO
        };
        let is_lossy = loss >= LOSSY && self.lost >= LOST_LEAST;
        self.choice = match self.choice {
            _ if loss >= FULL => Choice::Off,
            Choice::Off if !is_lossy => Choice::Off,
            Choice::Duplicate | Choice::Fec if self.clean >= CALM => Choice::Off,
            // Between the two bounds what holds goes on.
            Choice::Duplicate if self.rate <= COPIED_MOST * 1.25 => Choice::Duplicate,
            Choice::Fec if self.rate >= COPIED_MOST * 0.75 => Choice::Fec,
            _ if self.rate <= COPIED_MOST => Choice::Duplicate,
            _ => Choice::Fec,
        };
        self.choice
    }

    /// The choice that holds.
    pub const fn choice(&self) -> Choice {
        self.choice
    }
}

/// Time in which a measurement fades to a third: at 1 % loss ten losses of a single player's 100 packets a second.
const MEMORY: Duration = Duration::from_secs(10);
/// Share of packets lost from which on protection is worth its bytes: 0.3 % is one in ten seconds of a player who
/// gets 30 a second, and three times what a clean line shows.
const LOSSY: f64 = 0.003;
/// Share below which a path is clean.
const CLEAN: f64 = 0.001;
/// Share from which on the path is full or gone: more packets are no help.
const FULL: f64 = 0.2;
/// Losses below which nothing is known yet: a single one says no more than that there are packets.
const LOST_LEAST: f64 = 2.5;
/// How long a path stays clean before protection ends: losses come in spells.
const CALM: Duration = Duration::from_secs(20);
/// Bytes a second up to which all is sent twice: 128 kbit/s, which no uplink misses. A player or two send too rarely for
/// repairs to come sooner than a copy; beyond that repairs do, for less than half as many bytes again.
const COPIED_MOST: f64 = 16_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Duration = Duration::from_millis(500);

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
                };
                adaptive.handle_sample(sample) == wanted
            })
            .unwrap_or(usize::MAX)
    }

    #[test]
    fn loss_turns_it_on_within_seconds_and_a_clean_path_off() {
        let mut adaptive = Adaptive::new();
        let (sent, bytes) = (200, 30_000);
        assert_eq!(
            until(&mut adaptive, Choice::Fec, sent, 0.0, bytes),
            usize::MAX
        );
        let on = until(&mut adaptive, Choice::Fec, sent, 0.01, bytes);
        assert!(on <= 20, "{on} half seconds");
        let off = until(&mut adaptive, Choice::Off, sent, 0.0, bytes);
        // The loss has to fade, and then to stay away.
        assert!((40..=100).contains(&off), "{off} half seconds");
    }

    #[test]
    fn few_bytes_are_sent_twice_and_many_are_repaired() {
        let mut adaptive = Adaptive::new();
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
        let mut adaptive = Adaptive::new();
        until(&mut adaptive, Choice::Fec, 2_000, 0.0, 100_000);
        let burst = Sample {
            time: HALF,
            sent: 2_000,
            lost: 20,
            bytes: 100_000,
        };
        assert_eq!(adaptive.handle_sample(burst), Choice::Off);
    }

    #[test]
    fn a_path_that_is_full_is_not_filled_further() {
        let mut adaptive = Adaptive::new();
        assert!(until(&mut adaptive, Choice::Fec, 1_000, 0.05, 100_000) < 20);
        assert!(until(&mut adaptive, Choice::Off, 1_000, 0.4, 100_000) < 40);
        assert_eq!(
            until(&mut adaptive, Choice::Fec, 1_000, 0.4, 100_000),
            usize::MAX
        );
        assert!(until(&mut adaptive, Choice::Fec, 1_000, 0.05, 100_000) < 120);
    }

    #[test]
    fn a_spell_of_reordering_that_looks_like_loss_does_not_keep_it_on() {
        let mut adaptive = Adaptive::new();
        let (sent, bytes) = (200, 30_000);
        until(&mut adaptive, Choice::Fec, sent, 0.0, bytes);
        // For 2 s one packet in twenty comes late, and QUIC takes it for lost.
        for _ in 0..4 {
            adaptive.handle_sample(Sample {
                time: HALF,
                sent,
                lost: sent / 20,
                bytes,
            });
        }
        assert_eq!(adaptive.choice(), Choice::Fec);
        let off = until(&mut adaptive, Choice::Off, sent, 0.0, bytes);
        assert!(off <= 90, "{off} half seconds");
        assert_eq!(
            until(&mut adaptive, Choice::Fec, sent, 0.0, bytes),
            usize::MAX
        );
    }

    #[test]
    fn loss_between_the_bounds_changes_nothing() {
        let mut adaptive = Adaptive::new();
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
