//! How long QUIC is left alone once it has failed.

use std::time::{Duration, Instant};

/// How long a client stays on lanes once QUIC has failed it. QUIC that has come back and fails soon again is left alone for
/// longer and longer.
#[derive(Debug)]
pub(crate) struct Damper {
    /// Since when the tunnel has been on QUIC, and whether it came back there.
    on_quic: Option<(Instant, bool)>,
    is_on_lanes: bool,
    hold: Duration,
    until: Option<Instant>,
}

impl Damper {
    pub(crate) const fn new() -> Self {
        Self {
            on_quic: None,
            is_on_lanes: false,
            hold: Duration::ZERO,
            until: None,
        }
    }

    /// A tunnel stands, on QUIC or on lanes.
    pub(crate) fn handle_up(&mut self, now: Instant, is_lane: bool) {
        let was_on_lanes = std::mem::replace(&mut self.is_on_lanes, is_lane);
        if !is_lane {
            self.on_quic.get_or_insert((now, was_on_lanes));
            return;
        }
        let Some((since, has_come_back)) = self.on_quic.take() else {
            return;
        };
        let stood = now.saturating_duration_since(since);
        self.hold = if has_come_back && stood < self.hold.max(SOUND_AFTER) {
            (self.hold * 2).clamp(HOLD_LEAST, HOLD_MOST)
        } else {
            Duration::ZERO
        };
        self.until = Some(now + self.hold);
    }

    /// The relay's process is another: what ended with the last one was no fault of the path.
    pub(crate) const fn handle_other_relay(&mut self) {
        self.on_quic = None;
    }

    /// Until when QUIC is left alone.
    pub(crate) const fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// A path that has stood for so long is sound.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// First time for which QUIC is left alone after it has failed again.
const HOLD_LEAST: Duration = Duration::from_secs(30);
/// Longest such time. Lanes carry everything meanwhile.
const HOLD_MOST: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        enum Event {
            Quic,
            Lane,
            OtherRelay,
        }
        use Event::{Lane, OtherRelay, Quic};
        // The seconds until the next event, the event, and for how long QUIC is left alone then, where it is.
        type Case<'a> = (&'a str, &'a [(u64, Event, u64)]);
        let cases: [Case<'_>; 6] = [
            ("lanes from the start", &[(0, Lane, 0), (9, Lane, 0)]),
            (
                "the first failure may be a black-out",
                &[(0, Quic, 0), (8, Lane, 0)],
            ),
            (
                "relapses",
                &[
                    (0, Quic, 0),
                    (8, Lane, 0),
                    (20, Quic, 0),
                    (8, Lane, 30),
                    (50, Quic, 0),
                    (8, Lane, 60),
                    (80, Quic, 0),
                    // Longer than it had to stay away.
                    (61, Lane, 0),
                    (20, Quic, 0),
                    (8, Lane, 30),
                ],
            ),
            (
                "from one port to the next it is the same stay",
                &[
                    (0, Lane, 0),
                    (9, Quic, 0),
                    (40, Quic, 0),
                    (40, Lane, 0),
                    (9, Quic, 0),
                    (5, Lane, 30),
                ],
            ),
            (
                "a relay that starts again",
                &[(0, Lane, 0), (9, Quic, 0), (5, OtherRelay, 0), (0, Lane, 0)],
            ),
            (
                "the longest",
                &[
                    (0, Lane, 0),
                    (9, Quic, 0),
                    (9, Lane, 30),
                    (9, Quic, 0),
                    (9, Lane, 60),
                    (9, Quic, 0),
                    (9, Lane, 120),
                    (9, Quic, 0),
                    (9, Lane, 240),
                    (9, Quic, 0),
                    (9, Lane, 480),
                    (9, Quic, 0),
                    (9, Lane, 600),
                ],
            ),
        ];
        for (name, seen) in cases {
            let (mut damper, mut now) = (Damper::new(), Instant::now());
            for (at, (later, seen, hold)) in seen.iter().enumerate() {
                now += Duration::from_secs(*later);
                match seen {
                    Quic => damper.handle_up(now, false),
                    Lane => damper.handle_up(now, true),
                    OtherRelay => damper.handle_other_relay(),
                }
                if matches!(seen, Lane) {
                    let left = damper.until().map_or(0, |until| (until - now).as_secs());
                    assert_eq!(left, *hold, "{name}, {at}");
                }
            }
        }
    }
}
