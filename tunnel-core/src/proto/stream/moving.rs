//! How a stream changes its channel while the old one works: which bytes travel where, and when it is worth it.
//!
//! Each direction changes by itself. The sender says MOVE as its last word on the old channel and goes on with the next
//! byte on the new one; the receiver reads the old one to that word and then the new one. So nothing is sent twice,
//! nothing waits in between, and nothing has to be put in order.

use std::time::{Duration, Instant};

use super::{RecvHalf, StreamMisbehaved};

/// One side's change of channel.
#[derive(Debug, Default)]
pub struct Turn {
    /// Both sides have named the stream on the new channel.
    agreed: bool,
    /// We have said MOVE, and send there.
    left: bool,
    /// The other side has said MOVE.
    called: bool,
    /// We read there.
    followed: bool,
}

impl Turn {
    /// A new channel stands beside the old one. Returns whether the stream goes there: not while it is on its way to
    /// another.
    pub const fn handle_agreed(&mut self) -> bool {
        let is_new = !self.agreed;
        self.agreed = true;
        is_new
    }

    /// Whether to say MOVE on the old channel, and to send on the new one from then on.
    pub const fn may_leave(&self) -> bool {
        self.agreed && !self.left
    }

    /// We have said MOVE. Returns whether this ends the turn, so that the next may begin.
    pub fn handle_left(&mut self) -> bool {
        self.left = true;
        self.end()
    }

    /// The other side has said MOVE, after `offset` bytes.
    pub fn handle_move(&mut self, offset: u64, recv: &RecvHalf) -> Result<(), StreamMisbehaved> {
        if self.called {
            return Err(StreamMisbehaved::MovedTwice);
        }
        if offset != recv.received() {
            return Err(StreamMisbehaved::WrongMoveOffset {
                offset,
                received: recv.received(),
            });
        }
        self.called = true;
        Ok(())
    }

    /// Whether to read the new channel: the old one is read to its end, and the word that agrees to the new one is no
    /// longer on its way.
    pub const fn may_follow(&self) -> bool {
        self.agreed && self.called && !self.followed
    }

    /// We read the new channel. Returns whether this ends the turn, so that the next may begin.
    pub fn handle_followed(&mut self) -> bool {
        self.followed = true;
        self.end()
    }

    fn end(&mut self) -> bool {
        let is_over = self.left && self.followed;
        if is_over {
            *self = Self::default();
        }
        is_over
    }
}

/// How a stream flows, as far as it matters for where it should travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pace {
    /// Nothing has gone through yet.
    New,
    /// Talk, or bulk that something else slows down.
    Talk,
    /// Bulk: a lane would carry it better.
    Bulk,
}

/// Tells bulk from talk by the bytes that have gone through, in both directions together. Reads the clock once for each
/// [`BULK`].
#[derive(Debug)]
pub struct Meter {
    pace: Pace,
    since: Instant,
    mark: u64,
}

impl Meter {
    /// From now on, with `through` bytes gone through before.
    pub const fn new(now: Instant, through: u64) -> Self {
        Self {
            pace: if through == 0 { Pace::New } else { Pace::Talk },
            since: now,
            mark: through,
        }
    }

    /// The pace so far.
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// So many bytes have gone through now. Returns the pace when it is told anew.
    pub fn handle_progress(&mut self, through: u64, now: impl FnOnce() -> Instant) -> Option<Pace> {
        let is_first = self.pace == Pace::New && through > 0;
        if is_first {
            self.pace = Pace::Talk;
        }
        if through - self.mark >= BULK {
            let now = now();
            let is_bulk = now.saturating_duration_since(self.since) <= BULK_WITHIN;
            self.pace = if is_bulk { Pace::Bulk } else { Pace::Talk };
            self.since = now;
            self.mark = through;
            return Some(self.pace);
        }
        is_first.then_some(self.pace)
    }
}

/// Tells that bulk has turned into talk, by a look every [`BULK_WITHIN`]: when nothing flows any more, no byte tells.
#[derive(Debug)]
pub struct Calm {
    through: u64,
    looks: u32,
}

impl Calm {
    /// From now on, with `through` bytes gone through before.
    pub const fn new(through: u64) -> Self {
        Self { through, looks: 0 }
    }

    /// So many bytes have gone through at this look. Returns whether it has been talk for [`CALM_LOOKS`] now.
    pub const fn handle_look(&mut self, through: u64) -> bool {
        let is_talk = through.saturating_sub(self.through) < BULK;
        self.looks = if is_talk { self.looks + 1 } else { 0 };
        self.through = through;
        self.looks >= CALM_LOOKS
    }
}

/// Bytes at a stretch that make bulk: 1 MiB, more than pages, chat and a game's ticks come to.
pub const BULK: u64 = 1024 * 1024;
/// Within this: 2 s, so from 4 Mbit/s on, where a lane's better use of the path is worth its slower recovery of a loss.
pub const BULK_WITHIN: Duration = Duration::from_secs(2);
/// Looks without bulk that make talk: 3, so 6 s; a download that stops to think is not worth two changes of channel.
pub const CALM_LOOKS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: u64) -> RecvHalf {
        let mut recv = RecvHalf::new();
        recv.handle_data(bytes).unwrap();
        recv
    }

    #[test]
    fn a_stream_leaves_only_when_both_have_agreed() {
        let mut turn = Turn::default();
        assert!(!turn.may_leave());
        assert!(turn.handle_agreed());
        assert!(!turn.handle_agreed(), "one at a time");
        assert!(turn.may_leave());
        assert!(!turn.handle_left());
        assert!(!turn.may_leave());
        assert!(!turn.handle_agreed(), "still under way");
    }

    #[test]
    fn the_next_turn_begins_when_both_directions_have_changed() {
        for leaves_first in [true, false] {
            let mut turn = Turn::default();
            turn.handle_agreed();
            if leaves_first {
                assert!(!turn.handle_left());
            }
            turn.handle_move(9, &received(9)).unwrap();
            assert!(turn.may_follow());
            assert_eq!(turn.handle_followed(), leaves_first);
            if !leaves_first {
                assert!(turn.may_leave());
                assert!(turn.handle_left());
            }
            assert!(turn.handle_agreed());
        }
    }

    #[test]
    fn a_move_may_come_before_the_word_that_agrees() {
        let mut turn = Turn::default();
        turn.handle_move(0, &received(0)).unwrap();
        assert!(!turn.may_follow());
        assert!(turn.handle_agreed());
        assert!(turn.may_follow());
    }

    #[test]
    fn a_move_names_what_was_sent_and_comes_once() {
        let mut turn = Turn::default();
        for offset in [8, 10, 1 << 40] {
            let wrong = StreamMisbehaved::WrongMoveOffset {
                offset,
                received: 9,
            };
            assert_eq!(turn.handle_move(offset, &received(9)), Err(wrong));
        }
        turn.handle_move(9, &received(9)).unwrap();
        let twice = turn.handle_move(9, &received(9));
        assert_eq!(twice, Err(StreamMisbehaved::MovedTwice));
    }

    #[test]
    fn bulk_is_told_from_talk_by_what_goes_through_within_a_while() {
        let start = Instant::now();
        let at = |millis| move || start + Duration::from_millis(millis);
        let mut meter = Meter::new(start, 0);
        assert_eq!(meter.handle_progress(0, at(0)), None);
        assert_eq!(meter.handle_progress(1, at(0)), Some(Pace::Talk));
        // 2 Mbit/s for long are none.
        for second in 1..60 {
            let through = second * 250_000;
            let told = meter.handle_progress(through, at(second * 1000));
            assert!(matches!(told, None | Some(Pace::Talk)), "{told:?}");
        }
        let fast = 60 * 250_000 + BULK;
        let turned = [fast, fast + BULK].map(|it| meter.handle_progress(it, at(60_500)));
        assert!(turned.contains(&Some(Pace::Bulk)), "{turned:?}");
        // And slows down again.
        let slow = fast + 2 * BULK;
        assert_eq!(meter.handle_progress(slow, at(90_000)), Some(Pace::Talk));
    }

    #[test]
    fn bulk_is_told_each_time_for_it_may_have_been_taken_for_talk_meanwhile() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 0);
        for through in [BULK, 2 * BULK] {
            let told = meter.handle_progress(through, || start);
            assert_eq!(told, Some(Pace::Bulk));
        }
    }

    #[test]
    fn calm_is_what_lasts_and_silence_is_calm() {
        let mut calm = Calm::new(5);
        assert!(!calm.handle_look(5));
        assert!(!calm.handle_look(5 + BULK - 1));
        assert!(!calm.handle_look(5 + 2 * BULK), "bulk once more");
        let through = 5 + 2 * BULK;
        let looks = [through, through, through + BULK - 1].map(|it| calm.handle_look(it));
        assert_eq!(looks, [false, false, true]);
    }
}
