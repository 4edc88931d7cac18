//! Decisions about the path to the relay: pure, so that tables of what is seen and what follows can test them.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// From which addresses of this machine a tunnel's connections have left.
///
/// A new address does not make the former one useless: where temporary IPv6 addresses rotate, what stands on the old one goes
/// on for hours. Only what is gone is given up.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<IpAddr>);

/// What a look at them has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceChange {
    /// New connections leave from another address. What stands on the former one may lead nowhere.
    Another,
    /// An address is not this machine's any more: what stands on it hangs for minutes.
    Gone {
        /// It was the first, from which the tunnel's first connection has left.
        is_first: bool,
    },
}

impl Sources {
    /// Connections leave from `now`, as far as there is a network; `is_ours` says whether an address is this machine's.
    pub(super) fn handle_look(
        &mut self,
        now: Option<IpAddr>,
        is_ours: impl Fn(IpAddr) -> bool,
    ) -> Option<SourceChange> {
        // Without a network there is nothing to compare.
        let now = now?;
        let first = self.0.first().copied();
        let before = self.0.len();
        self.0.retain(|source| *source == now || is_ours(*source));
        let is_gone = self.0.len() < before;
        let is_another = !self.0.contains(&now);
        if is_another {
            if self.0.len() == SOURCES_MAX {
                self.0.remove(1);
            }
            self.0.push(now);
        }
        if is_gone {
            let is_first = first != self.0.first().copied();
            return Some(SourceChange::Gone { is_first });
        }
        (is_another && before > 0).then_some(SourceChange::Another)
    }
}

/// Whether what leaves on QUIC arrives, by its acknowledgements: where much is sent, its path is found to be gone long before a
/// heartbeat is overdue. Where much has come and nothing does any more, something is sent to find out.
#[derive(Debug, Default)]
pub(super) struct Heard {
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
    /// And once more, where those have left together or not at all, for the process was busy.
    more: u8,
}

/// What is known of a connection at one moment, counted from its beginning.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) sent: Sent,
    pub(super) received: u64,
    pub(super) acks: u64,
}

/// What has left on a connection, of which some acknowledgement has to come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Acknowledgements of what came count here, and are never acknowledged themselves.
    pub(super) packets: u64,
    /// Frames that are; several may share a packet.
    pub(super) frames: u64,
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
    pub(super) fn handle_look(
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

/// How long a client stays on lanes once QUIC has failed it. QUIC that has come back and fails soon again is left alone for
/// longer and longer.
#[derive(Debug, Default)]
pub(super) struct Damper {
    /// Since when the tunnel has been on QUIC, and whether it came back there.
    on_quic: Option<(Instant, bool)>,
    is_on_lanes: bool,
    hold: Duration,
    until: Option<Instant>,
}

impl Damper {
    /// A tunnel stands, on QUIC or on lanes.
    pub(super) fn handle_up(&mut self, now: Instant, is_lane: bool) {
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
    pub(super) const fn handle_other_relay(&mut self) {
        self.on_quic = None;
    }

    /// Until when QUIC is left alone.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// How often a connection is looked at: twenty times a second, a lock and a copy of its counters.
pub(super) const HEARD_LOOK: Duration = Duration::from_millis(50);
/// In so many of the last 16 looks something has come where a game was played until just now. On a busy machine what has come is
/// seen in every other look or fewer, and all the more of it.
const BUSY: u32 = 6;
/// The looks in which nothing has come then.
const QUIET: u16 = 0b111;
/// Questions that are asked when nothing comes any more, one at each look, and one more for the wait: with what QUIC repeats of
/// them by itself, a path that loses a third each way answers one of them in 97 of 100 cases.
const ASKS: u8 = 5;
/// So many packets with questions stay unanswered where nobody is there.
const ASKED: u64 = ASKS as u64 - 1;
/// Further questions, until so many have left: another three looks for each.
const ASKS_MORE: u8 = 12;
/// How long the answers may take at least: 250 ms.
const ASKED_LEAST: Duration = Duration::from_millis(250);
/// Packets without an acknowledgement that make a path suspect: ten. Where one in three is lost, each way, that happens once
/// in a thousand times.
const UNHEARD_PACKETS: u64 = 10;
/// For how long at least: 400 ms, what a radio needs to change its channel.
const UNHEARD_LEAST: Duration = Duration::from_millis(400);
/// And so many round trips: QUIC itself asks again after some two.
const UNHEARD_ROUND_TRIPS: u32 = 4;
/// A path that has stood for so long is sound.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// First time for which QUIC is left alone after it has failed again.
const HOLD_LEAST: Duration = Duration::from_secs(30);
/// Longest such time. Lanes carry everything meanwhile.
const HOLD_MOST: Duration = Duration::from_secs(600);
/// Eight: a day of addresses that rotate every few hours.
const SOURCES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_is_gone_is_given_up() {
        use SourceChange::{Another, Gone};
        let (a, b, c): (IpAddr, IpAddr, IpAddr) = (
            "2001:db8::a".parse().unwrap(),
            "2001:db8::b".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
        );
        let first = Some(Gone { is_first: true });
        let later = Some(Gone { is_first: false });
        // From where connections leave, which addresses this machine has, and what that means.
        type Look<'a> = (Option<IpAddr>, &'a [IpAddr], Option<SourceChange>);
        let cases: [(&str, &[Look<'_>]); 5] = [
            (
                "nothing happens",
                &[(Some(a), &[a], None), (Some(a), &[a], None)],
            ),
            (
                "the network goes and comes back",
                &[
                    (Some(a), &[a], None),
                    (None, &[], None),
                    (Some(a), &[a], None),
                ],
            ),
            (
                "another address takes its place",
                &[
                    (Some(a), &[a], None),
                    (Some(c), &[c], first),
                    (Some(c), &[c], None),
                ],
            ),
            (
                "a temporary address rotates, and the old one ends hours later",
                &[
                    (Some(a), &[a], None),
                    (Some(b), &[a, b], Some(Another)),
                    (Some(b), &[a, b], None),
                    (Some(b), &[b], first),
                    (Some(b), &[b], None),
                ],
            ),
            (
                "a second line comes and goes",
                &[
                    (Some(a), &[a], None),
                    (Some(c), &[a, c], Some(Another)),
                    (Some(a), &[a], later),
                ],
            ),
        ];
        for (name, looks) in cases {
            let mut sources = Sources::default();
            for (at, (now, ours, expected)) in looks.iter().enumerate() {
                let change = sources.handle_look(*now, |source| ours.contains(&source));
                assert_eq!(change, *expected, "{name}, look {at}");
            }
        }
    }

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

    #[test]
    fn quic_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        enum Event {
            Quic,
            Lane,
            OtherRelay,
        }
        use Event::{Lane, OtherRelay, Quic};
        // What stands after so many seconds more; and for how long QUIC is left alone then, where it is.
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
            let (mut damper, mut now) = (Damper::default(), Instant::now());
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

    #[test]
    fn addresses_without_end_take_no_room_without_end() {
        let mut sources = Sources::default();
        for n in 0..100_u16 {
            let now = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
            sources.handle_look(Some(now), |_| true);
        }
        assert_eq!(sources.0.len(), SOURCES_MAX);
        assert_eq!(sources.0[0], "2001:db8::".parse::<IpAddr>().unwrap());
    }
}
