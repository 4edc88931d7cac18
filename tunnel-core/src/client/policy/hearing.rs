//! Whether what leaves over QUIC arrives, by its acknowledgements.

use std::time::{Duration, Instant};

/// Whether what leaves on QUIC arrives, by its acknowledgements: where much is sent, its path is found to be gone long before a
/// heartbeat is overdue. Where much has come and nothing does any more, something is sent to find out.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    seen: Seen,
    /// What had left when the last acknowledgement came.
    sent: Sent,
    /// Since when there has been none for what has left since.
    since: Option<Instant>,
    is_told: bool,
    /// In which of the last looks something had come, the newest in the lowest bit.
    came: u16,
    /// Questions that may be asked yet.
    asks: u8,
    /// Further ones, where those have left together or not at all, for the process was busy.
    more: u8,
}

/// What is known of a connection at one moment, counted from its beginning.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sent: Sent,
    pub(crate) received: u64,
    pub(crate) acks: u64,
}

/// What has left on a connection, of which some acknowledgement has to come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Acknowledgements of what came count here, and are never acknowledged themselves.
    pub(crate) packets: u64,
    /// Frames that are; several may share a packet.
    pub(crate) frames: u64,
}

/// What a look at a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// The other side is to be asked whether it is there.
    Ask,
    /// The path has become suspect: so much left and for so long nothing came.
    Unheard,
}

impl Heard {
    /// To be called every [`HEARD_LOOK`].
    pub(crate) fn handle_look(
        &mut self,
        now: Instant,
        seen: Seen,
        rtt: Duration,
    ) -> Option<Hearing> {
        let before = std::mem::replace(&mut self.seen, seen);
        let has_come = seen.received != before.received;
        let was_busy = self.came.count_ones() >= BUSY;
        self.came = self.came << 1 | u16::from(has_come);
        if seen.acks != before.acks {
            (self.sent, self.since, self.is_told) = (seen.sent, None, false);
        }
        if has_come {
            self.asks = 0;
        } else if was_busy && self.came & QUIET == 0 {
            // It is forgotten, so that it is asked of once.
            (self.came, self.asks, self.more) = (0, ASKS, ASKS_MORE);
        }
        let mut unheard = 0;
        if seen.sent.frames == self.sent.frames {
            self.since = None;
        } else {
            let since = *self.since.get_or_insert(now);
            let frames = seen.sent.frames - self.sent.frames;
            unheard = frames.min(seen.sent.packets - self.sent.packets);
            let (enough, least) = match self.asks {
                1 => (ASKED, ASKED_LEAST),
                _ => (UNHEARD_PACKETS, UNHEARD_LEAST),
            };
            let patience = least.max(rtt.saturating_mul(UNHEARD_ROUND_TRIPS));
            let is_late = now.saturating_duration_since(since) >= patience;
            if is_late && unheard >= enough && !self.is_told {
                (self.is_told, self.asks) = (true, 0);
                return Some(Hearing::Unheard);
            }
        }
        if self.asks == 1 && unheard < ASKED && self.more > 0 {
            self.more -= 1;
            return Some(Hearing::Ask);
        }
        // The last one stands for the wait.
        (self.asks > 1).then(|| {
            self.asks -= 1;
            Hearing::Ask
        })
    }
}

/// How often a connection is looked at: twenty times a second, a lock and a copy of its counters.
pub(crate) const HEARD_LOOK: Duration = Duration::from_millis(50);
/// In at least this many of the last 16 looks something has come where a game was played until just now. On a busy machine what has come is
/// seen in every other look or fewer, and all the more of it.
const BUSY: u32 = 6;
/// The looks in which nothing has come then.
const QUIET: u16 = 0b111;
/// Questions that are asked when nothing comes any more, one at each look, and one more for the wait: with what QUIC repeats of
/// them by itself, a path that loses a third each way answers one of them in 97 of 100 cases.
const ASKS: u8 = 5;
/// Packets with questions that stay unanswered where nobody is there.
const ASKED: u64 = ASKS as u64 - 1;
/// Further questions, until [`ASKED`] packets have left: another three looks for each.
const ASKS_MORE: u8 = 12;
/// How long the answers may take at least: 250 ms.
const ASKED_LEAST: Duration = Duration::from_millis(250);
/// Packets without an acknowledgement that make a path suspect: ten. Where one in three is lost, each way, that happens once
/// in a thousand times.
const UNHEARD_PACKETS: u64 = 10;
/// For how long at least: 400 ms, what a radio needs to change its channel.
const UNHEARD_LEAST: Duration = Duration::from_millis(400);
/// The same in round trips: QUIC itself asks again after some two.
const UNHEARD_ROUND_TRIPS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_is_suspect_when_much_has_left_and_nothing_was_acknowledged_for_long() {
        const RTT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_millis(250);
        /// What happens between two looks.
        #[derive(Clone, Copy, Default)]
        struct Between {
            packets: u64,
            frames: u64,
            received: u64,
            acks: u64,
        }
        let silence = Between::default();
        let sends = Between {
            packets: 5,
            frames: 5,
            ..silence
        };
        let hears = Between {
            packets: 1,
            received: 5,
            ..silence
        };
        let plays = Between {
            received: 5,
            acks: 2,
            ..sends
        };
        let deaf = Between {
            received: 5,
            ..sends
        };
        let asks = Between {
            packets: 2,
            frames: 1,
            ..silence
        };
        let answered = Between {
            received: 1,
            acks: 1,
            ..asks
        };
        let uploads = Between {
            packets: 20,
            received: 20,
            ..silence
        };
        let ask = |at| (at, Hearing::Ask);
        let unheard = |at| (at, Hearing::Unheard);
        type Case<'a> = (
            &'a str,
            Duration,
            &'a [(usize, Between)],
            &'a [(usize, Hearing)],
        );
        let together = Between {
            packets: 1,
            frames: 1,
            ..silence
        };
        let bursts = [(1, plays), (1, silence)].repeat(6);
        let bursts = [&bursts[..], &[(2, silence), (4, asks), (20, silence)]].concat();
        let cases: [Case<'_>; 13] = [
            ("a game that is heard", RTT, &[(99, plays)], &[]),
            ("silence", RTT, &[(99, silence)], &[]),
            (
                "a game that is not heard any more",
                RTT,
                &[(10, plays), (50, sends)],
                &[ask(12), ask(13), ask(14), ask(15), unheard(16)],
            ),
            (
                "the same while the relay is heard",
                RTT,
                &[(10, plays), (50, deaf)],
                &[unheard(18)],
            ),
            (
                "a gap as long as a change of channel",
                RTT,
                &[(9, plays), (7, deaf), (9, plays), (7, deaf), (9, plays)],
                &[],
            ),
            (
                "a long path",
                LONG,
                &[(5, plays), (19, deaf), (1, plays), (30, deaf)],
                &[unheard(45)],
            ),
            (
                "players who are heard no more, and a game that has nothing to answer",
                RTT,
                &[(10, hears), (3, silence), (4, asks), (20, silence)],
                &[ask(12), ask(13), ask(14), ask(15), unheard(18)],
            ),
            (
                "a game that a busy machine brings in bursts, and then no more",
                RTT,
                &bursts,
                &[ask(13), ask(14), ask(15), ask(16), unheard(19)],
            ),
            (
                "questions that leave late and together",
                RTT,
                &[
                    (10, hears),
                    (6, silence),
                    (1, together),
                    (4, asks),
                    (20, silence),
                ],
                &[
                    ask(12),
                    ask(13),
                    ask(14),
                    ask(15),
                    ask(16),
                    ask(17),
                    ask(18),
                    unheard(21),
                ],
            ),
            (
                "players who have left",
                RTT,
                &[(10, hears), (3, silence), (1, answered), (50, silence)],
                &[ask(12)],
            ),
            (
                "little that comes now and then",
                RTT,
                &[
                    (1, hears),
                    (9, silence),
                    (1, hears),
                    (9, silence),
                    (1, hears),
                ],
                &[],
            ),
            (
                "a heartbeat and its repetitions",
                RTT,
                &[(1, answered), (3, asks), (50, silence)],
                &[],
            ),
            (
                "acknowledgements alone, which nobody acknowledges",
                RTT,
                &[(1, answered), (50, uploads)],
                &[],
            ),
        ];
        for (name, rtt, between, expected) in cases {
            let (mut heard, mut now) = (Heard::default(), Instant::now());
            let (mut seen, mut told) = (Seen::default(), Vec::new());
            let all = between
                .iter()
                .flat_map(|(times, it)| std::iter::repeat_n(it, *times));
            for (at, it) in all.enumerate() {
                now += HEARD_LOOK;
                seen.sent.packets += it.packets;
                seen.sent.frames += it.frames;
                seen.received += it.received;
                seen.acks += it.acks;
                told.extend(
                    heard
                        .handle_look(now, seen, rtt)
                        .map(|hearing| (at, hearing)),
                );
            }
            assert_eq!(told, expected, "{name}");
        }
    }
}
