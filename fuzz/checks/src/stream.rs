//! A stream's sending and receiving half with a channel between them that may be lost at any moment.

use std::{
    collections::VecDeque,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tunnel_core::proto::stream::{
    RecvHalf, SendHalf, StreamMisbehaved, TUNNEL_BUDGET, WINDOW_MAX, WINDOW_MIN,
};

use crate::input::Input;

/// The socket gets every byte, in order and once, however often the channel is lost, and what is held is bounded.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mut stream = Stream::new();
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        stream.step(&mut input);
        stream.agree();
    }
    stream.finish();
}

/// What a channel carries from sender to receiver.
enum Piece {
    Data(Bytes),
    Fin(u64),
}

struct Stream {
    now: Instant,
    send: SendHalf,
    recv: RecvHalf,
    free: u64,
    forward: VecDeque<Piece>,
    backward: VecDeque<u64>,
    /// What waits for the receiver's socket.
    waiting: VecDeque<Bytes>,
    taken: u64,
    finished: Option<u64>,
}

impl Stream {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            send: SendHalf::new(now),
            recv: RecvHalf::new(),
            free: TUNNEL_BUDGET,
            forward: VecDeque::new(),
            backward: VecDeque::new(),
            waiting: VecDeque::new(),
            taken: 0,
            finished: None,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0..=2 => self.write(usize::from(input.word()) * (1 + input.below(16))),
            3 | 4 => {
                for _ in 0..1 + input.below(8) {
                    self.arrive();
                }
            }
            5 => self.take(usize::from(input.word()) * (1 + input.below(16))),
            6 => self.acknowledge(input.flag()),
            7 => {
                while let Some(offset) = self.backward.pop_front() {
                    self.acked(offset);
                }
            }
            8 => self.now += Duration::from_micros(u64::from(input.word()) * 16),
            9 => self.lose(),
            10 => self.misbehave(input),
            _ if input.flag() => self.end(),
            _ => self.free = TUNNEL_BUDGET >> input.below(27),
        }
    }

    fn write(&mut self, length: usize) {
        if self.finished.is_some() {
            return;
        }
        let allowed = self.send.allowance(self.free);
        assert!(allowed <= self.free);
        let length = length.min(allowed as usize).min(POOL / 2);
        let data = content(self.send.offset(), length);
        self.send.handle_sent(self.now, data.clone());
        if !data.is_empty() {
            self.forward.push_back(Piece::Data(data));
        }
    }

    fn end(&mut self) {
        if self.finished.is_none() {
            let offset = self.send.handle_fin();
            self.finished = Some(offset);
            self.forward.push_back(Piece::Fin(offset));
        }
    }

    fn arrive(&mut self) {
        match self.forward.pop_front() {
            Some(Piece::Data(data)) => {
                self.recv.handle_data(data.len() as u64).unwrap();
                self.waiting.push_back(data);
            }
            Some(Piece::Fin(offset)) => self.recv.handle_fin(offset).unwrap(),
            None => {}
        }
    }

    /// The receiver's socket takes up to `length` bytes.
    fn take(&mut self, mut length: usize) {
        while let Some(front) = self.waiting.front_mut().filter(|_| length > 0) {
            let piece = front.split_to(length.min(front.len()));
            if front.is_empty() {
                self.waiting.pop_front();
            }
            assert_eq!(piece, content(self.taken, piece.len()), "other bytes");
            length -= piece.len();
            self.taken += piece.len() as u64;
            self.recv.handle_delivered(piece.len() as u64);
        }
    }

    fn acknowledge(&mut self, only_now: bool) {
        if !only_now || self.recv.owes_ack_now() {
            let owed = self.recv.owes_ack();
            let offset = self.recv.poll_ack();
            assert_eq!(offset.is_some(), owed);
            assert_eq!(self.recv.poll_ack(), None, "the same twice");
            self.backward.extend(offset);
        }
    }

    fn acked(&mut self, offset: u64) {
        assert!(
            offset <= self.taken,
            "acknowledged, but not with the socket"
        );
        let before = self.send.unacked();
        let released = self.send.handle_ack(self.now, offset).unwrap();
        assert_eq!(before - self.send.unacked(), released);
    }

    /// The channel is lost with all that is on it, and the stream attaches to another.
    fn lose(&mut self) {
        self.forward.clear();
        self.backward.clear();
        self.recv.handle_channel_lost();
        let again = self.send.resend_from(self.recv.received()).unwrap();
        self.forward.extend(again.into_iter().map(Piece::Data));
        if !self.recv.is_finished() {
            self.forward.extend(self.finished.map(Piece::Fin));
        }
    }

    /// What nobody sends who follows the protocol is refused, and changes nothing.
    fn misbehave(&mut self, input: &mut Input<'_>) {
        let beyond = self.send.offset() + 1 + u64::from(input.word());
        let before = (self.send.unacked(), self.send.window());
        let refused = self.send.handle_ack(self.now, beyond);
        assert!(matches!(
            refused,
            Err(StreamMisbehaved::AckBeyondSent { .. })
        ));
        assert!(self.send.resend_from(beyond).is_err());
        let acked = self.send.offset() - self.send.unacked();
        if let Some(forgotten) = acked.checked_sub(1) {
            let refused = self.send.resend_from(forgotten);
            assert!(matches!(refused, Err(StreamMisbehaved::Forgotten { .. })));
        }
        assert_eq!(before, (self.send.unacked(), self.send.window()));
        if self.recv.is_finished() {
            let refused = self.recv.handle_data(1);
            assert!(matches!(refused, Err(StreamMisbehaved::DataAfterFin)));
        } else {
            let wrong = self.recv.received() + 1;
            assert!(self.recv.handle_fin(wrong).is_err());
        }
    }

    fn agree(&self) {
        assert!((WINDOW_MIN..=WINDOW_MAX).contains(&self.send.window()));
        assert!(self.send.unacked() <= WINDOW_MAX);
        assert!(self.recv.waiting() <= WINDOW_MAX);
        assert_eq!(
            self.recv.waiting(),
            self.waiting
                .iter()
                .map(|data| data.len() as u64)
                .sum::<u64>()
        );
        assert!(self.recv.received() <= self.send.offset());
    }

    /// With a channel that does not break, everything comes to its end.
    fn finish(&mut self) {
        self.end();
        self.lose();
        while !self.forward.is_empty() {
            self.arrive();
        }
        self.take(usize::MAX);
        self.acknowledge(false);
        while let Some(offset) = self.backward.pop_front() {
            self.acked(offset);
        }
        assert_eq!(self.taken, self.send.offset());
        assert_eq!(self.send.unacked(), 0);
        assert!(self.recv.is_complete() && self.send.is_finished());
        assert!(!self.send.is_stalled(self.now + Duration::from_secs(3_600)));
    }
}

/// What stands at `offset` of the stream; its period is a prime, so that no two near places look alike.
fn content(offset: u64, length: usize) -> Bytes {
    let start = (offset % PERIOD as u64) as usize;
    CONTENT.slice(start..start + length)
}

const PERIOD: usize = 65_521;
const POOL: usize = 1 << 21;
static CONTENT: LazyLock<Bytes> = LazyLock::new(|| {
    (0..POOL)
        .map(|at| at % PERIOD)
        .map(|at| (at as u8).wrapping_mul(167) ^ (at >> 8) as u8)
        .collect()
});
