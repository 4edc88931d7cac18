//! What arrives of a tunnel's datagrams, asked of who receives them (`docs/protocol.md` §7, Probes).
//!
//! QUIC takes a packet for lost that others have overtaken by long enough. Counts tell the two apart: what is late arrives.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use crate::proto::{
    datagram::{DatagramHead, FlowId, Kind},
    wire::Reader,
};

/// The payload of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// How many datagrams came before this one?
    Question(u16),
    /// How many came before the question; the count wraps around.
    Answer(u16, u32),
}

impl Probe {
    /// Appends the datagram, head and all.
    pub fn encode(self, out: &mut BytesMut) {
        let head = DatagramHead {
            kind: Kind::Probe,
            ..DatagramHead::data(FlowId(0))
        };
        head.encode(out);
        match self {
            Self::Question(id) => {
                out.put_u8(QUESTION);
                out.put_u16(id);
            }
            Self::Answer(id, arrived) => {
                out.put_u8(ANSWER);
                out.put_u16(id);
                out.put_u32(arrived);
            }
        }
    }

    /// Reads a probe's payload; what a later version adds at its end is left unread. `None` if it is neither.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        match (reader.u8().ok()?, reader.u16().ok()?) {
            (QUESTION, id) => Some(Self::Question(id)),
            (ANSWER, id) => Some(Self::Answer(id, reader.u32().ok()?)),
            _ => None,
        }
    }
}

/// What the other side has told since the last look. Datagrams that were under way when it was asked may have come a little
/// earlier or later than others, so that a few may seem lost, or less than none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Datagrams sent.
    pub sent: u64,
    /// Those of them that did not arrive.
    pub lost: i64,
}

/// Asks, and reads the answers.
#[derive(Debug)]
pub struct Prober {
    next: u16,
    /// Questions on their way, oldest first, each with what was sent before it.
    asked: VecDeque<(u16, u64)>,
    /// What was sent, and what of it had arrived, by the last answer; `None` where the next one is to count from.
    known: Option<(u64, u32)>,
    told: Told,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            next: 0,
            asked: VecDeque::new(),
            known: Some((0, 0)),
            told: Told::default(),
        }
    }
}

impl Prober {
    /// A question that leaves when `sent` datagrams have left before it.
    pub fn ask(&mut self, sent: u64) -> Probe {
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        self.asked.push_back((id, sent));
        Probe::Question(id)
    }

    /// An answer came. One that was not asked for, or that a later one has overtaken, says nothing.
    pub fn handle_answer(&mut self, id: u16, arrived: u32) {
        let Some(place) = self.asked.iter().position(|(asked, _)| *asked == id) else {
            return;
        };
        let Some((_, sent)) = self.asked.drain(..=place).next_back() else {
            return;
        };
        let Some(known) = self.known.replace((sent, arrived)) else {
            return;
        };
        let newly = sent.saturating_sub(known.0);
        // Whatever the other side says, no more than twice of what was sent has come.
        let arrived_newly = u64::from(arrived.wrapping_sub(known.1)).min(2 * newly);
        self.told.sent += newly;
        self.told.lost += newly as i64 - arrived_newly as i64;
    }

    /// Nothing is asked for a while: what the next answers tell is not to be thinned by what has come till then.
    pub fn pause(&mut self) {
        self.asked.clear();
        self.known = None;
    }

    /// What was told since the last call.
    pub fn take(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }
}

const QUESTION: u8 = 0;
const ANSWER: u8 = 1;

/// Questions that may be on their way: one is asked every half second, and later than after 4 s an answer is of no use.
const ASKED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_came_while_nobody_asked_does_not_thin_what_is_lost() {
        let mut prober = Prober::default();
        prober.pause();
        for (sent, arrived) in [(360_000, 360_000), (360_100, 360_099)] {
            let Probe::Question(id) = prober.ask(sent) else {
                panic!("no question");
            };
            prober.handle_answer(id, arrived);
        }
        assert_eq!(prober.take(), Told { sent: 100, lost: 1 });
    }

    #[test]
    fn what_is_written_is_read_and_what_is_none_is_not() {
        for probe in [Probe::Question(7), Probe::Answer(65_535, 1 << 31)] {
            let mut out = BytesMut::new();
            probe.encode(&mut out);
            let (head, payload) = DatagramHead::decode(out.freeze()).unwrap();
            assert_eq!(head.kind, Kind::Probe);
            assert_eq!(Probe::decode(&payload), Some(probe));
            let longer = [&payload, &Bytes::from_static(b"later")[..]].concat();
            assert_eq!(Probe::decode(&longer), Some(probe));
            for end in 0..payload.len() {
                assert_eq!(Probe::decode(&payload[..end]), None);
            }
        }
        assert_eq!(Probe::decode(&[2, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn what_did_not_arrive_is_lost_however_late_or_seldom_answers_are() {
        let mut prober = Prober::default();
        prober.ask(100);
        prober.ask(300);
        prober.ask(400);
        prober.handle_answer(1, 290);
        let told = |sent, lost| Told { sent, lost };
        assert_eq!(prober.take(), told(300, 10));
        prober.handle_answer(0, 99);
        assert_eq!(prober.take(), Told::default(), "overtaken");
        // Two that were late have come.
        prober.handle_answer(2, 392);
        assert_eq!(prober.take(), told(100, -2));
        prober.handle_answer(2, 392);
        prober.handle_answer(9, 1);
        assert_eq!(prober.take(), Told::default(), "not asked");
    }

    #[test]
    fn lies_say_no_more_than_that_all_is_lost_or_came_twice() {
        let mut prober = Prober::default();
        for (id, arrived) in [(0, u32::MAX), (1, 0), (2, 1 << 31), (3, 7)] {
            prober.ask(100 * (1 + u64::from(id)));
            prober.handle_answer(id, arrived);
            let told = prober.take();
            assert!(told.sent == 100 && told.lost.abs() <= 100, "{told:?}");
        }
    }

    #[test]
    fn questions_on_their_way_are_bounded() {
        let mut prober = Prober::default();
        for sent in 0..100_000 {
            prober.ask(sent);
        }
        assert!(prober.asked.len() <= ASKED_MAX);
    }
}
