//! How a stream changes its channel while the old one works: which bytes travel where, and when it is worth it.
//!
//! It is worth it where the processor limits the stream: QUIC costs three times a lane's work for each byte. Where the path
//! does, QUIC carries bulk as fast as a lane, under one controller that sees the games beside it.
//!
//! Each direction changes by itself. The sender says MOVE as its last word on the old channel and goes on with the next
//! byte on the new one; the receiver reads the old one to that word and then the new one. So nothing is sent twice,
//! nothing waits in between, and nothing has to be put in order.

use std::time::{Duration, Instant};

use crate::proto::stream::{misbehaved::StreamMisbehaved, recv::RecvHalf};

/// One side's change of channel.
#[derive(Debug, Default)]
pub struct Handover {
    /// Both sides have named the stream on the new channel.
    agreed: bool,
    /// We have said MOVE, and send there.
    left: bool,
    /// The other side has said MOVE.
    called: bool,
    /// We read there.
    followed: bool,
}

impl Handover {
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

    /// We have said MOVE. Returns whether this ends the handover, so that the next may begin.
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

    /// We read the new channel. Returns whether this ends the handover, so that the next may begin.
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
    /// Talk, or bulk that the path or its own ends slow down: QUIC carries it as fast as a lane would.
    Talk,
    /// Bulk that the processor slows down: a lane costs a third of its work.
    Bulk,
}

/// A look at the clocks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The time.
    pub now: Instant,
    /// Processor time that this process has used so far.
    pub processor: Duration,
}

/// Tells whether the processor is what limits a stream, by the bytes that have gone through in both directions together
/// and by the processor time that passes meanwhile. It looks at the clocks once for each [`stretch`].
#[derive(Debug)]
pub struct PaceMeter {
    pace: Pace,
    /// Bytes per second.
    rate: u64,
    since: Look,
    mark: u64,
}

impl PaceMeter {
    /// From now on, with `through` bytes gone through before. At `rate` bytes per second QUIC is taken to be at the
    /// processor's limit, whatever else is known.
    pub const fn new(since: Look, through: u64, rate: u64) -> Self {
        Self {
            pace: if through == 0 { Pace::New } else { Pace::Talk },
            rate,
            since,
            mark: through,
        }
    }

    /// The pace so far.
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// `through` bytes have gone through by now. Returns the pace when it is told anew.
    pub fn handle_progress(&mut self, through: u64, look: impl FnOnce() -> Look) -> Option<Pace> {
        let is_first = self.pace == Pace::New && through > 0;
        if is_first {
            self.pace = Pace::Talk;
        }
        let went = through - self.mark;
        if went >= stretch(self.rate) {
            let look = look();
            self.pace = self.judge(went, look);
            self.since = look;
            self.mark = through;
            return Some(self.pace);
        }
        is_first.then_some(self.pace)
    }

    fn judge(&self, went: u64, look: Look) -> Pace {
        let time = (look.now).saturating_duration_since(self.since.now);
        let worked = look.processor.saturating_sub(self.since.processor);
        let is_busy = worked >= time.mul_f64(BUSY);
        let least = if is_busy { slow(self.rate) } else { self.rate };
        let is_fast = went as f64 >= least as f64 * time.as_secs_f64();
        if is_fast { Pace::Bulk } else { Pace::Talk }
    }
}

/// Tells that a stream no longer needs its lane, by a look every [`CALM_LOOK`]: when nothing flows any more, no byte tells.
#[derive(Debug)]
pub struct Calm {
    /// Bytes of a look below which the stream is calm.
    least: u64,
    through: u64,
    looks: u32,
}

impl Calm {
    /// From now on, with `through` bytes gone through before, for a [`PaceMeter`] of `rate`.
    pub const fn new(through: u64, rate: u64) -> Self {
        Self {
            least: slow(rate).saturating_mul(CALM_LOOK.as_secs()),
            through,
            looks: 0,
        }
    }

    /// `through` bytes have gone through at this look. Returns whether it has been calm for [`CALM_LOOKS`] now.
    pub const fn handle_look(&mut self, through: u64) -> bool {
        let is_calm = through.saturating_sub(self.through) < self.least;
        self.looks = if is_calm { self.looks + 1 } else { 0 };
        self.through = through;
        self.looks >= CALM_LOOKS
    }
}

/// Bytes between two looks of a [`PaceMeter`] of `rate`: an eighth of a second, so that one write into the buffers of sockets does
/// not count as a rate, and 1 MiB at least, more than pages, chat and a game's ticks come to.
pub const fn stretch(rate: u64) -> u64 {
    let stretch = rate / 8;
    if stretch > 1 << 20 { stretch } else { 1 << 20 }
}

/// Bytes per second from which a busy processor is taken to be what limits a stream, and below which a stream leaves its
/// lane: a fifth of the rate for which no other sign is needed, so that no stream goes to and fro.
const fn slow(rate: u64) -> u64 {
    rate / 5
}

/// Bytes per second from which bulk moves to a lane unless told otherwise: 1 Gbit/s, where QUIC takes most of a small
/// machine's core, and the path's queue is too short in time to be felt.
pub const LANE_RATE: u64 = 1_000_000_000 / 8;
/// Share of one core that makes a process busy. A QUIC connection runs on one core at a time.
const BUSY: f64 = 0.9;
/// Time between two looks of a [`Calm`].
pub const CALM_LOOK: Duration = Duration::from_secs(2);
/// Looks that make a stream calm: 3, so 6 s; a download that stops to think is not worth two changes of channel.
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
        let mut handover = Handover::default();
        assert!(!handover.may_leave());
        assert!(handover.handle_agreed());
        assert!(!handover.handle_agreed(), "one at a time");
        assert!(handover.may_leave());
        assert!(!handover.handle_left());
        assert!(!handover.may_leave());
        assert!(!handover.handle_agreed(), "still under way");
    }

    #[test]
    fn the_next_turn_begins_when_both_directions_have_changed() {
        for leaves_first in [true, false] {
            let mut handover = Handover::default();
            handover.handle_agreed();
            if leaves_first {
                assert!(!handover.handle_left());
            }
            handover.handle_move(9, &received(9)).unwrap();
            assert!(handover.may_follow());
            assert_eq!(handover.handle_followed(), leaves_first);
            if !leaves_first {
                assert!(handover.may_leave());
                assert!(handover.handle_left());
            }
            assert!(handover.handle_agreed());
        }
    }

    #[test]
    fn a_move_may_come_before_the_word_that_agrees() {
        let mut handover = Handover::default();
        handover.handle_move(0, &received(0)).unwrap();
        assert!(!handover.may_follow());
        assert!(handover.handle_agreed());
        assert!(handover.may_follow());
    }

    #[test]
    fn a_move_names_what_was_sent_and_comes_once() {
        let mut handover = Handover::default();
        for offset in [8, 10, 1 << 40] {
            let wrong = StreamMisbehaved::WrongMoveOffset {
                offset,
                received: 9,
            };
            assert_eq!(handover.handle_move(offset, &received(9)), Err(wrong));
        }
        handover.handle_move(9, &received(9)).unwrap();
        let twice = handover.handle_move(9, &received(9));
        assert_eq!(twice, Err(StreamMisbehaved::MovedTwice));
    }

    /// A second of bulk at `mbit`, with so much of a core at work.
    fn told(mbit: u64, core: f64) -> Option<Pace> {
        let start = Look {
            now: Instant::now(),
            processor: Duration::from_secs(7),
        };
        let mut meter = PaceMeter::new(start, 0, LANE_RATE);
        let mut told = None;
        for millis in 0..=2_000 {
            let time = Duration::from_millis(millis);
            let look = || Look {
                now: start.now + time,
                processor: start.processor + time.mul_f64(core),
            };
            let pace = meter.handle_progress(mbit * 1_000_000 / 8 * millis / 1_000, look);
            told = pace.or(told);
        }
        told
    }

    #[test]
    fn what_the_processor_limits_is_bulk_and_what_the_path_limits_is_not() {
        for (mbit, core, wanted) in [
            (20, 0.1, Pace::Talk),
            (20, 1.0, Pace::Talk),
            (190, 2.0, Pace::Talk),
            (210, 0.95, Pace::Bulk),
            (210, 0.5, Pace::Talk),
            (950, 0.5, Pace::Talk),
            (1_050, 0.3, Pace::Bulk),
            (4_000, 1.0, Pace::Bulk),
        ] {
            assert_eq!(told(mbit, core), Some(wanted), "{mbit} Mbit/s, {core}");
        }
        assert_eq!(told(0, 1.0), None);
    }

    #[test]
    fn bulk_is_told_each_time_for_it_may_have_been_taken_for_talk_meanwhile() {
        let start = Look {
            now: Instant::now(),
            processor: Duration::ZERO,
        };
        let mut meter = PaceMeter::new(start, 0, LANE_RATE);
        for through in [stretch(LANE_RATE), 2 * stretch(LANE_RATE)] {
            let told = meter.handle_progress(through, || start);
            assert_eq!(told, Some(Pace::Bulk));
        }
        let later = Look {
            now: start.now + Duration::from_secs(9),
            ..start
        };
        let told = meter.handle_progress(3 * stretch(LANE_RATE), || later);
        assert_eq!(told, Some(Pace::Talk), "slower again");
    }

    #[test]
    fn calm_is_what_lasts_and_silence_is_calm() {
        // 25 MB/s, and twice as much in a look.
        const LEAST: u64 = 50_000_000;
        let mut calm = Calm::new(5, LANE_RATE);
        assert!(!calm.handle_look(5));
        assert!(!calm.handle_look(5 + LEAST - 1));
        assert!(!calm.handle_look(5 + 2 * LEAST), "bulk once more");
        let through = 5 + 2 * LEAST;
        let looks = [through, through, through + LEAST - 1].map(|it| calm.handle_look(it));
        assert_eq!(looks, [false, false, true]);
    }

    #[test]
    fn no_rate_is_too_high_to_reckon_with() {
        let mut calm = Calm::new(0, u64::MAX);
        assert!(!calm.handle_look(u64::MAX / 2));
        assert!(stretch(u64::MAX) > 1 << 60);
        assert_eq!(stretch(0), 1 << 20);
    }
}
