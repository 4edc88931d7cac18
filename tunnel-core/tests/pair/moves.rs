//! A stream that changes between two transports while it runs, each of which is cut at any point.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tunnel_core::proto::stream::{RecvHalf, SendHalf, TUNNEL_BUDGET, handover::Handover};

use crate::{CLIENT, Net, RELAY, Random, pool};

#[test]
fn a_stream_that_moves_loses_and_doubles_nothing_wherever_either_transport_is_cut() {
    let base = Instant::now();
    let pool = pool();
    let (mut moves, mut breaks) = (0, 0);
    for seed in 0..4_000 {
        let run = Run::new(base, seed, &pool).play();
        if seed % 20 == 0 {
            let again = Run::new(base, seed, &pool).play();
            assert_eq!(again.trace, run.trace, "seed {seed}");
        }
        moves += run.moves;
        breaks += run.breaks;
    }
    // Both happen, in one run too.
    assert!(moves > 4_000 && breaks > 4_000, "{moves}, {breaks}");
}

#[test]
fn a_move_sends_nothing_twice() {
    let base = Instant::now();
    let pool = pool();
    let mut moves = 0;
    for seed in 0..500 {
        let mut run = Run::new(base, seed, &pool);
        run.cuts.clear();
        let content: u64 = run.sources.iter().map(|it| it.len() as u64).sum();
        let run = run.play();
        assert_eq!(run.carried, content, "seed {seed}");
        moves += run.moves;
    }
    assert!(moves > 1_000, "{moves}");
}

/// What came of a run.
struct Outcome {
    trace: u64,
    /// Directions that changed their channel.
    moves: u64,
    /// Channels that both sides had to begin anew with.
    breaks: u64,
    /// Bytes of content that were sent.
    carried: u64,
}

/// A channel: the number that tells it from all others.
type Channel = u64;

enum Piece {
    Attach(u64),
    Beside,
    Move(u64),
    Data(Bytes),
    Ack(u64),
    Fin(u64),
}

struct End {
    send: SendHalf,
    recv: RecvHalf,
    handover: Handover,
    source: Bytes,
    waiting: VecDeque<Bytes>,
    taken: usize,
    /// Where it sends, and what it reads; none while it has no channel.
    on: Option<(Channel, Channel)>,
    /// What it has named and waits for: its Attach or Beside.
    asked: Option<Channel>,
    /// Where the turn leads.
    next: Option<Channel>,
    /// What came there too early.
    early: VecDeque<Piece>,
}

impl End {
    fn new(base: Instant, source: Bytes) -> Self {
        Self {
            send: SendHalf::new(base),
            recv: RecvHalf::new(),
            handover: Handover::default(),
            source,
            waiting: VecDeque::new(),
            taken: 0,
            on: Some((0, 0)),
            asked: None,
            next: None,
            early: VecDeque::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.send.is_finished() && self.send.unacked() == 0 && self.recv.is_complete()
    }

    fn uses(&self, channel: Channel) -> bool {
        let on = self
            .on
            .is_some_and(|(tx, rx)| tx == channel || rx == channel);
        on || self.asked == Some(channel) || self.next == Some(channel)
    }

    /// Leaves all that it used. Says what that was.
    fn leave(&mut self) -> Vec<Channel> {
        self.recv.handle_channel_lost();
        self.handover = Handover::default();
        self.early.clear();
        let on = self.on.take();
        let used = on.into_iter().flat_map(|(tx, rx)| [tx, rx]);
        used.chain(self.asked.take())
            .chain(self.next.take())
            .collect()
    }
}

struct Run {
    seed: u64,
    base: Instant,
    now: u64,
    random: Random,
    trace: DefaultHasher,
    ends: [End; 2],
    sources: [Bytes; 2],
    /// Two transports, each in order, and neither in the other's.
    nets: [Net<(Channel, Piece)>; 2],
    latency: [u64; 2],
    channels: Channel,
    dead: HashSet<Channel>,
    cuts: Vec<(u64, usize)>,
    /// When an end notices that a channel is gone.
    notices: BTreeMap<(u64, u64), (usize, Channel)>,
    moves: u64,
    breaks: u64,
    carried: u64,
}

impl Run {
    fn new(base: Instant, seed: u64, pool: &Bytes) -> Self {
        let mut random = Random::new(seed);
        let ends = [0, 1].map(|_| {
            let length = 1 + random.below(768 << 10) as usize;
            let start = random.below((pool.len() - length) as u64) as usize;
            End::new(base, pool.slice(start..start + length))
        });
        let sources = [0, 1].map(|side: usize| ends[side].source.clone());
        let latency = [0, 1].map(|_| 200 + random.below(60_000));
        let longest = latency[0].max(latency[1]);
        let mut cuts: Vec<_> = (0..random.below(10))
            .map(|_| (random.below(longest * 12), random.below(2) as usize))
            .collect();
        cuts.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            seed,
            base,
            now: 0,
            random,
            trace: DefaultHasher::new(),
            ends,
            sources,
            nets: [Net::new(), Net::new()],
            latency,
            channels: 0,
            dead: HashSet::new(),
            cuts,
            notices: BTreeMap::new(),
            moves: 0,
            breaks: 0,
            carried: 0,
        }
    }

    fn play(mut self) -> Outcome {
        let mut tick = 0;
        let patience = (self.latency[0] + self.latency[1]) * 4_000 + 60_000_000;
        while !self.ends.iter().all(End::is_done) {
            let times = [
                self.nets[0].next_at(),
                self.nets[1].next_at(),
                self.cuts.last().map(|(at, _)| *at),
                self.notices.keys().next().map(|(at, _)| *at),
                Some(tick),
            ];
            self.now = times.into_iter().flatten().min().unwrap();
            assert!(self.now < patience, "seed {} stands still", self.seed);
            self.now.hash(&mut self.trace);
            if let Some((_, transport)) = self.cuts.pop_if(|(at, _)| *at == self.now) {
                self.cut(transport);
            }
            while let Some(notice) = self.notices.first_entry()
                && notice.key().0 <= self.now
            {
                let (side, channel) = notice.remove();
                self.notice(side, channel);
            }
            for transport in [0, 1] {
                if let Some((side, (channel, piece))) = self.nets[transport].take(self.now) {
                    self.arrive(side, channel, piece);
                }
            }
            if self.now >= tick {
                tick = self.now + 1 + self.random.below(self.latency[0].min(self.latency[1]) / 2);
                for side in [RELAY, CLIENT] {
                    self.work(side);
                }
            }
        }
        for (side, end) in self.ends.iter().enumerate() {
            let length = self.sources[1 - side].len();
            assert_eq!(end.taken, length, "seed {}", self.seed);
            (end.taken, end.send.window()).hash(&mut self.trace);
        }
        Outcome {
            trace: self.trace.finish(),
            moves: self.moves,
            breaks: self.breaks,
            carried: self.carried,
        }
    }

    fn clock(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// Channels are on one transport or the other by their number.
    fn new_channel(&mut self, transport: usize) -> Channel {
        self.channels += 2;
        self.channels + transport as u64
    }

    fn say(&mut self, side: usize, channel: Channel, piece: Piece) {
        if let Piece::Data(data) = &piece {
            self.carried += data.len() as u64;
        }
        if !self.dead.contains(&channel) {
            let transport = (channel % 2) as usize;
            let latency = self.latency[transport];
            self.nets[transport].send_in_order(
                self.now,
                1 - side,
                latency,
                (channel, piece),
                &mut self.random,
            );
        }
    }

    /// A transport loses what is on it, and with it every channel that there is; new ones get through.
    fn cut(&mut self, transport: usize) {
        self.nets[transport].clear();
        for channel in 0..=self.channels + 1 {
            if channel % 2 == transport as u64 && self.dead.insert(channel) {
                self.tell(channel);
            }
        }
    }

    /// Who uses a channel that is gone notices sooner or later.
    fn tell(&mut self, channel: Channel) {
        for side in [RELAY, CLIENT] {
            let at = self.now + 1 + self.random.below(4 * self.latency[0]);
            let number = 2 * channel + side as u64;
            self.notices.insert((at, number), (side, channel));
        }
    }

    /// Channels that an end leaves are gone for the other one too.
    fn give_up(&mut self, left: Vec<Channel>) {
        for left in left {
            if self.dead.insert(left) {
                self.tell(left);
            }
        }
    }

    fn notice(&mut self, side: usize, channel: Channel) {
        if !self.ends[side].uses(channel) {
            return;
        }
        let left = self.ends[side].leave();
        self.give_up(left);
        if side == RELAY {
            self.breaks += 1;
            let transport = self.random.below(2) as usize;
            let channel = self.new_channel(transport);
            self.ends[RELAY].asked = Some(channel);
            let received = self.ends[RELAY].recv.received();
            self.say(RELAY, channel, Piece::Attach(received));
        }
    }

    fn arrive(&mut self, side: usize, channel: Channel, piece: Piece) {
        let end = &mut self.ends[side];
        match piece {
            Piece::Attach(offset) => self.attach(side, channel, offset),
            Piece::Beside => self.stand_beside(side, channel),
            piece if end.on.is_some_and(|(_, rx)| rx == channel) => self.read(side, piece),
            // Nobody reads there yet.
            piece if end.next == Some(channel) || end.asked == Some(channel) => {
                end.early.push_back(piece);
            }
            _ => {}
        }
    }

    fn attach(&mut self, side: usize, channel: Channel, offset: u64) {
        let end = &mut self.ends[side];
        if side == CLIENT {
            end.leave();
            let received = end.recv.received();
            self.say(side, channel, Piece::Attach(received));
        } else if end.asked.take_if(|asked| *asked == channel).is_none() {
            return;
        }
        self.ends[side].on = Some((channel, channel));
        self.send_again(side, channel, offset);
    }

    fn stand_beside(&mut self, side: usize, channel: Channel) {
        let end = &mut self.ends[side];
        if side == RELAY && end.asked.take_if(|asked| *asked == channel).is_none() {
            return;
        }
        // Without a channel nothing can stand beside it, and one turn follows the other.
        if end.on.is_none() || !end.handover.handle_agreed() {
            let left = end.leave().into_iter().chain([channel]);
            return self.give_up(left.collect());
        }
        end.next = Some(channel);
        if side == CLIENT {
            self.say(side, channel, Piece::Beside);
        }
        self.follow(side);
    }

    fn read(&mut self, side: usize, piece: Piece) {
        let clock = self.clock();
        let end = &mut self.ends[side];
        match piece {
            Piece::Data(data) => {
                end.recv.handle_data(data.len() as u64).unwrap();
                end.waiting.push_back(data);
            }
            Piece::Ack(offset) => {
                end.send.handle_ack(clock, offset).unwrap();
            }
            Piece::Fin(offset) => end.recv.handle_fin(offset).unwrap(),
            Piece::Move(offset) => {
                end.handover.handle_move(offset, &end.recv).unwrap();
                self.follow(side);
            }
            Piece::Attach(_) | Piece::Beside => unreachable!(),
        }
    }

    /// Reads the next channel once the one before is read to its end.
    fn follow(&mut self, side: usize) {
        let end = &mut self.ends[side];
        if !end.handover.may_follow() {
            return;
        }
        let (Some((_, rx)), Some(next)) = (&mut end.on, end.next) else {
            unreachable!("seed {}: nowhere to follow to", self.seed);
        };
        *rx = next;
        if end.handover.handle_followed() {
            end.next = None;
        }
        for piece in std::mem::take(&mut self.ends[side].early) {
            self.read(side, piece);
        }
    }

    fn send_again(&mut self, side: usize, channel: Channel, offset: u64) {
        for again in self.ends[side].send.resend_from(offset).unwrap() {
            self.say(side, channel, Piece::Data(again));
        }
        if self.ends[side].send.is_finished() {
            let fin = Piece::Fin(self.ends[side].send.offset());
            self.say(side, channel, fin);
        }
    }

    /// The socket takes some and has some; now and then the relay wants the stream elsewhere.
    fn work(&mut self, side: usize) {
        for _ in 0..self.random.below(6) {
            let end = &mut self.ends[side];
            let Some(data) = end.waiting.pop_front() else {
                break;
            };
            let until = end.taken + data.len();
            let sent = self.sources[1 - side].get(end.taken..until);
            assert_eq!(sent, Some(&data[..]), "seed {} at {}", self.seed, end.taken);
            end.taken = until;
            end.recv.handle_delivered(data.len() as u64);
        }
        self.change(side);
        let Some((tx, _)) = self.ends[side].on else {
            return;
        };
        let is_due = self.ends[side].recv.owes_ack_now() || self.random.below(4) == 0;
        if is_due && let Some(offset) = self.ends[side].recv.poll_ack() {
            self.say(side, tx, Piece::Ack(offset));
        }
        for _ in 0..self.random.below(6) {
            let clock = self.clock();
            let end = &mut self.ends[side];
            let most = end.send.allowance(TUNNEL_BUDGET - end.send.unacked());
            let most = most.min(end.source.len() as u64);
            if most == 0 {
                break;
            }
            let length = 1 + self.random.below(most.min(40_000)) as usize;
            let data = end.source.split_to(length);
            end.send.handle_sent(clock, data.clone());
            self.say(side, tx, Piece::Data(data));
        }
        let end = &mut self.ends[side];
        if end.source.is_empty() && !end.send.is_finished() {
            let fin = Piece::Fin(end.send.handle_fin());
            self.say(side, tx, fin);
        }
    }

    fn change(&mut self, side: usize) {
        let Some((tx, rx)) = self.ends[side].on else {
            return;
        };
        let end = &mut self.ends[side];
        if end.handover.may_leave() && self.random.below(3) == 0 {
            let next = end.next.unwrap();
            let offset = end.send.offset();
            end.on = Some((next, rx));
            if end.handover.handle_left() {
                end.next = None;
            }
            self.moves += 1;
            return self.say(side, tx, Piece::Move(offset));
        }
        let is_settled = tx == rx && end.asked.is_none() && end.next.is_none();
        if side == RELAY && is_settled && self.random.below(16) == 0 {
            let channel = self.new_channel(1 - (tx % 2) as usize);
            self.ends[RELAY].asked = Some(channel);
            self.say(RELAY, channel, Piece::Beside);
        }
    }
}
