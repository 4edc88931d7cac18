//! The relay's table of flows, driven by operations and held against a plain map.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tunnel_core::{
    instance::FlowLimits,
    proto::{
        datagram::FlowId,
        flow::{
            FlowDrop, FlowKey, FlowTable, GRANULARITY, LIVE, PATIENCE, ReplyDrop, SETTLED,
            UNANSWERED, UNPROVED_FACTOR,
        },
    },
};

use crate::input::Input;

/// The table holds the flows that the map holds: none is lost, kept too long, beyond a cap or given another's id.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mut model = Model::new(limits(&mut input));
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        model.step(&mut input);
        model.agree();
    }
    // In the end everything expires.
    model.limits.idle = Duration::from_secs(10);
    model.table.set_limits(model.limits);
    model.now += Duration::from_secs(12);
    model.expire();
    assert!(model.table.is_empty());
    assert_eq!(model.table.poll_timeout(), None);
}

fn limits(input: &mut Input<'_>) -> FlowLimits {
    FlowLimits {
        idle: Duration::from_secs(10 + input.below(240) as u64),
        per_address: 1 + input.below(6) as u32,
        per_service: 1 + input.below(12) as u32,
    }
}

struct Held {
    key: FlowKey,
    answered: bool,
    /// Its last packet, or when it was last told to be opened anew.
    last: Instant,
    /// The player has spoken since the last answer.
    asked: bool,
    answers: u8,
    /// The player has spoken after an answer.
    proved: bool,
    /// Bytes of the player's packets, and of the answers that passed.
    received: u64,
    sent: u64,
    /// Its last answer, or the player's last packet if there was none, as exactly as the table knows.
    since: Instant,
}

impl Held {
    const fn new(key: FlowKey, now: Instant) -> Self {
        Self {
            key,
            answered: false,
            last: now,
            asked: true,
            answers: 0,
            proved: false,
            received: 0,
            sent: 0,
            since: now,
        }
    }

    fn handle_question(&mut self, now: Instant, len: usize) {
        (self.asked, self.last) = (true, now);
        self.proved |= self.answers > 0;
        self.received += len as u64;
        if self.answers == 0 && now - self.since >= GRANULARITY {
            self.since = now;
        }
    }

    /// Whether the answer may pass.
    fn handle_reply(&mut self, now: Instant, len: usize) -> bool {
        (self.answered, self.last) = (true, now);
        let sent = self.sent + len as u64;
        if !self.proved && sent > self.received * UNPROVED_FACTOR + UNPROVED {
            return false;
        }
        self.sent = sent;
        self.answer(now);
        true
    }

    fn answer(&mut self, now: Instant) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        self.answers = self.answers.saturating_add(1);
        if [1, SETTLED].contains(&self.answers) || now - self.since >= GRANULARITY {
            self.since = now;
        }
    }

    /// Whether it is of the same address as this key.
    fn is_beside(&self, key: &FlowKey) -> bool {
        prefix(self.key.player().ip()) == prefix(key.player().ip())
    }
}

struct Model {
    table: FlowTable,
    limits: FlowLimits,
    now: Instant,
    ids: u64,
    flows: HashMap<FlowId, Held>,
}

impl Model {
    fn new(limits: FlowLimits) -> Self {
        Self {
            table: FlowTable::new(limits).with_unproved(UNPROVED),
            limits,
            now: Instant::now(),
            ids: 0,
            flows: HashMap::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(14) {
            12 => {
                let (key, len) = (key(input), len(input));
                let flow = self.table.handle_known_packet(self.now, &key, len);
                let flow = flow.copied();
                let known = self.flows.iter_mut().find(|(_, held)| held.key == key);
                assert_eq!(flow.map(|flow| flow.id), known.as_ref().map(|(id, _)| **id));
                if let Some((_, held)) = known {
                    held.handle_question(self.now, len);
                }
            }
            13 => {
                let ago = Duration::from_millis(input.word().into());
                let alive = self.table.is_alive_since(self.now - ago);
                let since = |margin| {
                    let then = self.now - ago + margin;
                    self.flows.values().any(|held| held.last >= then)
                };
                assert!(alive || !since(GRANULARITY), "alive, and taken for silent");
                assert!(
                    !alive || since(Duration::ZERO),
                    "silent, and taken for alive"
                );
            }
            0..=3 => self.player(key(input), len(input)),
            // A conversation: it takes several exchanges for a flow to settle.
            4 => {
                let (key, len) = (key(input), len(input));
                for _ in 0..=input.below(10) {
                    self.player(key, len);
                    let known = self.flows.iter().find(|(_, held)| held.key == key);
                    if let Some(id) = known.map(|(id, _)| *id) {
                        self.reply(id, len);
                    }
                }
            }
            5..=7 => self.reply(FlowId(input.below(64) as u64), len(input)),
            8 => self.now += Duration::from_millis(input.word().into()),
            9 => self.expire(),
            10 => {
                let id = FlowId(input.below(64) as u64);
                let removed = self.table.remove(id).map(|flow| flow.key);
                assert_eq!(removed, self.flows.remove(&id).map(|held| held.key));
            }
            _ if input.flag() => {
                self.limits = limits(input);
                self.table.set_limits(self.limits);
            }
            _ => {
                self.table.handle_client_changed(self.now);
                for held in self.flows.values_mut().filter(|held| held.answered) {
                    held.answered = false;
                    held.last = self.now;
                }
            }
        }
    }

    fn player(&mut self, key: FlowKey, len: usize) {
        let known = self.flows.iter().find(|(_, held)| held.key == key);
        if let Some(id) = known.map(|(id, _)| *id) {
            let admitted = self
                .table
                .handle_player_packet(self.now, key, len, || unreachable!());
            let admitted = admitted.expect("who is in stays in");
            assert!((admitted.flow.id, admitted.created) == (id, false));
            let held = self.flows.get_mut(&id).unwrap();
            held.handle_question(self.now, len);
            return;
        }
        loop {
            let full = self.full(&key);
            let next = FlowId(self.ids);
            let admitted = self.table.handle_player_packet(self.now, key, len, || next);
            let got = match admitted {
                Ok(admitted) => {
                    assert_eq!(full, None, "beyond a cap");
                    assert_eq!((admitted.flow.id, admitted.flow.key), (next, key));
                    assert!(admitted.created && !admitted.flow.open_acknowledged);
                    break;
                }
                Err(full) => full,
            };
            assert_eq!(Some(got), full);
            if !self.make_room(got, &key) {
                return;
            }
        }
        let mut held = Held::new(key, self.now);
        held.handle_question(self.now, len);
        assert!(self.flows.insert(FlowId(self.ids), held).is_none());
        self.ids += 1;
    }

    fn full(&self, key: &FlowKey) -> Option<FlowDrop> {
        let of_address = self.flows.values().filter(|held| held.is_beside(key));
        if of_address.count() >= self.limits.per_address as usize {
            Some(FlowDrop::AddressFull)
        } else if self.flows.len() >= self.limits.per_service as usize {
            Some(FlowDrop::ServiceFull)
        } else {
            None
        }
    }

    /// Whether a flow made room, which is then one that may, and the right one by what can be told of it here.
    fn make_room(&mut self, full: FlowDrop, key: &FlowKey) -> bool {
        let in_address = full == FlowDrop::AddressFull;
        let rank = self.table.victim(self.now, full, key);
        let made = self.table.make_room(self.now, full, key);
        assert_eq!(rank.is_some(), made.is_some());
        let silence = |held: &Held| self.now - held.since;
        let is_live = |held: &Held| held.answers >= SETTLED && silence(held) < LIVE + GRANULARITY;
        let is_overdue = |held: &Held| held.answers == 0 && silence(held) >= PATIENCE;
        let concerned = |held: &&Held| !in_address || held.is_beside(key);
        let mut others = self.flows.values().filter(concerned);
        let Some(flow) = made else {
            assert!(others.all(is_live), "refused, though one could go");
            return false;
        };
        let gone = &self.flows[&flow.id];
        assert!(concerned(&gone), "a flow of another address made room");
        assert!(!is_live(gone), "a live flow made room");
        if !is_overdue(gone) {
            assert!(!others.any(is_overdue), "one never answered stayed");
        } else {
            let mut overdue = others.filter(|held| is_overdue(held));
            assert!(overdue.all(|held| held.since >= gone.since));
        }
        self.flows.remove(&flow.id);
        true
    }

    fn reply(&mut self, id: FlowId, len: usize) {
        let flow = self.table.handle_reply(self.now, id, len).copied();
        let Some(held) = self.flows.get_mut(&id) else {
            return assert_eq!(flow, Err(ReplyDrop::Unknown));
        };
        if !held.handle_reply(self.now, len) {
            return assert_eq!(flow, Err(ReplyDrop::Unproved));
        }
        let flow = flow.expect("it may pass");
        assert!(flow.open_acknowledged);
        let counted = (flow.is_proved, flow.received, flow.sent);
        assert_eq!(counted, (held.proved, held.received, held.sent));
    }

    fn expire(&mut self) {
        let due = self.table.poll_timeout().is_some_and(|at| at <= self.now);
        let mut any = false;
        while let Some(flow) = self.table.poll_expired(self.now) {
            any = true;
            let held = self.flows.remove(&flow.id).unwrap();
            assert!(
                self.now >= held.last + self.life(&held),
                "expired too early"
            );
        }
        assert_eq!(any, due);
        for held in self.flows.values() {
            let end = held.last + self.life(held) + GRANULARITY;
            assert!(end > self.now, "not expired in time");
        }
    }

    const fn life(&self, held: &Held) -> Duration {
        if held.answered {
            self.limits.idle
        } else {
            UNANSWERED
        }
    }

    fn agree(&self) {
        assert_eq!(self.table.len(), self.flows.len());
        assert_eq!(self.table.poll_timeout().is_none(), self.flows.is_empty());
        let mut keys = HashSet::new();
        for flow in self.table.iter() {
            let held = &self.flows[&flow.id];
            assert_eq!(
                (held.key, held.answered),
                (flow.key, flow.open_acknowledged)
            );
            assert_eq!(self.table.get(flow.id), Some(flow));
            assert!(keys.insert(flow.key), "two flows of one player");
        }
    }
}

/// The length of a datagram.
fn len(input: &mut Input<'_>) -> usize {
    input.below(64) * 23
}

/// Bytes that an unproved address may be sent beside its own threefold.
const UNPROVED: u64 = 1_200;

/// One of few players, in few networks, at few ports.
fn key(input: &mut Input<'_>) -> FlowKey {
    let choice = input.byte();
    let host = u16::from(choice & 3);
    let ip: IpAddr = match choice >> 2 & 3 {
        0 => Ipv4Addr::new(192, 0, 2, choice & 3).into(),
        1 => Ipv4Addr::new(192, 0, 2, choice & 3).to_ipv6_mapped().into(),
        2 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, host, 0, 0, 0, 1).into(),
    };
    let port = 1_000 + u16::from(choice >> 4 & 1);
    let local = Ipv4Addr::new(198, 51, 100, choice >> 5 & 1);
    FlowKey::new(
        SocketAddr::new(ip, port),
        local.into(),
        u16::from(choice >> 6 & 1),
    )
}

/// An address as its flows are counted.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
