//! Who makes room for a new flow: what a flow is worth to whoever plays on it, told by what has passed.

use std::time::{Duration, Instant};

/// How often a game must have answered for a flow to count as a conversation that is to be kept. 8: a name look-up or a
/// browser's query of a server takes up to four, a game has had as many within its first second.
pub const SETTLED: u8 = 8;

/// How long after its last answer a settled flow is still live. 10 s: a game is heard many times a second, and one that
/// pauses between two maps is back by then.
pub const LIVE: Duration = Duration::from_secs(10);

/// How long the game may take to answer, and a player to ask again. 2 s: a round trip of 600 ms with a loss in it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What a flow has been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The game has never answered.
    Unanswered,
    /// It has answered a few times: a query, or a conversation that has just begun.
    Passing,
    /// It has answered so often that somebody plays.
    Settled,
}

impl Standing {
    pub(super) const COUNT: usize = 3;

    /// Whether such a flow makes room as soon as room is needed.
    pub(super) const fn is_loose(self) -> bool {
        !matches!(self, Self::Settled)
    }
}

/// Counts what passes on a flow: an answer is a datagram of the game that follows one of the player's, so that neither a
/// player who talks to a dead game nor a game that talks to a player who has gone is taken for a conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Talk {
    asked: bool,
    answers: u8,
}

impl Talk {
    pub(super) const fn handle_question(&mut self) {
        self.asked = true;
    }

    /// A datagram of the game; whether it is an answer.
    pub(super) const fn handle_reply(&mut self) -> bool {
        if self.asked {
            self.answers = self.answers.saturating_add(1);
        }
        std::mem::replace(&mut self.asked, false)
    }

    pub(super) const fn is_answered(self) -> bool {
        self.answers > 0
    }

    pub(super) const fn standing(self) -> Standing {
        match self.answers {
            0 => Standing::Unanswered,
            1..SETTLED => Standing::Passing,
            _ => Standing::Settled,
        }
    }
}

/// Among whom room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// The flows of one address, where nobody else is touched.
    Address,
    /// All flows, those of a flood from forged addresses among them.
    All,
}

/// How readily a flow makes room: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    tier: u8,
    /// When it was last answered, or asked if it never was.
    since: Instant,
}

/// The rank of a flow that was last answered then (asked, if it never was); `None` for one that is live.
pub(super) fn rank(among: Among, standing: Standing, since: Instant, now: Instant) -> Option<Rank> {
    let silence = now.saturating_duration_since(since);
    let tier = match (standing, among) {
        (Standing::Unanswered, _) if silence >= PATIENCE => 0,
        (Standing::Passing, _) if silence >= PATIENCE => 1,
        (Standing::Settled, _) if silence < LIVE + GRANULARITY => return None,
        // Among one's own it is as good as over; others' floods reach it last.
        (Standing::Settled, Among::Address) => 1,
        (Standing::Settled, Among::All) => 4,
        // An answer that is on its way is worth more than one that has come; unless it is a flood that waits for it.
        (Standing::Passing, Among::Address) => 2,
        (Standing::Unanswered, Among::Address) => 3,
        (Standing::Unanswered, Among::All) => 2,
        (Standing::Passing, Among::All) => 3,
    };
    Some(Rank { tier, since })
}

/// How exact the clock of an answered or unanswered flow is: a flow lives up to this much longer, so that a packet
/// moves its flow in its list at most once a second.
pub const GRANULARITY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_room_first() {
        use Standing::{Passing, Settled, Unanswered};
        let start = Instant::now();
        let now = start + Duration::from_secs(1_000);
        // From the first to go to the last, with milliseconds of silence.
        let tables: [(Among, &[(Standing, u64)]); 2] = [
            (
                Among::Address,
                &[
                    (Unanswered, 9_000),
                    (Unanswered, 2_000),
                    (Settled, 60_000),
                    (Passing, 50_000),
                    (Settled, 11_000),
                    (Passing, 2_000),
                    (Passing, 1_999),
                    (Passing, 0),
                    (Unanswered, 1_999),
                    (Unanswered, 0),
                ],
            ),
            (
                Among::All,
                &[
                    (Unanswered, 9_000),
                    (Unanswered, 2_000),
                    (Passing, 50_000),
                    (Passing, 2_000),
                    (Unanswered, 1_999),
                    (Unanswered, 0),
                    (Passing, 1_999),
                    (Passing, 0),
                    (Settled, 60_000),
                    (Settled, 11_000),
                ],
            ),
        ];
        for (among, flows) in tables {
            let rank = |(standing, silence): &(Standing, u64)| {
                let since = now - Duration::from_millis(*silence);
                rank(among, *standing, since, now)
            };
            for pair in flows.windows(2) {
                let ranks = [&pair[0], &pair[1]].map(|flow| rank(flow).unwrap());
                assert!(ranks[0] < ranks[1], "{among:?}: {pair:?}");
            }
            for live in [0, 1_000, 10_999] {
                assert_eq!(rank(&(Settled, live)), None, "{among:?}: {live} ms");
            }
        }
    }

    #[test]
    fn what_counts_as_an_answer() {
        use Standing::{Passing, Settled, Unanswered};
        // `?` is a datagram of the player, `!` one of the game.
        for (passed, standing) in [
            ("", Unanswered),
            ("????????????", Unanswered),
            ("?!", Passing),
            ("?!!!!!!!!!!!!!!!!!", Passing),
            ("?!????????????????", Passing),
            ("?!?!?!?!?!?!?!", Passing),
            ("?!?!?!?!?!?!?!?", Passing),
            ("?!?!?!?!?!?!?!?!", Settled),
            ("??!!??!!??!!??!!??!!??!!??!!??!!", Settled),
        ] {
            let mut talk = Talk::default();
            for what in passed.chars() {
                match what {
                    '?' => talk.handle_question(),
                    _ => drop(talk.handle_reply()),
                }
            }
            assert_eq!(talk.standing(), standing, "{passed}");
        }
        let mut talk = Talk::default();
        for _ in 0..1_000 {
            talk.handle_question();
            assert!(talk.handle_reply());
            assert!(!talk.handle_reply());
        }
        assert_eq!(talk.standing(), Settled);
    }
}
